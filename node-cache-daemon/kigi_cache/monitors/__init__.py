"""QMP monitors of the node's VMs: a barrier that stops VMs together, and proves that none ran before all continue."""
