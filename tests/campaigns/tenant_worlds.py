"""Where the campaign `tenants` runs: a control plane with simulated nodes, or the local cluster with real ones."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from localcluster.cluster import BUCKET, Cluster
from localcluster.controlplane import ControlPlane, Options
from tests.campaigns.objects import Operator
from tests.campaigns.tenant_attack import CORE, OWN, SYSTEM, Object, Victim, collection, make, read_victim
from tests.campaigns.tenant_pods import DISK, pod
from tests.campaigns.tenant_state import is_ready
from tests.e2e.exercise import tiny_exercise
from tests.support import deployments
from tests.support.actors import Actors
from tests.support.cluster import REPOSITORY, eventually, install_crds, install_repository
from tests.support.identities import ROLES, rule
from tests.support.kubevirt_crds import install_kubevirt_crds, install_kubevirt_object
from tests.support.layers import make_layer, upload
from tests.support.raw_api import RawApi

VICTIM, DEPLOYMENT = "victim", "office"
READY_S = 120.0
SETTLE_S = 12.0
KUBEVIRT_EDIT = (
    rule("subresources.kubevirt.io", ["virtualmachineinstances/*", "virtualmachines/*"], ["get", "update"]),
    rule("kubevirt.io", ["*"], ["get", "list", "watch", "create", "update", "patch", "delete"]),
)
"""Rights that KubeVirt adds to the role `edit`, and more."""


class World(Protocol):
    """What the campaign needs of a cluster."""

    admin: RawApi
    victim: Victim
    has_kubelet: bool

    def tenant(self, namespace: str) -> RawApi:
        """The attacker in this namespace; its token is valid for ten minutes."""
        ...

    def probe(self) -> dict[str, float]:
        """Seconds until a new image of the victim is Ready (reconcile), and until the nodes hold it (fill)."""
        ...

    def settle(self, namespaces: Iterable[str]) -> int:
        """Gives the attacker's pods the time to start; returns the number of those that ran."""
        ...

    def disks_of_pods(self, namespaces: Iterable[str]) -> list[str]:
        """The attacker's own pods that have a disk of Kigi mounted."""
        ...

    def files(self) -> dict[str, str]:
        """Path of each layer's file, which ends in the digest, and the digest of its content."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class _Base:
    """The tenant's accounts and objects, and the victim's probes."""

    admin: RawApi
    victim: Victim

    def __init__(self, folder: Path, namespaces: Mapping[str, str]) -> None:
        self._folder, self._namespaces = folder, namespaces
        self._numbers = itertools.count(1)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self._set_up()
            self._admit_tenant()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _set_up(self) -> None:
        """Starts what is missing, and the victim's deployment; sets ``admin`` and ``victim``."""
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def tenant(self, namespace: str) -> RawApi:
        return self.admin.as_account(namespace, "tenant")

    def _admit_tenant(self) -> None:
        """Creates the namespaces, the accounts and a deployment of the tenant's own on the victim's layers."""
        for namespace, level in self._namespaces.items():
            labels = {"pod-security.kubernetes.io/enforce": level}
            self.admin.create("/api/v1/namespaces", {"metadata": {"name": namespace, "labels": labels}}).object()
            self._stack.callback(self.admin.delete, f"/api/v1/namespaces/{namespace}")
            self.admin.create(collection(namespace, "serviceaccounts", CORE), {"metadata": {"name": "tenant"}}).object()
            binding = {
                "metadata": {"name": "tenant"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
                "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": namespace}],
            }
            self.admin.create(f"{ROLES}/namespaces/{namespace}/rolebindings", binding).object()
        for namespace in self._namespaces:
            for body in self._own_objects():
                path = collection(namespace, f"{body['kind'].lower()}s")
                self._create(namespace, path, body)
        for namespace, level in self._namespaces.items():
            claim = f"{collection(namespace, 'persistentvolumeclaims', CORE)}/{DISK}"
            eventually(lambda path=claim: self.admin.get(path).code == 200, 60, f"{claim} exists")
            thief = pod("first", {"persistentVolumeClaim": {"claimName": DISK}}, "whole", "containers", level)
            pods = collection(namespace, "pods", CORE)
            eventually(
                lambda p=pods, t=thief, n=namespace: self.tenant(n).create(p, t, dryRun="All").code == 403,
                60,
                "policies",
            )

    def _create(self, namespace: str, path: str, body: Object) -> None:
        """As the tenant, as soon as the role `edit` has Kigi's rights."""
        eventually(
            lambda: self.tenant(namespace).create(path, body).code in (201, 409), 60, f"the tenant creates {path}"
        )

    def _own_objects(self) -> list[Object]:
        parents = {image["parent"] for image in self.victim.images.values()}
        found = []
        for name, layer in self.victim.images.items():
            own = {key: value for key, value in layer.items() if key != "parent"}
            parent = {"parentRef": {"name": layer["parent"]}} if layer["parent"] else {}
            found.append(make("VMImageNode", name, {"layer": own, **parent}))
        leaf = min(name for name in self.victim.images if name not in parents)
        machine = {"name": "m0", "rootDisk": {"imageRef": {"name": leaf}}, "hardware": {"memory": {"guest": "64Mi"}}}
        found.append(make("SystemNode", "own", {"machines": [machine]}))
        found.append(make("SystemDeployment", OWN, {"systemRef": {"name": "own"}, "powerState": "Off"}))
        return found

    def _layer(self, number: int) -> Object:
        """Of the victim's next image."""
        return {"digest": deployments.digest(f"probe {number}"), "sizeBytes": 1000, "virtualSizeBytes": 2**30}

    def probe(self) -> dict[str, float]:
        number = next(self._numbers)
        name = f"probe-{number}"
        image = make("VMImageNode", name, {"layer": self._layer(number)})
        reconcile_s = self._until_ready("vmimagenodes", image)
        spec = {"targetRefs": [{"kind": "VMImageNode", "name": name}], "tolerations": [{"operator": "Exists"}]}
        fill_s = self._until_ready("systemprefetches", make("SystemPrefetch", name, spec))
        self.admin.delete(f"{collection(self.victim.namespace, 'systemprefetches')}/{name}")
        return {"reconcile": reconcile_s, "fill": fill_s}

    def _until_ready(self, plural: str, body: Object) -> float:
        path = collection(self.victim.namespace, plural)
        started = time.monotonic()
        self.admin.create(path, body).object()
        own = f"{path}/{body['metadata']['name']}"
        while not is_ready(self.admin.get(own).object()):
            assert time.monotonic() - started < READY_S, f"{own} is not Ready: {self.admin.get(own).body.get('status')}"
            time.sleep(0.02)
        return time.monotonic() - started


class PlaneWorld(_Base):
    """API server, controller manager and operator are real; kubelets, KubeVirt and daemons are simulated."""

    has_kubelet = False

    def _set_up(self) -> None:
        parts = ["controller-manager"]
        plane = ControlPlane(self._folder / "plane", parts, Options(pods=True))  # type: ignore[arg-type]
        self._stack.enter_context(plane)
        self.admin = RawApi(plane.kubeconfig)
        install_crds(plane)
        install_kubevirt_crds(plane)
        install_kubevirt_object(plane)
        plane.kubectl("apply", "--server-side", "-k", str(REPOSITORY / "manifests"))
        install_repository(plane)
        labels = {"rbac.authorization.k8s.io/aggregate-to-edit": "true"}
        role = {"metadata": {"name": "kubevirt-edit", "labels": labels}, "rules": list(KUBEVIRT_EDIT)}
        self.admin.create(f"{ROLES}/clusterroles", role).object()
        account = f"system:serviceaccount:{SYSTEM}:kigi-operator"
        operator = Operator(
            plane.user_kubeconfig(account, ["system:serviceaccounts", "system:authenticated"]), self._folder
        )
        self._stack.enter_context(_Played(str(plane.kubeconfig)))
        operator.start()
        self._stack.callback(operator.stop)
        plane.kubectl("create", "namespace", VICTIM)
        deployments.apply(plane, VICTIM, *deployments.trees(2), deployments.deployment(DEPLOYMENT, replicas=1))
        path = f"{collection(VICTIM, 'systemdeployments')}/{DEPLOYMENT}"
        eventually(lambda: is_ready(self.admin.get(path).object()), 60, "the victim's deployment is Ready")
        self.victim = read_victim(self.admin, VICTIM, DEPLOYMENT)

    def settle(self, namespaces: Iterable[str]) -> int:
        return 0

    def disks_of_pods(self, namespaces: Iterable[str]) -> list[str]:
        return []

    def files(self) -> dict[str, str]:
        return {}


class _Played:
    """The simulated parts of a cluster, in a thread of their own."""

    def __init__(self, kubeconfig: str) -> None:
        self._kubeconfig = kubeconfig
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self._stop = asyncio.Event()

    def _run(self) -> None:
        self._loop.run_until_complete(self._play())

    async def _play(self) -> None:
        async with Actors(self._kubeconfig, nodes=2):
            self._started.set()
            await self._stop.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(60), "the simulated nodes have not started"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)


class ClusterWorld(_Base):
    """The running local cluster; the victim is the tiny exercise, of which two guests run."""

    has_kubelet = True

    def _set_up(self) -> None:
        self._cluster = Cluster()
        self.admin = RawApi(self._cluster.kubeconfig)
        exercise = self._stack.enter_context(tiny_exercise(self._cluster, VICTIM))
        exercise.apply("infected")
        exercise.wait_ready()
        self.victim = read_victim(self.admin, VICTIM, exercise.deployment)

    def _layer(self, number: int) -> Object:
        folder = self._folder / "layers"
        folder.mkdir(exist_ok=True)
        layer, path = make_layer(folder, data=f"probe {time.time_ns()}".encode())
        upload(self._cluster.s3(), BUCKET, folder, (layer,))
        return {"digest": layer.digest, "sizeBytes": path.stat().st_size, "virtualSizeBytes": layer.virtual_size_bytes}

    def _pods(self, namespaces: Iterable[str]) -> list[Object]:
        return [p for n in namespaces for p in self.admin.get(collection(n, "pods", CORE)).object()["items"]]

    def settle(self, namespaces: Iterable[str]) -> int:
        names, deadline = list(namespaces), time.monotonic() + SETTLE_S
        while time.monotonic() < deadline and any(p["status"]["phase"] == "Pending" for p in self._pods(names)):
            time.sleep(1)
        return sum(p["status"]["phase"] != "Pending" for p in self._pods(names))

    def disks_of_pods(self, namespaces: Iterable[str]) -> list[str]:
        points = [
            line.split()[4]
            for node in self._cluster.nodes()
            for line in node.enter("cat", "/proc/self/mountinfo").splitlines()
            if "kubernetes.io~csi" in line
        ]
        return [
            f"{each['metadata']['namespace']}/{each['metadata']['name']}"
            for each in self._pods(namespaces)
            if not _is_of_kubevirt(each) and any(each["metadata"]["uid"] in point for point in points)
        ]

    def files(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for node in self._cluster.nodes():
            text = node.enter("sh", "-c", "find /var/lib/kigi/layers -name '*.qcow2' | xargs -r sha256sum")
            for line in text.splitlines():
                digest, _, path = line.partition("  ")
                found[f"{node.name}:{path}"] = digest
        return found


def _is_of_kubevirt(body: Object) -> bool:
    """A virt-launcher pod, which belongs to a VM of the tenant."""
    owners: list[Any] = body["metadata"].get("ownerReferences") or []
    return any(each["kind"] == "VirtualMachineInstance" and each.get("controller") for each in owners)
