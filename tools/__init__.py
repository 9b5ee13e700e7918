"""Generators that the Makefile runs; not part of the distribution."""
