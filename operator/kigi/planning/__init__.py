"""Pure decisions: a view of the world in, steps and status out."""
