"""gRPC interfaces of the daemon: messages that the kubelet sends and reads.

The ``.proto`` files name only what Kigi uses; names and field numbers are those of the interfaces. ``make proto``
generates the ``_pb2`` modules.
"""
