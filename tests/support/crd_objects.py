"""Valid and invalid objects of all kinds; invalid ones with parts of the message that the API server must return."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kigi.domain.merge_patch import merge_patch
from kigi.domain.names import API_VERSION
from tests.support.raw_api import Object

GIB = 2**30
DIGEST = "sha256:" + "a" * 64
OTHER_DIGEST = "sha256:" + "b" * 64
PLURALS = {
    "VMImageNode": "vmimagenodes",
    "SystemNode": "systemnodes",
    "SystemDeployment": "systemdeployments",
    "SystemCapture": "systemcaptures",
    "SystemPrefetch": "systemprefetches",
    "NodeCache": "nodecaches",
}

GOOD: dict[str, Object] = {
    "VMImageNode": {
        "parent": {"name": "base"},
        "layer": {"digest": DIGEST, "sizeBytes": 123, "virtualSizeBytes": 10 * GIB},
        "description": "mail server",
        "os": "debian-12",
    },
    "SystemNode": {
        "parent": {"name": "infected"},
        "machines": [
            {"name": "mail1", "image": {"name": "mail-clean"}},
            {
                "name": "desk1",
                "template": {
                    "cpu": 2,
                    "memory": "1.5Gi",
                    "diskBus": "virtio",
                    "bootOrder": 1,
                    "networks": [
                        {"name": "pod"},
                        {"name": "lan", "multus": "lan", "binding": "bridge", "mac": "02:00:00:00:00:01"},
                    ],
                    "cloudInit": {"userData": "#cloud-config\n"},
                    "patch": {
                        "metadata": {"labels": {"team": "red"}, "annotations": {"note": "x"}},
                        "spec": {
                            "terminationGracePeriodSeconds": 0,
                            "domain": {"devices": {"rng": {}, "disks": [{"name": "data", "disk": {"bus": "virtio"}}]}},
                            "volumes": [{"name": "data", "emptyDisk": {"capacity": "1Gi"}}],
                        },
                    },
                },
            },
            {"name": "fax", "removed": True},
        ],
        "networks": [{"name": "lan", "multus": "lan", "description": "inside"}],
    },
    "SystemDeployment": {
        "system": {"name": "cleaned"},
        "replicas": 2,
        "reset": "monday",
        "switchPolicy": "KeepUnchanged",
        "overrides": [
            {
                "instance": 1,
                "system": {"name": "restored"},
                "running": False,
                "machines": [{"name": "mail1", "reset": "again", "running": True}],
            },
            {"instance": 900, "reset": "x"},
        ],
        "placement": {
            "strategy": "Spread",
            "nodeSelector": {"kubernetes.io/arch": "amd64", "pool": ""},
            "tolerations": [
                {"key": "kigi.dev/lab", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5},
                {"operator": "Exists"},
                {"key": "lab", "value": "red", "effect": "NoSchedule"},
            ],
        },
        "prefetch": [{"name": "restored"}, {"name": "infected"}],
    },
    "SystemCapture": {
        "deployment": {"name": "office"},
        "instance": 3,
        "machines": ["mail1", "desk1"],
        "system": "after-lesson-3",
        "quiesce": "Pause",
        "repository": "cold",
        "description": "before the exam",
    },
    "SystemPrefetch": {
        "systems": [{"name": "restored"}, {"name": "infected"}],
        "nodes": ["node-a", "node-b"],
        "nodeSelector": {"pool": "lab"},
        "tolerations": [{"operator": "Exists"}],
        "count": 2,
        "parallelism": 1,
        "pinned": True,
    },
    "NodeCache": {
        "layers": [
            {"digest": DIGEST, "sizeBytes": 1, "virtualSizeBytes": 512},
            {
                "digest": OTHER_DIGEST,
                "sizeBytes": 1,
                "virtualSizeBytes": 512,
                "parent": DIGEST,
                "repository": "cold",
                "priority": 7,
                "pinned": True,
            },
        ],
        "discard": ["kigi.team.range.0.mail1.r1.0b1e2f3a"],
        "captures": [
            {
                "id": "c1-0",
                "volume": "kigi.team.range.0.mail1.r2.0b1e2f3a",
                "parent": OTHER_DIGEST,
                "virtualSizeBytes": 512,
                "repository": "cold",
                "action": "Copy",
                "mounted": True,
            }
        ],
    },
}


def build(kind: str, name: str, spec: Object | None = None) -> Object:
    body: Object = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}}
    return body | {"spec": copy.deepcopy(GOOD[kind] if spec is None else spec)}


def image(**layer: Any) -> Object:
    """A valid image with other values of its layer; None omits a value."""
    return merge_patch(GOOD["VMImageNode"], {"layer": layer})


def machine(**fields: Any) -> Object:
    """A root state with one machine."""
    return {"machines": [{"name": "mail1", "image": {"name": "mail"}} | fields]}


def template(**fields: Any) -> Object:
    return machine(template=fields)


def disks(*items: Object) -> Object:
    return machine(disks=list(items))


def network(**fields: Any) -> Object:
    return template(networks=[fields])


def deployment(**fields: Any) -> Object:
    return merge_patch(GOOD["SystemDeployment"], fields)


def toleration(**fields: Any) -> Object:
    return deployment(placement={"tolerations": [fields]})


def capture(**fields: Any) -> Object:
    return merge_patch(GOOD["SystemCapture"], fields)


def prefetch(**fields: Any) -> Object:
    return merge_patch(GOOD["SystemPrefetch"], fields)


def capture_order(**fields: Any) -> Object:
    """A NodeCache with one requested copy."""
    return {"captures": [merge_patch(GOOD["NodeCache"]["captures"][0], fields)]}


def layer(**fields: Any) -> Object:
    """A NodeCache with one layer."""
    return {"layers": [{"digest": DIGEST, "sizeBytes": 1, "virtualSizeBytes": 512} | fields]}


def bad(kind: str, name: str, spec: Object, *words: str) -> Any:
    return pytest.param(kind, spec, words, id=f"{kind}-{name}")


LONG = "a" * 254
BAD_OBJECTS = [
    # VMImageNode: the layer
    bad("VMImageNode", "empty", {}, "spec.layer: Required"),
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
    bad("VMImageNode", "repository-url", image(repository="s3://x"), "spec.layer.repository"),
    bad("VMImageNode", "repository-long", image(repository="a" * 64), "spec.layer.repository", "63"),
    # VMImageNode: the parent and the texts
    bad("VMImageNode", "parent-without-name", GOOD["VMImageNode"] | {"parent": {}}, "spec.parent.name: Required"),
    bad("VMImageNode", "parent-empty", GOOD["VMImageNode"] | {"parent": {"name": ""}}, "spec.parent.name"),
    bad("VMImageNode", "parent-path", GOOD["VMImageNode"] | {"parent": {"name": "../base"}}, "spec.parent.name"),
    bad("VMImageNode", "parent-long", GOOD["VMImageNode"] | {"parent": {"name": LONG}}, "spec.parent.name", "253"),
    bad("VMImageNode", "parent-text", GOOD["VMImageNode"] | {"parent": "base"}, "spec.parent", "object"),
    bad(
        "VMImageNode",
        "own-parent",
        GOOD["VMImageNode"] | {"parent": {"name": "bad"}},
        "spec.parent.name: an image cannot be its own parent",
        "omit parent",
    ),
    bad("VMImageNode", "description-long", GOOD["VMImageNode"] | {"description": "x" * 4097}, "spec.description"),
    bad("VMImageNode", "os-long", GOOD["VMImageNode"] | {"os": LONG}, "spec.os"),
    # SystemNode: machines
    bad("SystemNode", "own-parent", {"parent": {"name": "bad"}}, "spec.parent.name: a state cannot be its own parent"),
    bad("SystemNode", "parent-upper-case", {"parent": {"name": "Infected"}}, "spec.parent.name"),
    bad(
        "SystemNode",
        "root-without-image",
        {"machines": [{"name": "mail1", "template": {"cpu": 1}}]},
        "spec.machines",
        "in a state without a parent every machine needs an image",
    ),
    bad(
        "SystemNode",
        "root-removes",
        {"machines": [{"name": "mail1", "removed": True}]},
        "spec.machines",
        "in a state without a parent every machine needs an image",
    ),
    bad(
        "SystemNode", "machine-without-name", {"machines": [{"image": {"name": "x"}}]}, "spec.machines[0].name: Requir"
    ),
    bad("SystemNode", "machine-name-long", machine(name="m" * 21), "spec.machines[0].name", "20"),
    bad("SystemNode", "machine-name-digit", machine(name="1mail"), "spec.machines[0].name"),
    bad("SystemNode", "machine-name-dot", machine(name="mail.one"), "spec.machines[0].name"),
    bad("SystemNode", "machine-name-dash", machine(name="mail-"), "spec.machines[0].name"),
    bad("SystemNode", "machine-name-empty", machine(name=""), "spec.machines[0].name"),
    bad("SystemNode", "machine-twice", {"machines": machine()["machines"] * 2}, "spec.machines[1]", "Duplicate"),
    bad(
        "SystemNode",
        "machine-empty",
        {"parent": {"name": "p"}, "machines": [{"name": "mail1"}]},
        "spec.machines[0]",
        "give what differs from the parent state: image, template, disks or removed",
    ),
    bad(
        "SystemNode",
        "removed-with-image",
        {"parent": {"name": "p"}} | machine(removed=True),
        "spec.machines[0].removed",
        "a removed machine has no image, template or disks",
    ),
    bad("SystemNode", "image-without-name", machine(image={}), "spec.machines[0].image.name: Required"),
    bad(
        "SystemNode",
        "too-many-machines",
        {"machines": [{"name": f"m{n}", "image": {"name": "x"}} for n in range(257)]},
        "spec.machines",
        "256",
    ),
    # SystemNode: templates
    bad("SystemNode", "cpu-zero", template(cpu=0), "template.cpu", "greater than or equal to 1"),
    bad("SystemNode", "cpu-many", template(cpu=257), "template.cpu", "256"),
    bad("SystemNode", "cpu-text", template(cpu="2"), "template.cpu", "integer"),
    bad("SystemNode", "memory-number", template(memory=1024), "template.memory", "string"),
    bad("SystemNode", "memory-without-unit", template(memory="512"), "template.memory"),
    bad("SystemNode", "memory-zero", template(memory="0Mi"), "template.memory"),
    bad("SystemNode", "memory-negative", template(memory="-1Gi"), "template.memory"),
    bad("SystemNode", "memory-unknown-unit", template(memory="1GB"), "template.memory"),
    bad("SystemNode", "disk-bus-ide", template(diskBus="ide"), "template.diskBus", "Unsupported value"),
    bad("SystemNode", "boot-order-zero", template(bootOrder=0), "template.bootOrder"),
    bad(
        "SystemNode",
        "instancetype-and-cpu",
        template(instancetype={"name": "small"}, cpu=1),
        "template.instancetype",
        "it sets cpu and memory; omit those",
    ),
    bad(
        "SystemNode",
        "instancetype-and-memory",
        template(instancetype={"name": "small"}, memory="1Gi"),
        "template.instancetype",
        "it sets cpu and memory; omit those",
    ),
    bad("SystemNode", "instancetype-without-name", template(instancetype={}), "template.instancetype.name: Required"),
    bad("SystemNode", "preference-path", template(preference={"name": "a/b"}), "template.preference.name"),
    bad("SystemNode", "network-lacks-multus", network(name="lan"), "networks[0].multus", "name the NetworkAttachment"),
    bad(
        "SystemNode", "pod-network-with-multus", network(name="pod", multus="x"), "networks[0].multus", "'pod' has none"
    ),
    bad(
        "SystemNode",
        "masquerade-on-multus",
        network(name="lan", multus="lan", binding="masquerade"),
        "networks[0].binding",
        "a Multus network takes bridge or sriov",
    ),
    bad(
        "SystemNode", "sriov-on-pod", network(name="pod", binding="sriov"), "networks[0].binding", "'pod' takes masquer"
    ),
    bad("SystemNode", "binding-unknown", network(name="pod", binding="macvtap"), "networks[0].binding", "Unsupported"),
    bad("SystemNode", "mac-upper-case", network(name="pod", mac="02:AA:00:00:00:01"), "networks[0].mac"),
    bad("SystemNode", "mac-multicast", network(name="pod", mac="03:00:00:00:00:01"), "networks[0].mac"),
    bad("SystemNode", "mac-short", network(name="pod", mac="02:00:00:00:00"), "networks[0].mac"),
    bad("SystemNode", "network-twice", template(networks=[{"name": "pod"}] * 2), "networks[1]", "Duplicate"),
    bad(
        "SystemNode",
        "mac-twice",
        template(
            networks=[
                {"name": "pod", "mac": "02:00:00:00:00:01"},
                {"name": "lan", "multus": "lan", "mac": "02:00:00:00:00:01"},
            ]
        ),
        "template.networks",
        "two interfaces have the same mac; give each its own",
    ),
    bad(
        "SystemNode",
        "too-many-networks",
        template(networks=[{"name": f"n{n}", "multus": "x"} for n in range(17)]),
        "template.networks",
        "16",
    ),
    bad(
        "SystemNode", "disk-root", disks({"name": "root", "image": {"name": "x"}}), "disks[0].name", "use another name"
    ),
    bad("SystemNode", "disk-empty", disks({"name": "data"}), "disks[0]", "give what differs"),
    bad(
        "SystemNode",
        "disk-removed-and-image",
        disks({"name": "data", "removed": True, "image": {"name": "x"}}),
        "disks[0]",
        "a removed disk has no image",
    ),
    bad("SystemNode", "disk-twice", disks(*[{"name": "d", "image": {"name": "x"}}] * 2), "disks[1]", "Duplicate value"),
    bad(
        "SystemNode",
        "disks-many",
        disks(*({"name": f"d{n}", "image": {"name": "x"}} for n in range(9))),
        "disks",
        "must have at most 8 items",
    ),
    bad("SystemNode", "readiness-empty", template(readiness={}), "template.readiness", "exactly one of"),
    bad(
        "SystemNode",
        "readiness-two",
        template(readiness={"tcpPort": 25, "guestAgent": True}),
        "template.readiness",
        "exactly one of",
    ),
    bad(
        "SystemNode", "readiness-port", template(readiness={"tcpPort": 0}), "readiness.tcpPort", "greater than or equal"
    ),
    bad("SystemNode", "after-twice", template(after=["a", "a"]), "template.after", "Duplicate value"),
    bad("SystemNode", "run-strategy", template(runStrategy="Manual"), "template.runStrategy", "Unsupported value"),
    bad(
        "SystemNode",
        "tpm-persistent",
        template(patch={"spec": {"domain": {"devices": {"tpm": {"persistent": True}}}}}),
        "template.patch",
        "omit persistent",
    ),
    bad(
        "SystemNode",
        "efi-persistent",
        template(patch={"spec": {"domain": {"firmware": {"bootloader": {"efi": {"persistent": True}}}}}}),
        "template.patch",
        "omit persistent",
    ),
    bad("SystemNode", "cloud-init-empty", template(cloudInit={}), "template.cloudInit", "give either secretName or"),
    bad(
        "SystemNode",
        "cloud-init-both",
        template(cloudInit={"secretName": "s", "userData": "x"}),
        "template.cloudInit",
        "and not both",
    ),
    bad("SystemNode", "cloud-init-long", template(cloudInit={"userData": "x" * 2049}), "cloudInit.userData", "2048"),
    bad(
        "SystemNode",
        "patch-takes-the-disk",
        template(patch={"spec": {"domain": {"devices": {"disks": [{"name": "kigi-root", "disk": {}}]}}}}),
        "template.patch",
        "names that begin with 'kigi-' are reserved",
    ),
    bad(
        "SystemNode",
        "patch-takes-the-volume",
        template(patch={"spec": {"volumes": [{"name": "ok", "emptyDisk": {}}, {"name": "kigi-root"}]}}),
        "template.patch",
        "patch.spec.volumes: names that begin with 'kigi-' are reserved; use another name",
    ),
    bad(
        "SystemNode",
        "patch-takes-the-hook",
        template(patch={"metadata": {"annotations": {"hooks.kubevirt.io/hookSidecars": "[]"}}}),
        "template.patch",
        "'hooks.kubevirt.io/hookSidecars' are reserved",
    ),
    bad(
        "SystemNode",
        "patch-deletes-the-hook",
        template(patch={"metadata": {"annotations": {"hooks.kubevirt.io/hookSidecars": None}}}),
        "template.patch",
        "'hooks.kubevirt.io/hookSidecars' are reserved",
    ),
    bad(
        "SystemNode",
        "patch-takes-a-label",
        template(patch={"metadata": {"labels": {"kigi.dev/deployment": "other"}}}),
        "template.patch",
        "keys that begin with 'kigi.dev/' are reserved",
    ),
    bad("SystemNode", "patch-text", template(patch="{}"), "template.patch", "object"),
    bad("SystemNode", "network-of-system-twice", {"networks": [{"name": "lan"}] * 2}, "spec.networks[1]", "Duplicate"),
    # SystemDeployment
    bad("SystemDeployment", "empty", {}, "spec.system: Required"),
    bad("SystemDeployment", "system-without-name", deployment(system={"name": None}), "spec.system.name: Required"),
    bad("SystemDeployment", "system-path", deployment(system={"name": "a/b"}), "spec.system.name"),
    bad(
        "SystemDeployment", "replicas-negative", deployment(replicas=-1), "spec.replicas", "greater than or equal to 0"
    ),
    bad("SystemDeployment", "replicas-many", deployment(replicas=1001), "spec.replicas", "1000"),
    bad("SystemDeployment", "replicas-text", deployment(replicas="3"), "spec.replicas", "integer"),
    bad("SystemDeployment", "running-text", deployment(running="no"), "spec.running", "boolean"),
    bad("SystemDeployment", "reset-long", deployment(reset="x" * 129), "spec.reset", "128"),
    bad("SystemDeployment", "reset-number", deployment(reset=1), "spec.reset", "string"),
    bad("SystemDeployment", "policy-unknown", deployment(switchPolicy="KeepAll"), "spec.switchPolicy", "Unsupported"),
    bad(
        "SystemDeployment",
        "override-twice",
        deployment(overrides=[{"instance": 1}, {"instance": 1}]),
        "spec.overrides[1]",
        "Duplicate",
    ),
    bad("SystemDeployment", "override-without-instance", deployment(overrides=[{"reset": "x"}]), "instance: Required"),
    bad("SystemDeployment", "override-negative", deployment(overrides=[{"instance": -1}]), "overrides[0].instance"),
    bad(
        "SystemDeployment",
        "override-beyond",
        deployment(overrides=[{"instance": 1000}]),
        "overrides[0].instance",
        "999",
    ),
    bad(
        "SystemDeployment",
        "machine-override-twice",
        deployment(overrides=[{"instance": 0, "machines": [{"name": "a"}, {"name": "a"}]}]),
        "overrides[0].machines[1]",
        "Duplicate",
    ),
    bad(
        "SystemDeployment",
        "machine-override-name",
        deployment(overrides=[{"instance": 0, "machines": [{"name": "A"}]}]),
        "overrides[0].machines[0].name",
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
    bad("SystemDeployment", "toleration-operator", toleration(key="a", operator="Like"), "tolerations[0].operator"),
    bad("SystemDeployment", "toleration-effect", toleration(key="a", effect="Never"), "tolerations[0].effect"),
    bad(
        "SystemDeployment",
        "prefetch-twice",
        deployment(prefetch=[{"name": "a"}, {"name": "a"}]),
        "spec.prefetch[1]",
        "Duplicate",
    ),
    bad("SystemDeployment", "prefetch-texts", deployment(prefetch=["a"]), "spec.prefetch[0]", "object"),
    # NodeCache
    # SystemCapture
    bad("SystemCapture", "empty", {}, "spec.deployment: Required"),
    bad("SystemCapture", "deployment-path", capture(deployment={"name": "../x"}), "spec.deployment.name"),
    bad("SystemCapture", "instance-negative", capture(instance=-1), "spec.instance", "greater than or equal to 0"),
    bad("SystemCapture", "instance-beyond", capture(instance=1000), "spec.instance", "less than or equal to 999"),
    bad("SystemCapture", "machine-twice", capture(machines=["a", "a"]), "spec.machines[1]", "Duplicate"),
    bad("SystemCapture", "machine-upper-case", capture(machines=["Mail"]), "spec.machines[0]"),
    bad("SystemCapture", "machines-many", capture(machines=[f"m{n}" for n in range(257)]), "spec.machines", "256"),
    bad("SystemCapture", "system-upper-case", capture(system="After"), "spec.system"),
    bad("SystemCapture", "system-long", capture(system="a" * 201), "spec.system", "200"),
    bad("SystemCapture", "quiesce-unknown", capture(quiesce="Stop"), "spec.quiesce", '"Auto", "Pause"'),
    bad("SystemCapture", "repository-url", capture(repository="s3://x"), "spec.repository"),
    # NodeCache
    # SystemPrefetch
    bad("SystemPrefetch", "empty", {}, "spec.systems: Required"),
    bad("SystemPrefetch", "no-state", prefetch(systems=[]), "spec.systems", "at least 1"),
    bad("SystemPrefetch", "state-twice", prefetch(systems=[{"name": "a"}] * 2), "spec.systems[1]", "Duplicate"),
    bad("SystemPrefetch", "state-path", prefetch(systems=[{"name": "../a"}]), "spec.systems[0].name"),
    bad("SystemPrefetch", "node-twice", prefetch(nodes=["a", "a"], count=1), "spec.nodes[1]", "Duplicate"),
    bad("SystemPrefetch", "count-zero", prefetch(count=0), "spec.count", "greater than or equal to 1"),
    bad("SystemPrefetch", "count-beyond", prefetch(count=3), "spec.count", "more than the nodes that are named"),
    bad("SystemPrefetch", "parallelism-zero", prefetch(parallelism=0), "spec.parallelism"),
    bad("SystemPrefetch", "selector-value", prefetch(nodeSelector={"pool": "a b"}), "spec.nodeSelector.pool"),
    bad("SystemPrefetch", "selector-key", prefetch(nodeSelector={"a b": "c"}), "spec.nodeSelector", "valid label key"),
    bad("SystemPrefetch", "toleration-without-key", prefetch(tolerations=[{}]), "spec.tolerations[0]", "Exists"),
    # NodeCache
    bad("NodeCache", "capture-id-path", capture_order(id="../c"), "spec.captures[0].id"),
    bad("NodeCache", "capture-action", capture_order(action="Move"), "spec.captures[0].action", '"Copy", "Keep"'),
    bad("NodeCache", "capture-volume-path", capture_order(volume="../x"), "spec.captures[0].volume"),
    bad("NodeCache", "capture-parent", capture_order(parent="sha256:x"), "spec.captures[0].parent"),
    bad("NodeCache", "digest", layer(digest="sha256:x"), "spec.layers[0].digest"),
    bad("NodeCache", "size-zero", layer(sizeBytes=0), "spec.layers[0].sizeBytes"),
    bad("NodeCache", "virtual-size-no-sector", layer(virtualSizeBytes=100), "virtualSizeBytes", "multiple of 512"),
    bad("NodeCache", "own-parent", layer(parent=DIGEST), "spec.layers[0].parent", "a layer cannot be its own parent"),
    bad("NodeCache", "parent-name", layer(parent="base"), "spec.layers[0].parent"),
    bad("NodeCache", "priority-high", layer(priority=1001), "spec.layers[0].priority", "1000"),
    bad("NodeCache", "discard-path", {"discard": ["../../etc"]}, "spec.discard[0]"),
    bad("NodeCache", "discard-slash", {"discard": ["a/b"]}, "spec.discard[0]"),
    bad("NodeCache", "discard-empty", {"discard": [""]}, "spec.discard[0]"),
    bad("NodeCache", "layers-many", {"layers": layer()["layers"] * 2001}, "spec.layers", "2000"),
    bad("NodeCache", "discard-long", {"discard": [LONG]}, "spec.discard[0]", "253"),
]

BAD_DEPLOYMENT_NAMES = [
    pytest.param("a" * 33, id="too-long"),
    pytest.param("a.b", id="dot"),
    pytest.param("1range", id="begins-with-a-digit"),
]
