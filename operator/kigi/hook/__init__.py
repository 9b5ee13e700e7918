"""KubeVirt's hook sidecar: makes libvirt open Kigi's disks as qcow2.

It starts with every VM, so it imports nothing else of kigi.
"""
