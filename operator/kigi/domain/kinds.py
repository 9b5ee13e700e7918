"""Names of API kinds: the one definition that models, manifests, records and messages use."""

from __future__ import annotations

from typing import Final

IMAGE: Final = "VMImageNode"
SYSTEM: Final = "SystemNode"
MEMORY_IMAGE: Final = "VMMemoryImage"
DEPLOYMENT: Final = "SystemDeployment"
INSTANCE: Final = "SystemInstance"
CAPTURE: Final = "SystemCapture"
RESET: Final = "SystemReset"
PREFETCH: Final = "SystemPrefetch"
BUILD: Final = "SystemBuild"
GRANT: Final = "TreeGrant"
NODE_CACHE: Final = "NodeCache"
REPOSITORY: Final = "LayerRepository"
QUOTA: Final = "SystemQuota"

VOLUME: Final = "PersistentVolume"
CLAIM: Final = "PersistentVolumeClaim"
POLICY: Final = "NetworkPolicy"
MACHINE: Final = "VirtualMachine"
VMI: Final = "VirtualMachineInstance"
PLUGIN: Final = "Plugin"
INSTANCETYPE: Final = "VirtualMachineInstancetype"
CLUSTER_INSTANCETYPE: Final = "VirtualMachineClusterInstancetype"
