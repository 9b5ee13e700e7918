"""What templates can ask for, each by a VM that uses it under a real KubeVirt."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest

from demo.__main__ import prepare
from demo.targets import DemoFailed, Target, install_kigi
from localcluster.bounded import QUICK_S, run
from localcluster.build import binary
from localcluster.cluster import Cluster
from localcluster.multus import add_multus, bridge_attachment
from tests.e2e.exercise import Exercise, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
NAME = "exercise"
STATE = "templates"
PORT = 25


@pytest.fixture(scope="module")
def lab(cluster: Cluster) -> Iterator[Exercise]:
    """Two machines: ``store`` with two disks and a probe, and ``app``, which starts after it, of an instancetype."""
    cluster.load_kigi()
    target = Target(cluster.environment(), str(binary("kubectl")))
    install_kigi(target)
    published = prepare(target, "tiny")
    machines = published.manifest.systems[0].machines
    instancetype = {
        "apiVersion": "instancetype.kubevirt.io/v1beta1",
        "kind": "VirtualMachineInstancetype",
        "metadata": {"name": "small", "namespace": published.namespace},
        "spec": {"cpu": {"guest": 1}, "memory": {"guest": "112Mi"}},
    }
    preference = {
        "apiVersion": "instancetype.kubevirt.io/v1beta1",
        "kind": "VirtualMachinePreference",
        "metadata": {"name": "random", "namespace": published.namespace},
        "spec": {"devices": {"preferredRng": {}}},
    }
    target.apply(
        instancetype,
        preference,
        _object(
            "SystemNode",
            STATE,
            published.namespace,
            machines=[
                {
                    "name": "store",
                    "image": {"name": machines["mail1"]},
                    "disks": [{"name": "data", "image": {"name": machines["dns1"]}, "bus": "sata"}],
                    "template": {"memory": "96Mi", "readiness": {"tcpPort": PORT, "periodSeconds": 2}},
                },
                {
                    "name": "app",
                    "image": {"name": machines["desktop1"]},
                    "template": {
                        "after": ["store"],
                        "runStrategy": "RerunOnFailure",
                        "instancetype": {"name": "small", "kind": "VirtualMachineInstancetype"},
                        "preference": {"name": "random", "kind": "VirtualMachinePreference"},
                        "cloudInit": {"userData": "#cloud-config\nkigi-told: everything\n"},
                    },
                },
            ],
        ),
    )
    deploy(target, published.namespace, isolation="Instances")
    one = Exercise(cluster, target, published)
    yield one
    target.kubectl("delete", "systemdeployment", "--all", "-n", one.namespace, "--timeout=600s")


def _object(kind: str, name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "kigi.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def has_dummy_links() -> bool:
    """Whether this kernel knows the kind of link."""
    name = "kigi-dummy"
    made = run(["ip", "link", "add", name, "type", "dummy"], timeout_s=QUICK_S, check=False)
    run(["ip", "link", "delete", name], timeout_s=QUICK_S, check=False)
    return made.returncode == 0


def deploy(target: Target, namespace: str, **spec: Any) -> None:
    target.apply(_object("SystemDeployment", NAME, namespace, system={"name": STATE}, **spec))


def listen(lab: Exercise, machine: str) -> None:
    """The guest answers at the port that its probe asks; after each boot it has to be told."""
    lab.tell(machine, f"listen {PORT}", f"KIGI-LISTENS {PORT}")


def test_the_later_machine_starts_when_the_guest_of_the_earlier_one_answers(lab: Exercise) -> None:
    lab.says("store", machine="mail1", boot="1")
    assert lab.machine("store")["state"] == "Starting"
    assert lab.vmi_uid("app") is None
    assert lab.machine("app")["message"] == "starts after store"
    listen(lab, "store")
    lab.wait_ready()
    conditions = lab.instance("store")["status"]["conditions"]
    ready = next(each["lastTransitionTime"] for each in conditions if each["type"] == "Ready")
    assert lab.instance("app")["metadata"]["creationTimestamp"] >= ready


def test_all_disks_of_a_machine_are_qcow2_on_their_own_chains(lab: Exercise) -> None:
    disks = {
        disk.find("source").get("file", "").split("/")[-2]: disk  # type: ignore[union-attr]
        for disk in ElementTree.fromstring(lab.domain("store")).iter("disk")
    }
    assert set(disks) == {"kigi-root", "kigi-data"}
    for disk in disks.values():
        assert disk.find("driver").get("type") == "qcow2"  # type: ignore[union-attr]
        assert len(list(disk.iter("backingStore"))) >= 2
    assert disks["kigi-data"].find("target").get("bus") == "sata"  # type: ignore[union-attr]
    lab.says("store", machine="mail1")


def test_instancetype_preference_and_cloud_init_arrive_in_the_vm(lab: Exercise) -> None:
    domain = ElementTree.fromstring(lab.domain("app"))
    memory = domain.find("memory")
    assert memory is not None
    assert int(memory.text or 0) * (1 if memory.get("unit") == "b" else 1024) == 112 * 2**20
    formats = [disk.find("driver").get("type") for disk in domain.iter("disk")]  # type: ignore[union-attr]
    assert sorted(str(each) for each in formats) == ["qcow2", "raw"]  # ours, and cloud-init's
    assert domain.find("devices/rng") is not None  # the preference's
    lab.says("app", machine="desktop1", boot="1")
    lab.tell("app", "userdata", "KIGI-USERDATA kigi-told: everything")


def test_an_instance_is_isolated_by_a_policy_of_its_own(lab: Exercise) -> None:
    policy = lab.target.get("networkpolicy", f"{NAME}-0", "-n", lab.namespace)["spec"]
    selector = ",".join(f"{key}={value}" for key, value in policy["podSelector"]["matchLabels"].items())
    pods = lab.target.get("pods", "-n", lab.namespace, "-l", selector)["items"]
    assert {pod["metadata"]["name"] for pod in pods} == {lab.launcher("store"), lab.launcher("app")}


def test_a_guest_that_powers_itself_off_stays_off_under_rerun_on_failure(lab: Exercise) -> None:
    lab.tell("app", "poweroff", "KIGI-BYE poweroff")
    eventually(lambda: lab.machine("app")["state"] == "PoweredOff", "state PoweredOff", 300)
    assert not lab.status()["instances"][0]["ready"]
    before = lab.vmi_uid("store")
    deploy(lab.target, lab.namespace, isolation="Instances", reset="on again")
    eventually(lambda: lab.machine("store")["revision"] == 2, "the reset", 120)
    lab.next_run("store", before)  # until then the old guest takes the order, and the new one never hears of it
    lab.says("store", machine="mail1", boot="1")
    listen(lab, "store")
    lab.wait_ready()
    lab.says("app", machine="desktop1", boot="1")


def test_a_drained_machine_waits_for_its_node_and_keeps_its_writes(lab: Exercise) -> None:
    """``kubectl drain`` cordons the node, and asks for the eviction of the pod that the VM runs in."""
    lab.tell("store", "write drained", "KIGI-WROTE drained")
    before = lab.vmi_uid("store")
    node = lab.instance("store")["status"]["nodeName"]
    drain = ("drain", node, "--pod-selector=kigi.dev/machine=store", "--delete-emptydir-data", "--timeout=120s")
    try:
        lab.target.kubectl(*drain)
        eventually(lambda: lab.machine("store")["state"] == "Unschedulable", "state Unschedulable", 300)
        assert "unschedulable" in lab.machine("store")["message"]
    finally:
        lab.target.kubectl("uncordon", node)
    lab.next_run("store", before)
    lab.says("store", boot="2")
    listen(lab, "store")
    lab.wait_ready()
    lab.tell("store", "show", "KIGI-WRITTEN drained")


def test_a_probe_that_nobody_answers_keeps_the_deployment_from_ready(lab: Exercise) -> None:
    """Until it is told, the tiny guest listens on no port: its VM runs, and the machine does not."""
    machine = {"name": "app", "template": {"readiness": {"tcpPort": PORT, "periodSeconds": 2}, "after": []}}
    before = lab.vmi_uid("app")
    lab.target.apply(
        _object("SystemNode", "probed", lab.namespace, parent={"name": STATE}, machines=[machine]),
        _object("SystemDeployment", NAME, lab.namespace, system={"name": "probed"}, isolation="Instances"),
    )
    lab.next_run("app", before)
    lab.says("app", machine="desktop1")
    eventually(lambda: lab.instance("app")["status"]["phase"] == "Running", "phase Running", 120)
    eventually(lambda: lab.machine("app")["state"] == "Starting", "the new VM's state", 120)
    time.sleep(5)  # it stays like that
    assert lab.machine("app")["state"] == "Starting"
    assert not lab.status()["instances"][0]["ready"]
    listen(lab, "app")
    eventually(lambda: lab.machine("app")["state"] == "Running", "state Running", 60)


def test_a_network_that_is_not_there_is_named(lab: Exercise) -> None:
    """KubeVirt looks for the NetworkAttachmentDefinition before it makes a pod."""
    networks = [{"name": "pod"}, {"name": "lan", "multus": "no-such-lan"}]
    machine = {"name": "app", "template": {"networks": networks, "after": []}}
    lab.target.apply(
        _object("SystemNode", "networked", lab.namespace, parent={"name": STATE}, machines=[machine]),
        _object("SystemDeployment", NAME, lab.namespace, system={"name": "networked"}, isolation="Instances"),
    )
    eventually(lambda: "no-such-lan" in lab.machine("app").get("message", ""), "the network's name", 180)
    assert not lab.status()["instances"][0]["ready"]


def deploy_on_lan(lab: Exercise, reset: str) -> None:
    """Both machines on the pod network and on one more, by Multus."""
    add_multus(lab.cluster)
    networks = [{"name": "pod"}, {"name": "lan", "multus": "classroom"}]
    template = {"networks": networks, "after": []}
    machines = [{"name": name, "template": template} for name in ("store", "app")]
    lab.target.apply(
        bridge_attachment("classroom", lab.namespace),
        _object("SystemNode", "classroom", lab.namespace, parent={"name": STATE}, machines=machines),
    )
    spec = {"system": {"name": "classroom"}, "isolation": "Instances", "reset": reset}
    lab.target.apply(_object("SystemDeployment", NAME, lab.namespace, **spec))


@pytest.mark.skipif(
    not has_dummy_links(), reason="KubeVirt's bridge binding needs dummy links, which this kernel lacks"
)
def test_machines_meet_on_a_network_of_their_own(lab: Exercise) -> None:
    """On a bridge beside the pod network, under the same MACs after a reset."""

    def meet(reset: str) -> list[str]:
        before = {lab.vmi_uid(name) for name in ("store", "app")}
        deploy_on_lan(lab, reset)
        macs = [join(lab, "store", "192.168.77.1", before), join(lab, "app", "192.168.77.2", before)]
        lab.tell("app", "ping 192.168.77.1", "KIGI-PONG 192.168.77.1")
        return macs

    assert meet("first") == meet("second")


@pytest.mark.skipif(has_dummy_links(), reason="this kernel has the dummy links that KubeVirt's bridge binding needs")
def test_a_network_that_kubevirt_cannot_bind_is_told_in_its_words(lab: Exercise) -> None:
    """Multus joins the VM's pod to it, under the MAC of its interface; on such a kernel KubeVirt's part fails."""
    deploy_on_lan(lab, "first")

    def joined() -> str | None:
        for pod in lab.target.get("pods", "-n", lab.namespace, "-l", "kigi.dev/machine=app")["items"]:
            networks = json.loads(pod["metadata"].get("annotations", {}).get("k8s.v1.cni.cncf.io/network-status", "[]"))
            for network in networks:
                if network["name"] == f"{lab.namespace}/classroom":
                    return str(network["mac"])
        return None

    mac = eventually(joined, "a pod on the network")
    vm = lab.target.get("virtualmachine", lab.vm("app"), "-n", lab.namespace)
    interfaces = vm["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"]
    assert mac in {interface["macAddress"] for interface in interfaces if interface["name"] == "lan"}
    eventually(lambda: lab.machine("app")["state"] == "CrashLooping", "state CrashLooping")
    eventually(lambda: "network error" in lab.machine("app").get("message", ""), "KubeVirt's words")
    assert not lab.status()["instances"][0]["ready"]


def join(lab: Exercise, machine: str, address: str, before: set[str | None]) -> str:
    """MAC of the second interface of a VM that is none of those before; its guest says it too, and has the address."""

    def networked() -> str | None:
        for vm in lab.target.get("virtualmachineinstances", "-n", lab.namespace)["items"]:
            if vm["metadata"]["name"] == lab.vm(machine) and vm["metadata"]["uid"] not in before:
                macs = {each["name"]: each["macAddress"] for each in vm["spec"]["domain"]["devices"]["interfaces"]}
                if vm.get("status", {}).get("phase") == "Running" and "lan" in macs:
                    return str(macs["lan"])
        return None

    mac = eventually(networked, f"a new VM for {machine}, with a second interface")
    lab.says(machine, boot="1")
    lab.tell(machine, f"lan {address}", f"KIGI-LAN {address} mac={mac}")
    return str(mac)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"patch": {"spec": {"domain": {"devices": {"tpm": {"persistent": True}}}}}}, "omit persistent"),
        ({"readiness": {}}, "exactly one of"),
        ({"networks": [{"name": "lan"}]}, "NetworkAttachmentDefinition"),
    ],
)
def test_what_cannot_be_had_is_refused_with_its_field_and_remedy(
    lab: Exercise, template: dict[str, Any], words: str
) -> None:
    machine = {"name": "m", "image": {"name": "base"}, "template": template}
    with pytest.raises(DemoFailed, match=words):
        lab.target.apply(_object("SystemNode", "bad", lab.namespace, machines=[machine]))
