"""The node cache daemon: keeps verified qcow2 layers on one node, and mounts disks made of them for its pods."""

import os

# Set before grpc is first imported: no child of the daemon uses gRPC, and its fork handlers would only delay qemu-img.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
