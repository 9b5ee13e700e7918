"""``kigi migrate`` on a real API server: a cluster of v1alpha1, interruptions, refusals and a running operator."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from kigi.adapters.kubernetes.resources import Resource
from kigi.adapters.kubernetes.session import KubeSession
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.main import app
from kigi.cli.verbs.migrate import read_definitions
from kigi.domain.comparison import includes
from kigi.domain.names import DEPLOYMENT_FINALIZER, has_deployment_finalizer
from kigi.errors import SpecInvalid, Unreachable, Waiting
from kigi.migration import freeze
from kigi.migration.back_run import go_back
from kigi.migration.backup import Backup, read_backup
from kigi.migration.conversion import Conversion, convert
from kigi.migration.freeze import MANAGER
from kigi.migration.run import BUSY_S, BY_KIND, Cluster, Place, lock, some_object, unlock
from kigi.migration.whole import migrate
from kigi.runtime.leader import LEASE_NAME
from localcluster.controlplane import ControlPlane
from tests.support.cluster import REPOSITORY, eventually
from tests.support.raw_api import RawApi
from tests.support.v1alpha1 import REPOSITORIES, definitions, manifests

Object = dict[str, Any]
PLURALS = {body["spec"]["names"]["kind"]: body["spec"]["names"]["plural"] for body in definitions()}
KIGI = "kigi-system"
PLACE = Place(KIGI, LEASE_NAME)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("migration")) as server:
        for name in (KIGI, "class-a", "class-b"):
            server.kubectl("create", "namespace", name)
        yield server


@pytest.fixture
def old(plane: ControlPlane) -> Iterator[RawApi]:
    """The API server as v1alpha1 left it; afterwards every definition and object is gone."""
    apply_definitions(plane)
    api = RawApi(plane.kubeconfig)
    for body in manifests():
        meta = body["metadata"]
        collection = f"/apis/kigi.dev/v1alpha1/namespaces/{meta['namespace']}/{PLURALS[body['kind']]}"
        made = api.create(collection, body).object()
        if "status" in body:
            path = f"{collection}/{meta['name']}/status"
            api.call("PUT", path, made | {"status": body["status"]}).object()
    plane.kubectl("apply", "-f", "-", input_text=json.dumps(REPOSITORIES))
    yield api
    clean(plane)


def apply_definitions(plane: ControlPlane) -> None:
    folder = REPOSITORY / "tests/data/v1alpha1"
    names = sorted(folder.glob("*.kigi.dev.yaml"))
    for path in names:
        plane.kubectl("create", "-f", str(path))
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", *(f"crd/{path.stem}" for path in names))
    wait_until_stored(RawApi(plane.kubeconfig), "v1alpha1")


def wait_until_stored(api: RawApi, version: str) -> None:
    """After a definition has changed, the API server answers 429 for some seconds."""
    for plural in PLURALS.values():
        if version == "v1alpha1" or plural != "nodecaches":
            path = f"/apis/kigi.dev/{version}/{plural}"
            eventually(lambda path=path: api.get(path).code == 200, what=path)  # type: ignore[misc]


def clean(plane: ControlPlane) -> None:
    """Deletes all definitions, whatever a test has left; objects with finalizers would keep them for ever."""
    with open_cluster(Access(kubeconfig=str(plane.kubeconfig)), manager=MANAGER) as kube:
        freeze.thaw(kube, some_object(Cluster(kube, {})))
    found = json.loads(plane.kubectl("get", "crd", "-o", "json"))["items"]
    for crd in found:
        plural = f"{crd['spec']['names']['plural']}.{crd['spec']['group']}"
        for body in json.loads(plane.kubectl("get", plural, "-A", "-o", "json"))["items"]:
            if body["metadata"].get("finalizers"):
                where = ["-n", body["metadata"]["namespace"]]
                patch = '{"metadata":{"finalizers":null}}'
                plane.kubectl("patch", plural, body["metadata"]["name"], *where, "--type=merge", "-p", patch)
    names = [crd["metadata"]["name"] for crd in found]
    plane.kubectl("delete", "crd", *names, "--wait=true", "--timeout=60s")
    plane.kubectl("delete", "lease", "-n", KIGI, LEASE_NAME, "--ignore-not-found")


def run(plane: ControlPlane, backup: Path, *arguments: str) -> str:
    """``kigi migrate`` in this process: what it printed; raises what it raises."""
    command = ["migrate", "--yes", "--crds", str(REPOSITORY / "crds"), "--backup", str(backup)]
    done = CliRunner().invoke(app, [*command, "--kubeconfig", str(plane.kubeconfig), *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def crd(plane: ControlPlane, name: str) -> Object:
    found: Object = json.loads(plane.kubectl("get", "crd", name, "-o", "json"))
    return found


def uids(api: RawApi, version: str) -> dict[tuple[str, str, str], str]:
    """(kind, namespace, name) -> uid of every object of the old kinds."""
    found: dict[tuple[str, str, str], str] = {}
    wait_until_stored(api, version)
    for kind, plural in PLURALS.items():
        if kind == "NodeCache":
            continue
        for body in api.get(f"/apis/kigi.dev/{version}/{plural}").object()["items"]:
            meta = body["metadata"]
            found[kind, meta["namespace"], meta["name"]] = meta["uid"]
    return found


def stored_as_converted(api: RawApi, backup: Backup) -> list[str]:
    """Names of converted objects that the API server does not have as they should be."""
    wrong: list[str] = []
    plurals = {
        **PLURALS,
        "SystemInstance": "systeminstances",
        "LayerRepository": "layerrepositories",
        "SystemQuota": "systemquotas",
    }
    for body in convert(backup.objects, backup.repositories).objects:
        meta = body["metadata"]
        scope = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
        live = api.get(f"/apis/kigi.dev/v1alpha2{scope}/{plurals[body['kind']]}/{meta['name']}").object()
        if not includes(live["spec"], body["spec"]) or not includes(live.get("status"), body.get("status") or {}):
            wrong.append(meta["name"])
    return wrong


def test_objects_are_converted_in_place(plane: ControlPlane, old: RawApi, tmp_path: Path) -> None:
    before = uids(old, "v1alpha1")
    text = run(plane, tmp_path / "backup.json")
    assert "objects are stored in v1alpha2" in text
    assert uids(old, "v1alpha2") == before
    assert stored_as_converted(old, read_backup(tmp_path / "backup.json")) == []
    for plural in ("systemnodes", "systemdeployments", "vmimagenodes", "systemcaptures", "systemprefetches"):
        definition = crd(plane, f"{plural}.kigi.dev")
        assert definition["status"]["storedVersions"] == ["v1alpha2"]
        assert [version["name"] for version in definition["spec"]["versions"]] == ["v1alpha2"]
    capture = old.get("/apis/kigi.dev/v1alpha2/namespaces/class-a/systemcaptures/lunch").object()
    complete = [c for c in capture["status"]["conditions"] if c["type"] == "Complete"]
    assert [item["status"] for item in complete] == ["True"]


def test_the_final_definitions_have_the_rules_again(plane: ControlPlane, old: RawApi, tmp_path: Path) -> None:
    run(plane, tmp_path / "backup.json")
    path = "/apis/kigi.dev/v1alpha2/namespaces/class-a/vmimagenodes/base"
    reply = old.call(
        "PUT", path, {**(body := old.get(path).object()), "spec": {**body["spec"], "parentRef": {"name": "x"}}}
    )
    assert reply.code == 422
    assert "immutable" in reply.message


def test_a_dry_run_shows_differences_and_changes_nothing(plane: ControlPlane, old: RawApi, tmp_path: Path) -> None:
    before = crd(plane, "systemnodes.kigi.dev")
    text = run(plane, tmp_path / "backup.json", "--dry-run")
    assert "+  parentRef:" in text
    assert crd(plane, "systemnodes.kigi.dev") == before
    assert old.get("/apis/kigi.dev/v1alpha1/namespaces/class-a/systemnodes/office").object()["spec"]["machines"][0][
        "template"
    ]


class Interrupted(KubeSession):
    """A session whose process dies after a number of writes."""

    writes = 0
    allowed = 0

    def _write(self, request: Any) -> Object:
        if "dryRun" not in request.query:
            if self.writes >= self.allowed:
                raise Unreachable(f"the process died before {request}")
            self.writes += 1
        return super()._write(request)


def converted(saved: Backup) -> Conversion:
    conversion = convert(saved.objects, saved.repositories)
    assert conversion.findings.problems == []
    return conversion


def dying(plane: ControlPlane, act: Callable[[Cluster], int]) -> int:
    """Calls until the end, with a death after the 1st, 2nd, 3rd, 5th, 8th write and so on; the number of deaths."""
    release, deaths = read_definitions(REPOSITORY / "crds"), 0
    allowed, more = 1, 2
    while allowed < 1000:
        session = Interrupted(Access(kubeconfig=str(plane.kubeconfig)).endpoint(), manager=MANAGER, busy_s=BUSY_S)
        session.allowed = allowed
        with session as kube:
            try:
                act(Cluster(kube, release))
                return deaths
            except Unreachable as death:
                if "the process died" not in str(death):
                    raise
        deaths += 1
        allowed, more = more, allowed + more
    raise AssertionError("no progress")


def test_a_migration_resumes_after_an_interruption_at_any_write(
    plane: ControlPlane, old: RawApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freeze, "OTHERS_S", 0.0)
    before, file = uids(old, "v1alpha1"), tmp_path / "backup.json"
    deaths = dying(plane, lambda cluster: migrate(cluster, file, PLACE, converted))
    assert deaths >= 6
    assert uids(old, "v1alpha2") == before
    assert stored_as_converted(old, read_backup(file)) == []
    assert_free(plane, old)


def test_the_way_back_resumes_after_an_interruption_at_any_write(
    plane: ControlPlane, old: RawApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freeze, "OTHERS_S", 0.0)
    before, file = specs(old, "v1alpha1"), tmp_path / "backup.json"
    run(plane, file)
    deaths = dying(plane, lambda cluster: go_back(cluster, file, PLACE))
    assert deaths >= 6
    now = specs(old, "v1alpha1")
    for key, spec in before.items():
        dropped = {"overrides", "replicas"} if key[0] == "SystemDeployment" else set()
        assert {k: v for k, v in now[key].items() if k not in dropped} == {
            k: v for k, v in spec.items() if k not in dropped
        }
    definition = crd(plane, "systemdeployments.kigi.dev")
    assert definition["status"]["storedVersions"] == ["v1alpha1"]
    assert [version["name"] for version in definition["spec"]["versions"]] == ["v1alpha1"]
    names = {body["metadata"]["name"] for body in json.loads(plane.kubectl("get", "crd", "-o", "json"))["items"]}
    assert not names & {"systeminstances.kigi.dev", "layerrepositories.kigi.dev", "systemresets.kigi.dev"}
    assert_free(plane, old)
    run(plane, tmp_path / "again.json")
    assert stored_as_converted(old, read_backup(tmp_path / "again.json")) == []


def specs(api: RawApi, version: str) -> dict[tuple[str, str, str], Object]:
    """(kind, namespace, name) -> spec of every object of the old kinds."""
    wait_until_stored(api, version)
    found: dict[tuple[str, str, str], Object] = {}
    for kind, plural in PLURALS.items():
        for body in api.get(f"/apis/kigi.dev/{version}/{plural}").object()["items"] if kind != "NodeCache" else ():
            found[kind, body["metadata"]["namespace"], body["metadata"]["name"]] = body["spec"]
    return found


def assert_free(plane: ControlPlane, api: RawApi) -> None:
    """Operators may lead, and users may write."""
    held = json.loads(plane.kubectl("get", "lease", "-n", KIGI, LEASE_NAME, "-o", "json"))["spec"]
    assert held["holderIdentity"] == ""
    policies = api.get("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies").object()["items"]
    assert [body["metadata"]["name"] for body in policies] == []


def switch(api: RawApi, version: str, name: str, state: str) -> None:
    field = "system" if version == "v1alpha1" else "systemRef"
    path = f"/apis/kigi.dev/{version}/namespaces/class-a/systemdeployments/{name}"
    api.patch(path, {"spec": {field: {"name": state}}}).object()


def test_orders_between_the_dry_run_and_the_conversion_count(plane: ControlPlane, old: RawApi, tmp_path: Path) -> None:
    file = tmp_path / "backup.json"
    run(plane, file, "--dry-run")
    switch(old, "v1alpha1", "office", "after-lunch")
    body = {
        "apiVersion": "kigi.dev/v1alpha1",
        "kind": "SystemDeployment",
        "metadata": {"name": "late", "namespace": "class-a", "finalizers": ["kigi.dev/finalizer"]},
        "spec": {"system": {"name": "office"}},
    }
    old.create("/apis/kigi.dev/v1alpha1/namespaces/class-a/systemdeployments", body).object()
    old.delete("/apis/kigi.dev/v1alpha1/namespaces/class-b/systemdeployments/closed").object()
    run(plane, file)
    base = "/apis/kigi.dev/v1alpha2/namespaces/class-a/systemdeployments"
    assert old.get(f"{base}/office").object()["spec"]["systemRef"] == {"name": "after-lunch"}
    late = old.get(f"{base}/late").object()
    assert late["spec"]["systemRef"] == {"name": "office"}
    assert late["metadata"]["finalizers"] == [DEPLOYMENT_FINALIZER]


def test_a_call_after_the_end_changes_nothing(plane: ControlPlane, old: RawApi, tmp_path: Path) -> None:
    run(plane, tmp_path / "backup.json")
    path = "/apis/kigi.dev/v1alpha2/namespaces/class-a/systemdeployments/office"
    order = {"spec": {"systemRef": {"name": "after-lunch"}}}
    assert old.patch(path, order).code == 200
    run(plane, tmp_path / "backup.json")
    assert old.get(path).object()["spec"]["systemRef"] == {"name": "after-lunch"}


def test_a_deployment_that_is_being_deleted_keeps_its_finalizer(
    plane: ControlPlane, old: RawApi, tmp_path: Path
) -> None:
    old.delete("/apis/kigi.dev/v1alpha1/namespaces/class-a/systemdeployments/office").object()
    run(plane, tmp_path / "backup.json")
    office = old.get("/apis/kigi.dev/v1alpha2/namespaces/class-a/systemdeployments/office").object()
    assert office["metadata"]["finalizers"] == ["kigi.dev/finalizer"]
    assert has_deployment_finalizer(office["metadata"]["finalizers"])
    assert office["spec"]["systemRef"] == {"name": "office"}


def test_nobody_else_writes_while_objects_are_converted(plane: ControlPlane, old: RawApi) -> None:
    path = "/apis/kigi.dev/v1alpha1/namespaces/class-a/systemdeployments/office"
    with open_cluster(Access(kubeconfig=str(plane.kubeconfig)), manager=MANAGER) as kube:
        cluster = Cluster(kube, {})
        probe = some_object(cluster)
        freeze.freeze(kube, tuple(BY_KIND.values()), probe)
        refused = [old.patch(path, {"spec": {"replicas": 2}}), old.delete(path)]
        assert {reply.code for reply in refused} == {422}
        assert all("kigi migrate converts this object" in reply.message for reply in refused)
        live = old.get(path).object()
        kube.replace(Resource("kigi.dev/v1alpha1", "SystemDeployment", "systemdeployments"), live)
        freeze.thaw(kube, probe)
    assert old.patch(path, {"spec": {"replicas": 3}}).code == 200


class Keeping(KubeSession):
    """A session whose deletions have no effect yet."""

    def delete(self, *_: Any, **__: Any) -> None:
        pass


def test_an_api_server_that_goes_on_to_refuse_is_reported(plane: ControlPlane, old: RawApi) -> None:
    path = "/apis/kigi.dev/v1alpha1/namespaces/class-a/systemdeployments/office"
    times = iter((0.0, 1.0, freeze.FROZEN_S + 1))
    with Keeping(Access(kubeconfig=str(plane.kubeconfig)).endpoint(), manager=MANAGER) as kube:
        probe = some_object(Cluster(kube, {}))
        freeze.freeze(kube, tuple(BY_KIND.values()), probe)
        with pytest.raises(Waiting, match="still applies"):
            freeze.thaw(kube, probe, sleep=lambda _: None, clock=lambda: next(times))
    assert old.patch(path, {"spec": {"replicas": 2}}).code == 422
    with open_cluster(Access(kubeconfig=str(plane.kubeconfig)), manager=MANAGER) as kube:
        freeze.thaw(kube, probe)
    assert old.patch(path, {"spec": {"replicas": 2}}).code == 200


def test_a_refused_object_leaves_the_cluster_as_it_was(plane: ControlPlane, old: RawApi, tmp_path: Path) -> None:
    """A rule of v1alpha2 that only the API server evaluates."""
    body = {
        "apiVersion": "kigi.dev/v1alpha1",
        "kind": "SystemNode",
        "metadata": {"name": "n" * 64, "namespace": "class-a"},
        "spec": {"parent": {"name": "office"}},
    }
    old.create("/apis/kigi.dev/v1alpha1/namespaces/class-a/systemnodes", body).object()
    before = uids(old, "v1alpha1")
    with pytest.raises(SpecInvalid, match="nothing was changed") as caught:
        run(plane, tmp_path / "backup.json")
    assert "at most 63 characters" in str(caught.value)
    assert uids(old, "v1alpha1") == before
    assert crd(plane, "systemnodes.kigi.dev")["status"]["storedVersions"] == ["v1alpha1"]
    office = old.get("/apis/kigi.dev/v1alpha1/namespaces/class-a/systemnodes/office").object()
    assert office["spec"]["machines"][0]["template"]["cpu"] == 2
    assert_free(plane, old)
    old.delete(f"/apis/kigi.dev/v1alpha1/namespaces/class-a/systemnodes/{'n' * 64}").object()
    run(plane, tmp_path / "backup.json")  # with the same file, which it writes again


def test_a_problem_is_reported_before_anything_changes(plane: ControlPlane, old: RawApi, tmp_path: Path) -> None:
    path = "/apis/kigi.dev/v1alpha1/namespaces/class-a/systemcaptures/lunch"
    body = old.get(path).object()
    old.call("PUT", f"{path}/status", body | {"status": body["status"] | {"phase": "Copying"}}).object()
    before = crd(plane, "systemcaptures.kigi.dev")
    with pytest.raises(SpecInvalid, match="wait until it is Done or Failed"):
        run(plane, tmp_path / "backup.json")
    assert crd(plane, "systemcaptures.kigi.dev") == before


def lease(plane: ControlPlane, holder: str, renewed: str) -> None:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 1, "renewTime": renewed}
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec}
    meta = {"metadata": {"name": LEASE_NAME, "namespace": KIGI}}
    plane.kubectl("apply", "-f", "-", input_text=yaml.safe_dump(body | meta))


def test_a_running_operator_is_refused_and_a_stopped_one_cannot_start(plane: ControlPlane, old: RawApi) -> None:
    lease(plane, "operator-a", "2026-10-01T00:00:00.000000Z")
    with open_cluster(Access(kubeconfig=str(plane.kubeconfig))) as kube:
        renewing = Cluster(kube, {}, sleep=lambda _: lease(plane, "operator-a", "2026-10-01T00:00:05.000000Z"))
        with pytest.raises(SpecInvalid, match="an operator runs"):
            lock(renewing, KIGI, LEASE_NAME)
        silent = Cluster(kube, {}, sleep=lambda _: None)
        lock(silent, KIGI, LEASE_NAME)
        held = json.loads(plane.kubectl("get", "lease", "-n", KIGI, LEASE_NAME, "-o", "json"))["spec"]
        assert held["holderIdentity"] == "kigi-migrate"
        assert held["leaseDurationSeconds"] >= 600
        unlock(silent, KIGI, LEASE_NAME)
    free = json.loads(plane.kubectl("get", "lease", "-n", KIGI, LEASE_NAME, "-o", "json"))["spec"]
    assert free["holderIdentity"] == ""


def test_a_file_that_is_no_backup_is_refused(plane: ControlPlane, tmp_path: Path) -> None:
    file = tmp_path / "backup.json"
    file.write_text("{}")
    with pytest.raises(SpecInvalid, match="is no backup of a migration"):
        run(plane, file)
