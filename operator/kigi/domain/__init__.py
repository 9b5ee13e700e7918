"""Values and rules of Kigi; no I/O, no clock, no randomness."""
