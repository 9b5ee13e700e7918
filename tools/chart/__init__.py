"""The Helm chart, made from ``manifests/``, ``crds/`` and the settings models: ``python -m tools.chart OUT``."""
