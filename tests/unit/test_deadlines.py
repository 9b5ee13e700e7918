"""Nothing that drives the local cluster waits without end: each wait in the source has a deadline.

Commands go through ``localcluster.bounded.run``; the few other ways to wait are found here in the syntax trees.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("localcluster", "scenario", "demo", "soak", "tests/e2e")
HELPER = "localcluster/bounded.py"
EXEMPT = {
    # Process 1 of a node reaps and restarts until it is killed.
    ("localcluster/node_init.py", "os.waitpid"),
    ("localcluster/node_init.py", "while"),
}
RUNS = {f"subprocess.{name}" for name in ("run", "call", "check_call", "check_output")}
CONNECTS = {"urlopen", "HTTPConnection", "HTTPSConnection", "create_connection"}
WAITS = {"wait", "join", "communicate", "acquire"}
DEADLINE = re.compile(r"deadline|monotonic|\bend\b|\bdue\b")


def unbounded(source: str, path: str) -> Iterator[str]:
    """``line: what`` of each wait without a deadline."""
    for node in ast.walk(ast.parse(source)):
        found = ""
        if isinstance(node, ast.Call):
            found = unbounded_call(node, path)
        elif isinstance(node, ast.While) and "sleep(" in ast.unparse(node) and not DEADLINE.search(ast.unparse(node)):
            found = "while"
        if found and (path, found) not in EXEMPT:
            yield f"{node.lineno}: {found}"  # type: ignore[attr-defined]


def unbounded_call(call: ast.Call, path: str) -> str:
    """Name of the function if this call may wait without end."""
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    timed = any(keyword.arg in ("timeout", "timeout_s") for keyword in call.keywords)
    waits = (
        name in RUNS | {"os.waitpid", "os.system"}
        or (name == "fcntl.flock" and path != HELPER)
        or last in CONNECTS
        or (name == "select.select" and len(call.args) < 4)
        or (isinstance(call.func, ast.Attribute) and last in WAITS and not (call.args and last != "communicate"))
    )
    return name if waits and not timed else ""


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_wait_has_a_deadline(path: Path) -> None:
    assert list(unbounded(path.read_text(), str(path.relative_to(REPOSITORY)))) == []


@pytest.mark.parametrize(
    "source",
    [
        "subprocess.run(['x'], check=True)",
        "subprocess.check_output(['x'])",
        "process.wait()",
        "process.communicate()",
        "process.communicate(b'input')",
        "thread.join()",
        "lock.acquire()",
        "select.select([one], [], [])",
        "urllib.request.urlopen(url)",
        "http.client.HTTPConnection('host', 80)",
        "fcntl.flock(file, fcntl.LOCK_EX)",
        "os.waitpid(pid, 0)",
        "while not there():\n    time.sleep(1)",
        "while True:\n    if there():\n        break\n    time.sleep(1)",
    ],
)
def test_a_wait_without_a_deadline_is_found(source: str) -> None:
    assert len(list(unbounded(source, "demo/new.py"))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "run(['x'], timeout_s=5)",
        "subprocess.run(['x'], timeout=5)",
        "process.wait(5)",
        "process.communicate(timeout=5)",
        "thread.join(5)",
        "', '.join(names)",
        "select.select([one], [], [], 5)",
        "http.client.HTTPConnection('host', 80, timeout=2)",
        "while not there():\n    assert time.monotonic() < deadline\n    time.sleep(1)",
        "while queue:\n    queue.pop()",
    ],
)
def test_a_wait_with_a_deadline_is_accepted(source: str) -> None:
    assert list(unbounded(source, "demo/new.py")) == []
