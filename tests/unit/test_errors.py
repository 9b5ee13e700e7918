"""The class of an error decides what happens next; its reason must agree."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kigi import errors
from kigi.api.conditions import problem_findings
from kigi.errors import KigiError, NeedsAction, needs_action


def classes(parent: type[KigiError] = KigiError) -> Iterator[type[KigiError]]:
    for child in parent.__subclasses__():
        yield child
        yield from classes(child)


OURS = sorted({kind for kind in classes() if kind.__module__ == errors.__name__}, key=lambda kind: kind.__name__)
ACTIONS = {kind for kind in OURS if issubclass(kind, NeedsAction) and kind is not NeedsAction}


def raised(kind: type[KigiError]) -> KigiError:
    return errors.LayerRefused("rule", "text") if kind is errors.LayerRefused else kind("text")


@pytest.mark.parametrize("kind", OURS)
def test_a_reason_needs_action_exactly_when_its_class_does(kind: type[KigiError]) -> None:
    assert needs_action(kind.reason) == (kind in ACTIONS)


@pytest.mark.parametrize("kind", OURS)
def test_an_object_is_stalled_exactly_when_a_person_must_act(kind: type[KigiError]) -> None:
    conditions = {finding.type: finding.status for finding in problem_findings(raised(kind))}
    stalled = issubclass(kind, NeedsAction)
    assert conditions == {"Ready": False, "Stalled": stalled, "Reconciling": not stalled}


@pytest.mark.parametrize("kind", OURS)
def test_a_reason_is_the_name_of_the_class_or_of_an_ancestor(kind: type[KigiError]) -> None:
    ancestors = {parent.__name__ for parent in kind.__mro__ if parent is not KigiError}
    assert kind.reason in ancestors or kind is NeedsAction


def test_a_person_must_act_on_these_errors() -> None:
    """The list as users know it: a change here changes which objects are Stalled."""
    assert {kind.__name__ for kind in ACTIONS} == {
        "AccessDenied",
        "AgentMissing",
        "ArchiveRefused",
        "BootOrderCycle",
        "BudgetExceeded",
        "ChainTooDeep",
        "Forbidden",
        "HookUnavailable",
        "ImageCycle",
        "InUse",
        "LayerContradiction",
        "LayerRefused",
        "MachineUnknown",
        "MachineWithoutImage",
        "NameTaken",
        "NoDefaultRepository",
        "NotSelected",
        "OverlayMismatch",
        "OverlayRejected",
        "QuotaExceeded",
        "RepositoryMisconfigured",
        "RepositoryNotPermitted",
        "RepositoryUnknown",
        "SpecInvalid",
        "StateBesideDisk",
        "StatusInvalid",
        "SystemCycle",
        "TooManyMachines",
        "VirtualSizeShrinks",
        "VolumeUnknown",
    }


@pytest.mark.parametrize("reason", ["", "Error", "SomethingNew", "Waiting"])
def test_an_unknown_reason_needs_no_action(reason: str) -> None:
    assert not needs_action(reason)


def test_errors_of_other_modules_count_too() -> None:
    class LocalProblem(NeedsAction):
        reason = "LocalProblem"

    assert needs_action(LocalProblem.reason)
