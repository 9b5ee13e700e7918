"""Endurance: the ten VMs of the tiny exercise run undisturbed, and every change beside heartbeats is reported."""
