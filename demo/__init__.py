"""The main job from nothing: a cluster, ten VMs, three states, and what each step moved."""
