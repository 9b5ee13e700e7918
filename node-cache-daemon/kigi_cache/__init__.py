"""The node cache daemon: keeps verified qcow2 layers on one node and hands disks made of them to the kubelet."""
