"""Disks of VMs: the CSI driver, overlays on chains, and their mounts."""
