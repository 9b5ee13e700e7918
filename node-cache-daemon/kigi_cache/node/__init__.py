"""The node's NodeCache object: what is desired, and the status that the daemon reports."""
