"""The Kubernetes API server: clients, credentials and the kinds that Kigi uses."""
