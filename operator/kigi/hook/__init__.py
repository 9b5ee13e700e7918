"""KubeVirt's hook sidecar: makes libvirt open Kigi's disks as qcow2, and gives QEMU a monitor for the node's daemon.

It starts with every VM, so it imports nothing else of kigi.
"""
