"""Features of templates, each with a VM that uses it under a real KubeVirt."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest

from demo.prepare import prepare
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
    """Two machines: ``store`` with two disks and a probe; ``app`` of an instancetype, which starts after ``store``."""
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
                    "rootDisk": {"imageRef": {"name": machines["mail1"]}},
                    "disks": [{"name": "data", "imageRef": {"name": machines["dns1"]}, "bus": "sata"}],
                    "hardware": {"memory": {"guest": "96Mi"}},
                    "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 2},
                },
                {
                    "name": "app",
                    "rootDisk": {"imageRef": {"name": machines["desktop1"]}},
                    "startAfter": ["store"],
                    "guestPowerOffPolicy": "StayOff",
                    "hardware": {
                        "instancetypeRef": {"name": "small", "kind": "VirtualMachineInstancetype"},
                        "preferenceRef": {"name": "random", "kind": "VirtualMachinePreference"},
                        "cloudInit": {"userData": "#cloud-config\nkigi-data: everything\n"},
                    },
                },
            ],
        ),
    )
    deploy(target, published.namespace, isolation={"mode": "Instance"})
    one = Exercise(cluster, target, published)
    yield one
    target.kubectl("delete", "systemdeployment", "--all", "-n", one.namespace, "--timeout=600s")


def _object(kind: str, name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "kigi.dev/v1alpha2", "kind": kind, "metadata": metadata, "spec": spec}


def has_dummy_links() -> bool:
    """Whether this kernel has links of type dummy."""
    name = "kigi-dummy"
    made = run(["ip", "link", "add", name, "type", "dummy"], timeout_s=QUICK_S, check=False)
    run(["ip", "link", "delete", name], timeout_s=QUICK_S, check=False)
    return made.returncode == 0


def deploy(target: Target, namespace: str, **spec: Any) -> None:
    target.apply(_object("SystemDeployment", NAME, namespace, systemRef={"name": STATE}, **spec))


def listen(lab: Exercise, machine: str) -> None:
    """Let the guest listen on the port of its probe; needed after each boot."""
    lab.send(machine, f"listen {PORT}", f"KIGI-LISTENS {PORT}")


def test_the_later_machine_starts_when_the_guest_of_the_earlier_one_answers(lab: Exercise) -> None:
    lab.report("store", machine="mail1", boot="1")
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
    lab.report("store", machine="mail1")


def test_instancetype_preference_and_cloud_init_arrive_in_the_vm(lab: Exercise) -> None:
    domain = ElementTree.fromstring(lab.domain("app"))
    memory = domain.find("memory")
    assert memory is not None
    assert int(memory.text or 0) * (1 if memory.get("unit") == "b" else 1024) == 112 * 2**20
    formats = [disk.find("driver").get("type") for disk in domain.iter("disk")]  # type: ignore[union-attr]
    assert sorted(str(each) for each in formats) == ["qcow2", "raw"]  # ours, and cloud-init's
    assert domain.find("devices/rng") is not None  # the preference's
    lab.report("app", machine="desktop1", boot="1")
    lab.send("app", "userdata", "KIGI-USERDATA kigi-data: everything")


def test_an_instance_is_isolated_by_its_own_network_policy(lab: Exercise) -> None:
    policy = lab.target.get("networkpolicy", f"{NAME}-1", "-n", lab.namespace)["spec"]
    selector = ",".join(f"{key}={value}" for key, value in policy["podSelector"]["matchLabels"].items())
    pods = lab.target.get("pods", "-n", lab.namespace, "-l", selector)["items"]
    assert {pod["metadata"]["name"] for pod in pods} == {lab.launcher("store"), lab.launcher("app")}


def test_a_guest_that_powers_itself_off_stays_off_under_rerun_on_failure(lab: Exercise) -> None:
    lab.send("app", "poweroff", "KIGI-BYE poweroff")
    eventually(lambda: lab.machine("app")["state"] == "PoweredOff", "state PoweredOff", 300)
    eventually(lambda: lab.status()["readyReplicas"] == 0, "a deployment that is not ready", 60)
    before = lab.vmi_uid("store")
    deploy(lab.target, lab.namespace, isolation={"mode": "Instance"}, resetToken="after poweroff")
    eventually(lambda: lab.machine("store")["revision"] == 2, "the reset", 120)
    lab.next_run("store", before)  # before that, the old guest would receive the command
    lab.report("store", machine="mail1", boot="1")
    listen(lab, "store")
    lab.wait_ready()
    lab.report("app", machine="desktop1", boot="1")


def test_a_drained_machine_waits_for_its_node_and_keeps_its_writes(lab: Exercise) -> None:
    """``kubectl drain`` cordons the node, and requests the eviction of the VM's pod."""
    lab.send("store", "write drained", "KIGI-WROTE drained")
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
    lab.report("store", boot="2")
    listen(lab, "store")
    lab.wait_ready()
    lab.send("store", "show", "KIGI-WRITTEN drained")


def test_a_probe_without_an_answer_keeps_the_deployment_unready(lab: Exercise) -> None:
    """The tiny guest listens only on command: before that its VM runs, but its machine is not Running."""
    probe = {"tcpSocket": {"port": PORT}, "periodSeconds": 2}
    machine = {"name": "app", "readinessProbe": probe, "unset": ["startAfter"]}
    before = lab.vmi_uid("app")
    lab.target.apply(
        _object("SystemNode", "probed", lab.namespace, parentRef={"name": STATE}, machines=[machine]),
        _object("SystemDeployment", NAME, lab.namespace, systemRef={"name": "probed"}, isolation={"mode": "Instance"}),
    )
    lab.next_run("app", before)
    lab.report("app", machine="desktop1")
    eventually(lambda: lab.instance("app")["status"]["phase"] == "Running", "phase Running", 120)
    eventually(lambda: lab.machine("app")["state"] == "Starting", "the new VM's state", 120)
    time.sleep(5)  # the state must not change
    assert lab.machine("app")["state"] == "Starting"
    eventually(lambda: lab.status()["readyReplicas"] == 0, "a deployment that is not ready", 60)
    listen(lab, "app")
    eventually(lambda: lab.machine("app")["state"] == "Running", "state Running", 60)


def test_a_missing_network_is_in_the_message(lab: Exercise) -> None:
    """KubeVirt reads the NetworkAttachmentDefinition before it creates a pod."""
    networks = [{"name": "lan", "multusRef": {"name": "no-such-lan"}}]
    machine = {"name": "app", "hardware": {"interfaces": INTERFACES}, "unset": ["startAfter"]}
    state = {"parentRef": {"name": STATE}, "networks": networks, "machines": [machine]}
    lab.target.apply(
        _object("SystemNode", "networked", lab.namespace, **state),
        _object(
            "SystemDeployment", NAME, lab.namespace, systemRef={"name": "networked"}, isolation={"mode": "Instance"}
        ),
    )
    eventually(lambda: "no-such-lan" in lab.machine("app").get("message", ""), "the network's name", 180)
    eventually(lambda: lab.status()["readyReplicas"] == 0, "a deployment that is not ready", 60)


INTERFACES = [{"name": "pod", "networkName": "pod"}, {"name": "lan", "networkName": "lan"}]


def deploy_on_lan(lab: Exercise, reset: str) -> None:
    """Deploy both machines on the pod network and on a second network, by Multus."""
    add_multus(lab.cluster)
    networks = [{"name": "lan", "multusRef": {"name": "classroom"}}]
    settings = {"hardware": {"interfaces": INTERFACES}, "unset": ["startAfter"]}
    machines = [{"name": name, **settings} for name in ("store", "app")]
    state = {"parentRef": {"name": STATE}, "networks": networks, "machines": machines}
    lab.target.apply(
        bridge_attachment("classroom", lab.namespace),
        _object("SystemNode", "classroom", lab.namespace, **state),
    )
    spec = {"systemRef": {"name": "classroom"}, "isolation": {"mode": "Instance"}, "resetToken": reset}
    lab.target.apply(_object("SystemDeployment", NAME, lab.namespace, **spec))


@pytest.mark.skipif(
    not has_dummy_links(), reason="KubeVirt's bridge binding needs dummy links, which this kernel does not have"
)
def test_machines_reach_each_other_on_a_second_network(lab: Exercise) -> None:
    """The second network is a bridge; the MACs stay the same after a reset."""

    def meet(reset: str) -> list[str]:
        before = {lab.vmi_uid(name) for name in ("store", "app")}
        deploy_on_lan(lab, reset)
        macs = [join(lab, "store", "192.168.77.1", before), join(lab, "app", "192.168.77.2", before)]
        lab.send("app", "ping 192.168.77.1", "KIGI-PONG 192.168.77.1")
        return macs

    assert meet("first") == meet("second")


@pytest.mark.skipif(has_dummy_links(), reason="this kernel has the dummy links that KubeVirt's bridge binding needs")
def test_kubevirts_error_for_a_network_that_it_cannot_bind_is_in_the_message(lab: Exercise) -> None:
    """Multus connects the VM's pod with the MAC of its interface; on such a kernel KubeVirt's binding fails."""
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
    eventually(lambda: "network error" in lab.machine("app").get("message", ""), "KubeVirt's error")
    eventually(lambda: lab.status()["readyReplicas"] == 0, "a deployment that is not ready", 60)


def join(lab: Exercise, machine: str, address: str, before: set[str | None]) -> str:
    """MAC of the second interface of the machine's new VMI (not in ``before``); sets the guest's address there."""

    def networked() -> str | None:
        for vm in lab.target.get("virtualmachineinstances", "-n", lab.namespace)["items"]:
            if vm["metadata"]["name"] == lab.vm(machine) and vm["metadata"]["uid"] not in before:
                macs = {each["name"]: each["macAddress"] for each in vm["spec"]["domain"]["devices"]["interfaces"]}
                if vm.get("status", {}).get("phase") == "Running" and "lan" in macs:
                    return str(macs["lan"])
        return None

    mac = eventually(networked, f"a new VM for {machine}, with a second interface")
    lab.report(machine, boot="1")
    lab.send(machine, f"lan {address}", f"KIGI-LAN {address} mac={mac}")
    return str(mac)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"patch": {"merge": {"spec": {"domain": {"devices": {"tpm": {"persistent": True}}}}}}}, "omit persistent"),
        ({"readinessProbe": {}}, "exactly one of"),
        ({"hardware": {"memory": {"guest": "1Mi"}}}, "from 16Mi to 16Ti"),
    ],
)
def test_unsupported_settings_are_rejected_with_the_field_and_the_remedy(
    lab: Exercise, settings: dict[str, Any], words: str
) -> None:
    machine = {"name": "m", "rootDisk": {"imageRef": {"name": "base"}}, **settings}
    with pytest.raises(DemoFailed, match=words):
        lab.target.apply(_object("SystemNode", "bad", lab.namespace, machines=[machine]))
