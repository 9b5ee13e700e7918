"""The page ``docs/reference/chart.md``: every value of the Helm chart."""

from __future__ import annotations

from tools.chart.__main__ import own_images
from tools.chart.build import KUBERNETES, default_values
from tools.chart.values import rows
from tools.configdoc import render_table

_KUBERNETES = KUBERNETES.removeprefix(">=").removesuffix(".0-0")
_HEADER = f"""\
<!-- Made by 'make docs' from tools/chart/values.py and manifests/; do not edit. -->
# Helm chart

`make chart` makes the chart `dist/kigi-VERSION.tgz` from `manifests/`, which `kubectl apply -k`
installs, too: with default values both install the same objects, but for the Namespace. It needs Kubernetes
{_KUBERNETES} or later, and Helm 3.18 or 4.

```sh
kubectl create namespace kigi-system
kubectl label namespace kigi-system pod-security.kubernetes.io/enforce=privileged
helm install kigi kigi-VERSION.tgz --namespace kigi-system --set images.registry=registry.example
```

- The namespace is the release's, and may have another name. Its daemon needs a privileged container.
- The definitions of the kinds are templates: `helm upgrade` changes them, and `helm uninstall` keeps them.
- An upgrade restarts no VM: VMs run on without operator and daemon, and take another hook image with their next start.
- An unknown value, and a value of a wrong type, are errors that name its path.
- With `s3.enabled=true` the chart has an S3 server, for a first try.

| value | default | meaning |
|---|---|---|
"""
_SETTINGS = {
    "operator.settings": "configuration.md#operator",
    "daemon.settings": "configuration.md#node-cache-daemon",
    "publisher.settings": "configuration.md#capture-publisher",
}


def render_chart() -> str:
    """The whole page."""
    lines = []
    for path, default, meaning in rows(default_values(images=own_images("VERSION"))):
        if path in _SETTINGS:
            meaning += f" [Configuration]({_SETTINGS[path]}) lists them; those that the pod defines are refused."
        lines.append((f"`{path}`", f"`{default}`" if default else "", meaning))
    table = render_table(("", "", ""), lines).split("\n", 2)[2]
    return _HEADER + table + "\n"
