"""Names of API kinds: the one definition that models, manifests, records and messages use."""

from __future__ import annotations

from typing import Final

IMAGE: Final = "VMImageNode"
SYSTEM: Final = "SystemNode"
DEPLOYMENT: Final = "SystemDeployment"
CAPTURE: Final = "SystemCapture"
PREFETCH: Final = "SystemPrefetch"
NODE_CACHE: Final = "NodeCache"

VOLUME: Final = "PersistentVolume"
CLAIM: Final = "PersistentVolumeClaim"
POLICY: Final = "NetworkPolicy"
MACHINE: Final = "VirtualMachine"
VMI: Final = "VirtualMachineInstance"
PLUGIN: Final = "Plugin"
INSTANCETYPE: Final = "VirtualMachineInstancetype"
CLUSTER_INSTANCETYPE: Final = "VirtualMachineClusterInstancetype"
