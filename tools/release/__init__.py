"""Everything that a release consists of, made from a clean checkout: ``python -m tools.release OUT``."""
