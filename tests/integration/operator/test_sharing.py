"""Trees of a library that other namespaces use, on a real API server: granted, not granted, and under attack."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import (
    DEPLOYMENT,
    EVENT,
    GRANT,
    IMAGE,
    INSTANCE,
    NODE_CACHE,
    PREFETCH,
    SYSTEM,
    Resource,
)
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import REPOSITORY, eventually_async
from tests.support.deployments import (
    apply,
    condition,
    deployment,
    digest,
    image,
    instance,
    left_over,
    machine,
    outcome,
    system,
    tree_grant,
    wait_gone,
    wait_ready,
)
from tests.support.operator_run import OperatorRun
from tests.support.raw_api import MERGE_PATCH, RawApi
from tests.support.why import record

from .test_cli import kigi_json
from .test_prefetches import prefetch

MARKER = "zzsecret"
"""Part of every name in the library that a tenant does not write."""
COURSE = {"example.org/course": "netsec"}


@dataclass
class Site:
    """A library with the state ``office``, and a namespace of tenants who may not use it yet."""

    plane: ControlPlane
    kube: KubeClient
    library: str
    tenant: str

    def label(self, namespace: str, **labels: str) -> None:
        words = [f"example.org/{key}={value}" for key, value in labels.items()]
        self.plane.kubectl("label", "namespace", namespace, "--overwrite", *words)

    def ref(self, name: str) -> dict[str, str]:
        return {"namespace": self.library, "name": name}

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any]:
        body = await self.kube.get(resource, namespace, name)
        assert body is not None, f"{resource.kind} {namespace}/{name} is gone"
        return body

    async def wait_reason(self, resource: Resource, name: str, reason: str, namespace: str = "") -> dict[str, Any]:
        """Waits until Ready has the reason; the condition."""
        found: dict[str, Any] = {}

        async def check() -> bool:
            nonlocal found
            found = condition(await self.get(resource, namespace or self.tenant, name), "Ready")
            return found.get("reason") == reason

        try:
            await eventually_async(check, 30)
        except AssertionError:
            raise AssertionError(f"{resource.kind} {name}: not {reason}: {found}") from None
        return found

    async def ordered(self) -> set[str]:
        """Digests that any node should hold."""
        return {layer["digest"] async for cache in self.kube.list_all(NODE_CACHE) for layer in cache["spec"]["layers"]}

    async def said(self, namespace: str) -> str:
        """All statuses of Kigi's objects in a namespace, and all events about them."""
        found: list[Any] = []
        for resource in (IMAGE, SYSTEM, DEPLOYMENT, INSTANCE, PREFETCH, GRANT):
            async for body in self.kube.list_all(resource):
                if body["metadata"]["namespace"] == namespace:
                    found.append(body.get("status"))
        events = await self.kube.get(EVENT, namespace, "")
        assert events is not None
        found.extend((event["reason"], event["note"], event.get("related")) for event in events["items"])
        return json.dumps(found)


@pytest.fixture
async def site(plane: ControlPlane, kube: KubeClient, actors: Actors, ns: str) -> Site:
    site = Site(plane, kube, f"{ns}-library", ns)
    plane.kubectl("create", "namespace", site.library)
    apply(
        plane,
        site.library,
        image(f"{MARKER}-{ns}-base"),
        image(f"{MARKER}-{ns}-mail", f"{MARKER}-{ns}-base"),
        image(f"{MARKER}-{ns}-other", f"{MARKER}-{ns}-base"),
        system(f"{MARKER}-root", None, [machine("mail", f"{MARKER}-{ns}-base")]),
        system("office", f"{MARKER}-root", [machine("mail", f"{MARKER}-{ns}-mail")]),
    )
    return site


@contextlib.asynccontextmanager
async def operated(site: Site, kubeconfig: str) -> AsyncIterator[None]:
    """An operator, which deletes what deployments and prefetches have created in the end."""
    async with OperatorRun(kubeconfig):
        yield
        for namespace in (site.tenant, site.library):
            words = ("delete", "ksd,kpre,kgrant", "--all", "-n", namespace, "--timeout=60s")
            await asyncio.to_thread(site.plane.kubectl, *words)


def references(site: Site) -> list[dict[str, Any]]:
    """Objects of the tenant that name the library's in each field that refers to a tree."""
    mail = {**site.ref(f"{MARKER}-{site.tenant}-mail")}
    on_image = system("on-image", None, [{"name": "mail", "rootDisk": {"imageRef": mail}}])
    disk = {**machine("mail", "own"), "disks": [{"name": "data", "imageRef": mail}]}
    return [
        image("own"),
        image("branch", f"{site.library}/{MARKER}-{site.tenant}-mail", content=f"{site.tenant}-branch"),
        system("child", f"{site.library}/office", []),
        on_image,
        system("on-disk", None, [disk]),
        kept_warm({"kind": "SystemNode", **site.ref("office")}, {"kind": "VMImageNode", **mail}),
        deployment("direct", f"{site.library}/office"),
        deployment("mixed", "local"),
        system("local", None, [machine("mail", "own")]),
        instance("1", "mixed", machines=[{"name": "mail", "systemRef": site.ref("office")}]),
        deployment("warm", "local", prefetchRefs=[site.ref("office")]),
    ]


def kept_warm(*targets: dict[str, str]) -> dict[str, Any]:
    """On every node."""
    body = prefetch(targetRefs=list(targets))
    del body["spec"]["nodes"]
    return body


NODES = ((IMAGE, "branch"), (SYSTEM, "child"), (SYSTEM, "on-image"), (SYSTEM, "on-disk"), (PREFETCH, "monday"))
RUNS = ((DEPLOYMENT, "direct"), (INSTANCE, "mixed-1"))
PLURALS = {
    "VMImageNode": "vmimagenodes",
    "SystemNode": "systemnodes",
    "SystemPrefetch": "systemprefetches",
    "SystemDeployment": "systemdeployments",
    "SystemInstance": "systeminstances",
}


def library_digests(site: Site) -> set[str]:
    return {digest(f"{MARKER}-{site.tenant}-{name}") for name in ("base", "mail", "other")}


@pytest.mark.why("RefNotPermitted")
async def test_a_grant_gives_and_takes_the_use_of_a_tree(site: Site, operator_kubeconfig: str) -> None:
    async with operated(site, operator_kubeconfig):
        apply(site.plane, site.tenant, *references(site))
        for resource, name in (*NODES, *RUNS):
            await site.wait_reason(resource, name, "RefNotPermitted")
        assert not await site.ordered() & library_digests(site)
        (found,) = await kigi_json(site.plane, "why", "ksys/child", "-n", site.tenant, code=3)
        assert record([found]) == {"RefNotPermitted"}
        # Neither side alone gives it: the label, and the grant.
        apply(site.plane, site.library, tree_grant(COURSE, ("SystemNode", "office")))
        await site.wait_reason(GRANT, "library", "Granted", site.library)
        await site.wait_reason(SYSTEM, "child", "RefNotPermitted")
        site.label(site.tenant, course="netsec")
        for resource, name in NODES[:4]:
            await site.wait_reason(resource, name, "ChainComplete" if resource is IMAGE else "Resolved")
        mail = digest(f"{MARKER}-{site.tenant}-mail")

        async def is_ordered() -> bool:
            return mail in await site.ordered()

        await eventually_async(is_ordered, 30, "the prefetch orders the layers")

        async def is_counted() -> bool:
            return (await site.get(GRANT, site.library, "library"))["status"]["namespaceCount"] == 1

        await eventually_async(is_counted, 20, "the grant counts its namespaces")
        site.plane.kubectl("delete", "treegrant", "library", "-n", site.library)
        for resource, name in NODES:
            await site.wait_reason(resource, name, "RefNotPermitted")


async def test_messages_of_both_sides_name_only_what_their_own_side_wrote(site: Site, operator_kubeconfig: str) -> None:
    async with operated(site, operator_kubeconfig):
        site.label(site.tenant, course="netsec")
        apply(site.plane, site.library, tree_grant(COURSE, ("SystemNode", "office"), descendants=True))
        apply(site.plane, site.tenant, *references(site))
        await site.wait_reason(SYSTEM, "child", "Resolved")
        # What is used is deleted, and is damaged: both make messages.
        site.plane.kubectl("delete", "systemnode", "office", "-n", site.library, "--wait=false")
        used = await site.wait_reason(SYSTEM, "office", "InUse", site.library)
        assert "1 SystemNode, 1 SystemPrefetch in 1 other namespace" in used["message"]
        site.plane.kubectl("delete", "vmimagenode", f"{MARKER}-{site.tenant}-base", "-n", site.library, "--wait=false")
        await site.wait_reason(IMAGE, f"{MARKER}-{site.tenant}-base", "InUse", site.library)
        finalizers = '{"metadata":{"finalizers":null}}'
        name = f"{MARKER}-{site.tenant}-base"
        site.plane.kubectl("patch", "vmimagenode", name, "-n", site.library, "--type=merge", f"-p={finalizers}")
        await site.wait_reason(SYSTEM, "child", "RefNotReady")
        await site.wait_reason(IMAGE, "branch", "RefNotReady")
        heard = (await site.said(site.tenant)).replace(f"{site.library}/{MARKER}-{site.tenant}-mail", "")
        assert MARKER not in heard
        assert not any(layer in heard for layer in library_digests(site))
        told = (await site.said(site.library)).replace(site.library, "").replace(f"{MARKER}-{site.tenant}", "")
        assert site.tenant not in told
        assert "branch" not in told


@pytest.mark.why("RefNotReady")
async def test_a_granted_tree_with_an_error_of_its_own_is_explained(site: Site, operator_kubeconfig: str) -> None:
    async with operated(site, operator_kubeconfig):
        site.label(site.tenant, course="netsec")
        broken = system("broken", None, [machine("m", f"{MARKER}-nothing")])
        apply(site.plane, site.library, broken, tree_grant(COURSE, ("SystemNode", "broken")))
        apply(site.plane, site.tenant, system("child", f"{site.library}/broken", []))
        await site.wait_reason(SYSTEM, "child", "RefNotReady")
        (found,) = await kigi_json(site.plane, "why", "ksys/child", "-n", site.tenant, code=3)
        assert record([found]) == {"RefNotReady"}
        assert MARKER not in str(found)


async def test_a_class_runs_a_state_of_the_library_until_new_disks_are_refused(
    site: Site, operator_kubeconfig: str, actors: Actors
) -> None:
    async with operated(site, operator_kubeconfig):
        office = f"{site.library}/office"
        apply(site.plane, site.tenant, deployment(state=office, replicas=2))
        await site.wait_reason(DEPLOYMENT, "class", "RefNotPermitted")
        assert not await site.ordered() & library_digests(site)
        assert not await left_over(site.kube, site.tenant)
        site.label(site.tenant, course="netsec")
        apply(site.plane, site.library, tree_grant(COURSE, ("SystemNode", "office"), descendants=True))
        await wait_ready(site.kube, site.tenant)
        before = await outcome(site.kube, site.tenant)
        mail = digest(f"{MARKER}-{site.tenant}-mail")
        # The grant is withdrawn: what runs goes on, and nothing new begins.
        site.plane.kubectl("delete", "treegrant", "library", "-n", site.library)
        await site.wait_reason(DEPLOYMENT, "class", "RefNotPermitted")
        starts = len(actors.starts)
        apply(site.plane, site.tenant, deployment(state=office, replicas=3, resetToken="again"))
        apply(site.plane, site.tenant, instance("2", systemRef=site.ref(f"{MARKER}-root")))
        await site.wait_reason(INSTANCE, "class-1", "RefNotPermitted")
        await site.wait_reason(INSTANCE, "class-2", "RefNotPermitted")
        await site.wait_reason(INSTANCE, "class-3", "RefNotPermitted")
        assert await outcome(site.kube, site.tenant) == before
        assert len(actors.starts) == starts
        assert mail in await site.ordered()
        heard = (await site.said(site.tenant)).replace(f"{site.library}/{MARKER}-root", "")
        assert MARKER not in heard
        assert not any(layer in heard for layer in library_digests(site))
        # It is given again, and everything that was asked for happens.
        apply(site.plane, site.library, tree_grant(COURSE, ("SystemNode", "office"), descendants=True))
        await wait_ready(site.kube, site.tenant)
        assert len(actors.starts) == starts + 3
        await wait_gone(site.plane, site.kube, site.tenant)


async def test_existence_is_not_revealed(site: Site, operator_kubeconfig: str) -> None:
    async with operated(site, operator_kubeconfig):
        written = {
            "forbidden": f"{site.library}/office",
            "missing": f"{site.library}/nothing",
            "nowhere": "no-such-namespace/office",
        }
        apply(site.plane, site.tenant, *(system(name, parent, []) for name, parent in written.items()))
        said = set()
        for name, parent in written.items():
            found = await site.wait_reason(SYSTEM, name, "RefNotPermitted")
            said.add(found["message"].replace(parent, "REF").replace(name, "NAME"))
        assert len(said) == 1, said


async def test_used_nodes_of_the_library_wait_for_permitted_users_only(site: Site, operator_kubeconfig: str) -> None:
    async with operated(site, operator_kubeconfig):
        apply(site.plane, site.tenant, system("child", f"{site.library}/office", []))
        await site.wait_reason(SYSTEM, "child", "RefNotPermitted")
        site.plane.kubectl("delete", "systemnode", "office", "-n", site.library, "--timeout=20s")
        apply(
            site.plane,
            site.library,
            system("office", f"{MARKER}-root", []),
            tree_grant(COURSE, ("SystemNode", "office")),
        )
        site.label(site.tenant, course="netsec")
        await site.wait_reason(SYSTEM, "child", "Resolved")

        async def is_marked() -> bool:
            return "kigi.dev/in-use" in (await site.get(SYSTEM, site.library, "office"))["metadata"].get(
                "finalizers", ()
            )

        await eventually_async(is_marked, 20)
        site.plane.kubectl("delete", "systemnode", "office", "-n", site.library, "--wait=false")
        await site.wait_reason(SYSTEM, "office", "InUse", site.library)
        site.plane.kubectl("delete", "systemnode", "child", "-n", site.tenant)

        async def is_gone() -> bool:
            return await site.kube.get(SYSTEM, site.library, "office") is None

        await eventually_async(is_gone, 20, "the state goes with its last user")


async def test_a_tenant_cannot_use_the_library_by_itself(site: Site, operator_kubeconfig: str) -> None:
    """A tenant with every right of the roles edit and kigi-edit in its own namespace."""
    tenant = editor(site)
    async with operated(site, operator_kubeconfig):
        path = f"/apis/kigi.dev/v1alpha2/namespaces/{site.tenant}"
        # A grant in its own namespace, of the names of the library's objects and for everybody.
        grant = tree_grant(
            {}, ("SystemNode", "office"), ("VMImageNode", f"{MARKER}-{site.tenant}-mail"), descendants=True
        )
        tenant.create(f"{path}/treegrants", grant).object()
        there = f"/apis/kigi.dev/v1alpha2/namespaces/{site.library}"
        assert tenant.create(f"{there}/treegrants", grant).code == 403
        assert tenant.get(f"{there}/systemnodes").code == 403
        # Its own namespace's labels are not its own.
        label = {"metadata": {"labels": dict(COURSE)}}
        reply = tenant.call("PATCH", f"/api/v1/namespaces/{site.tenant}", label, content_type=MERGE_PATCH)
        assert reply.code == 403
        apply(site.plane, site.library, tree_grant(COURSE, ("SystemNode", "office"), descendants=True))
        office = await site.get(SYSTEM, site.library, "office")
        owner = {"apiVersion": "kigi.dev/v1alpha2", "kind": "SystemNode", "name": "office"}
        for body in references(site):
            body["metadata"] |= {
                "labels": {**COURSE, "kigi.dev/namespace": site.library},
                "annotations": {"kigi.dev/namespace": site.library, "kigi.dev/fingerprint": "{}"},
            }
            tenant.create(f"{path}/{PLURALS[body['kind']]}", body).object()
        owned = system("owned", f"{site.library}/office", [])  # Kubernetes deletes it, as it has no such owner
        owned["metadata"]["ownerReferences"] = [{**owner, "uid": office["metadata"]["uid"]}]
        tenant.create(f"{path}/systemnodes", owned).object()
        own = system("own-name", f"{site.tenant}/child", [])
        tenant.create(f"{path}/systemnodes", own).object()
        for resource, name in (*NODES, *RUNS):
            await site.wait_reason(resource, name, "RefNotPermitted")
        await site.wait_reason(SYSTEM, "own-name", "RefNotPermitted")
        assert not await site.ordered() & library_digests(site)
        status = {"status": {"conditions": [], "observedGeneration": 1}}
        reply = tenant.call("PATCH", f"{path}/systemnodes/child/status", status, content_type=MERGE_PATCH)
        assert reply.code == 403


def editor(site: Site) -> RawApi:
    """A client as a service account of the tenant's namespace with the roles edit and kigi-edit there."""
    site.plane.kubectl("apply", "-f", str(REPOSITORY / "manifests/rbac/users.yaml"))
    site.plane.kubectl("create", "serviceaccount", "editor", "-n", site.tenant)
    for role in ("edit", "kigi-edit"):
        account = f"--serviceaccount={site.tenant}:editor"
        site.plane.kubectl("create", "rolebinding", role, f"--clusterrole={role}", account, "-n", site.tenant)
    return RawApi(site.plane.kubeconfig).as_account(site.tenant, "editor")
