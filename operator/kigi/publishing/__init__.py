"""From a disk image of any kind to a layer in the repository."""
