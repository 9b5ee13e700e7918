"""Frozen copies of overlays that become layers: checks, copies, reports, and the publisher that uploads them."""
