"""The API ``kigi.dev/v1alpha2`` as pydantic models, one kind per file; ``crds/`` is generated from them."""
