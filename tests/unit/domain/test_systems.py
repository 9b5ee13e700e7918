"""The system tree: what a state inherits, what it changes, and every way in which that can be wrong."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.domain.layers import MAX_DEPTH, Chain, Digest, Layer
from kigi.domain.merge_patch import merge_patch
from kigi.domain.systems import DiskChange, MachineChange, System, resolve_system, system_path
from kigi.errors import (
    BootOrderCycle,
    ChainTooDeep,
    ImageMissing,
    KigiError,
    MachineUnknown,
    MachineWithoutImage,
    SpecInvalid,
    SystemCycle,
    SystemMissing,
    Waiting,
)

BASE = Layer(Digest("sha256:" + "0" * 64), 1000, 512)


def chain_of(image: str) -> Chain:
    """Every image is one layer of len(name) bytes over a common base of 1000."""
    if image == "ghost":
        raise ImageMissing("image 'ghost' does not exist in this namespace")
    return (BASE, Layer(Digest(f"sha256:{image.encode().hex():0>64}"), len(image), 512, BASE.digest))


def on(name: str, image: str | None = None, **rest: Any) -> MachineChange:
    return MachineChange(name, image, **rest)


def hardware(**fields: Any) -> dict[str, Any]:
    return {"hardware": fields}


GIB = {"hardware": {"memory": {"guest": "1Gi"}}}


def states(*systems: System) -> dict[str, System]:
    return {system.name: system for system in systems}


def images(systems: dict[str, System], top: str) -> dict[str, str]:
    return {machine.name: machine.image for machine in resolve_system(systems, chain_of, top).machines}


INFECTED = System("infected", None, (on("mail", "mail-bad"), on("dns", "dns-bad"), on("proxy", "proxy")))


def test_a_root_resolves_to_its_own_machines() -> None:
    assert images(states(INFECTED), "infected") == {"dns": "dns-bad", "mail": "mail-bad", "proxy": "proxy"}


def test_a_child_names_only_what_differs() -> None:
    systems = states(INFECTED, System("cleaned", "infected", (on("mail", "mail-clean"),)))
    assert images(systems, "cleaned") == {"dns": "dns-bad", "mail": "mail-clean", "proxy": "proxy"}
    assert images(systems, "infected")["mail"] == "mail-bad"


def test_an_empty_child_is_its_parent_one_deeper() -> None:
    systems = states(INFECTED, System("same", "infected"))
    parent, child = (resolve_system(systems, chain_of, name) for name in ("infected", "same"))
    assert child.machines == parent.machines
    assert (parent.depth, child.depth) == (1, 2)


def test_the_nearest_state_wins() -> None:
    systems = states(INFECTED, System("b", "infected", (on("dns", "dns-b"),)), System("c", "b", (on("dns", "dns-c"),)))
    assert images(systems, "b")["dns"] == "dns-b"
    assert images(systems, "c")["dns"] == "dns-c"


def test_a_removed_machine_is_absent_from_the_state_and_its_children() -> None:
    systems = states(INFECTED, System("less", "infected", (on("dns", removed=True),)), System("child", "less"))
    assert set(images(systems, "less")) == set(images(systems, "child")) == {"mail", "proxy"}
    assert "dns" in images(systems, "infected")


def test_a_machine_that_comes_back_inherits_nothing() -> None:
    systems = states(
        System("root", None, (on("dns", "old", settings={"hardware": {"cpu": {"cores": 4}}}), on("mail", "mail"))),
        System("less", "root", (on("dns", removed=True),)),
        System("again", "less", (on("dns", "new", settings=GIB),)),
    )
    (machine, _) = resolve_system(systems, chain_of, "again").machines
    assert (machine.name, machine.image, machine.settings) == ("dns", "new", GIB)


def test_a_child_can_add_a_machine() -> None:
    systems = states(INFECTED, System("more", "infected", (on("files", "files"),)))
    assert images(systems, "more")["files"] == "files"


def test_hardware_merges_field_by_field_along_the_path() -> None:
    systems = states(
        System("root", None, (on("dns", "dns", settings=hardware(cpu={"cores": 1, "model": "host-model"})),)),
        System("mid", "root", (on("dns", settings=GIB),)),
        System("top", "mid", (on("dns", "dns2", settings=hardware(cpu={"cores": 2}, interfaces=[])),)),
    )
    (machine,) = resolve_system(systems, chain_of, "top").machines
    assert machine.image == "dns2"
    cpu = {"cores": 2, "model": "host-model"}
    assert machine.hardware == {"cpu": cpu, "memory": {"guest": "1Gi"}, "interfaces": []}


def test_a_child_drops_what_it_unsets_and_then_sets_its_own() -> None:
    first = hardware(instancetypeRef={"name": "small"}, preferenceRef={"name": "linux"}, cloudInit={"userData": "x"})
    systems = states(
        System("root", None, (on("dns", "dns", settings={**first, "startAfter": ["mail"]}), on("mail", "mail"))),
        System("top", "root", (on("dns", settings=GIB, unset=("instancetypeRef", "cloudInit", "startAfter")),)),
        System("same", "top"),
    )
    for state in ("top", "same"):
        machine = resolve_system(systems, chain_of, state).machines[0]
        assert machine.settings == hardware(preferenceRef={"name": "linux"}, memory={"guest": "1Gi"})
    assert resolve_system(systems, chain_of, "root").machines[0].after == ("mail",)


def test_an_unset_cpu_is_replaced_instead_of_merged() -> None:
    systems = states(
        System("root", None, (on("dns", "dns", settings=hardware(cpu={"cores": 1, "sockets": 4})),)),
        System("top", "root", (on("dns", settings=hardware(cpu={"cores": 8}), unset=("cpu",)),)),
    )
    assert resolve_system(systems, chain_of, "top").machines[0].hardware == {"cpu": {"cores": 8}}


def test_an_unknown_value_of_unset_drops_nothing() -> None:
    systems = states(
        System("root", None, (on("dns", "dns", settings=GIB),)),
        System("top", "root", (on("dns", unset=("memory.hugepages",)),)),
    )
    assert resolve_system(systems, chain_of, "top").machines[0].settings == GIB


def test_members_of_a_union_replace_each_other_and_timings_are_inherited() -> None:
    agent = {"readinessProbe": {"guestAgentPing": {}, "periodSeconds": 7}, **hardware(cloudInit={"userData": "x"})}
    port = {"readinessProbe": {"tcpSocket": {"port": 22}}, **hardware(cloudInit={"secretRef": {"name": "s"}})}
    systems = states(
        System("root", None, (on("dns", "dns", settings=agent),)), System("top", "root", (on("dns", settings=port),))
    )
    (machine,) = resolve_system(systems, chain_of, "top").machines
    assert machine.settings["readinessProbe"] == {"tcpSocket": {"port": 22}, "periodSeconds": 7}
    assert machine.hardware["cloudInit"] == {"secretRef": {"name": "s"}}


def test_a_reference_is_replaced_as_a_whole() -> None:
    own = hardware(preferenceRef={"name": "a", "kind": "VirtualMachinePreference"})
    systems = states(
        System("root", None, (on("dns", "dns", settings=own),)),
        System("top", "root", (on("dns", settings=hardware(preferenceRef={"name": "b"})),)),
    )
    assert resolve_system(systems, chain_of, "top").machines[0].hardware == {"preferenceRef": {"name": "b"}}


@pytest.mark.parametrize(
    ("root", "child", "patch"),
    [
        pytest.param({"remove": ["spec.x"]}, None, {"remove": ["spec.x"]}, id="in-a-root"),
        pytest.param(None, {"remove": ["spec.x"]}, {"remove": ["spec.x"]}, id="in-a-child"),
        pytest.param(
            {"merge": {"spec": {"x": 1, "y": 2}}},
            {"remove": ["spec.x"]},
            {"merge": {"spec": {"y": 2}}, "remove": ["spec.x"]},
            id="over-the-parents-value",
        ),
        pytest.param(
            {"remove": ["spec.x"]},
            {"merge": {"spec": {"x": 1}}},
            {"merge": {"spec": {"x": 1}}, "remove": ["spec.x"]},
            id="taken-back-by-the-child",
        ),
    ],
)
def test_a_removed_path_stays_until_it_meets_the_vm(root: Any, child: Any, patch: Any) -> None:
    systems = states(
        System("root", None, (on("dns", "dns", settings={"patch": root} if root else {}),)),
        System("top", "root", (on("dns", settings={"patch": child} if child else {}),)),
    )
    (machine,) = resolve_system(systems, chain_of, "top").machines
    assert machine.settings["patch"] == patch


def test_a_new_image_keeps_the_inherited_settings() -> None:
    systems = states(
        System("root", None, (on("dns", "dns", settings=GIB),)), System("top", "root", (on("dns", "dns2"),))
    )
    assert resolve_system(systems, chain_of, "top").machines[0].settings == GIB


def lan(name: str = "lan", network: str = "lan") -> dict[str, Any]:
    return hardware(interfaces=[{"name": "eth0", "networkName": "pod"}, {"name": name, "networkName": network}])


def test_networks_are_inherited_and_replaced_by_name() -> None:
    systems = states(
        System("root", None, (on("dns", "dns", settings=lan()),), {"lan": "old", "dmz": "dmz", "notes": None}),
        System("top", "root", (), {"lan": "new"}),
    )
    assert resolve_system(systems, chain_of, "root").machines[0].networks == {"lan": "old", "dmz": "dmz"}
    assert resolve_system(systems, chain_of, "top").machines[0].networks == {"lan": "new", "dmz": "dmz"}


@pytest.mark.parametrize("networks", [{}, {"lan": None}, {"dmz": "dmz"}])
def test_an_interface_needs_a_network_with_a_binding(networks: dict[str, str | None]) -> None:
    systems = states(System("root", None, (on("dns", "dns", settings=lan("eth1")),), networks))
    words = r"SystemNode root: spec.machines\[dns\].hardware.interfaces\[eth1\].networkName: .* no network lan with mul"
    with pytest.raises(SpecInvalid, match=words):
        resolve_system(systems, chain_of, "root")


def test_machines_are_sorted_by_name_whatever_the_order_of_the_document() -> None:
    forward = states(System("s", None, (on("a", "x"), on("b", "y"))))
    backward = states(System("s", None, (on("b", "y"), on("a", "x"))))
    assert resolve_system(forward, chain_of, "s") == resolve_system(backward, chain_of, "s")


def test_unique_bytes_count_each_layer_once() -> None:
    system = resolve_system(states(INFECTED), chain_of, "infected")
    assert system.unique_bytes() == 1000 + len("mail-bad") + len("dns-bad") + len("proxy")
    assert len(system.layers()) == 4


def test_two_machines_of_one_image_cost_it_once() -> None:
    system = resolve_system(states(System("s", None, (on("d1", "desk"), on("d2", "desk")))), chain_of, "s")
    assert system.unique_bytes() == 1000 + len("desk")


def test_the_top_of_a_machine_is_the_layer_under_its_overlay() -> None:
    system = resolve_system(states(INFECTED), chain_of, "infected")
    assert [machine.top.size_bytes for machine in system.machines] == [
        len("dns-bad"),
        len("mail-bad"),
        len("proxy"),
    ]


def test_a_path_of_the_greatest_depth_is_allowed() -> None:
    assert len(system_path(_line(MAX_DEPTH), f"s{MAX_DEPTH - 1}")) == MAX_DEPTH


def _line(length: int) -> dict[str, System]:
    return states(*(System(f"s{n}", f"s{n - 1}" if n else None) for n in range(length)))


BAD_SYSTEMS = [
    pytest.param({}, "ghost", SystemMissing, ["'ghost'", "does not exist"], id="state-unknown"),
    pytest.param(
        states(System("a", "ghost")),
        "a",
        SystemMissing,
        ["SystemNode a", "spec.parentRef.name", "'ghost'"],
        id="no-parent",
    ),
    pytest.param(
        states(System("a", "ghost"), System("b", "a")),
        "b",
        SystemMissing,
        ["SystemNode a", "'ghost'"],
        id="no-grandparent",
    ),
    pytest.param(states(System("a", "a")), "a", SystemCycle, ["SystemNode a", "spec.parentRef"], id="its-own-parent"),
    pytest.param(
        states(System("a", "b"), System("b", "a")),
        "b",
        SystemCycle,
        ["SystemNode b", "spec.parentRef"],
        id="cycle-of-two",
    ),
    pytest.param(
        _line(MAX_DEPTH + 1), f"s{MAX_DEPTH}", ChainTooDeep, [f"SystemNode s{MAX_DEPTH}", "new root"], id="too-deep"
    ),
    pytest.param(
        states(INFECTED, System("b", "infected", (on("fax", removed=True),))),
        "b",
        MachineUnknown,
        ["SystemNode b", "machines[fax].removed"],
        id="removes-a-stranger",
    ),
    pytest.param(
        states(System("a", None, (on("fax", removed=True),))),
        "a",
        MachineUnknown,
        ["SystemNode a", "machines[fax].removed"],
        id="root-removes",
    ),
    pytest.param(
        states(
            INFECTED, System("b", "infected", (on("dns", removed=True),)), System("c", "b", (on("dns", removed=True),))
        ),
        "c",
        MachineUnknown,
        ["SystemNode c", "machines[dns].removed"],
        id="removes-twice",
    ),
    pytest.param(
        states(INFECTED, System("b", "infected", (on("fax", settings=hardware(cpu={"cores": 2})),))),
        "b",
        MachineWithoutImage,
        ["SystemNode b", "machines[fax].rootDisk.imageRef"],
        id="hardware-for-a-stranger",
    ),
    pytest.param(
        states(
            INFECTED,
            System("b", "infected", (on("dns", removed=True),)),
            System("c", "b", (on("dns", settings=hardware(cpu={"cores": 2})),)),
        ),
        "c",
        MachineWithoutImage,
        ["SystemNode c", "machines[dns].rootDisk.imageRef"],
        id="hardware-for-a-removed-machine",
    ),
    pytest.param(
        states(System("a", None, (on("dns", "ghost"),))),
        "a",
        ImageMissing,
        ["'ghost'"],
        id="image-of-a-machine-unknown",
    ),
]


@pytest.mark.parametrize(("systems", "top", "error", "words"), BAD_SYSTEMS)
def test_a_bad_state_is_refused_by_an_error_that_names_the_node(
    systems: dict[str, System], top: str, error: type[KigiError], words: list[str]
) -> None:
    with pytest.raises(error) as raised:
        resolve_system(systems, chain_of, top)
    assert type(raised.value) is error
    for word in words:
        assert word in str(raised.value)


def test_further_disks_are_inherited_changed_and_removed_by_name() -> None:
    systems = states(
        System(
            "root", None, (on("dns", "dns", disks=(DiskChange("data", "mail"), DiskChange("logs", "proxy", "sata"))),)
        ),
        System("same", "root"),
        System(
            "top",
            "root",
            (on("dns", disks=(DiskChange("logs", removed=True), DiskChange("data", bus="scsi", boot_order=3))),),
        ),
        System("less", "top", (on("dns", removed=True),)),
        System("again", "less", (on("dns", "dns"),)),
    )

    def disks(state: str) -> list[tuple[str, str, str]]:
        return [(d.name, d.image, d.bus) for d in resolve_system(systems, chain_of, state).machines[0].disks]

    assert disks("same") == disks("root") == [("data", "mail", "virtio"), ("logs", "proxy", "sata")]
    assert disks("top") == [("data", "mail", "scsi")]
    assert disks("again") == []
    assert resolve_system(systems, chain_of, "top").machines[0].disks[0].boot_order == 3
    assert set(resolve_system(systems, chain_of, "top").layers()) == {
        layer.digest for image in ("dns", "mail") for layer in chain_of(image)
    }


@pytest.mark.parametrize(
    ("disk", "error", "words"),
    [
        (DiskChange("x", removed=True), MachineUnknown, r"machines\[dns\].disks\[x\].removed: no ancestor"),
        (DiskChange("x", bus="sata"), MachineWithoutImage, r"machines\[dns\].disks\[x\].imageRef: no ancestor"),
    ],
)
def test_an_unknown_disk_is_in_the_error(disk: DiskChange, error: type[KigiError], words: str) -> None:
    with pytest.raises(error, match=words):
        resolve_system(states(System("root", None, (on("dns", "dns", disks=(disk,)),))), chain_of, "root")


def test_machines_that_wait_for_each_other_raise_with_the_cycle() -> None:
    systems = states(
        System(
            "root",
            None,
            (
                on("a", "dns", settings={"startAfter": ["b"]}),
                on("b", "dns", settings={"startAfter": ["c"]}),
                on("c", "dns"),
            ),
        ),
        System("bad", "root", (on("c", settings={"startAfter": ["a"]}),)),
    )
    assert resolve_system(systems, chain_of, "root").machines[0].after == ("b",)
    with pytest.raises(
        BootOrderCycle, match=r"SystemNode bad: .*startAfter: \w waits for \w waits for \w waits for \w"
    ):
        resolve_system(systems, chain_of, "bad")


def test_a_machine_cannot_wait_for_one_that_is_not_there() -> None:
    systems = states(
        System("root", None, (on("a", "dns", settings={"startAfter": ["b"]}), on("b", "dns"))),
        System("less", "root", (on("b", removed=True),)),
    )
    with pytest.raises(MachineUnknown, match=r"SystemNode less: spec.machines\[a\].startAfter: .* no machine b"):
        resolve_system(systems, chain_of, "less")


def test_an_image_that_the_state_replaces_need_not_exist() -> None:
    systems = states(System("a", None, (on("dns", "ghost"),)), System("b", "a", (on("dns", "dns"),)))
    assert images(systems, "b") == {"dns": "dns"}


@pytest.mark.parametrize(
    ("error", "parent"),
    [
        pytest.param(SystemMissing, Waiting, id="a-missing-state-may-appear"),
        pytest.param(SystemCycle, SpecInvalid, id="a-cycle-needs-a-person"),
        pytest.param(MachineUnknown, SpecInvalid, id="an-unknown-machine-needs-a-person"),
        pytest.param(MachineWithoutImage, SpecInvalid, id="a-machine-without-image-needs-a-person"),
    ],
)
def test_the_type_of_the_error_shows_whether_a_user_must_act(error: type[KigiError], parent: type[KigiError]) -> None:
    assert issubclass(error, parent)
    assert error.reason == error.__name__


@pytest.mark.parametrize(
    ("base", "patch", "merged"),
    [
        # The examples of RFC 7396, appendix A, whose documents are objects.
        pytest.param({"a": "b"}, {"a": "c"}, {"a": "c"}, id="replaces"),
        pytest.param({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}, id="adds"),
        pytest.param({"a": "b"}, {"a": None}, {}, id="null-deletes"),
        pytest.param({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}, id="null-deletes-one"),
        pytest.param({"a": ["b"]}, {"a": "c"}, {"a": "c"}, id="text-over-list"),
        pytest.param({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}, id="list-over-text"),
        pytest.param({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}, id="nested"),
        pytest.param({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}, id="lists-do-not-merge"),
        pytest.param({"e": None}, {"a": 1}, {"e": None, "a": 1}, id="null-in-the-base-stays"),
        pytest.param({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}, id="null-in-a-new-object-vanishes"),
        pytest.param({"a": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}, id="object-over-number"),
    ],
)
def test_merge_patch_follows_rfc_7396(base: dict[str, Any], patch: dict[str, Any], merged: dict[str, Any]) -> None:
    before = repr((base, patch))
    assert merge_patch(base, patch) == merged
    assert repr((base, patch)) == before
