"""Checks of an installation: pure functions from gathered facts to findings, each with its remedy."""
