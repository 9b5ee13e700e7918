"""The measured figures are those of the source, and a missed target names its place."""

from __future__ import annotations

import pytest

from tools.code_metrics import Module, Target, measure, targets

SOURCE = '''"""A module."""
from typing import Any


def branching(value: Any, more: dict[str, Any]) -> int:
    """Two branches, and one in a nested function."""
    if value:
        for _ in value:
            pass

    def nested() -> None:
        while value:
            pass

    return 1


def careless() -> None:
    """Three broad excepts."""
    try:
        pass
    except Exception:
        pass
    try:
        pass
    except (OSError, BaseException):
        pass
    with contextlib.suppress(Exception):
        pass
    with contextlib.suppress(OSError):
        pass
'''


def module(lines: int = 100, path: str = "operator/kigi/some.py", anys: int = 0, excepts: int = 0) -> Module:
    return Module(path, lines, measure(path, SOURCE).functions, excepts, anys)


def test_a_module_is_measured_by_its_syntax() -> None:
    measured = measure("some.py", SOURCE)
    assert measured.lines == 31
    assert {f.place.split()[1]: (f.lines, f.branches) for f in measured.functions} == {
        "branching": (11, 2),
        "nested": (3, 1),
        "careless": (14, 2),
    }
    assert measured.broad_excepts == 3
    assert measured.anys == 1, "dict[str, Any] is the type of a JSON object"


def missed(*modules: Module, test_lines: int = 10**6) -> list[Target]:
    return [target for target in targets(modules, test_lines) if not target.is_met]


def test_small_modules_miss_nothing() -> None:
    assert missed(*[module()] * 10) == []


@pytest.mark.parametrize(
    ("modules", "name"),
    [
        pytest.param([module(100)] * 19 + [module(401, "operator/kigi/big.py")], "most lines of a module", id="one"),
        pytest.param([module(121)] * 6 + [module(10)] * 4, "median lines of a module", id="median"),
        pytest.param([module(301)] * 2 + [module(10)] * 8, "90th percentile of a module's lines", id="90th"),
        pytest.param([module(excepts=5)] + [module()] * 9, "broad excepts", id="excepts"),
        pytest.param([module(anys=61)] + [module()] * 9, "Any outside JSON boundaries", id="any"),
    ],
)
def test_a_missed_target_is_named(modules: list[Module], name: str) -> None:
    assert [target.name for target in missed(*modules)] == [name]


def test_any_at_a_json_boundary_does_not_count() -> None:
    assert missed(module(path="operator/kigi/adapters/s3.py", anys=100)) == []


def test_too_few_tests_are_a_miss() -> None:
    assert [target.name for target in missed(module(100), test_lines=119)] == ["lines of tests per line of code"]


def test_the_places_of_a_miss_are_named() -> None:
    (target,) = missed(*[module(100)] * 19, module(401, "operator/kigi/big.py"))
    assert target.worst == ("operator/kigi/big.py: 401 lines",)
