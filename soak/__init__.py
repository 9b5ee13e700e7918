"""The soak test: the ten VMs of the tiny exercise run undisturbed, and every change except heartbeats is reported."""
