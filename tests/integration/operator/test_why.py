"""Causes that ``kigi why`` knows, each provoked on a real API server with a running operator.

Causes of a daemon, a publisher or a real KubeVirt are provoked in the tests of those. The marker ``why`` names the
reasons that a test provokes. The test fails unless they were explained; ``test_causes`` requires a test for each cause.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import CSI_NODE, IMAGE, INSTANCE, MACHINE, NODE, NODE_CACHE, SYSTEM, VOLUME
from kigi.domain import names
from kigi.domain.layers import MAX_DEPTH
from kigi.domain.names import API_VERSION
from kigi.errors import Unreachable
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.bodies import repository_body
from tests.support.cluster import REPOSITORY, eventually_async
from tests.support.deployments import (
    GIB,
    apply,
    deployment,
    get_deployment,
    image,
    instance,
    system,
    tree_grant,
    trees,
    wait_gone,
    wait_ready,
)
from tests.support.deployments import machine as item
from tests.support.operator_run import FAST, OperatorRun
from tests.support.why import explained, record

from .test_captures import attempt_failed, capture, drop, wait_done, wait_reason
from .test_cli import kigi_json
from .test_prefetches import prefetch


def machine(name: str, of: str | None, after: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    return item(name, of, **({"startAfter": list(after)} if after else {}), **more)


async def explanation(plane: ControlPlane, ns: str, subject: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await kigi_json(plane, "why", subject, "-n", ns, code=3)
    return found


async def why(plane: ControlPlane, ns: str, subject: str, reason: str) -> dict[str, Any]:
    """Waits until the first reason of the subject is ``reason``; its entry."""

    found: list[dict[str, Any]] = []

    async def explained_so() -> dict[str, Any] | None:
        nonlocal found
        found = await explanation(plane, ns, subject)
        return found[0] if found[0]["reason"] == reason else None

    try:
        return await eventually_async(explained_so, 40)
    except AssertionError:
        raise AssertionError(f"{subject}: not {reason}: {found}") from None


def elsewhere(name: str, repository: str) -> dict[str, Any]:
    """An image that names its repository."""
    body = image(name)
    body["spec"]["repositoryRef"] = {"name": repository}
    return body


BROKEN: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "SystemMissing": ("class", [deployment(state="nowhere")]),
    "ImageMissing": ("kimg/orphan", [image("orphan", "nobody")]),
    "RepositoryNotPermitted": ("kimg/foreign", [elsewhere("foreign", "other-tenants")]),
    "ImageCycle": ("kimg/egg", [image("egg", "hen"), image("hen", "egg")]),
    "SystemCycle": ("ksys/day", [system("day", "night", []), system("night", "day", [])]),
    "MachineWithoutImage": ("ksys/empty", [system("root", None, []), system("empty", "root", [machine("m0", None)])]),
    "BootOrderCycle": (
        "ksys/circle",
        [image("base"), system("circle", None, [machine("a", "base", ["b"]), machine("b", "base", ["a"])])],
    ),
    "VirtualSizeShrinks": ("kimg/small", [image("base"), image("small", "base", virtual_size_bytes=GIB // 2)]),
    "ChainTooDeep": (
        f"kimg/i{MAX_DEPTH}",
        [image(f"i{depth}", f"i{depth - 1}" if depth else None) for depth in range(MAX_DEPTH + 1)],
    ),
    "SpecInvalid": (
        "class",
        [
            image("base"),
            system(
                "odd",
                None,
                [machine("m0", "base", patch={"merge": {"spec": {"volumes": [{"emptyDisk": {"capacity": "1Gi"}}]}}})],
            ),
            deployment(state="odd"),
        ],
    ),
    "NoNode": ("class", [*trees(1), deployment(placement={"nodeSelector": {"pool": "none"}})]),
    "TooManyMachines": (
        "class",
        [
            image("base"),
            system("most", None, [machine(f"m{n}", "base") for n in range(128)]),
            system("more", "most", [machine("one-more", "base")]),
            deployment(state="more"),
        ],
    ),
    "NotSelected": ("ksi/class-red", [*trees(1), deployment(), instance("red")]),
    "TargetMissing": ("kgrant/library", [tree_grant({"example.org/course": "x"}, ("SystemNode", "nothing"))]),
    "NodesMissing": (
        "kpre/monday",
        [*trees(1), prefetch(targetRefs=[{"kind": "SystemNode", "name": "infected"}], nodes={"names": ["nobody"]})],
    ),
}


@pytest.mark.why("NotSeenYet")
@pytest.mark.parametrize("reason", [pytest.param(reason, marks=pytest.mark.why(reason)) for reason in BROKEN])
async def test_an_error_in_an_object_is_explained(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str, reason: str
) -> None:
    subject, objects = BROKEN[reason]
    try:
        apply(plane, ns, *objects)
    except subprocess.CalledProcessError as exc:
        raise AssertionError(exc.stderr) from None
    assert (await explanation(plane, ns, subject))[0]["reason"] == "NotSeenYet", "no operator works yet"
    async with OperatorRun(operator_kubeconfig):
        found = await why(plane, ns, subject, reason)
        assert reason in record([found])
        assert found["remedy"]
        await asyncio.to_thread(plane.kubectl, "delete", "ksd,kpre", "--all", "-n", ns, "--timeout=30s")


@pytest.mark.why("NoDefaultRepository")
async def test_a_namespace_with_two_default_repositories_is_named(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    names = [f"{ns}-a", f"{ns}-b"]
    selector = {"matchLabels": {"kubernetes.io/metadata.name": ns}}
    for name in names:
        body = repository_body(name, namespaceSelector=selector, defaultFor="SelectedNamespaces")
        apply(plane, ns, {**body, "apiVersion": API_VERSION, "metadata": {"name": name}})
    try:
        async with OperatorRun(operator_kubeconfig):
            apply(plane, ns, image("base"))
            found = await why(plane, ns, "kimg/base", "NoDefaultRepository")
            assert "2 LayerRepositories" in found["message"]
            record([found])
            plane.kubectl("delete", "layerrepository", names[0])

            async def ready() -> bool:
                body = await kube.get(IMAGE, ns, "base") or {}
                return any(c["reason"] == "ChainComplete" for c in (body.get("status") or {}).get("conditions") or ())

            await eventually_async(ready)
    finally:
        plane.kubectl("delete", "layerrepository", "--ignore-not-found", *names)


@pytest.mark.why("Unresolved")
async def test_a_deployment_waits_for_what_it_names(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, deployment(state="nowhere"))
        await has(kube, ns, "Unresolved")
        await wait_gone(plane, kube, ns)


@pytest.mark.why("NodeNotReady")
async def test_a_node_that_is_away_is_named(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    pool = {"nodeSelector": {"kubernetes.io/hostname": "away"}}
    await actors.add_node("away")
    try:
        async with OperatorRun(operator_kubeconfig):
            apply(plane, ns, *trees(1), deployment(placement=pool))
            await wait_ready(kube, ns)
            lost = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": ""}
            await actors._merge(NODE, None, "away", {"status": {"conditions": [lost]}}, "status")
            await has(kube, ns, "NodeNotReady")
            await actors._report_ready("away")
            await wait_ready(kube, ns)
            await wait_gone(plane, kube, ns)
    finally:
        actors.alive.discard("away")
        await kube.delete(CSI_NODE, None, "away")
        await kube.delete(NODE, None, "away")


async def condition_reasons(kube: KubeClient, ns: str) -> set[str]:
    body = await get_deployment(kube, ns)
    return {c["reason"] for c in (body or {}).get("status", {}).get("conditions") or ()}


@pytest.mark.why("InstancesPending")
async def test_an_instance_that_another_owner_keeps_is_waited_for(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async def keep(*finalizers: str) -> None:
        await actors._merge(INSTANCE, ns, "class-1", {"metadata": {"finalizers": list(finalizers)}})

    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(1), deployment())
        await wait_ready(kube, ns)
        await keep(names.INSTANCE_FINALIZER, "example.com/held")
        await asyncio.to_thread(plane.kubectl, "delete", "ksi/class-1", "-n", ns, "--wait=false")
        await has(kube, ns, "InstancesPending")
        await keep()
        await wait_ready(kube, ns)
        await wait_gone(plane, kube, ns)


@pytest.mark.why(
    "Unreachable",
    "Placing",
    "ClaimsPending",
    "LayersWarming",
    "MachinesPending",
    "MachinesStarting",
    "CacheSilent",
    "Deleting",
)
async def test_what_a_deployment_waits_for(
    plane: ControlPlane,
    operator_kubeconfig: str,
    actors: Actors,
    kube: KubeClient,
    ns: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each step is held up by itself: writes to the API server, the node's daemon, and KubeVirt."""
    pool = {"nodeSelector": {"kubernetes.io/hostname": "slow"}}
    created, refusing = KubeClient.create, True

    async def refuse(self: KubeClient, resource: Any, manifest: Any, **rest: Any) -> dict[str, Any]:
        if refusing and resource.kind == VOLUME.kind:
            raise Unreachable("the API server does not answer")
        return await created(self, resource, manifest, **rest)

    monkeypatch.setattr(KubeClient, "create", refuse)
    await actors.add_node("slow")
    try:
        async with OperatorRun(operator_kubeconfig):
            await eventually_async(lambda: reports(kube, "slow"), 20, "its daemon reports")
            actors.alive.discard("slow")
            apply(plane, ns, *trees(1), deployment(placement=pool))
            await has(kube, ns, "Unreachable", "Placing", "ClaimsPending")
            refusing = False
            await has(kube, ns, "LayersWarming", "MachinesPending")
            actors._start_s = 4.0
            actors.alive.add("slow")
            actors._enqueue("cache", (None, "slow"))  # type: ignore[arg-type]
            await has(kube, ns, "MachinesStarting")
            await wait_ready(kube, ns)
            # Its daemon stops.
            actors.alive.discard("slow")
            apply(plane, ns, deployment(state="cleaned", placement=pool))
            await has(kube, ns, "LayersWarming")
        # A heartbeat that changes counts as new, whatever its time; only a new operator compares it with its own clock.
        await actors.beat("slow", "2020-01-01T00:00:00.000000Z")
        async with OperatorRun(operator_kubeconfig):
            await has(kube, ns, "CacheSilent")
            actors.alive.add("slow")
            await wait_ready(kube, ns)
            # Another owner's finalizer keeps a VM, and with it the deployment.
            vm = next(iter(actors._seen["VirtualMachine"]))[1]
            await actors._merge(MACHINE, ns, vm, {"metadata": {"finalizers": ["example.com/held"]}})
            await asyncio.to_thread(plane.kubectl, "delete", "ksd/class", "-n", ns, "--wait=false")
            await why(plane, ns, "class", "Deleting")
            await actors._merge(MACHINE, ns, vm, {"metadata": {"finalizers": []}})
            await wait_gone(plane, kube, ns)
    finally:
        actors._start_s = 0.0
        actors.alive.discard("slow")
        await kube.delete(CSI_NODE, None, "slow")
        await kube.delete(NODE, None, "slow")


@pytest.mark.why("ImageNotPulled")
async def test_a_hook_whose_image_cannot_be_pulled_is_named(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    """KubeVirt reports it so if the namespace has no pull secret."""
    image = "registry.example/kigi:0.1.0"
    failing = {
        "printableStatus": "ImagePullBackOff",
        "conditions": [
            {
                "type": "Synchronized",
                "status": "False",
                "reason": "ImagePullBackOff",
                "message": f'Back-off pulling image "{image}": ErrImagePull: pull access denied',
            }
        ],
    }
    actors._start_s = 20.0
    try:
        async with OperatorRun(operator_kubeconfig):
            apply(plane, ns, *trees(1), deployment())
            await has(kube, ns, "MachinesStarting")
            vm = next(name for namespace, name in actors._seen["VirtualMachine"] if namespace == ns)
            await actors._merge(MACHINE, ns, vm, {"status": failing}, "status")
            found = await why(plane, ns, "class", "ImageNotPulled")
            assert f"image {image} of its pod cannot be pulled" in found["message"]
            assert "pull-secret.yaml" in found["remedy"]
            await wait_ready(kube, ns, timeout_s=90)
            await wait_gone(plane, kube, ns)
    finally:
        actors._start_s = 0.0


async def reports(kube: KubeClient, node: str) -> bool:
    cache = await kube.get(NODE_CACHE, None, node)
    return cache is not None and "budgetBytes" in cache.get("status", {})


async def has(kube: KubeClient, ns: str, *wanted: str) -> None:
    """Waits until conditions of the deployment have all these reasons at the same time."""
    last: set[str] = set()

    async def check() -> bool:
        nonlocal last
        last = await condition_reasons(kube, ns)
        return set(wanted) <= last

    try:
        await eventually_async(check, 60)  # it looks again at silence after 30 seconds
    except AssertionError:
        raise AssertionError(f"not {wanted}: {last}") from None
    for reason in wanted:
        explained(reason)


@pytest.mark.why("NotSettled", "Pending", "PauseFailed", "MovedOn", "CopyLost")
async def test_what_a_capture_meets(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    """KubeVirt does not pause, a user resumes a VM, a copy is lost: each has its reason, and no VM stays paused."""
    mode = "refuse"

    async def requests(namespace: str, name: str, verb: str, options: Any = None) -> None:
        if verb == "pause" and mode == "refuse":
            raise Unreachable("virt-api does not answer")
        await actors.vmi_request(namespace, name, verb, options)
        if verb == "pause" and mode == "resume" and name.endswith("m0"):
            await actors.vmi_request(namespace, name, "unpause", options)

    async with OperatorRun(operator_kubeconfig, requests=requests):
        apply(plane, ns, *trees(2), deployment())
        await wait_ready(kube, ns)
        actors._start_s = 6.0  # long enough for the capture to look meanwhile, on a loaded machine too
        apply(plane, ns, deployment(resetToken="1"))
        apply(plane, ns, capture(backoffLimit=1))
        await wait_reason(kube, ns, "NotSettled")
        actors._start_s = 0.0
        await wait_ready(kube, ns)
        await wait_reason(kube, ns, "Pending")  # between two attempts
        found = await why(plane, ns, "kcap/after", "PauseFailed")
        assert "virt-api does not answer" in found["message"]
        await drop(plane, ns)
        mode = "resume"
        apply(plane, ns, capture())
        await eventually_async(lambda: attempt_failed(kube, ns, "MovedOn"), 20, "MovedOn")
        await drop(plane, ns)
        await eventually_async(lambda: not any(disk.copies for disk in actors.disks.values()), 20)
        mode, actors.lose_copies = "", 1_000_000
        apply(plane, ns, capture())
        await eventually_async(lambda: attempt_failed(kube, ns, "CopyLost"), 20, "CopyLost")
        actors.lose_copies = 0
        await wait_done(kube, ns, timeout_s=60)
        await wait_gone(plane, kube, ns)
        actors.violations.clear()  # the one that ran on was copied, and that copy thrown away


@pytest.mark.why("Checking", "Pausing", "Copying", "Resuming", "Storing", "Publishing", "CaptureFailed", "TooSlow")
async def test_each_step_of_a_capture_is_explained(
    plane: ControlPlane,
    operator_kubeconfig: str,
    actors: Actors,
    kube: KubeClient,
    ns: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is held up until it was asked about; then the nodes neither copy nor store."""
    held = {verb: asyncio.Event() for verb in ("pause", "unpause")}
    report, mute, silent, storing, refuse = Actors._captures, True, True, True, True

    async def requests(namespace: str, name: str, verb: str, options: Any = None) -> None:
        await held[verb].wait()
        await actors.vmi_request(namespace, name, verb, options)

    def reports_of(self: Actors, name: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        found = report(self, name, body)
        if mute or silent:
            return [one for one in found if one["state"] == "Possible" and not mute]
        if storing:
            return [{**one, "state": "Copied"} if one["state"] == "Stored" else one for one in found]
        if refuse:
            full = {"state": "Refused", "reason": "AccessDenied", "message": "the repository refuses", "copiedBytes": 1}
            found = [{**one, **full} if one["state"] == "Stored" else one for one in found]
        return found

    created, written = KubeClient.create, asyncio.Event()

    async def create(self: KubeClient, resource: Any, manifest: Any, **rest: Any) -> dict[str, Any]:
        if resource.kind == SYSTEM.kind:
            await written.wait()
        return await created(self, resource, manifest, **rest)

    monkeypatch.setattr(KubeClient, "create", create)
    monkeypatch.setattr(Actors, "_captures", reports_of)
    async with OperatorRun(operator_kubeconfig, requests=requests):
        apply(plane, ns, *trees(1), deployment())
        await wait_ready(kube, ns)
        apply(plane, ns, capture())
        await why(plane, ns, "kcap/after", "Checking")
        mute = False
        actors._enqueue("cache", (None, next(iter(actors.alive))))  # type: ignore[arg-type]
        await why(plane, ns, "kcap/after", "Pausing")
        held["pause"].set()
        await why(plane, ns, "kcap/after", "Copying")
        silent = False
        actors._enqueue("cache", (None, next(iter(actors.alive))))  # type: ignore[arg-type]
        await why(plane, ns, "kcap/after", "Resuming")
        held["unpause"].set()
        await why(plane, ns, "kcap/after", "Storing")
        storing = False
        actors._enqueue("cache", (None, next(iter(actors.alive))))  # type: ignore[arg-type]
        found = await why(plane, ns, "kcap/after", "CaptureFailed")
        # The node's cause, or the operator's: the Secret of the writer does not exist here.
        assert any(cause in found["message"] for cause in ("the repository refuses", "cannot be written to"))
        refuse = False
        await why(plane, ns, "kcap/after", "Publishing")
        written.set()
        await wait_done(kube, ns)
        await drop(plane, ns)
    # The nodes do not copy: no VM stays paused for long.
    silent = True
    impatient = FAST.model_copy(update={"capture_max_pause_s": 3.0})
    async with OperatorRun(operator_kubeconfig, settings=impatient, requests=requests):
        apply(plane, ns, capture(target={"systemName": "again"}))
        await eventually_async(lambda: attempt_failed(kube, ns, "TooSlow"), 30, "TooSlow")
        await drop(plane, ns)
        await wait_gone(plane, kube, ns)


@pytest.mark.why("Forbidden")
async def test_an_operator_that_lacks_a_right_names_it(
    plane: ControlPlane, actors: Actors, kube: KubeClient, ns: str
) -> None:
    """All rights but that to make claims."""
    documents = yaml.safe_load_all((REPOSITORY / "manifests/rbac/operator.yaml").read_text())
    role = next(document for document in documents if document["kind"] == "ClusterRole")
    role["metadata"] = {"name": "poor"}
    for rule in role["rules"]:
        if "persistentvolumeclaims" in rule["resources"]:
            rule["resources"] = [kind for kind in rule["resources"] if kind != "persistentvolumeclaims"]
    reading = {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get", "list", "watch"]}
    role["rules"].append(reading)
    plane.kubectl("apply", "-f", "-", input_text=yaml.safe_dump(role))
    plane.kubectl("create", "clusterrolebinding", "poor", "--clusterrole=poor", "--user=poor")
    plane.kubectl("create", "rolebinding", "poor", "--role=kigi-operator", "--user=poor", "-n", FAST.namespace)
    async with OperatorRun(str(plane.user_kubeconfig("poor", []))):
        apply(plane, ns, *trees(1), deployment())
        found = await why(plane, ns, "class", "Forbidden")
        assert "persistentvolumeclaims" in found["message"]
        plane.kubectl("create", "clusterrole", "rich", "--verb=*", "--resource=persistentvolumeclaims")
        plane.kubectl("create", "clusterrolebinding", "rich", "--clusterrole=rich", "--user=poor")
        await wait_ready(kube, ns, timeout_s=90)
        await wait_gone(plane, kube, ns)
