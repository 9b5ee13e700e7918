"""The VMImageNodes that publishing verbs make: applied, or printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kigi.adapters.kubernetes.resources import IMAGE
from kigi.cli.cluster import PUBLISH_MANAGER, Access, open_cluster
from kigi.cli.output import Format, print_message, print_result


def emit(objects: Sequence[dict[str, Any]], access: Access, form: Format, *, apply: bool) -> None:
    """Applies the objects if ``apply``; prints them as ``form``, else as YAML if not applied."""
    if apply:
        namespace = access.default_namespace()
        with open_cluster(access, manager=PUBLISH_MANAGER) as kube:
            for each in objects:
                kube.apply(IMAGE, namespace, each)
        print_message(f"{len(objects)} VMImageNodes applied in {namespace}")
    if form is Format.YAML or (form is Format.TABLE and not apply):
        import yaml

        print(yaml.safe_dump_all(objects, sort_keys=False), end="")
    else:
        print_result(list(objects), form)
