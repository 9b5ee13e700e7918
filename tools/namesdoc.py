"""The page ``docs/reference/names.md``: every name that Kigi writes on objects, from the code that uses it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from kigi.api import conditions, events
from kigi.cli.causes import CAUSES, FINE
from kigi.domain import names

HEADER = """\
<!-- Made by 'make docs' from the code; do not edit. -->
# Names

Names that Kigi writes on objects, in conditions and in events. The prefix `kigi.dev/` is reserved: set no label,
annotation or taint of your own with it. New names may be added; treat an unknown one as if it were absent.
"""
VERBS: Mapping[str, str] = {
    "access": "On `systeminstances`: give teams access with `kigi access`. The policy `kigi-access` limits "
    "those who have it, and may not impersonate accounts, to names that begin with `kigi-access-`. The role "
    "`kigi-access` has it.",
    "capture": "On `systeminstances`: create SystemCaptures of an instance. The policy `kigi-capture` requires it. The "
    "role `kigi-edit` has it.",
    "mount": "On `disks`, which exist for this check alone: create a pod that mounts a Kigi disk. The policy "
    "`kigi-disk-users` requires it in the whole cluster. The role `kigi-disk-mount` has it, and is KubeVirt's.",
    "pin": "On `systemprefetches`: `retention: Pinned`. The policy `kigi-pinned-prefetch` requires it in the whole "
    "cluster. The role `kigi-prefetch-pin` has it.",
    "report": "On `*/status`: write a status. The policy `kigi-status-writers` requires it in the whole cluster. The "
    "roles of operator and daemons have it.",
    "reset": "On `systemdeployments` and `systeminstances`: reset machines of the object. The policy `kigi-reset` "
    "requires it for the creation of a SystemReset. ClusterRole `kigi-edit` has it.",
}
"""Verbs that only Kigi's roles and admission policies know, and their meaning."""
NAMESPACE_LABELS: Mapping[str, str] = {
    "kigi-metrics": "With the value `allowed`, on a namespace: its pods may read the metrics of operator and daemons.",
}
"""Labels that administrators set for Kigi, and their meaning."""


class Name(NamedTuple):
    """A constant of a module: its name, its value, and the text below it."""

    constant: str
    value: str
    meaning: str


def constants(module: ModuleType) -> Iterator[Name]:
    """The texts of a module in capitals, in their order. Raises ValueError for one without a text below it."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    body = ast.parse(source).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        constant = node.targets[0].id
        value = getattr(module, constant)
        if constant.isupper() and isinstance(value, str):
            yield Name(constant, value, _text(after))


def _text(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.replace("``", "`").split())
    return ""


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Markdown table."""
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def described(found: list[Name]) -> list[tuple[str, ...]]:
    """Rows of names and meanings. Raises ValueError with the constant that has no meaning."""
    for name in found:
        if not name.meaning:
            raise ValueError(f"{name.constant}: no text below it; write where it is set and what it means")
    return [(f"`{name.value}`", name.meaning) for name in found]


def _with_prefix(prefix: str) -> list[Name]:
    return [name for name in constants(names) if name.constant.startswith(prefix)]


def render_names() -> str:
    """The page."""
    finalizers = [name for name in constants(names) if name.constant.endswith("FINALIZER")]
    types = [name for name in constants(conditions) if name.constant not in ("TRUE", "FALSE", "UNKNOWN")]
    reasons = [(f"`{reason}`", cause.cause, cause.remedy) for reason, cause in sorted(CAUSES.items())]
    sections = {
        "Labels": table(("Label", "Meaning"), described([*_with_prefix("LABEL_"), *_with_prefix("TOPOLOGY_")])),
        "Labels that administrators set": table(
            ("Label", "Meaning"), [(f"`{x}`", y) for x, y in NAMESPACE_LABELS.items()]
        ),
        "Annotations": table(("Annotation", "Meaning"), described(_with_prefix("ANNOTATION_"))),
        "Finalizers": table(("Finalizer", "Meaning"), described(finalizers)),
        "Conditions": table(("Type", "Meaning"), described(types)),
        "Reasons": "Of conditions that are not True, and of warnings. `kigi why` prints cause and remedy with the "
        "object's own message.\n\n"
        + table(("Reason", "Cause", "Remedy"), reasons)
        + "\n\nOf conditions that are as they should be: "
        + ", ".join(f"`{reason}`" for reason in sorted(FINE))
        + ".",
        "Actions of events": "An event's `reason` is that of the condition that changed; of `ReplaceDisks`, the "
        "decision.\n\n"
        + table(("Action", "Meaning"), [(f"`{action}`", text) for action, text in events.ACTIONS.items()]),
        "Verbs": "These verbs exist only in Kigi's roles and admission policies.\n\n"
        + table(("Verb", "Meaning"), [(f"`{verb}`", text) for verb, text in sorted(VERBS.items())]),
    }
    return HEADER + "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items())
