"""The cluster of the campaign ``upgrade``: real servers, operators and daemons of two versions; simulated KubeVirt."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from kigi.domain.layers import Layer
from kigi.domain.names import GROUP, NODE_GROUP
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.campaigns.upgrade_load import BUSY, NEW, OLD, QUIET, Users
from tests.support.cluster import eventually
from tests.support.daemons import Node, daemon_env
from tests.support.kubelets import Kubelets, content_of, disk_of
from tests.support.kubevirt_crds import install_kubevirt_crds, install_kubevirt_object
from tests.support.layers import make_layer, upload
from tests.support.raw_api import Object, RawApi
from tests.support.releases import PRESENT, OperatorProcess, Release, previous

NAMESPACE, SYSTEM, BUCKET = "range", "kigi-system", "kigi"
MACHINES = 2
SETTLE_S = 180.0
DELETE_S = 120.0
KINDS = ("systemdeployments", "systemprefetches", "systemcaptures", "systemnodes", "vmimagenodes")
ADDED = ("systeminstances", "systemresets", "treegrants")
"""Namespaced kinds of v1alpha2 that v1alpha1 lacks."""
CLUSTER_KINDS = ("layerrepositories", "systemquotas")


class Background:
    """Kubelets and KubeVirt in a thread with an event loop of its own."""

    def __init__(self, played: Callable[[], Kubelets]) -> None:
        self._make = played
        self._loop = asyncio.new_event_loop()
        self._started, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._play()), daemon=True)

    async def _play(self) -> None:
        async with self._make() as self.kubelets:
            self._started.set()
            await self._stop.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(120), "the simulated kubelets have not started"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def crash(self, key: tuple[str, str]) -> None:
        """End this VM's pod."""
        asyncio.run_coroutine_threadsafe(self.kubelets.crash(key), self._loop).result(60)


class World:
    """One cluster from its installation with the previous version; a context manager."""

    def __init__(self, folder: Path, seed: int, nodes: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self._seed, self._count = seed, nodes
        self._stack = contextlib.ExitStack()
        self.operator: OperatorProcess | None = None
        self.releases: dict[str, Release] = {}
        """Version of each node's daemon."""
        self.faults: list[str] = []
        self.version = OLD
        self.quiet: dict[tuple[str, str], tuple[str, str]] = {}
        """(uid of the VMI, handle) of each VM that no user touches."""

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.operator is not None:
            self.operator.kill()
        self._stack.close()

    def _set_up(self) -> None:
        self.old = previous(self.folder / "previous")
        self.plane = self._stack.enter_context(ControlPlane(self.folder / "plane", ["controller-manager"]))
        self.api = RawApi(self.plane.kubeconfig)
        self.s3 = self._stack.enter_context(S3Server(self.folder / "s3"))
        self.s3.create_bucket(BUCKET)
        for name in (NAMESPACE, SYSTEM):
            self.plane.kubectl("create", "namespace", name)
        install_kubevirt_crds(self.plane)
        install_kubevirt_object(self.plane)
        self._install(self.old, ("operator",))
        self._store_repository()
        self.nodes = {f"node-{n}": self._node(f"node-{n}") for n in range(self._count)}
        self.background = Background(lambda: Kubelets(str(self.plane.kubeconfig), self.nodes, self._seed))
        self._stack.enter_context(self.background)
        self.users = Users(self.api, NAMESPACE, random.Random(self._seed))
        self._stack.callback(self.users.stop)
        for name in self.nodes:
            self.start_daemon(name, self.old)
        self.start_operator(self.old)
        self._apply_trees()

    # Versions.

    def _install(self, release: Release, roles: tuple[str, ...]) -> None:
        """Definitions and the operator's rights of that version."""
        definitions = sorted((release.folder / "crds").glob("*.yaml"))
        names = [yaml.safe_load(path.read_text())["metadata"]["name"] for path in definitions]
        self.plane.kubectl("apply", "--server-side", "--force-conflicts", *_files(definitions))
        self.plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", *(f"crd/{name}" for name in names))
        self.plane.kubectl("apply", *_files([release.folder / f"manifests/rbac/{role}.yaml" for role in roles]))

    def install_present(self) -> None:
        """Step 5 of docs/upgrade.md, without the programs."""
        self._install(PRESENT, ("operator", "operator-writes"))

    def install_previous(self) -> None:
        """The definitions and rights of the previous version, on the way back."""
        self._install(self.old, ("operator",))

    def start_operator(self, release: Release) -> None:
        """The operator with the rights of its manifests and no more."""
        account = f"system:serviceaccount:{SYSTEM}:kigi-operator"
        groups = ["system:serviceaccounts", "system:authenticated"]
        kubeconfig = self.plane.user_kubeconfig(account, groups)
        self.operator = OperatorProcess(release, kubeconfig, self.folder / f"operator-{release.name}.log")

    def stop_operator(self, *, kill: bool = False) -> None:
        """End it; an operator that has ended by itself is a fault."""
        assert self.operator is not None
        if self.operator.has_ended():
            self.faults.append(f"the operator of the {self.operator.release.name} version has ended; see its log")
        self.operator.kill() if kill else self.operator.stop()
        self.operator = None

    def start_daemon(self, name: str, release: Release, **env: str) -> None:
        """The daemon of a node, in a version."""
        self.releases[name] = release
        self.nodes[name].start(**release.environment, **env).wait_ready()

    def replace_daemon(self, name: str, release: Release, **env: str) -> None:
        """Another version of the daemon, after a clean end or a kill."""
        self.nodes[name].kill() if self.chance.random() < 0.5 else self.nodes[name].stop()
        self.start_daemon(name, release, **env)

    def wait_off(self) -> None:
        """Until no VM runs, and no disk is mounted."""
        self.quiet = {}
        kubelets = self.background.kubelets
        try:
            eventually(lambda: not kubelets.running() and not kubelets.mounted(), SETTLE_S)
        except AssertionError:
            self.faults.append(f"VMs are not off: {list(kubelets.running())[:5]}, {list(kubelets.mounted())[:5]}")

    def wait_earlier_form(self) -> None:
        """Until every overlay has the form of the previous version."""

        def left() -> list[str]:
            return [str(path) for node in self.nodes.values() for path in (node.root / "volumes").glob("kigi*/*mount")]

        try:
            eventually(lambda: not left(), 60)
        except AssertionError:
            self.faults.append(f"overlays keep the present form: {left()[:3]}")

    def migrate(self, backup: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``kigi migrate`` of the present version."""
        command = [sys.executable, "-m", "kigi.cli.main", "migrate", "--yes", "--crds", str(PRESENT.folder / "crds")]
        where = ["--backup", str(backup), "--kubeconfig", str(self.plane.kubeconfig)]
        return subprocess.run([*command, *where, *arguments], capture_output=True, text=True, check=False)

    # Objects.

    def _node(self, name: str) -> Node:
        env = daemon_env(self.plane.kubeconfig, self.s3, BUCKET)
        node = Node(self.folder / name, name, env)
        self._stack.callback(node.close)
        return node

    def _store_repository(self) -> None:
        keys = {"accessKeyId": self.s3.credentials.access_key, "secretAccessKey": self.s3.credentials.secret_key}
        data = {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()}
        for name in ("reader", "writer"):
            body: Object = {"metadata": {"name": f"kigi-repository-{name}"}, "data": data}
            self.api.create(f"/api/v1/namespaces/{SYSTEM}/secrets", body).object()
        entry = {"endpoint": self.s3.endpoint, "bucket": BUCKET}
        text = yaml.safe_dump({"repositories": {"default": entry}})
        body = {"metadata": {"name": "kigi-repositories"}, "data": {"repositories.yaml": text}}
        self.api.create(f"/api/v1/namespaces/{SYSTEM}/configmaps", body).object()

    def _apply_trees(self) -> None:
        """Images base <- role <- infected-N <- cleaned-N, with real layers, and three states."""
        folder = self.folder / "layers"
        folder.mkdir()
        made: dict[str, Layer] = {}

        def image(name: str, parent: str | None = None) -> Object:
            layer, _ = make_layer(folder, made.get(parent or ""), data=name.encode() * 400, offset=len(made) * 65536)
            made[name] = layer
            upload(self.s3, BUCKET, folder, (layer,))
            fields = {
                "digest": layer.digest,
                "sizeBytes": layer.size_bytes,
                "virtualSizeBytes": layer.virtual_size_bytes,
            }
            return _object("VMImageNode", name, {"layer": fields, **({"parent": {"name": parent}} if parent else {})})

        objects = [image("base"), image("role", "base")]
        for number in range(MACHINES):
            objects.append(image(f"infected-{number}", "role"))
            objects.append(image(f"cleaned-{number}", f"infected-{number}"))
        template = {"cpu": 1, "memory": "128Mi"}
        every = [{"name": f"m{n}", "image": {"name": f"infected-{n}"}, "template": template} for n in range(MACHINES)]
        half = [{"name": "m0", "image": {"name": "cleaned-0"}}]
        objects.append(_object("SystemNode", "infected", {"machines": every}))
        objects.append(_object("SystemNode", "cleaned", {"parent": {"name": "infected"}, "machines": half}))
        last = [{"name": "m1", "image": {"name": "role"}}]
        objects.append(_object("SystemNode", "restored", {"parent": {"name": "cleaned"}, "machines": last}))
        text = yaml.safe_dump_all(objects)
        self.plane.kubectl("apply", "--server-side", "-n", NAMESPACE, "-f", "-", input_text=text)
        for name in (*QUIET, *BUSY):
            self.users.create(name, "infected")

    # What holds.

    def listed(self, plural: str, namespace: str | None = NAMESPACE) -> list[Object]:
        """Objects of one of Kigi's kinds."""
        scope = f"namespaces/{namespace}/" if namespace else ""
        path = f"/apis/kigi.dev/{self.version}/{scope}{plural}"
        reply = eventually(lambda: (found := self.api.get(path)).code != 429 and found)
        return [] if reply.code == 404 else list(reply.object()["items"])

    def volumes(self) -> dict[str, Object]:
        """PersistentVolumes by handle."""
        items = self.api.get("/api/v1/persistentvolumes").object()["items"]
        return {body["spec"]["csi"]["volumeHandle"]: body for body in items}

    def settle(self, what: str) -> None:
        """Wait until every deployment is Ready in its newest form; afterwards everything must hold."""
        unready: list[str] = []

        def is_settled() -> bool:
            unready[:] = [_unready(body) for body in self.listed("systemdeployments") if not _is_ready(body)]
            going = [body["metadata"]["name"] for body in self.volumes().values() if _is_going(body)]
            unready.extend(f"{name} is being deleted" for name in going)
            return not unready

        try:
            eventually(is_settled, SETTLE_S)
        except AssertionError:
            refused = list(self.background.kubelets.guests.refusals.items())[:3]
            self.faults.append(f"{what}: not Ready within {SETTLE_S} s: {unready[:3]}; refused: {refused}")
        time.sleep(2)  # a VM that is restarted needlessly is restarted now
        self.check(what)

    def check(self, what: str) -> None:
        """No overlay may be lost, no order forgotten, and no quiet VM touched."""
        guests = self.background.kubelets.guests
        found, volumes = list(guests.faults), self.volumes()
        guests.faults.clear()
        for handle, guest in guests.known.items():
            content = content_of(disk_of(self.nodes[guest.node].root, handle))
            if content is not None and content != guest.content:
                found.append(f"overlay {handle} has lost what its guest wrote")
            elif content is None and (handle in volumes or handle.split(".")[2] in QUIET):
                found.append(f"overlay {handle} is lost")
        found += self._forgotten()
        found += self._touched()
        self.faults += [f"{what}: {text}" for text in found]

    def _forgotten(self) -> Iterator[str]:
        wanted = dict(self.users.orders.wanted)
        for body in self.listed("systemdeployments"):
            name, spec = body["metadata"]["name"], body["spec"]
            if name in self.users.orders.unsure:
                continue
            order = wanted.pop(name, None)
            if order is None:
                yield f"{name} was deleted, and exists"
                continue
            state = spec.get("system" if self.version == OLD else "systemRef", {}).get("name")
            token = spec.get("reset" if self.version == OLD else "resetToken")
            if (state, spec.get("replicas"), token) != (order.state, order.replicas, order.token):
                yield f"{name} has {(state, spec.get('replicas'), token)}, and users asked for {order}"
        yield from (f"{name} was created, and is missing" for name in wanted.keys() - self.users.orders.unsure)

    def _touched(self) -> Iterator[str]:
        kubelets = self.background.kubelets
        uids, pods = kubelets.running(), kubelets.mounted()
        now = {
            key: (uids.get(key, ""), pods[key].handle if key in pods else "")
            for key in uids.keys() | pods.keys()
            if key[1].startswith("quiet-")
        }
        if self.quiet and now != self.quiet:
            changed = [key for key in now.keys() | self.quiet.keys() if now.get(key) != self.quiet.get(key)]
            yield from (f"{key[1]}: {self.quiet.get(key)} became {now.get(key)}" for key in changed)
        elif len(now) != MACHINES * len(QUIET):
            yield f"only {len(now)} of {MACHINES * len(QUIET)} quiet VMs run"
        self.quiet = now

    def crash(self, what: str) -> None:
        """Every VM's pod ends. All start again on the same disks, which the guests check."""
        kubelets = self.background.kubelets
        before, handles = kubelets.running(), {key: pod.handle for key, pod in kubelets.mounted().items()}
        for key in before:
            self.background.crash(key)

        def are_new() -> bool:
            now = kubelets.running()
            return all(key in now and now[key] != uid for key, uid in before.items())

        try:
            eventually(are_new, SETTLE_S)
        except AssertionError:
            refused = list(kubelets.guests.refusals.items())[:3]
            self.faults.append(f"{what}: VMs do not start again; refused: {refused}")
        moved = {key for key, pod in kubelets.mounted().items() if handles.get(key) != pod.handle}
        self.faults += [f"{what}: {key[1]} started on another disk" for key in moved]
        self.quiet = {}
        self.check(what)

    def delete_everything(self) -> int:
        """Deletes every object; those that stay are faults. Returns their number."""
        for plural in KINDS:
            for body in self.listed(plural):
                self.api.delete(self.users.path(body["metadata"]["name"], plural))
        if self.version == NEW:
            for plural in CLUSTER_KINDS:
                for body in self.listed(plural, None):
                    self.api.delete(f"/apis/kigi.dev/{NEW}/{plural}/{body['metadata']['name']}")
        left: list[str] = []

        def is_gone() -> bool:
            left[:] = list(self._left())
            return not left

        with contextlib.suppress(AssertionError):
            eventually(is_gone, DELETE_S)
        self.faults += [f"cannot be deleted: {text}" for text in left]
        self.stop_operator()
        return len(left) + self._delete_definitions()

    def _delete_definitions(self) -> int:
        """Deletes Kigi's definitions, and with them NodeCaches; returns the number of those that stay."""
        found = json.loads(self.plane.kubectl("get", "crd", "-o", "json"))["items"]
        names = [crd["metadata"]["name"] for crd in found if crd["spec"]["group"] in (GROUP, NODE_GROUP)]
        self.plane.kubectl("delete", "crd", "--wait=false", *names)
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        left: list[str] = []

        def is_gone() -> bool:
            left[:] = [name for name in names if self.api.get(f"{path}/{name}").code != 404]
            return not left

        with contextlib.suppress(AssertionError):
            eventually(is_gone, DELETE_S)
        self.faults += [f"the definition {name} cannot be deleted" for name in left]
        return len(left)

    def _left(self) -> Iterator[str]:
        for plural in (*KINDS, *(ADDED if self.version == NEW else ())):
            yield from (f"{plural}/{_describe(body)}" for body in self.listed(plural))
        for plural in CLUSTER_KINDS if self.version == NEW else ():
            yield from (f"{plural}/{_describe(body)}" for body in self.listed(plural, None))
        yield from (f"volume {_describe(body)}" for body in self.volumes().values())
        for path in ("api/v1", "apis/kubevirt.io/v1"):
            for plural in (
                ("persistentvolumeclaims",) if path == "api/v1" else ("virtualmachines", "virtualmachineinstances")
            ):
                items = self.api.get(f"/{path}/namespaces/{NAMESPACE}/{plural}").object()["items"]
                yield from (f"{plural}/{_describe(body)}" for body in items)
        for name, node in self.nodes.items():
            overlays = [entry.name for entry in (node.root / "volumes").iterdir() if not entry.name.startswith(".")]
            yield from (f"overlay {handle} on {name}" for handle in overlays)


def _files(paths: list[Path]) -> list[str]:
    return [item for path in paths for item in ("-f", str(path))]


def _object(kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": f"kigi.dev/{OLD}", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _ready(body: Object) -> dict[str, Any]:
    conditions = (body.get("status") or {}).get("conditions") or ()
    return next((dict(one) for one in conditions if one["type"] == "Ready"), {})


def _is_ready(body: Object) -> bool:
    ready = _ready(body)
    is_current = ready.get("observedGeneration") == body["metadata"]["generation"]
    return bool(is_current and ready.get("status") == "True") and not _is_going(body)


def _is_going(body: Object) -> bool:
    return "deletionTimestamp" in body["metadata"]


def _unready(body: Object) -> str:
    ready = _ready(body)
    going = ", being deleted" if _is_going(body) else ""
    return f"{body['metadata']['name']}{going}: {ready.get('reason')}: {str(ready.get('message'))[:200]}"


def _describe(body: Object) -> str:
    meta = body["metadata"]
    state = "is being deleted" if _is_going(body) else "is not deleted"
    return f"{meta['name']} {state}, finalizers {json.dumps(meta.get('finalizers') or [])}"
