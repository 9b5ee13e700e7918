"""The observed state of the cluster, in memory: records, their parsers, and which change enqueues which key."""
