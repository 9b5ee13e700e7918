"""Valid and invalid objects of all kinds; invalid ones with parts of the message that the API server must return."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kigi.domain.merge_patch import merge_patch
from kigi.domain.names import API_VERSION, NODE_API_VERSION
from tests.support.raw_api import Object

GIB = 2**30
DIGEST = "sha256:" + "a" * 64
OTHER_DIGEST = "sha256:" + "b" * 64
STATE = {"kind": "SystemNode", "name": "restored"}
PLURALS = {
    "VMImageNode": "vmimagenodes",
    "SystemNode": "systemnodes",
    "VMMemoryImage": "vmmemoryimages",
    "SystemDeployment": "systemdeployments",
    "SystemInstance": "systeminstances",
    "SystemReset": "systemresets",
    "SystemCapture": "systemcaptures",
    "SystemPrefetch": "systemprefetches",
    "SystemBuild": "systembuilds",
    "TreeGrant": "treegrants",
    "NodeCache": "nodecaches",
    "LayerRepository": "layerrepositories",
    "SystemQuota": "systemquotas",
}
CLUSTER_SCOPED = ("NodeCache", "LayerRepository", "SystemQuota")

GOOD: dict[str, Object] = {
    "VMImageNode": {
        "parentRef": {"name": "base"},
        "repositoryRef": {"name": "cold"},
        "layer": {
            "digest": DIGEST,
            "sizeBytes": 123,
            "virtualSizeBytes": 10 * GIB,
            "mediaType": "application/vnd.kigi.layer.v1.qcow2",
        },
        "guest": {"os": "debian-12", "architecture": "amd64", "firmware": "EFI"},
        "description": "mail server",
        "provenance": {"captured": {"instanceName": "office-7", "requestName": "after-lunch"}},
    },
    "SystemNode": {
        "parentRef": {"name": "infected"},
        "machines": [
            {"name": "mail1", "rootDisk": {"imageRef": {"name": "mail-clean"}}},
            {
                "name": "desk1",
                "rootDisk": {"bus": "virtio", "bootOrder": 1},
                "disks": [{"name": "data", "imageRef": {"name": "desk-data"}, "bus": "scsi", "bootOrder": 2}],
                "hardware": {
                    "cpu": {"cores": 2, "sockets": 1, "threads": 2, "model": "host-model"},
                    "memory": {"guest": "1.5Gi"},
                    "interfaces": [
                        {"name": "eth0", "networkName": "pod", "binding": "Masquerade"},
                        {"name": "eth1", "networkName": "lan", "binding": "Bridge", "macAddress": "02:00:00:00:00:01"},
                    ],
                    "cloudInit": {"userData": "#cloud-config\n"},
                },
                "patch": {
                    "merge": {
                        "metadata": {"labels": {"team": "red"}, "annotations": {"note": "x"}},
                        "spec": {
                            "terminationGracePeriodSeconds": 0,
                            "domain": {"devices": {"rng": {}, "disks": [{"name": "cd", "cdrom": {"bus": "sata"}}]}},
                            "volumes": [{"name": "cd", "emptyDisk": {"capacity": "1Gi"}}],
                        },
                    },
                    "remove": ["spec.evictionStrategy", "metadata.labels.example.org/old"],
                },
                "unset": ["preferenceRef", "cpu"],
                "startAfter": ["mail1"],
                "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 5},
                "guestPowerOffPolicy": "StayOff",
            },
            {"name": "fax", "removed": True},
        ],
        "networks": [{"name": "lan", "multusRef": {"name": "lan"}, "description": "inside"}],
        "provenance": {"captured": {"instanceName": "office-7", "requestName": "after-lunch"}},
    },
    "SystemDeployment": {
        "systemRef": {"name": "cleaned"},
        "replicas": 2,
        "ordinals": {"start": 0},
        "powerState": "Off",
        "resetToken": "monday",
        "updateStrategy": {"onSwitch": "ReplaceChanged"},
        "placement": {
            "strategy": "Spread",
            "nodeSelector": {"kubernetes.io/arch": "amd64", "pool": ""},
            "tolerations": [
                {"key": "example.org/lab", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5},
                {"operator": "Exists"},
                {"key": "lab", "value": "red", "effect": "NoSchedule"},
            ],
        },
        "isolation": {"mode": "Instance"},
        "prefetchRefs": [{"name": "restored"}, {"name": "infected"}],
    },
    "SystemInstance": {
        "deploymentRef": {"name": "office"},
        "name": "7",
        "systemRef": {"name": "office-cleaned"},
        "powerState": "On",
        "machines": [{"name": "mail1", "systemRef": {"name": "office-restored"}, "powerState": "Off"}],
    },
    "SystemCapture": {
        "instanceRef": {"name": "office-3"},
        "requestedBy": "admin",
        "machines": ["mail1", "desk1"],
        "content": "Disks",
        "quiescePolicy": "PauseOnly",
        "target": {
            "systemName": "after-lesson-3",
            "description": "before the exam",
            "repositoryRef": {"name": "cold"},
        },
    },
    "SystemReset": {
        "deploymentRef": {"name": "office"},
        "instances": ["1", "red"],
        "machines": ["mail1"],
        "requestedBy": "admin",
        "reason": "exercise 2 starts",
        "ttlSecondsAfterFinished": 604800,
    },
    "SystemPrefetch": {
        "targetRefs": [
            {"kind": "SystemNode", "name": "restored"},
            {"kind": "VMImageNode", "name": "infected"},
        ],
        "content": "Layers",
        "nodes": {"names": ["node-a", "node-b"]},
        "tolerations": [{"operator": "Exists"}],
        "nodeCount": 2,
        "parallelism": 1,
        "retention": "Pinned",
    },
    "TreeGrant": {
        "from": {
            "namespaceSelector": {
                "matchLabels": {"example.org/course": "netsec"},
                "matchExpressions": [{"key": "example.org/role", "operator": "NotIn", "values": ["guest"]}],
            }
        },
        "to": [
            {"kind": "SystemNode", "name": "infected", "descendants": True},
            {"kind": "VMImageNode", "name": "debian-12"},
        ],
    },
    "NodeCache": {
        "nodeName": "node-a",
        "operatorProtocol": 2,
        "protocol": 2,
        "layers": [
            {"digest": DIGEST, "sizeBytes": 1, "virtualSizeBytes": 512, "repositoryName": "default", "purpose": "Disk"},
            {
                "digest": OTHER_DIGEST,
                "sizeBytes": 1,
                "virtualSizeBytes": 512,
                "parentDigest": DIGEST,
                "repositoryName": "cold",
                "purpose": "Prefetch",
                "retention": "Pinned",
            },
        ],
        "discardVolumes": ["kigi.team.range.0.mail1.r1.0b1e2f3a"],
        "captures": [
            {
                "id": "c1-0",
                "volume": "kigi.team.range.0.mail1.r2.0b1e2f3a",
                "parentDigest": OTHER_DIGEST,
                "virtualSizeBytes": 512,
                "repositoryName": "cold",
                "action": "Copy",
                "mounted": True,
            }
        ],
    },
    "LayerRepository": {
        "s3": {
            "endpoint": "https://s3.example.org:9000",
            "bucket": "kigi.layers",
            "region": "eu-central-1",
            "addressing": "VirtualHost",
            "caBundleRef": {"name": "s3-ca"},
        },
        "credentials": {"readerSecretRef": {"name": "reader"}, "writerSecretRef": {"name": "writer"}},
        "limits": {"maxDepth": 8, "connectionsPerNode": 4},
        "namespaceSelector": {
            "matchLabels": {"example.org/tenant": "lab"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["gold"]}],
        },
        "defaultFor": "SelectedNamespaces",
    },
    "SystemQuota": {
        "namespaceSelector": {"matchLabels": {"example.org/tenant": "lab"}},
        "scope": "Shared",
        "hard": {
            "wantedBytes": "2Ti",
            "prefetchedBytes": 500_000_000_000,
            "pinnedBytes": "1.5Gi",
            "instances": 60,
            "machines": 0,
        },
    },
}


BUILD: Object = {
    "fromRef": {"name": "office-base"},
    "target": {"systemName": "office-infected", "content": "Disks"},
    "executor": "Auto",
    "machines": [
        {
            "name": "mail1",
            "steps": [
                {"name": "packages", "run": {"command": ["apt-get", "install", "-y", "postfix"]}},
                {"name": "config", "files": {"configMapRef": {"name": "mail-config"}, "path": "/etc/postfix"}},
                {"name": "user", "cloudInit": {"secretRef": {"name": "mail-user"}}},
            ],
        }
    ],
    "concurrentMachines": 2,
    "writeLimit": "8Gi",
    "activeDeadlineSeconds": 7200,
    "historyLimit": 3,
}
PLANNED: dict[str, Object] = {
    "SystemBuild": BUILD,
    "VMImageNode": {
        "parentRef": {"name": "base"},
        "layer": {
            "digest": DIGEST,
            "sizeBytes": 123,
            "virtualSizeBytes": 10 * GIB,
            "chunks": {"digest": OTHER_DIGEST, "chunkSizeBytes": 262144},
        },
        "source": {
            "http": {
                "url": "https://example.org/debian.qcow2",
                "checksum": "sha512:" + "1" * 128,
                "secretRef": {"name": "proxy"},
            }
        },
    },
    "SystemNode": {
        "warmPolicy": "Prepared",
        "machines": [
            {
                "name": "mail1",
                "rootDisk": {"imageRef": {"name": "mail"}, "writeLimit": "20Gi"},
                "disks": [{"name": "data", "imageRef": {"name": "data"}, "writeLimit": "0.5Ti"}],
                "memoryRef": {"name": "office-infected-mail1"},
            }
        ],
    },
    "VMMemoryImage": {
        "parentRef": {"name": "office-base-mail1"},
        "repositoryRef": {"name": "main"},
        "layer": {
            "digest": DIGEST,
            "sizeBytes": 31457280,
            "memoryBytes": 134217728,
            "mediaType": "application/vnd.kigi.memory.v1.mapped-ram+zstd",
        },
        "encryption": {"keyName": "main-2027"},
        "machine": "mail1",
        "disks": [{"name": "root", "digest": OTHER_DIGEST}],
        "compatibility": {
            "qemuVersion": "10.0.2",
            "machineType": "pc-q35-rhel9.6.0",
            "cpuModel": "Skylake-Server-v4",
            "cpuFeatures": ["avx2", "xsaves"],
            "deviceHash": DIGEST,
        },
    },
}
"""Objects with all fields that a later version gives a function. The API server refuses them by one rule for each."""
RESERVED: dict[str, Object] = {kind: PLANNED[kind] for kind in ("SystemBuild", "VMMemoryImage")}
"""Kinds that the API server refuses until they have their function."""
SPECS = {**GOOD, **RESERVED}


def build(kind: str, name: str, spec: Object | None = None) -> Object:
    """An object of the kind. The name of a SystemInstance follows from its spec, where that is complete."""
    identity = (SPECS[kind] if spec is None else spec) if kind == "SystemInstance" else {}
    if "deploymentRef" in identity and "name" in identity and name != "other-name":
        name = f"{identity['deploymentRef']['name']}-{identity['name']}"
    version = NODE_API_VERSION if kind == "NodeCache" else API_VERSION
    body: Object = {"apiVersion": version, "kind": kind, "metadata": {"name": name}}
    return body | {"spec": copy.deepcopy(SPECS[kind] if spec is None else spec)}


def image(**layer: Any) -> Object:
    """A valid image with other values of its layer; None omits a value."""
    return merge_patch(GOOD["VMImageNode"], {"layer": layer})


def vm_image(**fields: Any) -> Object:
    """A valid image with other fields; None omits one."""
    return merge_patch(GOOD["VMImageNode"], fields)


def machine(**fields: Any) -> Object:
    """A root state with one machine."""
    return {"machines": [{"name": "mail1", "rootDisk": {"imageRef": {"name": "mail"}}} | fields]}


def hardware(**fields: Any) -> Object:
    return machine(hardware=fields)


def merged(**fields: Any) -> Object:
    """A root state whose machine merges these fields into the VM."""
    return machine(patch={"merge": fields})


def merged_spec(**fields: Any) -> Object:
    return merged(spec=fields)


def removed(*paths: str) -> Object:
    return machine(patch={"remove": list(paths)})


def disks(*items: Object) -> Object:
    return machine(disks=list(items))


def interface(**fields: Any) -> Object:
    return hardware(interfaces=[{"name": "eth0", "networkName": "lan"} | fields])


def deployment(**fields: Any) -> Object:
    return merge_patch(GOOD["SystemDeployment"], fields)


def named(*instances: Object, **fields: Any) -> Object:
    """Spec of a SystemDeployment whose instances have names."""
    return deployment(replicas=None, **{"ordinals": None, **fields}, instances=list(instances))


def strategy(**fields: Any) -> Object:
    """Spec of a SystemDeployment with this update strategy."""
    return deployment(updateStrategy=fields)


def toleration(**fields: Any) -> Object:
    return deployment(placement={"tolerations": [fields]})


def instance(**fields: Any) -> Object:
    return merge_patch(GOOD["SystemInstance"], fields)


def capture(**fields: Any) -> Object:
    return merge_patch(GOOD["SystemCapture"], fields)


GRANTED: list[Object] = [{"kind": "SystemNode", "name": "a"}]


def grant(**fields: Any) -> Object:
    return {**GOOD["TreeGrant"], **fields}


def selecting(**selector: Any) -> Object:
    return grant(**{"from": {"namespaceSelector": selector}})


def reset(**fields: Any) -> Object:
    """Spec of a SystemReset with these fields."""
    return merge_patch(GOOD["SystemReset"], fields)


def prefetch(**fields: Any) -> Object:
    return merge_patch(GOOD["SystemPrefetch"], fields)


def by_label(**selection: Any) -> Object:
    """A prefetch that selects its nodes by label."""
    return merge_patch(GOOD["SystemPrefetch"], {"nodes": {"names": None, **selection}})


def expression(**requirement: Any) -> Object:
    return by_label(matchExpressions=[{"key": "pool", **requirement}])


def repository(**fields: Any) -> Object:
    return merge_patch(GOOD["LayerRepository"], fields)


def quota(**hard: Any) -> Object:
    return {"namespaceSelector": {}, "hard": hard}


def limited(**selector: Any) -> Object:
    return quota(machines=1) | {"namespaceSelector": selector}


def selected(**expression: Any) -> Object:
    """A LayerRepository with one expression in its selector."""
    return repository(namespaceSelector={"matchExpressions": [{"key": "tier"} | expression]})


def building(**step: Any) -> Object:
    """A build with one step."""
    return BUILD | {"machines": [{"name": "mail1", "steps": [{"name": "one", **step}]}]}


def capture_order(**fields: Any) -> Object:
    """A NodeCache with one requested copy."""
    return node_cache(captures=[merge_patch(GOOD["NodeCache"]["captures"][0], fields)])


def layer(**fields: Any) -> Object:
    """A NodeCache with one layer."""
    return node_cache(layers=[merge_patch(GOOD["NodeCache"]["layers"][0], fields)])


def node_cache(**fields: Any) -> Object:
    """A NodeCache of a node that holds nothing."""
    return {"nodeName": "node-a", "operatorProtocol": 2, "protocol": 2} | fields


def bad(kind: str, name: str, spec: Object, *words: str) -> Any:
    return pytest.param(kind, spec, words, id=f"{kind}-{name}")


LONG = "a" * 254
IMAGE: Object = {"imageRef": {"name": "x"}}
AGENT: Object = {"guestAgentPing": {}}
CHUNKS = {"digest": OTHER_DIGEST, "chunkSizeBytes": 262144}
HTTP = {"http": {"url": "https://example.org/debian.qcow2", "checksum": "sha256:" + "1" * 64}}
BAD_OBJECTS = [
    # VMImageNode: the layer
    bad("VMImageNode", "empty", {}, "spec: an image has a layer, a source, or both"),
    bad("VMImageNode", "digest-missing", image(digest=None), "spec.layer.digest: Required"),
    bad("VMImageNode", "digest-upper-case", image(digest="sha256:" + "A" * 64), "spec.layer.digest", "sha256:[0-9a-f]"),
    bad("VMImageNode", "digest-short", image(digest="sha256:abc"), "spec.layer.digest", "sha256:[0-9a-f]{64}"),
    bad("VMImageNode", "digest-long", image(digest=DIGEST + "0"), "spec.layer.digest"),
    bad("VMImageNode", "digest-other-algorithm", image(digest="md5:" + "a" * 32), "spec.layer.digest"),
    bad("VMImageNode", "digest-is-a-path", image(digest="sha256:" + "../" * 21 + "a"), "spec.layer.digest"),
    bad("VMImageNode", "digest-then-newline", image(digest=DIGEST + "\n"), "spec.layer.digest"),
    bad("VMImageNode", "size-missing", image(sizeBytes=None), "spec.layer.sizeBytes: Required"),
    bad("VMImageNode", "size-zero", image(sizeBytes=0), "spec.layer.sizeBytes", "greater than or equal to 1"),
    bad("VMImageNode", "size-negative", image(sizeBytes=-1), "spec.layer.sizeBytes", "greater than or equal to 1"),
    bad("VMImageNode", "size-text", image(sizeBytes="10Gi"), "spec.layer.sizeBytes", "integer"),
    bad("VMImageNode", "size-fraction", image(sizeBytes=1.5), "spec.layer.sizeBytes", "integer"),
    bad("VMImageNode", "size-beyond-bound", image(sizeBytes=2**46 + 1), "spec.layer.sizeBytes", "less than or equal"),
    bad("VMImageNode", "virtual-size-missing", image(virtualSizeBytes=None), "virtualSizeBytes: Required"),
    bad("VMImageNode", "virtual-size-zero", image(virtualSizeBytes=0), "virtualSizeBytes", "greater than or equal"),
    bad("VMImageNode", "virtual-size-no-sector", image(virtualSizeBytes=513), "virtualSizeBytes", "multiple of 512"),
    bad("VMImageNode", "virtual-size-beyond-bound", image(virtualSizeBytes=2**46 + 512), "virtualSizeBytes"),
    bad(
        "VMImageNode", "media-type-other", image(mediaType="a/b"), "spec.layer.mediaType", "reads only application/vnd"
    ),
    bad("VMImageNode", "media-type-text", image(mediaType="qcow2"), "spec.layer.mediaType", "should match"),
    bad(
        "VMImageNode",
        "chunks",
        image(chunks=CHUNKS),
        "spec.layer.chunks",
        "chunks: reserved for a later version",
        "delete it",
    ),
    bad("VMImageNode", "chunk-size", image(chunks=CHUNKS | {"chunkSizeBytes": 1}), "chunkSizeBytes", "65536"),
    bad("VMImageNode", "repository-url", vm_image(repositoryRef={"name": "s3://x"}), "spec.repositoryRef.name"),
    bad("VMImageNode", "repository-long", vm_image(repositoryRef={"name": "a" * 64}), "spec.repositoryRef.name", "63"),
    bad("VMImageNode", "repository-text", vm_image(repositoryRef="cold"), "spec.repositoryRef", "object"),
    bad(
        "VMImageNode",
        "source",
        vm_image(source=HTTP),
        "spec.source",
        "source: reserved for a later version of Kigi",
        "delete",
    ),
    bad("VMImageNode", "source-alone", {"source": HTTP}, "spec.source", "source: reserved for a later version of Kigi"),
    bad("VMImageNode", "source-empty", vm_image(source={}), "spec.source", "give exactly one of http, registry, s3"),
    bad(
        "VMImageNode",
        "source-two",
        vm_image(source=HTTP | {"volumeSnapshotRef": {"name": "a"}}),
        "spec.source",
        "give exactly one of http, registry, s3",
    ),
    bad("VMImageNode", "source-file", vm_image(source={"http": {"url": "file:///etc/shadow"}}), "spec.source.http.url"),
    bad(
        "VMImageNode",
        "source-checksum",
        vm_image(source={"http": {"url": "http://x", "checksum": "md5:1"}}),
        "spec.source.http.checksum",
    ),
    bad("VMImageNode", "architecture-path", vm_image(guest={"architecture": "../x"}), "spec.guest.architecture"),
    bad("VMImageNode", "architecture-long", vm_image(guest={"architecture": "a" * 64}), "spec.guest.architecture"),
    bad(
        "VMImageNode", "firmware-unknown", vm_image(guest={"firmware": "UEFI"}), "spec.guest.firmware", '"BIOS", "EFI"'
    ),
    bad(
        "VMImageNode", "provenance-empty", vm_image(provenance={"captured": None}), "spec.provenance", "exactly one of"
    ),
    bad(
        "VMImageNode",
        "provenance-two",
        vm_image(provenance={"flattened": {"imageName": "a", "digest": DIGEST}}),
        "spec.provenance",
        "exactly one of captured and flattened",
    ),
    bad(
        "VMImageNode",
        "provenance-digest",
        vm_image(provenance={"captured": None, "flattened": {"imageName": "a", "digest": "x"}}),
        "spec.provenance.flattened.digest",
    ),
    bad(
        "VMImageNode",
        "parent-elsewhere",
        vm_image(parentRef={"namespace": "li/brary"}),
        "spec.parentRef.namespace",
    ),
    # VMImageNode: the parent and the texts
    bad("VMImageNode", "parent-without-name", GOOD["VMImageNode"] | {"parentRef": {}}, "spec.parentRef.name: Required"),
    bad("VMImageNode", "parent-empty", GOOD["VMImageNode"] | {"parentRef": {"name": ""}}, "spec.parentRef.name"),
    bad("VMImageNode", "parent-path", GOOD["VMImageNode"] | {"parentRef": {"name": "../base"}}, "spec.parentRef.name"),
    bad(
        "VMImageNode", "parent-long", GOOD["VMImageNode"] | {"parentRef": {"name": LONG}}, "spec.parentRef.name", "253"
    ),
    bad("VMImageNode", "parent-text", GOOD["VMImageNode"] | {"parentRef": "base"}, "spec.parentRef", "object"),
    bad(
        "VMImageNode",
        "own-parent",
        GOOD["VMImageNode"] | {"parentRef": {"name": "bad"}},
        "spec.parentRef.name: an image cannot be its own parent",
        "omit parentRef",
    ),
    bad("VMImageNode", "description-long", GOOD["VMImageNode"] | {"description": "x" * 4097}, "spec.description"),
    bad("VMImageNode", "os-long", vm_image(guest={"os": LONG}), "spec.guest.os"),
    bad(
        "VMMemoryImage",
        "any",
        PLANNED["VMMemoryImage"],
        "VMMemoryImage: reserved for a later version of Kigi, which resumes machines from memory",
    ),
    bad("VMMemoryImage", "empty", {}, "spec.layer: Required", "spec.machine: Required", "spec.compatibility: Required"),
    # SystemNode: machines
    bad(
        "SystemNode",
        "own-parent",
        {"parentRef": {"name": "bad"}},
        "spec.parentRef.name: a state cannot be its own parent",
    ),
    bad("SystemNode", "parent-upper-case", {"parentRef": {"name": "Infected"}}, "spec.parentRef.name"),
    bad(
        "SystemNode",
        "root-without-image",
        {"machines": [{"name": "mail1", "hardware": {"cpu": {"cores": 1}}}]},
        "spec.machines",
        "in a state without a parent every machine needs rootDisk.imageRef",
    ),
    bad(
        "SystemNode",
        "root-removes",
        {"machines": [{"name": "mail1", "removed": True}]},
        "spec.machines",
        "in a state without a parent every machine needs rootDisk.imageRef",
    ),
    bad("SystemNode", "machine-without-name", {"machines": [{"rootDisk": IMAGE}]}, "spec.machines[0].name: Requir"),
    bad("SystemNode", "machine-name-long", machine(name="m" * 21), "spec.machines[0].name", "20"),
    bad("SystemNode", "machine-name-digit", machine(name="1mail"), "spec.machines[0].name"),
    bad("SystemNode", "machine-name-dot", machine(name="mail.one"), "spec.machines[0].name"),
    bad("SystemNode", "machine-name-dash", machine(name="mail-"), "spec.machines[0].name"),
    bad("SystemNode", "machine-name-empty", machine(name=""), "spec.machines[0].name"),
    bad("SystemNode", "machine-twice", {"machines": machine()["machines"] * 2}, "spec.machines[1]", "Duplicate"),
    bad(
        "SystemNode",
        "machine-empty",
        {"parentRef": {"name": "p"}, "machines": [{"name": "mail1"}]},
        "spec.machines[0]",
        "give what differs from the parent state, such as rootDisk or hardware",
    ),
    bad(
        "SystemNode",
        "machine-not-removed",
        {"parentRef": {"name": "p"}, "machines": [{"name": "mail1", "removed": False}]},
        "spec.machines[0]",
        "give what differs from the parent state",
    ),
    bad(
        "SystemNode",
        "removed-with-image",
        {"parentRef": {"name": "p"}} | machine(removed=True),
        "spec.machines[0].removed",
        "a removed machine has no other fields",
    ),
    bad(
        "SystemNode",
        "removed-with-unset",
        {"parentRef": {"name": "p"}, "machines": [{"name": "mail1", "removed": True, "unset": ["cpu"]}]},
        "spec.machines[0].removed",
        "a removed machine has no other fields",
    ),
    bad("SystemNode", "image-without-name", machine(rootDisk={"imageRef": {}}), "rootDisk.imageRef.name: Required"),
    bad(
        "SystemNode",
        "image-elsewhere",
        machine(rootDisk={"imageRef": {"namespace": "Library", "name": "x"}}),
        "rootDisk.imageRef.namespace",
    ),
    bad(
        "SystemNode",
        "too-many-machines",
        {"machines": [{"name": f"m{n}", "rootDisk": IMAGE} for n in range(129)]},
        "spec.machines",
        "128",
    ),
    bad(
        "SystemNode",
        "warm-policy",
        machine() | {"warmPolicy": "Prepared"},
        "spec.warmPolicy",
        "warmPolicy: reserved for a later",
    ),
    bad("SystemNode", "warm-policy-unknown", machine() | {"warmPolicy": "Hot"}, "spec.warmPolicy", "Unsupported"),
    bad(
        "SystemNode",
        "memory-image",
        machine(memoryRef={"name": "x"}),
        "memoryRef",
        "memoryRef: reserved for a later version",
    ),
    bad("SystemNode", "provenance-empty", machine() | {"provenance": {}}, "spec.provenance", "give exactly one of"),
    # SystemNode: disks
    bad("SystemNode", "disk-bus-ide", machine(rootDisk=IMAGE | {"bus": "ide"}), "rootDisk.bus", "Unsupported value"),
    bad("SystemNode", "boot-order-zero", machine(rootDisk=IMAGE | {"bootOrder": 0}), "rootDisk.bootOrder"),
    bad(
        "SystemNode",
        "write-limit",
        machine(rootDisk=IMAGE | {"writeLimit": "1Gi"}),
        "rootDisk.writeLimit",
        "writeLimit: reserved for a later version",
    ),
    bad(
        "SystemNode",
        "disk-write-limit",
        disks({"name": "data", "writeLimit": "1Gi"} | IMAGE),
        "disks[0].writeLimit",
        "writeLimit: reserved for a later version",
    ),
    bad("SystemNode", "disk-root", disks({"name": "root"} | IMAGE), "disks[0].name", "use another name"),
    bad("SystemNode", "disk-empty", disks({"name": "data"}), "disks[0]", "give what differs"),
    bad(
        "SystemNode",
        "disk-removed-and-image",
        disks({"name": "data", "removed": True} | IMAGE),
        "disks[0]",
        "a removed disk has no other fields",
    ),
    bad("SystemNode", "disk-twice", disks(*[{"name": "d"} | IMAGE] * 2), "disks[1]", "Duplicate value"),
    bad(
        "SystemNode",
        "disks-many",
        disks(*({"name": f"d{n}"} | IMAGE for n in range(9))),
        "disks",
        "must have at most 8 items",
    ),
    # SystemNode: hardware
    bad("SystemNode", "cpu-number", hardware(cpu=2), "hardware.cpu", "object"),
    bad("SystemNode", "cpu-zero", hardware(cpu={"cores": 0}), "cpu.cores", "greater than or equal to 1"),
    bad("SystemNode", "cpu-many", hardware(cpu={"cores": 257}), "cpu.cores", "256"),
    bad("SystemNode", "cpu-text", hardware(cpu={"cores": "2"}), "cpu.cores", "integer"),
    bad("SystemNode", "sockets-many", hardware(cpu={"sockets": 65}), "cpu.sockets", "64"),
    bad("SystemNode", "threads-many", hardware(cpu={"threads": 9}), "cpu.threads", "8"),
    bad("SystemNode", "cpu-model", hardware(cpu={"model": "<x/>"}), "cpu.model"),
    bad("SystemNode", "memory-text", hardware(memory="1Gi"), "hardware.memory", "object"),
    bad("SystemNode", "memory-empty", hardware(memory={}), "hardware.memory.guest: Required"),
    bad("SystemNode", "memory-number", hardware(memory={"guest": 1024}), "memory.guest", "string"),
    bad("SystemNode", "memory-of-bytes", hardware(memory={"guest": "512"}), "memory.guest", "from 16Mi to 16Ti"),
    bad("SystemNode", "memory-zero", hardware(memory={"guest": "0Mi"}), "memory.guest", "from 16Mi to 16Ti"),
    bad("SystemNode", "memory-small", hardware(memory={"guest": "16383Ki"}), "memory.guest", "from 16Mi to 16Ti"),
    bad("SystemNode", "memory-large", hardware(memory={"guest": "17Ti"}), "memory.guest", "from 16Mi to 16Ti"),
    bad("SystemNode", "memory-negative", hardware(memory={"guest": "-1Gi"}), "memory.guest", "from 16Mi to 16Ti"),
    bad("SystemNode", "memory-unknown-unit", hardware(memory={"guest": "1GB"}), "memory.guest", "from 16Mi to 16Ti"),
    bad(
        "SystemNode",
        "instancetype-and-cpu",
        hardware(instancetypeRef={"name": "small"}, cpu={"cores": 1}),
        "hardware.instancetypeRef",
        "it sets cpu and memory; omit those",
    ),
    bad(
        "SystemNode",
        "instancetype-and-memory",
        hardware(instancetypeRef={"name": "small"}, memory={"guest": "1Gi"}),
        "hardware.instancetypeRef",
        "it sets cpu and memory; omit those",
    ),
    bad("SystemNode", "instancetype-without-name", hardware(instancetypeRef={}), "instancetypeRef.name: Required"),
    bad("SystemNode", "preference-path", hardware(preferenceRef={"name": "a/b"}), "hardware.preferenceRef.name"),
    bad("SystemNode", "interface-without-network", hardware(interfaces=[{"name": "a"}]), "networkName: Required"),
    bad("SystemNode", "interface-network-path", interface(networkName="../x"), "interfaces[0].networkName"),
    bad("SystemNode", "masquerade-on-lan", interface(binding="Masquerade"), "[0].binding", "other one Bridge or SRIOV"),
    bad("SystemNode", "sriov-on-pod", interface(networkName="pod", binding="SRIOV"), "[0].binding", "takes Masquerade"),
    bad("SystemNode", "binding-unknown", interface(binding="macvtap"), "interfaces[0].binding", "Unsupported"),
    bad("SystemNode", "mac-upper-case", interface(macAddress="02:AA:00:00:00:01"), "interfaces[0].macAddress"),
    bad("SystemNode", "mac-multicast", interface(macAddress="03:00:00:00:00:01"), "interfaces[0].macAddress"),
    bad("SystemNode", "mac-short", interface(macAddress="02:00:00:00:00"), "interfaces[0].macAddress"),
    bad(
        "SystemNode",
        "interface-twice",
        hardware(interfaces=[{"name": "a", "networkName": "lan"}] * 2),
        "interfaces[1]",
        "Duplicate",
    ),
    bad(
        "SystemNode",
        "pod-twice",
        hardware(interfaces=[{"name": "a", "networkName": "pod"}, {"name": "b", "networkName": "pod"}]),
        "hardware.interfaces",
        "at most one interface on the network 'pod'",
    ),
    bad(
        "SystemNode",
        "mac-twice",
        hardware(
            interfaces=[
                {"name": "a", "networkName": "pod", "macAddress": "02:00:00:00:00:01"},
                {"name": "b", "networkName": "lan", "macAddress": "02:00:00:00:00:01"},
            ]
        ),
        "hardware.interfaces",
        "two interfaces have the same macAddress; give each its own",
    ),
    bad(
        "SystemNode",
        "too-many-interfaces",
        hardware(interfaces=[{"name": f"n{n}", "networkName": "lan"} for n in range(17)]),
        "hardware.interfaces",
        "16",
    ),
    bad("SystemNode", "cloud-init-empty", hardware(cloudInit={}), "hardware.cloudInit", "give either secretRef or"),
    bad(
        "SystemNode",
        "cloud-init-both",
        hardware(cloudInit={"secretRef": {"name": "s"}, "userData": "x"}),
        "hardware.cloudInit",
        "and not both",
    ),
    bad("SystemNode", "cloud-init-long", hardware(cloudInit={"userData": "x" * 2049}), "cloudInit.userData", "2048"),
    bad("SystemNode", "cloud-init-path", hardware(cloudInit={"secretRef": {"name": "../s"}}), "cloudInit.secretRef"),
    # SystemNode: start and readiness
    bad("SystemNode", "readiness-empty", machine(readinessProbe={}), "readinessProbe", "exactly one of"),
    bad(
        "SystemNode",
        "readiness-two",
        machine(readinessProbe={"tcpSocket": {"port": 25}, "guestAgentPing": {}}),
        "readinessProbe",
        "exactly one of",
    ),
    bad(
        "SystemNode", "readiness-port", machine(readinessProbe={"tcpSocket": {"port": 0}}), "tcpSocket.port", "or equal"
    ),
    bad("SystemNode", "readiness-path", machine(readinessProbe={"httpGet": {"port": 1, "path": "x"}}), "httpGet.path"),
    bad(
        "SystemNode",
        "readiness-scheme",
        machine(readinessProbe={"httpGet": {"port": 1, "scheme": "FTP"}}),
        "httpGet.scheme",
        "Unsupported value",
    ),
    bad(
        "SystemNode", "readiness-exec", machine(readinessProbe={"exec": {"command": []}}), "exec.command", "at least 1"
    ),
    bad("SystemNode", "readiness-period", machine(readinessProbe=AGENT | {"periodSeconds": 0}), "periodSeconds"),
    bad("SystemNode", "after-twice", machine(startAfter=["a", "a"]), "startAfter[1]", "Duplicate value"),
    bad("SystemNode", "after-many", machine(startAfter=[f"m{n}" for n in range(33)]), "startAfter", "32"),
    bad("SystemNode", "power-off", machine(guestPowerOffPolicy="Manual"), "guestPowerOffPolicy", "Unsupported value"),
    # SystemNode: what a child removes
    bad("SystemNode", "unset-unknown", machine(unset=["image"]), "unset[0]", "Unsupported value"),
    bad("SystemNode", "unset-twice", machine(unset=["cpu", "cpu"]), "unset[1]", "Duplicate value"),
    bad("SystemNode", "unset-text", machine(unset="cpu"), "unset", "array"),
    bad("SystemNode", "remove-twice", removed("spec.hostname", "spec.hostname"), "patch.remove[1]", "Duplicate value"),
    bad("SystemNode", "remove-many", removed(*(f"spec.domain.x{n}" for n in range(33))), "patch.remove", "32"),
    bad("SystemNode", "remove-long", removed("spec.domain." + "x" * 253), "patch.remove[0]", "253"),
    *(
        bad("SystemNode", f"remove-{name}", removed(path), "patch.remove[0]", "should match")
        for name, path in {
            "everything": "spec",
            "node-selector": "spec.nodeSelector",
            "networks": "spec.networks",
            "similar-name": "spec.domains",
            "status": "status",
            "empty-key": "spec.domain..devices",
            "labels": "metadata.labels",
            "name": "metadata.name",
            "newline": "spec.domain.a\nb",
        }.items()
    ),
    *(
        bad("SystemNode", f"remove-{name}", removed(path), "patch.remove", "Kigi's own labels and annotations stay")
        for name, path in {
            "domain": "spec.domain",
            "devices": "spec.domain.devices",
            "own-label": "metadata.labels.kigi.dev/machine",
            "own-annotation": "metadata.annotations.kigi.dev/hardware-hash",
            "hook": "metadata.annotations.hooks.kubevirt.io/hookSidecars",
        }.items()
    ),
    # SystemNode: patches
    bad("SystemNode", "patch-text", machine(patch="{}"), "patch", "object"),
    bad("SystemNode", "merge-text", machine(patch={"merge": "{}"}), "patch.merge", "object"),
    bad("SystemNode", "merge-spec-list", machine(patch={"merge": {"spec": []}}), "patch.merge.spec", "object"),
    bad("SystemNode", "merge-domain-number", merged_spec(domain=1), "patch.merge.spec.domain", "object"),
    bad("SystemNode", "merge-devices-number", merged_spec(domain={"devices": 1}), "domain.devices", "object"),
    bad(
        "SystemNode",
        "merge-labels-many",
        merged(metadata={"labels": {f"k{n}": "" for n in range(65)}}),
        "merge.metadata.labels",
        "64",
    ),
    bad(
        "SystemNode",
        "tpm-persistent",
        merged_spec(domain={"devices": {"tpm": {"persistent": True}}}),
        "patch.merge",
        "omit persistent",
    ),
    bad(
        "SystemNode",
        "efi-persistent",
        merged_spec(domain={"firmware": {"bootloader": {"efi": {"persistent": True}}}}),
        "patch.merge",
        "omit persistent",
    ),
    bad(
        "SystemNode",
        "patch-takes-the-disk",
        merged_spec(domain={"devices": {"disks": [{"name": "kigi-root", "disk": {}}]}}),
        "patch.merge",
        "names that begin with 'kigi-' are reserved",
    ),
    bad(
        "SystemNode",
        "patch-takes-the-volume",
        merged_spec(volumes=[{"name": "ok", "emptyDisk": {}}, {"name": "kigi-root"}]),
        "patch.merge",
        "patch.merge.spec.volumes: names that begin with 'kigi-' are reserved; use another name",
    ),
    bad(
        "SystemNode",
        "patch-takes-the-hook",
        merged(metadata={"annotations": {"hooks.kubevirt.io/hookSidecars": "[]"}}),
        "patch.merge",
        "'hooks.kubevirt.io/hookSidecars' are reserved",
    ),
    bad(
        "SystemNode",
        "patch-takes-a-label",
        merged(metadata={"labels": {"kigi.dev/deployment": "other"}}),
        "patch.merge",
        "keys that begin with 'kigi.dev/' are reserved",
    ),
    bad("SystemNode", "network-of-system-twice", {"networks": [{"name": "lan"}] * 2}, "spec.networks[1]", "Duplicate"),
    bad(
        "SystemNode",
        "network-pod",
        {"networks": [{"name": "pod"}]},
        "spec.networks[0].name",
        "the built-in pod network",
    ),
    bad(
        "SystemNode",
        "network-multus-text",
        {"networks": [{"name": "a", "multusRef": "b"}]},
        "networks[0].multus",
        "object",
    ),
    bad(
        "SystemNode", "network-multus-empty", {"networks": [{"name": "a", "multusRef": {}}]}, "multusRef.name: Required"
    ),
    # SystemDeployment
    bad("SystemDeployment", "empty", {}, "spec.systemRef: Required"),
    bad("SystemDeployment", "state-without-name", deployment(systemRef={"name": None}), "systemRef.name: Required"),
    bad("SystemDeployment", "state-path", deployment(systemRef={"name": "a/b"}), "spec.systemRef.name"),
    bad("SystemDeployment", "state-long", deployment(systemRef={"name": "s" * 64}), "spec.systemRef.name", "63"),
    bad("SystemDeployment", "state-elsewhere", deployment(systemRef={"namespace": "x.y"}), "spec.systemRef.namespace"),
    bad("SystemDeployment", "ordinal-negative", deployment(ordinals={"start": -1}), "spec.ordinals.start", "0"),
    bad("SystemDeployment", "ordinal-large", deployment(ordinals={"start": 1_000_001}), "spec.ordinals.start"),
    bad("SystemDeployment", "replicas-and-names", deployment(instances=[{"name": "red"}]), "delete replicas and"),
    bad("SystemDeployment", "ordinals-and-names", named({"name": "red"}, ordinals={}), "delete replicas and"),
    bad("SystemDeployment", "name-twice", named({"name": "red"}, {"name": "red"}), "spec.instances[1]", "Duplicate"),
    bad("SystemDeployment", "name-hyphen", named({"name": "team-1"}), "spec.instances[0].name"),
    bad("SystemDeployment", "name-long", named({"name": "a" * 17}), "spec.instances[0].name", "16"),
    bad("SystemDeployment", "name-missing", named({"displayName": "Red"}), "spec.instances[0].name: Required"),
    bad("SystemDeployment", "names-many", named(*({"name": f"t{n}"} for n in range(301))), "spec.instances", "300"),
    bad("SystemDeployment", "label-of-kigi", named({"name": "a", "labels": {"kigi.dev/x": "y"}}), "belong to Kigi"),
    bad("SystemDeployment", "label-key", named({"name": "a", "labels": {"a b": "y"}}), "valid label keys"),
    bad("SystemDeployment", "label-value", named({"name": "a", "labels": {"a": "b c"}}), "labels.a"),
    bad("SystemDeployment", "labels-many", named({"name": "a", "labels": {f"k{n}": "" for n in range(7)}}), "labels"),
    bad("SystemDeployment", "power-bool", deployment(powerState=False), "spec.powerState", "string"),
    bad("SystemDeployment", "power-unknown", deployment(powerState="Suspended"), "powerState", "Unsupported value"),
    bad("SystemDeployment", "power-scheduled", deployment(powerState="Scheduled"), "reserved for a later version"),
    bad("SystemDeployment", "isolation-text", deployment(isolation="Instance"), "spec.isolation", "object"),
    bad("SystemDeployment", "isolation-mode", deployment(isolation={"mode": "Team"}), "isolation.mode", "Unsupported"),
    bad("SystemDeployment", "isolation-allow", deployment(isolation={"allow": [{"name": "x"}]}), "allow: reserved"),
    bad("SystemDeployment", "start-policy", deployment(startPolicy="WhenCached"), "startPolicy: reserved for a later"),
    bad("SystemDeployment", "memory-policy", deployment(memoryPolicy="Never"), "memoryPolicy: reserved for a later"),
    bad("SystemDeployment", "networks", deployment(networks=[{"name": "lan"}]), "networks: reserved for a later"),
    bad("SystemDeployment", "write-limit", deployment(writeLimit="20Gi"), "writeLimit: reserved for a later"),
    bad("SystemDeployment", "schedule", deployment(schedule={"timeZone": "UTC"}), "schedule: reserved for a later"),
    bad(
        "SystemDeployment",
        "expiration-delete",
        deployment(expiration={"time": "2027-07-31T18:00:00Z", "action": "DeleteInstances"}),
        "action: DeleteInstances is reserved for a later",
    ),
    bad(
        "SystemDeployment",
        "expiration-zone",
        deployment(expiration={"time": "2027-07-31", "action": "PowerOff"}),
        "time",
    ),
    bad("SystemDeployment", "expiration-empty", deployment(expiration={"action": "PowerOff"}), "expiration.time"),
    bad(
        "SystemDeployment", "replicas-negative", deployment(replicas=-1), "spec.replicas", "greater than or equal to 0"
    ),
    bad("SystemDeployment", "replicas-many", deployment(replicas=1001), "spec.replicas", "1000"),
    bad("SystemDeployment", "replicas-text", deployment(replicas="3"), "spec.replicas", "integer"),
    bad("SystemDeployment", "token-long", deployment(resetToken="x" * 129), "spec.resetToken", "128"),
    bad("SystemDeployment", "token-number", deployment(resetToken=1), "spec.resetToken", "string"),
    bad("SystemDeployment", "switch-unknown", strategy(onSwitch="KeepAll"), "updateStrategy.onSwitch", "Unsupported"),
    bad("SystemDeployment", "edit-unknown", strategy(onEdit="Never"), "updateStrategy.onEdit", "Unsupported"),
    bad("SystemDeployment", "restart-planned", strategy(restart="Recreate"), "updateStrategy.restart", "later version"),
    bad(
        "SystemDeployment",
        "concurrency-planned",
        strategy(maxConcurrentInstances=3),
        "updateStrategy.maxConcurrentInstances",
        "later version",
    ),
    bad("SystemDeployment", "strategy-unknown", deployment(placement={"strategy": "Random"}), "placement.strategy"),
    bad(
        "SystemDeployment",
        "selector-key",
        deployment(placement={"nodeSelector": {"not a key": "x"}}),
        "placement.nodeSelector",
        "a key is not a valid label key",
    ),
    bad("SystemDeployment", "selector-value", deployment(placement={"nodeSelector": {"a": "x y"}}), "nodeSelector.a"),
    bad(
        "SystemDeployment",
        "selector-many",
        deployment(placement={"nodeSelector": {f"k{n}": "" for n in range(33)}}),
        "placement.nodeSelector",
        "32",
    ),
    bad(
        "SystemDeployment",
        "toleration-empty",
        toleration(effect="NoSchedule"),
        "tolerations[0].operator",
        "needs operator Exists",
    ),
    bad(
        "SystemDeployment",
        "toleration-exists-with-value",
        toleration(key="a", operator="Exists", value="b"),
        "tolerations[0].value",
        "operator Exists has no value",
    ),
    bad(
        "SystemDeployment",
        "toleration-seconds",
        toleration(key="a", effect="NoSchedule", tolerationSeconds=1),
        "tolerations[0].tolerationSeconds",
        "only effect NoExecute has it",
    ),
    bad("SystemDeployment", "toleration-operator", toleration(key="a", operator="like"), "tolerations[0].operator"),
    bad("SystemDeployment", "toleration-effect", toleration(key="a", effect="no-schedule"), "tolerations[0].effect"),
    bad("SystemDeployment", "prefetch-texts", deployment(prefetchRefs=["a"]), "spec.prefetchRefs[0]", "object"),
    bad(
        "SystemDeployment",
        "prefetch-many",
        deployment(prefetchRefs=[{"name": f"s{n}"} for n in range(65)]),
        "spec.prefetchRefs",
        "64",
    ),
    # SystemCapture
    bad("SystemCapture", "empty", {}, "spec.instanceRef: Required", "spec.requestedBy: Required"),
    bad("SystemCapture", "user-long", capture(requestedBy="u" * 513), "spec.requestedBy", "512"),
    bad("SystemCapture", "instance-path", capture(instanceRef={"name": "../x"}), "spec.instanceRef.name"),
    bad("SystemCapture", "instance-number", capture(instanceRef=3), "spec.instanceRef", "object"),
    bad("SystemCapture", "machine-twice", capture(machines=["a", "a"]), "spec.machines[1]", "Duplicate"),
    bad("SystemCapture", "machine-upper-case", capture(machines=["Mail"]), "spec.machines[0]"),
    bad("SystemCapture", "machines-many", capture(machines=[f"m{n}" for n in range(129)]), "spec.machines", "128"),
    bad("SystemCapture", "target-upper-case", capture(target={"systemName": "After"}), "spec.target.systemName"),
    bad("SystemCapture", "target-long", capture(target={"systemName": "a" * 201}), "spec.target.systemName", "200"),
    bad(
        "SystemCapture", "target-repository-url", capture(target={"repositoryRef": {"name": "s3://x"}}), "repositoryRef"
    ),
    bad("SystemCapture", "quiesce-unknown", capture(quiescePolicy="Stop"), "spec.quiescePolicy", '"FreezeIfPossible"'),
    bad("SystemCapture", "memory", capture(content="DisksAndMemory"), "spec.content", "later version", "use Disks"),
    bad("SystemCapture", "content-unknown", capture(content="Everything"), "spec.content", '"Disks"'),
    bad(
        "SystemPrefetch",
        "two-deadlines",
        prefetch(readyBy="2027-03-01T08:00:00Z", activeDeadlineSeconds=60),
        "spec.readyBy",
        "delete one of the two",
    ),
    bad("SystemPrefetch", "ready-by-text", prefetch(readyBy="tomorrow"), "spec.readyBy"),
    bad("SystemPrefetch", "deadline-zero", prefetch(activeDeadlineSeconds=0), "spec.activeDeadlineSeconds"),
    bad("SystemCapture", "backoff-negative", capture(backoffLimit=-1), "spec.backoffLimit"),
    bad("SystemCapture", "backoff-many", capture(backoffLimit=21), "spec.backoffLimit", "20"),
    bad("SystemCapture", "deadline-zero", capture(activeDeadlineSeconds=0), "spec.activeDeadlineSeconds"),
    bad("SystemCapture", "ttl-negative", capture(ttlSecondsAfterFinished=-1), "spec.ttlSecondsAfterFinished"),
    bad("SystemCapture", "no-user", capture(requestedBy=""), "spec.requestedBy", "at least 1"),
    # SystemBuild
    bad("SystemBuild", "reserved", BUILD, "spec", "SystemBuild is reserved for a later version of Kigi"),
    bad("SystemBuild", "empty", {}, "spec.fromRef: Required", "spec.target: Required"),
    bad(
        "SystemBuild", "two-in-one", building(run={"command": ["a"]}, cloudInit={"secretRef": {"name": "b"}}), "one of"
    ),
    bad("SystemBuild", "elsewhere", BUILD | {"fromRef": {"namespace": "X", "name": "a"}}, "spec.fromRef.namespace"),
    bad("SystemBuild", "nothing-to-do", building(), "machines[0].steps[0]", "a step has exactly one of them"),
    bad("SystemBuild", "no-command", building(run={"command": []}), "steps[0].run.command", "at least 1"),
    bad("SystemBuild", "relative", building(files={"configMapRef": {"name": "a"}, "path": "etc"}), "files.path"),
    # TreeGrant
    bad("TreeGrant", "empty", {}, "spec.from: Required", "spec.to: Required"),
    bad("TreeGrant", "for-nobody", grant(to=[]), "spec.to", "at least 1"),
    bad("TreeGrant", "without-selector", {"from": {}, "to": GRANTED}, "spec.from.namespaceSelector: Required"),
    bad("TreeGrant", "too-many", grant(to=GRANTED * 65), "spec.to: Too many"),
    bad("TreeGrant", "kind-unknown", grant(to=[{"kind": "Secret", "name": "a"}]), "spec.to[0].kind", "Unsupported"),
    bad("TreeGrant", "kind-planned", grant(to=[{"kind": "VMMemoryImage", "name": "a"}]), "spec.to[0].kind", "reserved"),
    bad("TreeGrant", "name-missing", grant(to=[{"kind": "SystemNode"}]), "spec.to[0].name: Required"),
    bad("TreeGrant", "name-path", grant(to=[{"kind": "SystemNode", "name": "other/office"}]), "spec.to[0].name"),
    bad("TreeGrant", "name-any", grant(to=[{"kind": "SystemNode", "name": "*"}]), "spec.to[0].name"),
    bad("TreeGrant", "selector-key", selecting(matchLabels={"a b": "c"}), "matchLabels", "valid label key"),
    bad("TreeGrant", "selector-value", selecting(matchLabels={"a": "b c"}), "matchLabels.a"),
    bad(
        "TreeGrant",
        "selector-operator",
        selecting(matchExpressions=[{"key": "a", "operator": "Like"}]),
        "matchExpressions[0].operator",
    ),
    bad(
        "TreeGrant",
        "selector-without-values",
        selecting(matchExpressions=[{"key": "a", "operator": "In"}]),
        "In and NotIn need values",
    ),
    # SystemInstance
    bad("SystemInstance", "empty", {}, "spec.deploymentRef: Required", "spec.name: Required"),
    bad("SystemInstance", "name-hyphen", instance(name="a-b"), "spec.name"),
    bad("SystemInstance", "name-long", instance(name="a" * 17), "spec.name", "16"),
    bad("SystemInstance", "name-upper", instance(name="Red"), "spec.name"),
    bad("SystemInstance", "names-long", instance(deploymentRef={"name": "o" * 36}), "at most 36 characters"),
    bad("SystemInstance", "deployment-number", instance(deploymentRef={"name": "1a"}), "at most 36 characters"),
    bad("SystemInstance", "scheduled", instance(powerState="Scheduled"), "spec.powerState", "Unsupported value"),
    bad("SystemInstance", "machine-scheduled", instance(machines=[{"name": "a", "powerState": "x"}]), "powerState"),
    bad("SystemInstance", "machine-twice", instance(machines=[{"name": "a"}] * 2), "spec.machines[1]", "Duplicate"),
    bad("SystemInstance", "machine-name", instance(machines=[{"name": "A"}]), "spec.machines[0].name"),
    bad("SystemInstance", "machines-many", instance(machines=[{"name": f"m{n}"} for n in range(129)]), "128"),
    bad("SystemInstance", "state-long", instance(systemRef={"name": "s" * 64}), "spec.systemRef.name", "63"),
    bad("SystemInstance", "state-elsewhere", instance(systemRef={"namespace": "x.y"}), "spec.systemRef.namespace"),
    # SystemReset
    bad("SystemReset", "empty", {}, "spec.deploymentRef: Required", "spec.requestedBy: Required"),
    bad("SystemReset", "no-user", reset(requestedBy=""), "spec.requestedBy", "at least 1"),
    bad("SystemReset", "user-long", reset(requestedBy="u" * 513), "spec.requestedBy", "512"),
    bad("SystemReset", "deployment-path", reset(deploymentRef={"name": "a/b"}), "spec.deploymentRef.name"),
    bad("SystemReset", "instance-twice", reset(instances=["1", "1"]), "spec.instances[1]", "Duplicate"),
    bad("SystemReset", "instance-hyphen", reset(instances=["a-b"]), "spec.instances[0]"),
    bad("SystemReset", "instance-number", reset(instances=[1]), "spec.instances[0]", "string"),
    bad("SystemReset", "instances-many", reset(instances=[f"i{n}" for n in range(1001)]), "spec.instances", "1000"),
    bad("SystemReset", "machine-twice", reset(machines=["a", "a"]), "spec.machines[1]", "Duplicate"),
    bad("SystemReset", "machine-name", reset(machines=["A"]), "spec.machines[0]"),
    bad("SystemReset", "machines-many", reset(machines=[f"m{n}" for n in range(129)]), "spec.machines", "128"),
    bad("SystemReset", "reason-long", reset(reason="x" * 1025), "spec.reason", "1024"),
    bad("SystemReset", "ttl-negative", reset(ttlSecondsAfterFinished=-1), "spec.ttlSecondsAfterFinished"),
    bad("SystemReset", "ttl-long", reset(ttlSecondsAfterFinished=31_536_001), "spec.ttlSecondsAfterFinished"),
    bad("SystemReset", "capture", reset(captureFirst={"systemNamePrefix": "a"}), "spec.captureFirst", "later version"),
    # SystemPrefetch
    bad("SystemPrefetch", "empty", {}, "spec.targetRefs: Required"),
    bad("SystemPrefetch", "no-target", prefetch(targetRefs=[]), "spec.targetRefs", "at least 1"),
    bad("SystemPrefetch", "targets-many", prefetch(targetRefs=[STATE] * 65), "spec.targetRefs", "64"),
    bad("SystemPrefetch", "target-path", prefetch(targetRefs=[STATE | {"name": "../a"}]), "spec.targetRefs[0].name"),
    bad("SystemPrefetch", "target-without-kind", prefetch(targetRefs=[{"name": "a"}]), "targetRefs[0].kind: Required"),
    bad("SystemPrefetch", "target-kind", prefetch(targetRefs=[STATE | {"kind": "Pod"}]), "spec.targetRefs[0].kind"),
    bad("SystemPrefetch", "target-memory", prefetch(targetRefs=[STATE | {"kind": "VMMemoryImage"}]), "later version"),
    bad("SystemPrefetch", "target-elsewhere", prefetch(targetRefs=[STATE | {"namespace": "a.b"}]), "[0].namespace"),
    bad("SystemPrefetch", "memory", prefetch(content="LayersAndMemory"), "spec.content", "later version", "use Layers"),
    bad("SystemPrefetch", "node-twice", prefetch(nodes={"names": ["a", "a"]}, nodeCount=1), "names[1]", "Duplicate"),
    bad("SystemPrefetch", "no-names", prefetch(nodes={"names": []}, nodeCount=None), "nodes.names", "at least 1"),
    bad(
        "SystemPrefetch", "names-and-labels", prefetch(nodes={"matchLabels": {"a": "b"}}), "spec.nodes.names", "exactly"
    ),
    bad("SystemPrefetch", "count-zero", prefetch(nodeCount=0), "spec.nodeCount", "greater than or equal to 1"),
    bad(
        "SystemPrefetch", "count-beyond", prefetch(nodeCount=3), "spec.nodeCount", "more than the nodes that are named"
    ),
    bad("SystemPrefetch", "parallelism-zero", prefetch(parallelism=0), "spec.parallelism"),
    bad("SystemPrefetch", "label-value", by_label(matchLabels={"pool": "a b"}), "spec.nodes.matchLabels.pool"),
    bad("SystemPrefetch", "label-key", by_label(matchLabels={"a b": "c"}), "spec.nodes.matchLabels", "valid label key"),
    bad("SystemPrefetch", "in-nothing", expression(operator="In"), "matchExpressions[0].values", "need"),
    bad("SystemPrefetch", "in-no-value", expression(operator="In", values=[]), "matchExpressions[0].values"),
    bad("SystemPrefetch", "exists-value", expression(operator="Exists", values=["a"]), "matchExpressions[0].values"),
    bad("SystemPrefetch", "greater-than", expression(operator="Gt", values=["1"]), "operator", '"DoesNotExist"'),
    bad("SystemPrefetch", "retention", prefetch(retention="Always"), "spec.retention", '"Evictable", "Pinned"'),
    bad(
        "SystemPrefetch",
        "toleration-exists-with-value",
        prefetch(tolerations=[{"key": "a", "operator": "Exists", "value": "b"}]),
        "spec.tolerations[0].value",
        "operator Exists has no value; delete value",
    ),
    bad(
        "SystemPrefetch",
        "toleration-seconds",
        prefetch(tolerations=[{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}]),
        "spec.tolerations[0].tolerationSeconds",
        "only effect NoExecute has it; set that effect",
    ),
    bad("SystemPrefetch", "toleration-without-key", prefetch(tolerations=[{}]), "spec.tolerations[0]", "Exists"),
    # LayerRepository
    bad(
        "LayerRepository", "empty", {}, "spec.s3: Required", "spec.credentials: Required", "namespaceSelector: Required"
    ),
    bad(
        "LayerRepository", "endpoint-ftp", repository(s3={"endpoint": "ftp://x"}), "spec.s3.endpoint", "does not begin"
    ),
    bad(
        "LayerRepository",
        "endpoint-without-scheme",
        repository(s3={"endpoint": "s3.example:9000", "caBundleRef": None}),
        "spec.s3.endpoint",
        "write https:// before the host",
    ),
    *(
        bad(
            "LayerRepository",
            f"endpoint-{name}",
            repository(s3={"endpoint": endpoint}),
            "spec.s3.endpoint",
            "write scheme, host and port alone",
        )
        for name, endpoint in {
            "path": "https://x/bucket",
            "password": "https://a:b@x",
            "query": "https://x?a",
            "blank": "https://x y",
            "line": "https://x\ny",
            "empty-host": "https:///",
        }.items()
    ),
    bad("LayerRepository", "endpoint-long", repository(s3={"endpoint": "https://" + "a" * 505}), "endpoint", "512"),
    bad("LayerRepository", "bucket-missing", repository(s3={"bucket": None}), "spec.s3.bucket: Required"),
    bad("LayerRepository", "bucket-path", repository(s3={"bucket": "a/../b"}), "spec.s3.bucket"),
    bad("LayerRepository", "bucket-upper-case", repository(s3={"bucket": "Kigi"}), "spec.s3.bucket"),
    bad("LayerRepository", "region-header", repository(s3={"region": "a\nx: y"}), "spec.s3.region"),
    bad("LayerRepository", "addressing", repository(s3={"addressing": "Dns"}), "spec.s3.addressing", '"VirtualHost"'),
    bad(
        "LayerRepository",
        "ca-without-tls",
        repository(s3={"endpoint": "http://x"}),
        "spec.s3.caBundleRef",
        "an http endpoint has no certificate; use https, or delete it",
    ),
    bad(
        "LayerRepository",
        "secret-of-another-namespace",
        repository(credentials={"readerSecretRef": {"name": "kube-system/x"}}),
        "spec.credentials.readerSecretRef.name",
    ),
    bad(
        "LayerRepository",
        "nodes-would-get-the-writer",
        repository(credentials={"writerSecretRef": {"name": "reader"}}),
        "spec.credentials.writerSecretRef",
        "every node gets the reader's Secret, so the writer needs another one",
    ),
    bad(
        "LayerRepository",
        "planned-grants",
        repository(credentials={"grants": "Presigned"}),
        "spec.credentials.grants",
        "grants: reserved for a later version of Kigi",
    ),
    bad(
        "LayerRepository",
        "planned-grant-signing",
        repository(credentials={"grantSigningSecretRef": {"name": "x"}}),
        "spec.credentials.grantSigningSecretRef",
        "grantSigningSecretRef: reserved for a later version of Kigi",
    ),
    bad(
        "LayerRepository",
        "planned-encryption",
        repository(encryption={"keySecretRef": {"name": "keys"}}),
        "spec.encryption",
        "encryption: reserved for a later version of Kigi",
    ),
    bad(
        "LayerRepository",
        "planned-transport",
        repository(transport={"encodings": ["zstd-seekable"]}),
        "spec.transport",
        "transport: reserved for a later version of Kigi",
    ),
    bad("LayerRepository", "depth-zero", repository(limits={"maxDepth": 0}), "spec.limits.maxDepth"),
    bad("LayerRepository", "depth-beyond", repository(limits={"maxDepth": 65}), "spec.limits.maxDepth", "64"),
    bad("LayerRepository", "connections-zero", repository(limits={"connectionsPerNode": 0}), "connectionsPerNode"),
    bad("LayerRepository", "no-selector", repository(namespaceSelector=None), "spec.namespaceSelector: Required"),
    bad(
        "LayerRepository", "selector-key", repository(namespaceSelector={"matchLabels": {"a b": ""}}), "valid label key"
    ),
    bad(
        "LayerRepository",
        "selector-value",
        repository(namespaceSelector={"matchLabels": {"a": "b c"}}),
        "matchLabels.a",
    ),
    bad("LayerRepository", "selector-operator", selected(operator="Gt"), "matchExpressions[0].operator"),
    bad("LayerRepository", "selector-in-nothing", selected(operator="In"), "values: In and NotIn need values"),
    bad(
        "LayerRepository",
        "selector-exists",
        selected(operator="Exists", values=["a"]),
        "Exists and DoesNotExist have none",
    ),
    bad("LayerRepository", "default-for", repository(defaultFor="Everyone"), "spec.defaultFor", '"AllNamespaces"'),
    bad(
        "LayerRepository",
        "default-beyond-the-selector",
        repository(defaultFor="AllNamespaces"),
        "spec.defaultFor",
        "AllNamespaces needs namespaceSelector: {}",
    ),
    # SystemQuota
    bad("SystemQuota", "empty", {}, "spec.namespaceSelector: Required", "spec.hard: Required"),
    bad("SystemQuota", "limits-nothing", quota(), "spec.hard", "limits nothing; give at least one limit"),
    bad("SystemQuota", "bytes-negative", quota(wantedBytes=-1), "spec.hard.wantedBytes"),
    bad("SystemQuota", "bytes-negative-text", quota(wantedBytes="-1Gi"), "spec.hard.wantedBytes"),
    bad("SystemQuota", "bytes-words", quota(wantedBytes="much"), "spec.hard.wantedBytes"),
    bad("SystemQuota", "bytes-fraction", quota(pinnedBytes=0.5), "spec.hard.pinnedBytes"),
    bad("SystemQuota", "bytes-long", quota(prefetchedBytes="1" * 25), "spec.hard.prefetchedBytes"),
    bad("SystemQuota", "instances-negative", quota(instances=-1), "spec.hard.instances", "greater than or equal to 0"),
    bad("SystemQuota", "machines-text", quota(machines="many"), "spec.hard.machines", "integer"),
    bad("SystemQuota", "machines-beyond", quota(machines=2**31), "spec.hard.machines"),
    bad("SystemQuota", "scope", quota(machines=1) | {"scope": "Everybody"}, "spec.scope", '"PerNamespace", "Shared"'),
    bad("SystemQuota", "selector-text", quota(machines=1) | {"namespaceSelector": "lab"}, "spec.namespaceSelector"),
    bad("SystemQuota", "selector-key", limited(matchLabels={"a b": ""}), "namespaceSelector", "not a valid label key"),
    bad("SystemQuota", "selector-in", limited(matchExpressions=[{"key": "a", "operator": "In"}]), "need values"),
    bad("SystemQuota", "planned-memory", quota(memoryImageBytes="1Gi"), "spec.hard.memoryImageBytes", "later version"),
    bad(
        "SystemQuota",
        "planned-defaults",
        quota(machines=1) | {"defaults": {"writeLimit": "20Gi"}},
        "spec.defaults",
        "later version",
    ),
    bad(
        "SystemQuota",
        "planned-resets",
        quota(machines=1) | {"resetsPerInstancePerHour": 6},
        "spec.resetsPerInstancePerHour",
        "later version",
    ),
    # NodeCache
    bad("NodeCache", "capture-id-path", capture_order(id="../c"), "spec.captures[0].id"),
    bad("NodeCache", "capture-action", capture_order(action="Move"), "spec.captures[0].action", '"Copy", "Keep"'),
    bad("NodeCache", "capture-volume-path", capture_order(volume="../x"), "spec.captures[0].volume"),
    bad("NodeCache", "capture-parent", capture_order(parentDigest="sha256:x"), "spec.captures[0].parentDigest"),
    bad("NodeCache", "digest", layer(digest="sha256:x"), "spec.layers[0].digest"),
    bad("NodeCache", "size-zero", layer(sizeBytes=0), "spec.layers[0].sizeBytes"),
    bad("NodeCache", "virtual-size-no-sector", layer(virtualSizeBytes=100), "virtualSizeBytes", "multiple of 512"),
    bad("NodeCache", "own-parent", layer(parentDigest=DIGEST), "spec.layers[0].parentDigest", "its own parent"),
    bad("NodeCache", "parent-name", layer(parentDigest="base"), "spec.layers[0].parentDigest"),
    bad("NodeCache", "no-repository", layer(repositoryName=None), "spec.layers[0].repositoryName: Required"),
    bad("NodeCache", "no-node", {}, "spec.nodeName: Required"),
    bad("NodeCache", "no-protocol", {"nodeName": "a", "operatorProtocol": 2}, "spec.protocol: Required"),
    bad("NodeCache", "protocol-zero", node_cache(protocol=0), "spec.protocol"),
    bad("NodeCache", "node-path", node_cache(nodeName="../a"), "spec.nodeName"),
    bad("NodeCache", "capture-without-mounted", capture_order(mounted=None), "spec.captures[0].mounted: Required"),
    bad("NodeCache", "purpose-unknown", layer(purpose="Fun"), "spec.layers[0].purpose", '"Disk", "Memory", "Prefetch"'),
    bad(
        "NodeCache", "purpose-memory", layer(purpose="Memory"), "spec.layers[0].purpose", "reserved for a later version"
    ),
    bad("NodeCache", "no-purpose", layer(purpose=None), "spec.layers[0].purpose: Required"),
    bad("NodeCache", "retention-unknown", layer(retention="Forever"), "spec.layers[0].retention", "Pinned"),
    bad("NodeCache", "discard-path", node_cache(discardVolumes=["../../etc"]), "spec.discardVolumes[0]"),
    bad("NodeCache", "discard-slash", node_cache(discardVolumes=["a/b"]), "spec.discardVolumes[0]"),
    bad("NodeCache", "discard-empty", node_cache(discardVolumes=[""]), "spec.discardVolumes[0]"),
    bad("NodeCache", "layers-many", node_cache(layers=layer()["layers"] * 2001), "spec.layers", "2000"),
    bad("NodeCache", "discard-long", node_cache(discardVolumes=[LONG]), "spec.discardVolumes[0]", "253"),
]

BAD_DEPLOYMENT_NAMES = [
    pytest.param("a" * 36, id="too-long"),
    pytest.param("a" * 40, id="much-too-long"),
    pytest.param("a.b", id="dot"),
    pytest.param("1range", id="begins-with-a-digit"),
]
