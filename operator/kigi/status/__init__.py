"""What is reported of each kind; can be rebuilt by looking at the world, and no decision is read from it."""
