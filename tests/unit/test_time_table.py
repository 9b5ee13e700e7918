"""docs/time.md has every constant of time with its current value, so that no constant can be forgotten."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "time.md"
PACKAGES = (ROOT / "operator" / "kigi", ROOT / "node-cache-daemon" / "kigi_cache")
SECONDS = re.compile(r"(\d[\d,]*(?:\.\d+)?) s\b")
TIMES = re.compile(r"[A-Za-z_]+_[sS]")
RATES = {"bytes_per_s", "scrub_bytes_per_s", "enough_bytes_per_s", "REVIEWS_PER_S", "READS_PER_S", "LEAST_BYTES_PER_S"}

Entry = tuple[str, tuple[float, ...]]
"""Name and seconds: one number, or minimum and maximum of several."""


def _number(node: ast.expr | None) -> tuple[float, ...] | None:
    """Seconds that an expression evaluates to; None if it is not a constant time."""
    if node is None:
        return None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Field":
        return next((_number(keyword.value) for keyword in node.keywords if keyword.arg == "default"), None)
    try:
        value: Any = eval(compile(ast.Expression(node), "", "eval"), {"timedelta": timedelta, "__builtins__": {}})
    except (NameError, TypeError):
        return None
    if isinstance(value, timedelta):
        return (value.total_seconds(),)
    if isinstance(value, tuple) and all(isinstance(part, int | float) for part in value):
        return (float(min(value)), float(max(value)))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (float(value),)
    return None


def _is_timedelta(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "timedelta"


def _found(path: Path) -> Iterator[Entry]:
    """Times among the module's constants and the defaults of settings and parameters; 0 does not count."""
    tree = ast.parse(path.read_text())
    pairs: list[tuple[str, ast.expr | None]] = []
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            pairs += [(target.id, statement.value) for target in statement.targets if isinstance(target, ast.Name)]
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            pairs.append((statement.target.id, statement.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
            pairs += [(field.target.id, field.value) for field in fields if isinstance(field.target, ast.Name)]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            named = [*arguments.posonlyargs, *arguments.args]
            with_default = named[len(named) - len(arguments.defaults) :]
            pairs += [(a.arg, d) for a, d in zip(with_default, arguments.defaults, strict=True)]
            pairs += [(a.arg, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    for name, value in pairs:
        if name in RATES or not (TIMES.fullmatch(name) or _is_timedelta(value)):
            continue
        number = _number(value)
        if number is not None and any(number):
            yield name, number


def _in_manifests(node: object) -> Iterator[Entry]:
    if isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, int | float) and str(key).lower().endswith(("seconds", "timeout", "interval")):
                yield str(key), (float(value),)
            yield from _in_manifests(value)
    elif isinstance(node, list):
        for item in node:
            yield from _in_manifests(item)


def _rows() -> Iterator[Entry]:
    """Each name in a row's first cell, with the seconds at the start of its second cell."""
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 4:
            continue
        names = re.findall(r"`([A-Za-z_]+)`", cells[0])
        seconds = [float(text.replace(",", "")) for text in SECONDS.findall(cells[1].split("(")[0])]
        for name in names:
            if seconds:
                yield name, tuple(seconds)


def test_every_time_in_the_code_is_in_the_table_with_its_value() -> None:
    code = Counter(entry for package in PACKAGES for path in sorted(package.rglob("*.py")) for entry in _found(path))
    parts = {entry for path in (ROOT / "manifests").rglob("*.yaml") for body in _documents(path) for entry in body}
    table = Counter(_rows())
    missing = {entry for entry in {*code, *parts} if not table[entry]}
    stale = {entry for entry in table if entry not in code and entry not in parts}
    assert (missing, stale) == (set(), set())


def _documents(path: Path) -> Iterator[list[Entry]]:
    for body in yaml.safe_load_all(path.read_text()):
        yield list(_in_manifests(body))


def test_every_row_has_a_test_or_other_evidence() -> None:
    rows = [line for line in TABLE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    assert len(rows) > 80
    for row in rows:
        cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
        assert len(cells) == 4, row
        assert all(cells), row


def test_tests_in_the_table_exist() -> None:
    tests = set(re.findall(r"`(test_[a-z_0-9]+\.py)`", TABLE.read_text()))
    assert tests
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert tests <= there
