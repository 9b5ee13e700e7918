"""Campaigns: many cases of one kind of attack or fault, from one seed, with their result as JSON."""
