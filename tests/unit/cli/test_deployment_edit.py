"""Edits of a deployment: the part must exist, and a write that another writer overtakes is repeated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kigi.cli.cluster import Access
from kigi.cli.deployment_edit import WRITE_ATTEMPTS, check_machine, edit_deployment
from kigi.cli.output import Format
from kigi.cli.spec_fields import FieldOwned, Part
from kigi.errors import Conflict, DeploymentMissing, MachineUnknown, SpecInvalid, SystemMissing
from tests.support.answering import AnsweringServer

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


@pytest.mark.parametrize(
    ("body", "part"), [(OFFICE, Part()), (SEVEN, Part("7")), (SEVEN, Part("7", "web")), (OFFICE, Part("7", "any"))]
)
def test_a_part_that_exists_is_accepted(body: dict[str, Any], part: Part) -> None:
    """Machines are checked only where the status knows them."""
    check_machine(body, part)


def test_a_machine_that_does_not_exist_is_refused() -> None:
    with pytest.raises(MachineUnknown, match="SystemInstance office-7 has no machine mail: db, web"):
        check_machine(SEVEN, Part("7", "mail"))


@pytest.fixture
def server() -> Iterator[AnsweringServer]:
    with AnsweringServer() as server:
        yield server


ALL = Part()


def edit(server: AnsweringServer, folder: Path, part: Part = ALL, **options: Any) -> None:
    access = Access(str(server.kubeconfig(folder / "kubeconfig")))
    chosen = {"field": "systemRef", "value": {"name": "b"}, "force": False, "wait_s": 0.0, "form": Format.JSON}
    edit_deployment(access, "office", part, **{**chosen, **options})


STATE = {"kind": "SystemNode", "metadata": {"name": "b"}}
READ = [(200, OFFICE), (200, STATE)]


def test_the_result_names_the_field_and_its_other_owners(
    server: AnsweringServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = {**OFFICE, "metadata": {**OFFICE["metadata"], "managedFields": [OWNED]}}
    server.answers = [*READ, (200, written)]
    edit(server, tmp_path, force=True)
    assert json.loads(capsys.readouterr().out) == {
        "kind": "SystemDeployment",
        "namespace": "range",
        "name": "office",
        "field": "spec.systemRef",
        "value": "b",
        "alsoOwnedBy": ["flux"],
    }
    method, path, _, body = server.asked[-1]
    assert (method, body["spec"]["systemRef"]) == ("PUT", {"name": "b"})
    assert "fieldManager=kigi-cli" in path


def test_a_field_of_an_instance_is_written_to_its_object(
    server: AnsweringServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [(200, SEVEN), (200, STATE), (200, SEVEN)]
    edit(server, tmp_path, Part("7", "web"))
    result = json.loads(capsys.readouterr().out)
    assert (result["kind"], result["name"]) == ("SystemInstance", "office-7")
    assert result["field"] == "spec.machines[web].systemRef"
    method, path, _, body = server.asked[-1]
    assert method == "PUT"
    assert "/systeminstances/office-7" in path
    assert body["spec"]["machines"] == [{"name": "web", "systemRef": {"name": "b"}}]


def test_a_conflict_is_repeated_on_the_newest_object(server: AnsweringServer, tmp_path: Path) -> None:
    server.answers = [*READ, (409, {}), *READ, (200, OFFICE)]
    edit(server, tmp_path)
    assert [method for method, *_ in server.asked] == ["GET", "GET", "PUT"] * 2


def test_a_conflict_that_stays_is_reported(server: AnsweringServer, tmp_path: Path) -> None:
    server.answers = [*READ, (409, {})] * WRITE_ATTEMPTS
    with pytest.raises(Conflict):
        edit(server, tmp_path)
    assert not server.answers


def test_a_field_of_another_owner_is_refused_unless_it_is_forced(server: AnsweringServer, tmp_path: Path) -> None:
    kept = {**OFFICE, "metadata": {**OFFICE["metadata"], "managedFields": [OWNED]}}
    server.answers = [(200, kept), (200, STATE)]
    with pytest.raises(FieldOwned, match="kept by flux"):
        edit(server, tmp_path)
    assert all(method == "GET" for method, *_ in server.asked)


def test_what_does_not_exist_is_named(server: AnsweringServer, tmp_path: Path) -> None:
    with pytest.raises(DeploymentMissing, match="no SystemDeployment range/office"):
        edit(server, tmp_path)
    server.answers = [(200, OFFICE), (404, {})]
    with pytest.raises(SystemMissing, match="no SystemNode range/b"):
        edit(server, tmp_path)


def test_a_machine_needs_its_instance(server: AnsweringServer, tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match="name its instance too"):
        edit(server, tmp_path, Part(None, "web"))
    assert server.asked == []
