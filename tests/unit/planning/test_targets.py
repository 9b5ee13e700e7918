"""Machine targets: overrides, and when a machine needs a new disk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kigi.api.deployment import SystemDeploymentSpec
from kigi.domain.fingerprint import Fingerprint
from kigi.errors import ImageMissing, MachineUnknown
from kigi.planning.targets import MachineTarget, machine_targets, named_systems
from tests.support.worlds import World, digest


def spec(**fields: Any) -> SystemDeploymentSpec:
    return SystemDeploymentSpec.model_validate({"system": {"name": "a"}, **fields})


def targets(**fields: Any) -> dict[tuple[int, str], MachineTarget]:
    return {target.slot: target for target in machine_targets(World(spec(**fields)).view())}


def test_every_instance_has_every_machine() -> None:
    assert sorted(targets(replicas=2)) == [(0, "db"), (0, "web"), (1, "db"), (1, "web")]


def test_the_most_specific_override_wins() -> None:
    found = targets(
        running=False,
        reset="all",
        overrides=[
            {
                "instance": 0,
                "running": True,
                "reset": "one",
                "machines": [{"name": "db", "running": False, "system": {"name": "b"}}],
            }
        ],
        replicas=2,
    )
    assert [found[slot].running for slot in sorted(found)] == [False, True, False, False]
    assert found[(0, "web")].resets == ("all", "one", None)
    assert found[(0, "db")].system == "b"
    assert found[(1, "db")].resets == ("all", None, None)


def test_an_override_of_an_unknown_machine_lists_the_known_ones() -> None:
    with pytest.raises(MachineUnknown, match=r"overrides\[0\].machines\[mail\].*it has db, web"):
        targets(overrides=[{"instance": 0, "machines": [{"name": "mail"}]}])


def test_an_override_beyond_the_replicas_waits_for_them() -> None:
    assert sorted(targets(overrides=[{"instance": 7, "machines": [{"name": "mail"}]}])) == [(0, "db"), (0, "web")]


def test_a_state_that_cannot_be_resolved_is_raised() -> None:
    with pytest.raises(ImageMissing):
        machine_targets(replace(World(spec()).view(), systems={"a": ImageMissing("absent")}))


def test_every_state_that_the_spec_names_is_found() -> None:
    named = spec(
        prefetch=[{"name": "p"}],
        overrides=[{"instance": 0, "system": {"name": "o"}, "machines": [{"name": "m", "system": {"name": "x"}}]}],
    )
    assert named_systems(named) == {"a", "p", "o", "x"}


OLD = Fingerprint(digest("web"), "a", ("t", None, None))


@pytest.mark.parametrize(
    ("before", "fields", "new"),
    [
        pytest.param(None, {}, True, id="first"),
        pytest.param(OLD, {}, False, id="same"),
        pytest.param(OLD, {"reset": "t"}, False, id="same-token"),
        pytest.param(OLD, {"reset": "u"}, True, id="new-token"),
        pytest.param(OLD, {"reset": None}, False, id="token-taken-away"),
        pytest.param(OLD, {"overrides": [{"instance": 0, "reset": "i"}]}, True, id="instance-token"),
        pytest.param(OLD, {"system": {"name": "b"}}, True, id="other-image"),
        pytest.param(Fingerprint(digest("web"), "z", (None, None, None)), {}, True, id="switch-resets-all"),
        pytest.param(
            Fingerprint(digest("web"), "z", (None, None, None)),
            {"switchPolicy": "KeepUnchanged"},
            False,
            id="switch-keeps-unchanged",
        ),
        pytest.param(Fingerprint.from_text("{"), {}, True, id="unreadable"),
    ],
)
def test_when_a_machine_needs_a_new_disk(before: Fingerprint | None, fields: dict[str, Any], new: bool) -> None:
    assert targets(**fields)[(0, "web")].needs_new_disk(before) is new


def test_removed_reset_tokens_stay_in_the_fingerprint() -> None:
    assert targets()[(0, "web")].fingerprint(OLD).resets == ("t", None, None)


def test_a_fingerprint_survives_conversion_to_text() -> None:
    assert Fingerprint.from_text(OLD.to_text()) == OLD
