"""From ``kigi.dev/v1alpha1`` to ``v1alpha2``, once per cluster: pure conversion, and the steps that apply it."""
