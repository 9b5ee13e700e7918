"""Machine targets: settings of an instance, and when a machine needs a new disk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kigi.api.instance import SystemInstanceSpec
from kigi.domain.fingerprint import Fingerprint
from kigi.domain.systems import ResolvedSystem
from kigi.errors import ImageMissing, MachineUnknown, TooManyMachines
from kigi.planning.targets import MachineTarget, machine_targets, named_systems, systems_of_instance
from tests.support.worlds import World, deployment_spec, digest


def targets(instance: dict[str, Any] | None = None, **fields: Any) -> dict[str, MachineTarget]:
    """Targets of an instance with its own settings, by machine."""
    w = World(deployment_spec(**fields))
    w.change_instance("0", **(instance or {}))
    return {target.machine: target for target in machine_targets(w.view())}


def test_an_instance_has_every_machine_of_its_state() -> None:
    assert {name: target.vm_name for name, target in targets(replicas=2).items()} == {
        "db": "dep-0-db",
        "web": "dep-0-web",
    }


@pytest.mark.parametrize(
    ("deployment", "instance", "machine", "running"),
    [
        (None, None, None, True),
        ("Off", None, None, False),
        ("Off", "On", None, True),
        ("On", "Off", None, False),
        ("Off", "On", "Off", False),
        (None, "Off", "On", True),
    ],
)
def test_the_most_specific_power_state_wins(
    deployment: str | None, instance: str | None, machine: str | None, running: bool
) -> None:
    own = {"powerState": instance, "machines": [{"name": "db", **({"powerState": machine} if machine else {})}]}
    found = targets(own, powerState=deployment)
    assert found["db"].running is running
    assert found["web"].running is ((instance or deployment) != "Off")


def test_the_most_specific_state_wins() -> None:
    found = targets({"systemRef": {"name": "b"}, "machines": [{"name": "db", "systemRef": {"name": "a"}}]})
    assert {name: target.system for name, target in found.items()} == {"db": "a", "web": "b"}
    assert found["db"].chain[-1].digest == digest("db")


def test_settings_of_an_unknown_machine_list_the_known_ones() -> None:
    with pytest.raises(MachineUnknown, match=r"spec.machines\[mail\].*it has db, web"):
        targets({"machines": [{"name": "mail"}]})


def test_a_state_without_the_machine_is_named() -> None:
    with pytest.raises(MachineUnknown, match=r"spec.machines\[db\].systemRef: SystemNode c has no machine db"):
        targets({"machines": [{"name": "db", "systemRef": {"name": "c"}}]})


def test_more_machines_than_the_status_holds_are_refused() -> None:
    w = World(deployment_spec())
    state = w.resolved("a")
    assert isinstance(state, ResolvedSystem)
    many = replace(state, machines=tuple(replace(state.machines[0], name=f"m{number}") for number in range(129)))
    with pytest.raises(TooManyMachines, match="SystemNode a has 129 machines, and an instance at most 128"):
        machine_targets(replace(w.view(), systems={"a": many}))


def test_a_state_that_cannot_be_resolved_is_raised() -> None:
    with pytest.raises(ImageMissing):
        machine_targets(replace(World(deployment_spec()).view(), systems={"a": ImageMissing("absent")}))


def test_every_state_that_the_specs_name_is_found() -> None:
    assert named_systems(deployment_spec(prefetchRefs=[{"name": "p"}])) == {"a", "p"}
    machines = [{"name": "m", "systemRef": {"name": "x"}}, {"name": "n"}]
    identity = {"deploymentRef": {"name": "dep"}, "name": "0"}
    own = SystemInstanceSpec.model_validate({**identity, "systemRef": {"name": "o"}, "machines": machines})
    assert systems_of_instance(own) == {"o", "x"}


OLD = Fingerprint(digest("web"), "a", ("token:s", "token:t"))


@pytest.mark.parametrize(
    ("before", "fields", "new"),
    [
        pytest.param(None, {}, True, id="first"),
        pytest.param(OLD, {}, False, id="same"),
        pytest.param(OLD, {"resetToken": "t"}, False, id="same-token"),
        pytest.param(OLD, {"resetToken": "u"}, True, id="new-token"),
        pytest.param(OLD, {"resetToken": "s"}, False, id="token-of-a-predecessor"),
        pytest.param(OLD, {"resetToken": "request:t"}, True, id="token-that-looks-like-a-request"),
        pytest.param(OLD, {"resetToken": None}, False, id="token-taken-away"),
        pytest.param(OLD, {"state": "b"}, True, id="other-image"),
        pytest.param(Fingerprint(digest("web"), "z"), {}, True, id="switch-resets-all"),
        pytest.param(
            Fingerprint(digest("web"), "z"),
            {"updateStrategy": {"onSwitch": "ReplaceChanged"}},
            False,
            id="switch-keeps-unchanged",
        ),
        pytest.param(Fingerprint.from_text("{"), {}, True, id="unreadable"),
    ],
)
def test_when_a_machine_needs_a_new_disk(before: Fingerprint | None, fields: dict[str, Any], new: bool) -> None:
    assert targets(**fields)["web"].needs_new_disk(before) is new


def test_reset_tokens_stay_in_the_fingerprint_after_their_removal() -> None:
    assert targets()["web"].fingerprint(OLD).seen == ("token:s", "token:t")
    assert targets(resetToken="u")["web"].fingerprint(OLD).seen == ("token:s", "token:t", "token:u")


def test_a_fingerprint_survives_conversion_to_text() -> None:
    assert Fingerprint.from_text(OLD.to_text()) == OLD
