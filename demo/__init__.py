"""The demo: start a cluster, run ten VMs through three states, and measure the bytes that each step moves."""
