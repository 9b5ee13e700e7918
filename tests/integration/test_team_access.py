"""``kigi access`` on a real API server: what a team's token permits, what it does not, and who may give it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kigi.cli.verbs.access import write_private
from kigi.domain.names import API_VERSION
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually
from tests.support.deployments import deployment, instance
from tests.support.identities import ROLES
from tests.support.raw_api import Object, RawApi
from tests.support.shapes import check_shape

ROOT = Path(__file__).parents[2]
NAMESPACE, OTHER = "access", "access-other"
KIGI = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}"
CORE = f"/api/v1/namespaces/{NAMESPACE}"
ACCOUNT = "kigi-access-class-1"
CONSOLES = f"/apis/subresources.kubevirt.io/v1/namespaces/{NAMESPACE}/virtualmachineinstances"
CONSOLES_OF_OTHERS = f"/apis/subresources.kubevirt.io/v1/namespaces/{OTHER}/virtualmachineinstances"


@pytest.fixture(scope="module")
def plane(crds: ControlPlane) -> Iterator[ControlPlane]:
    crds.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/namespace.yaml"))
    crds.kubectl("apply", "--server-side", "-k", str(ROOT / "manifests/rbac"))
    api = RawApi(crds.kubeconfig)
    for namespace in (NAMESPACE, OTHER):
        api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        for body in (deployment(replicas=3), *(instance(name) for name in "123")):
            path = f"/apis/{API_VERSION}/namespaces/{namespace}/{body['kind'].lower()}s"
            api.create(path, {**body, "metadata": {**body["metadata"], "namespace": namespace}}).object()
        for name in "12":
            path = f"/apis/{API_VERSION}/namespaces/{namespace}/systeminstances/class-{name}/status"
            status = {"observedGeneration": 1, "machines": [{"name": m, "state": "Running"} for m in ("mail", "dns")]}
            api.patch(path, {"status": status}).object()
    api.create(f"{CORE}/secrets", {"metadata": {"name": "keys"}})
    for role in ("kigi-instructor", "kigi-access"):
        crds.kubectl("create", "rolebinding", f"mia-{role}", f"--clusterrole={role}", "--user=mia", "-n", NAMESPACE)
    yield crds
    for namespace in (NAMESPACE, OTHER):
        crds.kubectl("delete", "namespace", namespace, "--wait=false")


def kigi(kubeconfig: Path, *arguments: str | Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "kigi.cli.main", *map(str, arguments), "-n", NAMESPACE],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code else "")


@pytest.fixture(scope="module")
def mia(plane: ControlPlane) -> Path:
    """An instructor who may give access."""
    kubeconfig = plane.user_kubeconfig("mia", ["system:authenticated"])
    api = RawApi(kubeconfig)
    eventually(lambda: api.get(f"{CORE}/serviceaccounts").code == 200, what="the role is in force")
    return kubeconfig


@pytest.fixture(scope="module")
def team(mia: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of team 1."""
    file = tmp_path_factory.mktemp("team") / "team-1"
    (given,) = json.loads(kigi(mia, "access", "class", "1", "--for", "1h", "--to", file, "-o", "json"))
    check_shape(("access",), [given])
    left_s = (datetime.fromisoformat(given["expires"]) - datetime.now(UTC)).total_seconds()
    assert 3400 < left_s <= 3601
    assert (given["account"], given["givenBy"]) == (ACCOUNT, "mia")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    return file


def test_a_team_sees_and_resets_its_instance(team: Path) -> None:
    text = kigi(team, "status", "class", "1")
    assert "mail" in text
    done = json.loads(kigi(team, "reset", "class", "1", "mail", "--reason", "lunch", "--yes", "-o", "json"))
    assert done["spec"]["requestedBy"] == f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
    api = RawApi(team)
    for sub in ("console", "vnc", "vnc/screenshot"):
        reply = api.get(f"{CONSOLES}/class-1-mail/{sub}")
        assert reply.code in (404, 503), "permitted; no KubeVirt serves it here"


def attempts() -> Iterator[tuple[str, str, Any]]:
    """(method, path, body) of everything else that a trainee may think of; none may succeed."""
    foreign = f"/apis/{API_VERSION}/namespaces/{OTHER}"
    kinds = (
        *("systemdeployments", "systeminstances", "systemresets", "systemcaptures", "systemprefetches"),
        *("systemnodes", "vmimagenodes", "treegrants", "systembuilds"),
    )
    for kind in kinds:
        for place in (KIGI, foreign, f"/apis/{API_VERSION}"):
            yield "GET", f"{place}/{kind}", None
        yield "GET", f"{KIGI}/{kind}/class", None
        yield "DELETE", f"{KIGI}/{kind}/class", None
        yield "PATCH", f"{KIGI}/{kind}/class", {"spec": {}}
    yield from ((verb, f"{KIGI}/systeminstances/class-2", {"spec": {}}) for verb in ("GET", "PATCH", "DELETE"))
    yield from ((verb, f"{foreign}/systeminstances/class-1", {"spec": {}}) for verb in ("GET", "PATCH", "DELETE"))
    yield "PATCH", f"{KIGI}/systeminstances/class-1", {"spec": {"systemRef": {"name": "solution"}}}
    yield "PATCH", f"{KIGI}/systeminstances/class-1/status", {"status": {"summary": "x"}}
    yield "DELETE", f"{KIGI}/systeminstances/class-1", None
    yield "PATCH", f"{KIGI}/systemdeployments/class/scale", {"spec": {"replicas": 0}}
    me = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
    for spec in (
        {"instances": ["2"], "requestedBy": me},
        {"instances": ["1", "2"], "requestedBy": me},
        {"requestedBy": me},
        {"machines": ["mail"], "requestedBy": me},
        {"instances": ["1"], "requestedBy": "mia"},
        {"instances": ["1"], "requestedBy": me, "deploymentRef": {"name": "other"}},
    ):
        body = {"deploymentRef": {"name": "class"}, **spec}
        meta = {"generateName": "x-"}
        yield (
            "POST",
            f"{KIGI}/systemresets",
            {"apiVersion": API_VERSION, "kind": "SystemReset", "metadata": meta, "spec": body},
        )
        yield (
            "POST",
            f"{foreign}/systemresets",
            {"apiVersion": API_VERSION, "kind": "SystemReset", "metadata": meta, "spec": body},
        )
    capture = {"instanceRef": {"name": "class-1"}, "requestedBy": me}
    yield (
        "POST",
        f"{KIGI}/systemcaptures",
        {"apiVersion": API_VERSION, "kind": "SystemCapture", "metadata": {"name": "c"}, "spec": capture},
    )
    for sub in ("console", "vnc", "vnc/screenshot"):
        yield "GET", f"{CONSOLES}/class-2-mail/{sub}", None
        yield "GET", f"{CONSOLES}/class-11-mail/{sub}", None
        yield "GET", f"{CONSOLES_OF_OTHERS}/class-1-mail/{sub}", None
    for sub in ("portforward", "usbredir", "guestosinfo", "userlist", "filesystemlist"):
        yield "GET", f"{CONSOLES}/class-1-mail/{sub}", None
    for sub in ("pause", "unpause", "freeze", "softreboot", "reset", "addvolume"):
        yield "PUT", f"{CONSOLES}/class-1-mail/{sub}", {}
    machines = f"/apis/kubevirt.io/v1/namespaces/{NAMESPACE}"
    for kind in ("virtualmachines", "virtualmachineinstances"):
        yield from (("GET", f"{machines}/{kind}", None), ("POST", f"{machines}/{kind}", {"metadata": {"name": "vm"}}))
        yield "PATCH", f"{machines}/{kind}/class-1-mail", {"spec": {}}
        yield "DELETE", f"{machines}/{kind}/class-1-mail", None
    yield "GET", f"{machines}/virtualmachines/class-1-mail", None
    for kind in ("secrets", "configmaps", "pods", "services", "serviceaccounts", "persistentvolumeclaims", "events"):
        yield from (("GET", f"{CORE}/{kind}", None), ("POST", f"{CORE}/{kind}", {"metadata": {"name": "x"}}))
        yield "GET", f"/api/v1/{kind}", None
    yield "GET", f"{CORE}/secrets/keys", None
    for sub in ("exec", "attach", "portforward", "log", "proxy"):
        yield "GET", f"{CORE}/pods/virt-launcher-class-1-mail/{sub}", None
    for account in (ACCOUNT, "kigi-access-class-2", "default"):
        yield (
            "POST",
            f"{CORE}/serviceaccounts/{account}/token",
            {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {}},
        )
    own = f"{ROLES}/namespaces/{NAMESPACE}"
    for kind in ("roles", "rolebindings"):
        yield from (("GET", f"{own}/{kind}", None), ("POST", f"{own}/{kind}", {"metadata": {"name": "kigi-access-x"}}))
        yield "PATCH", f"{own}/{kind}/{ACCOUNT}", {"rules": []}
    for path in (
        "/api/v1/nodes",
        "/api/v1/namespaces",
        "/api/v1/persistentvolumes",
        "/apis/node.kigi.dev/v1alpha1/nodecaches",
        "/apis/coordination.k8s.io/v1/namespaces/kigi-system/leases",
        f"/apis/{API_VERSION}/layerrepositories",
        f"/apis/{API_VERSION}/systemquotas",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
        f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies",
        "/metrics",
        "/logs",
    ):
        yield "GET", path, None


def test_a_teams_token_is_refused_everywhere_else(team: Path) -> None:
    api, every = RawApi(team), list(attempts())
    assert len({(method, path, json.dumps(body)) for method, path, body in every}) >= 100
    eventually(lambda: api.get(f"{KIGI}/systeminstances/class-1").code == 200)
    permitted = []
    for method, path, body in every:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        reply = api.call(method, path, body, content_type=kind)
        if reply.code != 403:
            permitted.append((method, path, body, reply.code, reply.message))
    assert permitted == []


def test_a_team_cannot_become_another_one_by_its_headers(team: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kigi.cli.main", "status", "class", "2", "-n", NAMESPACE, "--kubeconfig", str(team)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "Forbidden" in done.stderr) == (1, True)
    text = team.read_text().replace("  user:\n", "  user:\n    as: mia\n", 1)
    forged = team.with_name("forged")
    write_private(forged, text)
    assert "    as: mia\n" in text
    assert "Forbidden" in kigi(forged, "status", "class", "2", code=1)


def test_access_is_listed_and_revoked(plane: ControlPlane, mia: Path, tmp_path: Path) -> None:
    kigi(mia, "access", "class", "1,2", "--to", tmp_path / "teams")
    file = tmp_path / "teams/kigi-access-class-2.kubeconfig"
    second = RawApi(file)
    eventually(lambda: second.get(f"{KIGI}/systeminstances/class-2").code == 200)
    listed = json.loads(kigi(mia, "access", "--list", "-o", "json"))
    check_shape(("access",), listed)
    assert {(one["instance"], one["givenBy"]) for one in listed} == {("1", "mia"), ("2", "mia")}
    assert all(datetime.fromisoformat(one["expires"]) > datetime.now(UTC) for one in listed)
    assert "instance 3 does not exist: access to class has 1,2" in kigi(mia, "access", "class", "3", "--revoke", code=1)
    kigi(mia, "access", "class", "2", "--revoke")
    eventually(lambda: second.get(f"{KIGI}/systeminstances/class-2").code == 401, what="the token is refused")
    kigi(mia, "access", "class", "2", "--to", file)
    assert second.get(f"{KIGI}/systeminstances/class-2").code == 401, "an old token is not revived"
    kigi(mia, "access", "class", "2", "--revoke")
    assert kigi(mia, "access", "class", "--list", "-o", "name") == f"serviceaccount/{ACCOUNT}\n"


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (("class", "3"), "instance 3 of class has no machines yet", 1),
        (("class", "9"), "instance 9 does not exist: class has 1-3", 1),
        (("class",), "name a deployment and its instances", 2),
        (("class", "1-2"), "--to: name a folder", 2),
        (("class", "1", "--for", "5m"), "no time between 10m and 30d", 2),
        (("class", "1", "--for", "40d"), "no time between 10m and 30d", 2),
    ],
)
def test_what_cannot_be_given_is_named(mia: Path, arguments: tuple[str, ...], words: str, code: int) -> None:
    assert words in kigi(mia, "access", *arguments, code=code)


def test_an_instructor_without_the_role_is_told_its_name(plane: ControlPlane) -> None:
    plane.kubectl("create", "rolebinding", "tom", "--clusterrole=kigi-instructor", "--user=tom", "-n", NAMESPACE)
    tom = plane.user_kubeconfig("tom", ["system:authenticated"])
    api = RawApi(tom)
    eventually(lambda: api.get(f"{KIGI}/systeminstances").code == 200)
    assert "ClusterRole kigi-access, beside kigi-instructor, gives these rights" in kigi(
        tom, "access", "class", "1", code=1
    )


def _binding(name: str, role: str, *subjects: Object, kind: str = "Role") -> Object:
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}
    return {"metadata": {"name": name}, "roleRef": reference, "subjects": list(subjects)}


def test_who_may_give_access_may_not_give_more_or_to_others(plane: ControlPlane, mia: Path, team: Path) -> None:
    """An instructor who attacks: accounts of others, other names, more rights, other subjects."""
    admin, api = RawApi(plane.kubeconfig), RawApi(mia)
    admin.create(f"{CORE}/serviceaccounts", {"metadata": {"name": "deployer"}}).object()
    admin.create(f"{ROLES}/namespaces/{NAMESPACE}/roles", {"metadata": {"name": "deployers"}, "rules": []}).object()
    token = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {}}
    own = f"{ROLES}/namespaces/{NAMESPACE}"
    reads = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
    harmless = [{"apiGroups": ["kigi.dev"], "resources": ["systeminstances"], "verbs": ["get"]}]
    account = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
    admin.create(f"{CORE}/serviceaccounts", {"metadata": {"name": "default"}})
    permitted = {"metadata": {"name": "kigi-access-x"}, "rules": harmless}
    assert api.create(f"{own}/roles", permitted).code == 201, "a name and rights that are permitted"
    attacks = {
        "a token of another account": api.create(f"{CORE}/serviceaccounts/deployer/token", token),
        "a token of the default account": api.create(f"{CORE}/serviceaccounts/default/token", token),
        "the end of another account": api.delete(f"{CORE}/serviceaccounts/deployer"),
        "another account": api.create(f"{CORE}/serviceaccounts", {"metadata": {"name": "mine"}}),
        "an account without a name": api.create(f"{CORE}/serviceaccounts", {"metadata": {"generateName": "kigi-"}}),
        "another role": api.create(f"{own}/roles", {"metadata": {"name": "mine"}, "rules": harmless}),
        "a role of others": api.patch(f"{own}/roles/deployers", {"rules": harmless}),
        "the end of a role": api.delete(f"{own}/roles/deployers"),
        "more rights": api.create(f"{own}/roles", {"metadata": {"name": "kigi-access-y"}, "rules": reads}),
        "more rights for a team": api.patch(f"{own}/roles/{ACCOUNT}", {"rules": reads}),
        "a user": api.create(
            f"{own}/rolebindings",
            _binding(
                "kigi-access-x",
                "kigi-access-x",
                {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "tom"},
            ),
        ),
        "another role for a team": api.create(
            f"{own}/rolebindings", _binding("kigi-access-x", "kigi-instructor", account, kind="ClusterRole")
        ),
        "a second subject": api.create(
            f"{own}/rolebindings",
            _binding("kigi-access-x", "kigi-access-x", {**account, "name": "kigi-access-x"}, account),
        ),
        "an account of another namespace": api.create(
            f"{own}/rolebindings", _binding("kigi-access-x", "kigi-access-x", {**account, "namespace": OTHER})
        ),
    }
    assert {what: reply.code for what, reply in attacks.items()} == dict.fromkeys(attacks, 403)
    assert api.create(f"{CORE}/serviceaccounts/{ACCOUNT}/token", token).code == 201


def test_others_make_tokens_and_roles_as_before(plane: ControlPlane) -> None:
    """The policy is about those who hold the verb 'access' and no more: not administrators, nor users with edit."""
    admin = RawApi(plane.kubeconfig)
    token = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {}}
    admin.create(f"{CORE}/serviceaccounts", {"metadata": {"name": "any"}}).object()
    assert admin.create(f"{CORE}/serviceaccounts/any/token", token).code == 201
    for role in ("system:aggregate-to-edit", "kigi-access"):  # of which Kubernetes makes the role edit
        name = f"ed-{role.rpartition(':')[2]}"
        plane.kubectl("create", "rolebinding", name, f"--clusterrole={role}", "--user=ed", "-n", NAMESPACE)
    ed = RawApi(plane.user_kubeconfig("ed", ["system:authenticated"]))
    eventually(lambda: ed.create(f"{CORE}/serviceaccounts/any/token", token).code == 201, what="edit works as before")
