"""Kigi: systems of virtual machines on KubeVirt, deployed from trees of differential qcow2 layers."""
