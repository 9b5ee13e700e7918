"""The page ``docs/reference/troubleshooting.md``: every reason of a condition, by subject, from ``kigi.cli.causes``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kigi.cli import causes

HEADER = """\
<!-- Made by 'make docs' from operator/kigi/cli/causes.py; do not edit. -->
# Troubleshooting

`kigi why` prints cause and remedy of whatever is not ready, followed to its origin:

```console
$ kigi why                    # everything in the namespace; -A: in all
$ kigi why office             # one deployment
$ kigi why vmimagenode/web    # any object
$ kigi why LayerMissing       # a reason from an event or a message; needs no cluster
```

Without `kigi`, read the condition that is not as it should be. Its reason is one of the words below, and its message
names the object, the field and the remedy:

```console
$ kubectl describe systemdeployment office
```

`Stalled` with the status True: a person must act. `Reconciling` with the status True: Kigi works on it, or waits for
something that comes by itself. Alerts have a [runbook page](../runbook/README.md) each.
"""
_GROUP = re.compile(r"^    # (.+)\.$")
_REASON = re.compile(r'^    "(\w+)": Cause\(')


def groups(source: str) -> Iterator[tuple[str, list[str]]]:
    """Each comment in ``CAUSES`` with the reasons below it. Raises ValueError for a reason above the first comment."""
    title, reasons = "", list[str]()
    for line in source[source.index("CAUSES") :].splitlines():
        if line == "}":
            break
        if found := _GROUP.match(line):
            if reasons:
                yield title, reasons
            title, reasons = found[1], []
        elif found := _REASON.match(line):
            if not title:
                raise ValueError(f"causes.py: {found[1]} has no comment with a subject above it")
            reasons.append(found[1])
    yield title, reasons


def render_troubleshooting() -> str:
    """The whole page."""
    parts = [HEADER]
    for title, reasons in groups(Path(causes.__file__).read_text(encoding="utf-8")):
        parts.append(f"## {title}\n")
        for reason in sorted(reasons):
            cause, remedy = causes.CAUSES[reason]
            parts.append(f"### {reason}\n\n{_sentence(cause)} {_sentence(remedy) or 'Kigi continues by itself.'}\n")
    return "\n".join(parts)


def _sentence(text: str) -> str:
    text = text.rstrip(".")
    return text and f"{text[0].upper()}{text[1:]}."
