"""The API ``kigi.dev/v1alpha1`` as pydantic models, one kind per file; ``crds/`` is generated from them."""
