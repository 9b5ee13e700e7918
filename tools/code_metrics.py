"""Measures the code against the project's targets: ``python -m tools.code_metrics``; exit code 1 where one is missed.

Counts lines of files as they are, blank lines and comments included. A function's lines run from ``def`` to its end,
nested functions included. Its branches are ``if``, ``elif``, ``for``, ``while``, ``except`` and ``case``,
without those of nested functions.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (ROOT / "operator/kigi", ROOT / "node-cache-daemon/kigi_cache")
TESTS = ROOT / "tests"
GENERATED = ("_pb2.py",)
JSON_BOUNDARIES = (
    "operator/kigi/adapters/",
    "operator/kigi/mirror/parse",
    "operator/kigi/planning/manifests",
    "operator/kigi/handlers/",
)
"""Where API objects are read or built as JSON, and ``Any`` is their type."""


@dataclass(frozen=True, slots=True)
class Function:
    """One function of a module; ``branches`` excludes nested functions."""

    place: str
    lines: int
    branches: int


@dataclass(frozen=True, slots=True)
class Module:
    """One source file of a package."""

    path: str
    lines: int
    functions: tuple[Function, ...]
    broad_excepts: int
    anys: int
    """Uses of ``typing.Any``; ``dict[str, Any]`` and ``Mapping[str, Any]``, the types of JSON objects, do not count."""


@dataclass(frozen=True, slots=True)
class Target:
    """A measured value beside its bound."""

    name: str
    value: float
    bound: float
    at_least: bool = False
    worst: tuple[str, ...] = ()

    @property
    def is_met(self) -> bool:
        """Whether the value keeps the bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def measure(path: str, source: str) -> Module:
    """Figures of one module. Raises SyntaxError for a source that is not Python."""
    tree = ast.parse(source)
    functions = tuple(
        Function(
            f"{path}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1, _branches(node)
        )
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    excepts = sum(isinstance(node, ast.ExceptHandler) and _is_broad(node.type) for node in ast.walk(tree))
    suppressed = sum(
        isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress") and any(map(_is_broad, node.args))
        for node in ast.walk(tree)
    )
    return Module(path, len(source.splitlines()), functions, excepts + suppressed, _anys(tree))


def targets(modules: Sequence[Module], test_lines: int) -> tuple[Target, ...]:
    """The project's targets with the values of these modules."""
    sizes = sorted(modules, key=lambda module: module.lines)
    functions = sorted((f for module in modules for f in module.functions), key=lambda function: function.lines)
    branching = sorted(functions, key=lambda function: function.branches)
    inner = [module for module in modules if not module.path.startswith(JSON_BOUNDARIES)]
    code = sum(module.lines for module in modules)
    long = tuple(f"{m.path}: {m.lines} lines" for m in sizes if m.lines > 400)
    return (
        Target("median lines of a module", _percentile([m.lines for m in sizes], 50), 120),
        Target("90th percentile of a module's lines", _percentile([m.lines for m in sizes], 90), 300),
        Target("most lines of a module", sizes[-1].lines, 400, worst=long),
        Target("90th percentile of a function's lines", _percentile([f.lines for f in functions], 90), 25),
        Target(
            "most lines of a function",
            functions[-1].lines,
            50,
            worst=tuple(f"{f.place}: {f.lines} lines" for f in functions if f.lines > 50),
        ),
        Target(
            "most branches of a function",
            branching[-1].branches,
            12,
            worst=tuple(f"{f.place}: {f.branches} branches" for f in branching if f.branches > 12),
        ),
        Target(
            "broad excepts",
            sum(module.broad_excepts for module in modules),
            4,
            worst=tuple(f"{m.path}: {m.broad_excepts}" for m in modules if m.broad_excepts),
        ),
        Target(
            "Any outside JSON boundaries",
            sum(module.anys for module in inner),
            60,
            worst=tuple(f"{m.path}: {m.anys}" for m in sorted(inner, key=lambda m: -m.anys) if m.anys)[:12],
        ),
        Target("lines of tests per line of code", round(test_lines / code, 2), 1.2, at_least=True),
    )


def main() -> int:
    """Print each target; the places that miss one are named below it."""
    modules = [measure(str(path.relative_to(ROOT)), path.read_text()) for path in _sources(PACKAGES)]
    test_lines = sum(len(path.read_text().splitlines()) for path in _sources((TESTS,)))
    missed = 0
    for target in targets(modules, test_lines):
        sign = "at least" if target.at_least else "at most"
        print(f"{'ok  ' if target.is_met else 'MISS'} {target.name}: {target.value:g} ({sign} {target.bound:g})")
        if not target.is_met:
            missed += 1
            print("".join(f"       {place}\n" for place in target.worst), end="")
    return 1 if missed else 0


def _sources(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            if not path.name.endswith(GENERATED) and path.stat().st_size:
                yield path


def _percentile(values: Sequence[int], percent: int) -> int:
    """Nearest-rank percentile of sorted values."""
    return values[max(0, -(-len(values) * percent // 100) - 1)]


_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)


def _branches(function: ast.AST) -> int:
    count = 0
    for node in ast.iter_child_nodes(function):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        count += isinstance(node, _BRANCHES) + _branches(node)
    return count


def _is_broad(kind: ast.expr | None) -> bool:
    names = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(name is None or ast.unparse(name) in ("Exception", "BaseException") for name in names)


def _anys(tree: ast.AST) -> int:
    json_types = {
        id(name)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and ast.unparse(node) in ("dict[str, Any]", "Mapping[str, Any]")
        for name in ast.walk(node)
    }
    return sum(
        isinstance(node, ast.Name) and node.id == "Any" and id(node) not in json_types for node in ast.walk(tree)
    )


if __name__ == "__main__":
    sys.exit(main())
