"""The operator as a process: leadership, work queue, ports, settings and metrics."""
