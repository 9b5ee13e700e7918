"""Checks the CustomResourceDefinitions against the rules for every schema: ``python -m tools.crdlint``.

Each rule is a pure function from a CRD to problems, and each problem is an error. ``--sizes`` prints the size of each
kind's objects at the limits of their fields.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence

from tools.crdgen import KINDS, Schema, build_crd
from tools.crdrules import RULES
from tools.crdsize import headroom
from tools.crdwalk import Problem


def lint(crds: Iterable[Schema]) -> Iterator[Problem]:
    """All problems of all rules."""
    for crd in crds:
        for rule in RULES:
            yield from rule(crd)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print each problem; the exit code is 1 if there is one."""
    parser = argparse.ArgumentParser(prog="python -m tools.crdlint", description=__doc__)
    parser.add_argument("--sizes", action="store_true", help="print the worst-case sizes")
    options = parser.parse_args(arguments)
    if options.sizes:
        print("\n".join(headroom(build_crd(kind)) for kind in KINDS))
        return 0
    problems = list(lint(build_crd(kind) for kind in KINDS))
    for problem in problems:
        sys.stderr.write(f"{problem.key}: {problem.message}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
