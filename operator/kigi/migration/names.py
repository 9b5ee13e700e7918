"""Names that only v1alpha1 has on its objects."""

EQUALS = "kigi.dev/equals"
"""Annotation of an image that ``kigi flatten`` made: NAME@DIGEST."""
CAPTURED_FROM = "kigi.dev/captured-from"
"""Annotation of an object that a capture made: DEPLOYMENT/INDEX."""
OLD_FINALIZER = "kigi.dev/finalizer"
"""Finalizer of a SystemDeployment."""
