"""Views for decisions, read from the mirror alone."""
