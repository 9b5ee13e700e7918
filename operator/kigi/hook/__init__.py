"""KubeVirt hook sidecar: opens our disks as qcow2. It starts with every VM, so it imports nothing else of kigi."""
