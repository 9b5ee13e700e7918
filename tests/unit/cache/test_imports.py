"""What the daemon may import from the operator's package, and what only the publisher of captures may."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import kigi_cache

ALLOWED = (
    "kigi.errors",
    "kigi.domain",
    "kigi.api",
    "kigi.adapters.credentials",
    "kigi.adapters.environment",
    "kigi.adapters.json_logs",
    "kigi.adapters.kubernetes",
    "kigi.adapters.listening",
    "kigi.adapters.proxies",
    "kigi.adapters.qemu_img",
    "kigi.adapters.repositories",
    "kigi.adapters.tls",
)
PUBLISHER = "captures/publisher.py"
PUBLISHER_ALLOWED = ("kigi.adapters.s3", "kigi.publishing")
ROOT = Path(kigi_cache.__file__).parent


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_in(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_the_daemon_imports_what_is_allowed_and_nothing_else_of_kigi() -> None:
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in ROOT.rglob("*.py")
        for name in imported(path)
        if is_in(name, ("kigi",)) and not is_in(name, ALLOWED)
    }
    assert {name for file, name in found if file != PUBLISHER} == set()
    assert {name for _, name in found if not is_in(name, PUBLISHER_ALLOWED)} == set()


def test_every_permission_is_used() -> None:
    names = {name for path in ROOT.rglob("*.py") for name in imported(path)}
    assert [package for package in (*ALLOWED, *PUBLISHER_ALLOWED) if not any(is_in(n, (package,)) for n in names)] == []


def test_kopf_and_the_client_library_stay_out_of_the_daemon() -> None:
    names = {name for path in ROOT.rglob("*.py") for name in imported(path)}
    assert {name for name in names if is_in(name, ("kopf", "kubernetes"))} == set()
