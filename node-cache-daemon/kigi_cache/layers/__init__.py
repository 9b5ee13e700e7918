"""Verified layers on the node's disk: store, fills and eviction."""
