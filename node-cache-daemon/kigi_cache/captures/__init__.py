"""Copies of overlays that become layers: space, copies, and the publisher that uploads them."""
