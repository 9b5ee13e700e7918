"""Objects and calls of a tenant that name what belongs to another one, to Kigi, or to the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kigi.domain import names
from kigi.domain.names import API_VERSION, NODE_API_VERSION
from tests.campaigns.tenant_attack import (
    CORE,
    KUBEVIRT,
    OWN,
    SYSTEM,
    Attack,
    Object,
    Victim,
    collection,
    make,
)
from tests.campaigns.tenant_pods import claim_spec
from tests.support.raw_api import APPLY_PATCH, MERGE_PATCH

LEASES = "coordination.k8s.io/v1"
EVENTS = "events.k8s.io/v1"
SUBRESOURCES = "subresources.kubevirt.io/v1"
WRONG = "sha256:" + "e" * 64
NOBODY = "system:serviceaccount:victim:admin"


def _post(group: str, title: str, namespace: str, plural: str, body: Object, *, refused: bool = False) -> Attack:
    path = collection(namespace, plural, body["apiVersion"])
    return Attack(group, title, "POST", path, body, refused=refused)


def tree_attacks(namespace: str, victim: Victim, numbers: Iterator[int]) -> Iterator[Attack]:
    """Images, states, deployments, grants and prefetches that contradict or use the victim's trees."""
    for image, found in victim.images.items():
        layer = {key: value for key, value in found.items() if key != "parent" and value is not None}
        for title, change, more in (
            ("another size", {"sizeBytes": layer["sizeBytes"] + 1}, {}),
            ("another virtual size", {"virtualSizeBytes": layer["virtualSizeBytes"] * 2}, {}),
            ("another parent", {}, {"parentRef": {"name": f"false-{image}"[:60]}}),
            ("another repository", {}, {"repositoryRef": {"name": "stolen"}}),
            (
                "a child of the victim's",
                {"digest": WRONG},
                {"parentRef": {"namespace": victim.namespace, "name": image}},
            ),
        ):
            spec = {"layer": layer | change, **more}
            yield _post("images", title, namespace, "vmimagenodes", make("VMImageNode", f"i{next(numbers)}", spec))
    image, there = min(victim.images), {"namespace": victim.namespace}
    machine = {
        "name": "m0",
        "rootDisk": {"imageRef": {**there, "name": image}},
        "hardware": {"memory": {"guest": "64Mi"}},
    }
    for spec in (
        {"machines": [machine]},
        {"parentRef": {**there, "name": victim.state}, "machines": []},
        {"parentRef": {**there, "name": "no-such"}, "machines": [machine]},
    ):
        yield _post(
            "states", "names the victim's tree", namespace, "systemnodes", make("SystemNode", f"s{next(numbers)}", spec)
        )
    for fields in ({}, {"replicas": 50}, {"prefetchRefs": [{**there, "name": victim.state}]}):
        spec = {"systemRef": {**there, "name": victim.state}, **fields}
        yield _post(
            "deployments",
            "runs the victim's state",
            namespace,
            "systemdeployments",
            make("SystemDeployment", f"d{next(numbers)}", spec),
        )
    everyone = {
        "from": {"namespaceSelector": {}},
        "to": [{"kind": "SystemNode", "name": victim.state, "descendants": True}],
    }
    for place, refused in ((namespace, False), (victim.namespace, True)):
        yield _post(
            "grants",
            f"in {place}",
            place,
            "treegrants",
            make("TreeGrant", f"g{next(numbers)}", everyone),
            refused=refused,
        )
    for kind, name in (("SystemNode", victim.state), ("VMImageNode", image)):
        for fields, refused in (({}, False), ({"nodes": {}, "retention": "Pinned"}, True), ({"nodeCount": 1}, False)):
            spec = {"targetRefs": [{"kind": kind, **there, "name": name}], **fields}
            yield _post(
                "prefetches",
                f"of the victim's {kind}",
                namespace,
                "systemprefetches",
                make("SystemPrefetch", f"p{next(numbers)}", spec),
                refused=refused,
            )


def request_attacks(namespace: str, victim: Victim, numbers: Iterator[int]) -> Iterator[Attack]:
    """Captures and resets of the victim's instance."""
    for place in (namespace, victim.namespace):
        for user in ("", NOBODY, "system:admin", "system:serviceaccount:kigi-system:kigi-operator"):
            by = {"requestedBy": user or f"system:serviceaccount:{namespace}:tenant"}
            refused = place == victim.namespace or bool(user)
            capture = make("SystemCapture", f"c{next(numbers)}", {"instanceRef": {"name": victim.instance}, **by})
            yield _post("captures", f"in {place}", place, "systemcaptures", capture, refused=refused)
            for only in ({}, {"instances": ["1"]}):
                reset = make(
                    "SystemReset", f"r{next(numbers)}", {"deploymentRef": {"name": victim.deployment}, **only, **by}
                )
                yield _post("resets", f"in {place}", place, "systemresets", reset, refused=refused)
    capture = make(
        "SystemCapture", f"c{next(numbers)}", {"instanceRef": {"namespace": victim.namespace, "name": victim.instance}}
    )
    yield _post("captures", "reference to another namespace", namespace, "systemcaptures", capture, refused=True)


def status_attacks(namespace: str, victim: Victim) -> Iterator[Attack]:
    """Statuses that a tenant writes, also with an order to a node for the victim's volumes."""
    disk = {"machine": "m0", "disk": "", "nodeName": victim.nodes[0], "revision": 1, "state": "Stored", "digest": WRONG}
    ready = [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Thief",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ]
    for plural, name, status in (
        ("systemdeployments", OWN, {"conditions": ready}),
        ("systeminstances", f"{OWN}-1", {"machines": [{"name": "m0", "volume": victim.volume}]}),
        ("systemcaptures", "any", {"disks": [disk], "machines": [{"name": "m0", "vmiUid": "x", "method": "Pause"}]}),
        ("vmimagenodes", "own-image", {"chain": [{"digest": WRONG}]}),
        ("systemresets", "any", {"conditions": ready}),
        ("systemprefetches", "any", {"conditions": ready}),
    ):
        path = f"{collection(namespace, plural)}/{name}/status"
        yield Attack("statuses", plural, "PATCH", path, {"status": status}, MERGE_PATCH, refused=True)
        body = {"apiVersion": API_VERSION, "kind": "SystemInstance", "metadata": {"name": name}, "status": status}
        yield Attack(
            "statuses",
            f"{plural}, applied",
            "PATCH",
            f"{path}?fieldManager=t&force=true",
            body,
            APPLY_PATCH,
            refused=True,
        )


def label_attacks(namespace: str, victim: Victim, numbers: Iterator[int]) -> Iterator[Attack]:
    """Own objects with the labels, names, annotations and owners of the victim's."""
    uid = next(iter(victim.instances.values()))
    machine = {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}, "volumes": []}}}
    bodies = (
        ("virtualmachines", lambda: make("VirtualMachine", victim.vm, machine, KUBEVIRT)),
        ("virtualmachines", lambda: make("VirtualMachine", f"v{next(numbers)}", machine, KUBEVIRT)),
        (
            "virtualmachineinstances",
            lambda: make("VirtualMachineInstance", victim.vm, {"domain": {"devices": {}}}, KUBEVIRT),
        ),
        (
            "persistentvolumeclaims",
            lambda: make("PersistentVolumeClaim", f"k{next(numbers)}", claim_spec(victim.volume), CORE),
        ),
        (
            "networkpolicies",
            lambda: make("NetworkPolicy", victim.instance, {"podSelector": {}}, "networking.k8s.io/v1"),
        ),
        ("configmaps", lambda: {"apiVersion": CORE, "kind": "ConfigMap", "metadata": {"name": f"k{next(numbers)}"}}),
    )
    marks: tuple[tuple[str, Object], ...] = (
        ("labels", {"labels": dict(victim.labels) | {names.LABEL_MANAGED_BY: names.MANAGER}}),
        (
            "owner",
            {"ownerReferences": [victim.owner("SystemInstance") | {"controller": True, "blockOwnerDeletion": True}]},
        ),
        ("owner VM", {"ownerReferences": [victim.owner("VirtualMachine")]}),
        (
            "annotations",
            {
                "labels": dict(victim.labels),
                "annotations": {names.ANNOTATION_OWNER: uid, names.ANNOTATION_HALTED_UNTIL: "2036-01-01T00:00:00Z"},
            },
        ),
        ("finalizers", {"labels": dict(victim.labels), "finalizers": ["tenant.example/stays"]}),
    )
    for plural, build in bodies:
        for title, metadata in marks:
            body = build()
            body["metadata"] |= metadata
            yield _post("labels", f"{plural}: {title}", namespace, plural, body)
    spec = {"deploymentRef": {"name": victim.deployment}, "name": "1"}
    for title, metadata in marks:
        body = make("SystemInstance", victim.instance, spec, **metadata)
        yield _post("labels", f"systeminstances: {title}", namespace, "systeminstances", body)


def machine_attacks(namespace: str, victim: Victim, numbers: Iterator[int], *, start: bool) -> Iterator[Attack]:
    """Own VMs that use Kigi claims, the own one and those of the victim; ``start``: on a cluster with KubeVirt."""
    own = f"{OWN}.1.m0.r1"
    strategy = "Always" if start else "Halted"
    for claim in (own, victim.claims[0], "stolen"):
        source: Object = {"persistentVolumeClaim": {"claimName": claim}}
        hot: Object = {"persistentVolumeClaim": {"claimName": claim, "hotpluggable": True}}
        sidecar = (
            f'[{{"image": "kigi:dev", "pvc": {{"name": "{claim}", "volumePath": "/v", "sharedComputePath": "/w"}}}}]'
        )
        for title, volume, device, meta in (
            ("boot", source, {"disks": [{"name": "d", "disk": {"bus": "virtio"}}]}, {}),
            (
                "read-only",
                {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}},
                {"disks": [{"name": "d", "lun": {}}]},
                {},
            ),
            ("shareable", source, {"disks": [{"name": "d", "shareable": True, "disk": {"bus": "virtio"}}]}, {}),
            ("hotplug, declared", hot, {"disks": [{"name": "d", "disk": {"bus": "scsi"}}]}, {}),
            ("virtiofs", source, {"filesystems": [{"name": "d", "virtiofs": {}}]}, {}),
            ("sidecar with the claim", source, {"disks": [{"name": "d", "disk": {}}]}, {names.HOOK_SIDECARS: sidecar}),
        ):
            template = {
                "metadata": {"annotations": meta},
                "spec": {
                    "domain": {"memory": {"guest": "64Mi"}, "devices": device},
                    "volumes": [{"name": "d", **volume}],
                },
            }
            body = make(
                "VirtualMachine", f"m{next(numbers)}", {"runStrategy": strategy, "template": template}, KUBEVIRT
            )
            yield _post("machines", f"{title}: {claim}", namespace, "virtualmachines", body)
        add = {"name": "hot", "disk": {"disk": {"bus": "scsi"}}, "volumeSource": hot}
        for kind in ("virtualmachines", "virtualmachineinstances"):
            path = f"{collection(namespace, kind, SUBRESOURCES)}/{OWN}-1-m0/addvolume"
            yield Attack("machines", f"addvolume: {claim}", "PUT", path, add)
        export = {"source": {"apiGroup": "", "kind": "PersistentVolumeClaim", "name": claim}}
        yield _post(
            "machines",
            f"export: {claim}",
            namespace,
            "virtualmachineexports",
            make("VirtualMachineExport", f"e{next(numbers)}", export, "export.kubevirt.io/v1beta1"),
        )
    snapshot = {"source": {"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": f"{OWN}-1-m0"}}
    yield _post(
        "machines",
        "snapshot",
        namespace,
        "virtualmachinesnapshots",
        make("VirtualMachineSnapshot", f"n{next(numbers)}", snapshot, "snapshot.kubevirt.io/v1beta1"),
    )


def foreign_attacks(namespace: str, victim: Victim, numbers: Iterator[int]) -> Iterator[Attack]:
    """Calls in the victim's namespace, in Kigi's, and of cluster-scoped kinds. All must be refused."""
    for attack in (*_in_victims(victim), *_in_system(victim, numbers), *_in_cluster(victim, numbers)):
        yield Attack("foreign", *attack, refused=True)
    event: Object = {
        "apiVersion": EVENTS,
        "kind": "Event",
        "metadata": {"name": f"e{next(numbers)}"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "action": "Thief",
        "reason": "Thief",
        "type": "Normal",
        "reportingController": "kigi-cache",
        "reportingInstance": victim.nodes[0],
        "regarding": {"apiVersion": NODE_API_VERSION, "kind": "NodeCache", "name": victim.nodes[0]},
    }
    yield _post("events", "about a NodeCache, in the own namespace", namespace, "events", event)
    lease = make("Lease", f"kigi-node-{victim.nodes[0]}", {"holderIdentity": victim.nodes[0]}, LEASES)
    yield _post("leases", "heartbeat in the own namespace", namespace, "leases", lease)


_Call = tuple[str, str, str, Any, str]


def _in_victims(victim: Victim) -> Iterator[_Call]:
    there, json = victim.namespace, "application/json"
    for kind, verbs in (
        ("virtualmachineinstances", ("pause", "unpause", "freeze", "softreboot", "reset", "addvolume", "removevolume")),
        ("virtualmachines", ("start", "stop", "restart", "migrate", "addvolume", "removevolume", "memorydump")),
    ):
        for verb in verbs:
            yield (
                f"{verb} of the victim's VM",
                "PUT",
                f"{collection(there, kind, SUBRESOURCES)}/{victim.vm}/{verb}",
                {},
                json,
            )
    for verb in ("console", "vnc", "portforward/22", "guestosinfo"):
        path = f"{collection(there, 'virtualmachineinstances', SUBRESOURCES)}/{victim.vm}/{verb}"
        yield f"{verb} of the victim's VM", "GET", path, None, json
    for plural, version, name in (
        ("virtualmachines", KUBEVIRT, victim.vm),
        ("virtualmachineinstances", KUBEVIRT, victim.vm),
        ("persistentvolumeclaims", CORE, victim.claims[0]),
        ("systeminstances", API_VERSION, victim.instance),
        ("systemdeployments", API_VERSION, victim.deployment),
        ("systemnodes", API_VERSION, victim.state),
        ("vmimagenodes", API_VERSION, min(victim.images)),
    ):
        path = f"{collection(there, plural, version)}/{name}"
        yield f"get {plural}", "GET", path, None, json
        yield f"delete {plural}", "DELETE", path, None, json
        yield f"patch {plural}", "PATCH", path, {"metadata": {"finalizers": None, "labels": {"x": "y"}}}, MERGE_PATCH
        yield f"status of {plural}", "PATCH", f"{path}/status", {"status": {}}, MERGE_PATCH
        yield f"delete all {plural}", "DELETE", collection(there, plural, version), None, json


def _in_system(victim: Victim, numbers: Iterator[int]) -> Iterator[_Call]:
    json, node = "application/json", victim.nodes[0]
    lease = collection(SYSTEM, "leases", LEASES)
    for name in (f"kigi-node-{node}", "kigi-operator"):
        yield f"lease {name}", "PATCH", f"{lease}/{name}", {"spec": {"holderIdentity": "thief"}}, MERGE_PATCH
    yield "new lease", "POST", lease, make("Lease", f"kigi-node-x{next(numbers)}", {}, LEASES), json
    for plural in ("secrets", "pods", "configmaps", "serviceaccounts"):
        yield f"list {plural} of Kigi", "GET", collection(SYSTEM, plural, CORE), None, json
    yield (
        "token of the operator",
        "POST",
        f"{collection(SYSTEM, 'serviceaccounts', CORE)}/kigi-operator/token",
        {"spec": {}},
        json,
    )
    yield (
        "pod among Kigi's",
        "POST",
        collection(SYSTEM, "pods", CORE),
        make("Pod", "x", {"containers": [{"name": "c", "image": "x"}]}, CORE),
        json,
    )


def _in_cluster(victim: Victim, numbers: Iterator[int]) -> Iterator[_Call]:
    json, node = "application/json", victim.nodes[0]
    csi = {"driver": names.CSI_DRIVER, "volumeHandle": victim.handle}
    volume = {
        "capacity": {"storage": "1Mi"},
        "accessModes": ["ReadWriteOnce"],
        "csi": csi,
        "storageClassName": names.STORAGE_CLASS,
    }
    selector: Object = {"namespaceSelector": {}}
    for plural, version, kind, spec in (
        ("persistentvolumes", CORE, "PersistentVolume", volume),
        (
            "layerrepositories",
            API_VERSION,
            "LayerRepository",
            selector
            | {"s3": {"endpoint": "https://x", "bucket": "x"}, "credentials": {"readerSecretRef": {"name": "x"}}},
        ),
        ("systemquotas", API_VERSION, "SystemQuota", selector | {"hard": {"pinnedBytes": "1Ti"}}),
        ("nodecaches", NODE_API_VERSION, "NodeCache", {"nodeName": "x", "operatorProtocol": 1, "protocol": 1}),
        ("csidrivers", "storage.k8s.io/v1", "CSIDriver", {"attachRequired": False}),
        ("clusterrolebindings", "rbac.authorization.k8s.io/v1", "ClusterRoleBinding", {}),
        ("nodes", CORE, "Node", {}),
        ("namespaces", CORE, "Namespace", {}),
    ):
        path = collection("", plural, version)
        yield f"create {plural}", "POST", path, make(kind, f"x{next(numbers)}", spec, version), json
        yield f"delete all {plural}", "DELETE", path, None, json
        yield f"list {plural}", "GET", path, None, json
    for path in (
        f"{collection('', 'persistentvolumes', CORE)}/{victim.volume}",
        f"{collection('', 'nodecaches', NODE_API_VERSION)}/{node}",
        f"{collection('', 'nodes', CORE)}/{node}",
        f"{collection('', 'namespaces', CORE)}/{victim.namespace}",
    ):
        yield f"patch {path}", "PATCH", path, {"metadata": {"labels": {"x": "y"}, "finalizers": None}}, MERGE_PATCH
        yield f"status {path}", "PATCH", f"{path}/status", {"status": {"layers": None}}, MERGE_PATCH
        yield f"delete {path}", "DELETE", path, None, json
