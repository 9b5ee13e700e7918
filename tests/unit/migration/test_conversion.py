"""Objects of v1alpha1 in v1alpha2: field by field, and what stops a migration before it changes anything."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.api.quota import SystemQuotaSpec
from kigi.domain import kinds, names
from kigi.errors import QuotaExceeded
from kigi.migration.conversion import Conversion, convert
from kigi.planning.quotas import Account, Allowance, Limit
from tests.support.v1alpha1 import REPOSITORIES, stored

Object = dict[str, Any]


@pytest.fixture(scope="module")
def conversion() -> Conversion:
    return convert(stored(), REPOSITORIES)


def one(conversion: Conversion, kind: str, name: str) -> Object:
    (found,) = [body for body in conversion.objects if (body["kind"], body["metadata"]["name"]) == (kind, name)]
    return found


def changed(kind: str, name: str, **spec: Any) -> Conversion:
    """The conversion of the cluster with other fields in one object."""
    objects = stored()
    for body in objects:
        if (body["kind"], body["metadata"]["name"]) == (kind, name):
            body["spec"] |= spec
    return convert(objects, REPOSITORIES)


def test_every_object_is_converted_without_a_problem(conversion: Conversion) -> None:
    assert conversion.findings.problems == []
    assert len(conversion.objects) == len(stored()) + 1 + 2 + 1  # the repository, instances 1 and 2, and the quota
    assert {body["apiVersion"] for body in conversion.objects} == {names.API_VERSION}


def test_uids_and_labels_stay(conversion: Conversion) -> None:
    uids = {body["metadata"].get("uid") for body in conversion.objects}
    assert {body["metadata"]["uid"] for body in stored()} <= uids
    assert one(conversion, kinds.DEPLOYMENT, "office")["metadata"]["labels"] == {"team": "blue"}


def test_what_is_named_is_written_before_what_names_it(conversion: Conversion) -> None:
    order = [kinds.REPOSITORY, kinds.IMAGE, kinds.SYSTEM, kinds.DEPLOYMENT, kinds.INSTANCE, kinds.CAPTURE]
    found = list(dict.fromkeys(body["kind"] for body in conversion.objects))
    assert found == [*order, kinds.QUOTA, kinds.PREFETCH]


def test_an_image(conversion: Conversion) -> None:
    image = one(conversion, kinds.IMAGE, "base")
    assert image["spec"]["repositoryRef"] == {"name": "default"}
    assert set(image["spec"]["layer"]) == {"digest", "sizeBytes", "virtualSizeBytes"}
    assert image["spec"]["guest"] == {"os": "debian-12"}


def test_annotations_of_the_origin_become_provenance_and_others_stay(conversion: Conversion) -> None:
    flat = one(conversion, kinds.IMAGE, "base-flat")
    assert flat["spec"]["provenance"]["flattened"]["imageName"] == "base"
    assert flat["metadata"]["annotations"] == {"example.org/kept": "yes"}
    captured = one(conversion, kinds.IMAGE, "after-lunch-mail1")["spec"]["provenance"]
    assert captured == {"captured": {"instanceName": "office-0", "requestName": "lunch"}}


def test_the_settings_of_a_machine(conversion: Conversion) -> None:
    mail, dns, web = one(conversion, kinds.SYSTEM, "office")["spec"]["machines"]
    assert mail["rootDisk"] == {"imageRef": {"name": "base"}, "bus": "sata", "bootOrder": 2}
    assert mail["disks"] == [{"name": "data", "imageRef": {"name": "base-flat"}, "bus": "scsi"}]
    assert mail["hardware"]["cpu"] == {"cores": 2}
    assert mail["hardware"]["memory"] == {"guest": "512Mi"}
    assert mail["hardware"]["preferenceRef"] == {"name": "server"}
    assert mail["hardware"]["cloudInit"] == {"secretRef": {"name": "mail1-userdata"}}
    assert mail["startAfter"] == ["dns1"]
    assert mail["readinessProbe"] == {"httpGet": {"port": 80, "path": "/ready"}, "periodSeconds": 5}
    assert mail["guestPowerOffPolicy"] == "StayOff"
    assert dns["readinessProbe"] == {"guestAgentPing": {}}
    assert dns["hardware"]["cloudInit"] == {"userData": "#cloud-config"}
    assert web["hardware"]["interfaces"] == []
    assert web["hardware"]["instancetypeRef"] == {"name": "small", "kind": "VirtualMachineInstancetype"}
    assert web["readinessProbe"] == {"exec": {"command": ["/bin/true"]}}
    assert web["guestPowerOffPolicy"] == "Restart"


def test_null_in_a_patch_becomes_a_path_to_remove(conversion: Conversion) -> None:
    mail = one(conversion, kinds.SYSTEM, "office")["spec"]["machines"][0]
    assert mail["patch"] == {
        "merge": {"metadata": {"labels": {"tier": "mail"}}, "spec": {"domain": {"devices": {"rng": {}}}}},
        "remove": ["spec.domain.features.acpi"],
    }


def test_interfaces_name_networks_of_the_state(conversion: Conversion) -> None:
    spec = one(conversion, kinds.SYSTEM, "office")["spec"]
    pod, lan, uplink = spec["machines"][0]["hardware"]["interfaces"]
    assert pod == {"name": "pod", "networkName": "pod"}
    assert lan == {
        "name": "lan",
        "networkName": "lan",
        "binding": "Bridge",
        "macAddress": "02:00:00:00:00:01",
        "model": "e1000e",
    }
    networks = {network["name"]: network for network in spec["networks"]}
    assert networks["lan"] == {"name": "lan", "description": "Office network", "multusRef": {"name": "office-lan"}}
    assert networks["dmz"] == {"name": "dmz"}
    assert networks[uplink["networkName"]]["multusRef"] == {"name": "a-network-with-a-long-name"}
    assert len(uplink["networkName"]) <= 20


def test_two_networks_of_one_name_keep_their_own_definition() -> None:
    """``lan`` of the state is another network than the interface's."""
    conversion = changed(kinds.SYSTEM, "office", networks=[{"name": "office-lan", "multus": "other"}])
    spec = one(conversion, kinds.SYSTEM, "office")["spec"]
    interface = spec["machines"][0]["hardware"]["interfaces"][1]
    networks = {network["name"]: network.get("multusRef") for network in spec["networks"]}
    assert networks["office-lan"] == {"name": "other"}
    assert networks[interface["networkName"]] == {"name": "office-lan"}


def test_a_child_state(conversion: Conversion) -> None:
    spec = one(conversion, kinds.SYSTEM, "after-lunch")["spec"]
    assert spec["parentRef"] == {"name": "office"}
    assert spec["machines"] == [
        {
            "name": "mail1",
            "rootDisk": {"imageRef": {"name": "after-lunch-mail1"}},
            "disks": [{"name": "data", "removed": True}],
        },
        {"name": "web1", "removed": True},
        {"name": "dns1", "readinessProbe": {"tcpSocket": {"port": 53}}},
    ]
    assert spec["provenance"]["captured"] == {"instanceName": "office-0", "requestName": "lunch"}


def test_a_deployment_keeps_the_names_of_its_instances(conversion: Conversion) -> None:
    body = one(conversion, kinds.DEPLOYMENT, "office")
    assert body["spec"]["replicas"] == 3
    assert body["spec"]["ordinals"] == {"start": 0}
    assert body["spec"]["systemRef"] == {"name": "office"}
    assert body["spec"]["resetToken"] == "monday"
    assert body["spec"]["updateStrategy"] == {"onSwitch": "ReplaceChanged"}
    assert body["spec"]["isolation"] == {"mode": "Instance"}
    assert body["spec"]["prefetchRefs"] == [{"name": "after-lunch"}]
    assert "powerState" not in body["spec"]
    assert body["metadata"]["finalizers"] == [names.DEPLOYMENT_FINALIZER]
    assert one(conversion, kinds.DEPLOYMENT, "closed")["spec"]["powerState"] == "Off"


def test_overrides_become_instances(conversion: Conversion) -> None:
    office = one(conversion, kinds.DEPLOYMENT, "office")
    first, second = (one(conversion, kinds.INSTANCE, name) for name in ("office-1", "office-2"))
    assert first["spec"] == {
        "deploymentRef": {"name": "office"},
        "name": "1",
        "systemRef": {"name": "after-lunch"},
        "powerState": "Off",
    }
    assert second["spec"]["machines"] == [
        {"name": "mail1", "powerState": "Off"},
        {"name": "dns1", "systemRef": {"name": "after-lunch"}},
    ]
    (owner,) = first["metadata"]["ownerReferences"]
    assert owner["uid"] == office["metadata"]["uid"]
    assert owner["controller"]


def test_settings_without_an_effect_are_noted(conversion: Conversion) -> None:
    text = "\n".join(conversion.findings.notes)
    assert "SystemDeployment class-a/office: spec.overrides[9]: instance 9 does not exist" in text
    assert "spec.overrides[1]: reset tokens of instances are dropped" in text


def test_a_capture_that_has_ended_never_starts_again(conversion: Conversion) -> None:
    capture = one(conversion, kinds.CAPTURE, "lunch")
    assert capture["spec"]["instanceRef"] == {"name": "office-0"}
    assert capture["spec"]["target"] == {"systemName": "after-lunch", "description": "Before exercise 3"}
    assert capture["spec"]["quiescePolicy"] == "PauseOnly"
    assert capture["spec"]["requestedBy"] == "unknown", "v1alpha1 has no user"
    conditions = {item["type"]: item["status"] for item in capture["status"]["conditions"]}
    assert conditions["Complete"] == "True"
    assert conditions["Failed"] == "False"


def test_a_prefetch(conversion: Conversion) -> None:
    assert one(conversion, kinds.PREFETCH, "monday")["spec"] == {
        "targetRefs": [{"kind": "SystemNode", "name": "after-lunch"}],
        "nodes": {"matchLabels": {"example.org/lab": "true"}},
        "nodeCount": 2,
        "parallelism": 1,
        "tolerations": [{"key": "example.org/lab", "operator": "Exists"}],
        "retention": "Pinned",
    }


def prefetched(name: str, namespace: str, wanted: int | None, *, pinned: bool = True) -> Object:
    body: Object = {
        "kind": "SystemPrefetch",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"systems": [{"name": "office"}], "pinned": pinned},
    }
    return body if wanted is None else {**body, "status": {"wantedBytes": wanted}}


def test_what_is_pinned_stays_pinned(conversion: Conversion) -> None:
    """v1alpha2 pins nothing without a quota, and would evict these layers with its first reconcile."""
    quota = one(conversion, kinds.QUOTA, "pinned-class-a")
    spec = SystemQuotaSpec.model_validate(quota["spec"])
    assert spec.namespace_selector.matches({"kubernetes.io/metadata.name": "class-a"})
    assert not spec.namespace_selector.matches({"kubernetes.io/metadata.name": "class-b"})
    pinned = 77725696
    assert quota["spec"]["hard"] == {"pinnedBytes": pinned}, "everything else stays without a limit"
    allowance = Allowance("class-a", limits=(Limit("pinned-class-a", spec.hard.limits()),))
    Account(allowance).take_prefetch(pinned, pinned=True)
    with pytest.raises(QuotaExceeded):
        Account(allowance).take_prefetch(pinned + 1, pinned=True)
    assert any("SystemQuota pinned-class-a" in note and str(pinned) in note for note in conversion.findings.notes)


def test_a_quota_permits_all_pins_of_its_namespace_and_of_no_other() -> None:
    found = convert(
        [
            prefetched("one", "a", 100),
            prefetched("two", "a", 20),
            prefetched("loose", "a", 7, pinned=False),
            prefetched("three", "b", 3),
            prefetched("loose", "c", 9, pinned=False),
        ]
    )
    quotas = {body["metadata"]["name"]: body["spec"]["hard"] for body in found.objects if body["kind"] == kinds.QUOTA}
    assert quotas == {"pinned-a": {"pinnedBytes": 120}, "pinned-b": {"pinnedBytes": 3}}


@pytest.mark.parametrize("wanted", [None, 0])
def test_a_pinned_prefetch_without_known_bytes_is_named_with_the_remedy(wanted: int | None) -> None:
    found = convert([prefetched("new", "a", wanted)])
    assert [body for body in found.objects if body["kind"] == kinds.QUOTA] == []
    (note,) = found.findings.notes
    assert note.startswith("SystemPrefetch a/new: spec.pinned")
    assert "pinnedBytes: create one" in note


def test_the_repository(conversion: Conversion) -> None:
    spec = one(conversion, kinds.REPOSITORY, "default")["spec"]
    assert spec["s3"] == {"endpoint": "https://s3.example.org", "bucket": "kigi"}
    assert spec["limits"] == {"maxDepth": 32, "connectionsPerNode": 4}
    assert spec["credentials"] == {
        "readerSecretRef": {"name": "kigi-repository-reader"},
        "writerSecretRef": {"name": "kigi-repository-writer"},
    }
    assert spec["namespaceSelector"] == {}
    assert spec["defaultFor"] == "AllNamespaces"


def template(**fields: Any) -> list[Object]:
    return [{"name": "mail1", "image": {"name": "base"}, "template": fields}]


@pytest.mark.parametrize(
    ("kind", "name", "spec", "text"),
    [
        (kinds.SYSTEM, "office", {"machines": template(cpu=0)}, "SystemNode class-a/office: v1alpha2 refuses"),
        (
            kinds.SYSTEM,
            "office",
            {"machines": template(patch={"spec": {"nodeSelector": {"a": "b"}}})},
            "SystemNode class-a/office: spec.machines[mail1].template.patch: it has the field spec.nodeSelector",
        ),
        (kinds.PREFETCH, "monday", {"nodes": ["n1"]}, "spec.nodes and spec.nodeSelector"),
    ],
    ids=["cpu", "patch", "nodes"],
)
def test_what_v1alpha2_cannot_express_is_a_problem(kind: str, name: str, spec: Object, text: str) -> None:
    problems = changed(kind, name, **spec).findings.problems
    assert any(text in problem for problem in problems), problems


def test_a_running_capture_is_a_problem() -> None:
    objects = stored()
    next(body for body in objects if body["kind"] == kinds.CAPTURE)["status"]["phase"] = "Copying"
    (problem,) = convert(objects).findings.problems
    assert problem.startswith("SystemCapture class-a/lunch: status.phase is Copying: wait until it is Done or Failed")


@pytest.mark.parametrize("text", ["repositories: [", "other: 1", ""])
def test_a_damaged_configmap_is_a_problem(text: str) -> None:
    config = {**REPOSITORIES, "data": {"repositories.yaml": text}}
    (problem,) = convert([], config).findings.problems
    assert problem.startswith("ConfigMap kigi-system/kigi-repositories: data[repositories.yaml]")


def test_a_repository_whose_secrets_are_unknown_is_a_problem() -> None:
    config = {
        **REPOSITORIES,
        "data": {"repositories.yaml": "repositories: {lab: {endpoint: 'http://s3', bucket: lab}}"},
    }
    (problem,) = convert([], config).findings.problems
    assert "--secret lab=READER,WRITER" in problem
    assert convert([], config, {"lab": ("reader", None)}).findings.problems == []
