"""Edits of a deployment: the part must exist, and a write that another writer overtakes is repeated."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kigi.cli.choice import make_choice
from kigi.cli.cluster import Access
from kigi.cli.consent import Consent
from kigi.cli.deployment_edit import WRITE_ATTEMPTS, Edit, Options, edit_deployment
from kigi.cli.exit_codes import NotConfirmed
from kigi.cli.output import Format
from kigi.cli.preview import Effect
from kigi.cli.spec_fields import FieldOwned
from kigi.domain.instance_ranges import InstanceUnknown
from kigi.errors import Conflict, DeploymentMissing, KigiError, MachineUnknown, SystemMissing
from tests.support.answering import AnsweringServer
from tests.support.shapes import check_shape

OWNED = {"manager": "flux", "operation": "Apply", "fieldsV1": {"f:spec": {"f:systemRef": {}}}}
OFFICE: dict[str, Any] = {
    "kind": "SystemDeployment",
    "metadata": {"name": "office", "namespace": "range", "generation": 2, "managedFields": []},
    "spec": {"systemRef": {"name": "a"}, "replicas": 2},
}
SEVEN: dict[str, Any] = {
    "kind": "SystemInstance",
    "metadata": {"name": "office-7", "namespace": "range", "generation": 2, "managedFields": []},
    "spec": {"deploymentRef": {"name": "office"}, "name": "7"},
    "status": {"machines": [{"name": "web"}, {"name": "db"}]},
}


EIGHT: dict[str, Any] = {
    **SEVEN,
    "metadata": {**SEVEN["metadata"], "name": "office-8"},
    "spec": {"deploymentRef": {"name": "office"}, "name": "8", "powerState": "Off"},
    "status": {"machines": [{"name": "web"}]},
}


class Cluster:
    """Objects by path; ``refusals`` are answered to the next writes."""

    def __init__(self, folder: Path) -> None:
        state = {"kind": "SystemNode", "metadata": {"name": "b"}}
        self.objects = {"office": OFFICE, "office-7": SEVEN, "office-8": EIGHT, "b": state}
        self.refusals = 0
        self.forbidden: tuple[str, ...] = ()
        self.server = AnsweringServer(self.reply)
        self.folder = folder

    def reply(self, method: str, path: str) -> tuple[int, Any]:
        what = path.partition("?")[0]
        if what.endswith(self.forbidden or ("/none",)):
            return 403, {"message": "no"}
        name = what.rpartition("/")[2]
        if name == "systeminstances":
            return 200, {"metadata": {}, "items": [SEVEN, EIGHT]}
        if method == "PUT":
            self.refusals -= 1
            return (409, {}) if self.refusals >= 0 else (200, self.objects[name])
        return (200, self.objects[name]) if name in self.objects else (404, {})

    def written(self) -> dict[str, Any]:
        """Name -> the spec that was sent."""
        return {body["metadata"]["name"]: body["spec"] for method, _, _, body in self.server.asked if method == "PUT"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path)
    with found.server:
        yield found


AGREED = Consent(yes=True)


def edit(cluster: Cluster, *words: str, consent: Consent = AGREED, force: bool = False, **more: Any) -> None:
    access = Access(str(cluster.server.kubeconfig(cluster.folder / "kubeconfig")))
    chosen = {"field": "systemRef", "value_for": lambda _: {"name": "b"}, "command": "kigi switch office b", **more}
    effect = Effect("switch", "takes the state")
    options = Options(consent, force, 0.0, Format.JSON)
    edit_deployment(access, "office", make_choice(words), Edit(effect=effect, **chosen), options)


def test_the_result_names_the_field_and_its_other_owners(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.objects["office"] = {**OFFICE, "metadata": {**OFFICE["metadata"], "managedFields": [OWNED]}}
    edit(cluster, force=True)
    assert json.loads(capsys.readouterr().out) == {
        "kind": "SystemDeployment",
        "namespace": "range",
        "name": "office",
        "field": "spec.systemRef",
        "value": "b",
        "alsoOwnedBy": ["flux"],
    }
    method, path, _, body = cluster.server.asked[-1]
    assert (method, body["spec"]["systemRef"]) == ("PUT", {"name": "b"})
    assert "fieldManager=kigi-cli" in path


def test_a_field_of_an_instance_is_written_to_its_object(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    edit(cluster, "7", "web")
    result = json.loads(capsys.readouterr().out)
    assert (result["kind"], result["name"]) == ("SystemInstance", "office-7")
    assert result["field"] == "spec.machines[web].systemRef"
    assert cluster.written().keys() == {"office-7"}
    assert cluster.written()["office-7"]["machines"] == [{"name": "web", "systemRef": {"name": "b"}}]


def test_a_range_is_written_instance_by_instance(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    edit(cluster, "7-8")
    results = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["field"]) for one in results] == [
        ("office-7", "spec.systemRef"),
        ("office-8", "spec.systemRef"),
    ]
    assert {name: spec["systemRef"] for name, spec in cluster.written().items()} == {
        "office-7": {"name": "b"},
        "office-8": {"name": "b"},
    }


def test_machines_of_an_instance_are_one_write(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """An instance without one of the machines gets the others."""
    edit(cluster, "7-8", "web", "db")
    assert [one["field"] for one in json.loads(capsys.readouterr().out)] == [
        "spec.machines[web].systemRef",
        "spec.machines[db].systemRef",
        "spec.machines[web].systemRef",
    ]
    assert [len(spec["machines"]) for spec in cluster.written().values()] == [2, 1]


def test_a_value_may_differ_for_each_instance(cluster: Cluster) -> None:
    for name in ("keep-7", "keep-8"):
        cluster.objects[name] = {"kind": "SystemNode", "metadata": {"name": name}}
    edit(cluster, value_for=lambda instance: {"name": f"keep-{instance}"}, is_per_instance=True)
    assert {name: spec["systemRef"]["name"] for name, spec in cluster.written().items()} == {
        "office-7": "keep-7",
        "office-8": "keep-8",
    }


def test_instances_with_a_value_of_their_own_are_named(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    power = {"field": "powerState", "value_for": lambda _: "On", "command": "kigi start office"}
    edit(cluster, **power)
    assert "instances 8 keep a powerState of their own; for these, too: kigi start office 8" in capsys.readouterr().err
    edit(cluster, "7", **power)
    assert "of their own" not in capsys.readouterr().err


def test_a_conflict_is_repeated_on_the_newest_object(cluster: Cluster) -> None:
    cluster.refusals = 1
    edit(cluster)
    assert [method for method, *_ in cluster.server.asked if method == "PUT"] == ["PUT"] * 2
    assert [method for method, *_ in cluster.server.asked][-3:] == ["PUT", "GET", "PUT"]


def test_a_conflict_that_stays_is_reported(cluster: Cluster) -> None:
    cluster.refusals = WRITE_ATTEMPTS
    with pytest.raises(Conflict):
        edit(cluster)
    assert cluster.refusals == 0


@pytest.mark.parametrize(
    ("words", "change", "error", "text"),
    [
        ((), {"office": None}, DeploymentMissing, "no SystemDeployment range/office"),
        ((), {"b": None}, SystemMissing, "no SystemNode range/b"),
        (("7-8",), {"b": None}, SystemMissing, "no SystemNode range/b"),
        (("7,9",), {}, InstanceUnknown, "instance 9 does not exist: office has 7,8"),
        (("7", "mail"), {}, MachineUnknown, "office has no machine mail in these instances: db, web"),
        ((), {"office": {**OFFICE, "metadata": {**OFFICE["metadata"], "managedFields": [OWNED]}}}, FieldOwned, "flux"),
    ],
)
def test_nothing_is_written_before_all_is_checked(
    cluster: Cluster, words: tuple[str, ...], change: dict[str, Any], error: type[KigiError], text: str
) -> None:
    cluster.objects |= change
    cluster.objects = {name: body for name, body in cluster.objects.items() if body is not None}
    with pytest.raises(error, match=text):
        edit(cluster, *words)
    assert cluster.written() == {}


def test_without_a_terminal_and_without_yes_nothing_is_written(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The effect is shown first, also to a caller who may not see the plan."""
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115 - a stream without a terminal
    cluster.forbidden = ("/nodes",)
    with pytest.raises(NotConfirmed, match="give --yes"):
        edit(cluster, "7", consent=Consent())
    assert cluster.written() == {}
    shown = capsys.readouterr().err
    assert "2 machines of instance 7; moves an unknown number of bytes" in shown
    assert "kigi-cluster-view" in shown


def test_a_dry_run_prints_the_effect_as_data(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.forbidden = ("/nodes",)
    edit(cluster, "7-8", consent=Consent(dry_run=True))
    preview = json.loads(capsys.readouterr().out)
    check_shape(("switch", "--dry-run"), preview)
    assert [(m["instance"], m["name"], m["action"]) for m in preview["machines"]] == [
        ("7", "web", "takes the state"),
        ("7", "db", "takes the state"),
        ("8", "web", "takes the state"),
    ]
    assert cluster.written() == {}


def test_a_trainee_who_may_read_one_instance_writes_it(cluster: Cluster) -> None:
    cluster.forbidden = ("/systeminstances", "/systemdeployments/office", "/systeminstances/office-8")
    edit(cluster, "7")
    assert cluster.written().keys() == {"office-7"}
    with pytest.raises(DeploymentMissing, match="no SystemInstance of range/office that you may change"):
        edit(cluster, "8")
