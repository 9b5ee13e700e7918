"""The node cache daemon: keeps verified qcow2 layers on one node and hands disks made of them to the kubelet."""

import os

# Set before grpc is first imported: no child of the daemon uses gRPC, and its fork handlers would only delay qemu-img.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
