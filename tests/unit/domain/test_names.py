"""Names of what Kigi makes: always valid, never longer than Kubernetes allows, never shared by two owners."""

from __future__ import annotations

import re

import pytest

from kigi.domain import names

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
SUBDOMAIN = re.compile(rf"{LABEL.pattern}(\.{LABEL.pattern})*")
LONGEST = ("n" * 63, "d" * 32, "9999", "m" * 20, 10**9)
UID = "0b1e2f3a-4c5d-6e7f-8091-a2b3c4d5e6f7"


def test_the_longest_machine_name_fits_a_host_name_and_a_label() -> None:
    name = names.machine_name("d" * 32, "9999", "m" * 20)
    assert len(name) == 58
    assert LABEL.fullmatch(name)


def test_the_longest_claim_volume_and_handle_are_names_that_kubernetes_takes() -> None:
    claim, volume = names.claim_name(*LONGEST[1:]), names.volume_name(*LONGEST)
    handle = names.volume_handle(volume, UID)
    for name in (claim, volume, handle):
        assert len(name) <= 253
        assert SUBDOMAIN.fullmatch(name)


def test_a_handle_is_one_directory_name() -> None:
    handle = names.volume_handle(names.volume_name("team", "range", "3", "mail", 7), UID)
    assert handle == "kigi.team.range.3.mail.r7.0b1e2f3a"
    assert "/" not in handle
    assert ".." not in handle


@pytest.mark.parametrize("instance", ["0", "red", "team7", "a" * 16])
def test_the_volume_of_a_handle_is_found_again(instance: str) -> None:
    volume = names.volume_name("team", "range", instance, "mail", 7)
    assert names.volume_of_handle(names.volume_handle(volume, UID)) == volume


@pytest.mark.parametrize("instance", ["", "a-b", "Red", "a" * 17, "é"])
def test_a_handle_with_a_name_that_no_instance_can_have_is_not_of_kigis_form(instance: str) -> None:
    assert names.volume_of_handle(f"kigi.team.range.{instance}.mail.r7.0b1e2f3a") is None


def test_numbers_are_sorted_by_their_value_and_names_come_after_them() -> None:
    assert sorted(["red", "10", "2", "blue", "1"], key=names.instance_order) == ["1", "2", "10", "blue", "red"]


def test_a_deployment_of_the_same_name_has_other_handles() -> None:
    volume = names.volume_name("team", "range", "0", "mail", 1)
    assert names.volume_handle(volume, UID) != names.volume_handle(volume, "ffffffff" + UID[8:])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(("a", "b", "1", "c", 1), ("a", "b", "1", "c", 2), id="revision"),
        pytest.param(("a", "b", "1", "c", 1), ("a", "b", "1", "d", 1), id="machine"),
        pytest.param(("a", "b", "1", "c", 1), ("a", "b", "11", "c", 1), id="instance"),
        pytest.param(("a", "b", "1", "c", 1), ("a", "x", "1", "c", 1), id="deployment"),
        pytest.param(("a", "b", "1", "c", 1), ("x", "b", "1", "c", 1), id="namespace"),
        pytest.param(("a", "b-1", 0, "c", 1), ("a", "b", "1", "c", 1), id="number-at-the-end-of-a-name"),
        pytest.param(("a", "b-1-c", 2, "d", 1), ("a", "b", "1", "c-2-d", 1), id="names-whose-vm-names-meet"),
        pytest.param(("a-b", "c", "1", "d", 1), ("a", "b-c", "1", "d", 1), id="dash-between-namespace-and-name"),
    ],
)
def test_no_two_disks_share_a_volume(
    one: tuple[str, str, int, str, int], other: tuple[str, str, int, str, int]
) -> None:
    assert names.volume_name(*one) != names.volume_name(*other)


def test_vm_names_of_two_deployments_can_meet_and_then_the_owner_decides() -> None:
    # Documented here, because a VM's name is also its host name and cannot hold dots: the second deployment gets
    # NameTaken, and its disks are its own all the same (see the test above).
    assert names.machine_name("b-1-c", "2", "d") == names.machine_name("b", "1", "c-2-d")


def test_a_revision_is_part_of_the_claim_and_not_of_the_machine() -> None:
    assert names.claim_name("range", "0", "mail", 1) != names.claim_name("range", "0", "mail", 2)
    assert names.machine_name("range", "0", "mail") == "range-0-mail"


def test_the_disk_of_a_machine_is_in_the_part_of_the_name_space_that_is_reserved() -> None:
    assert names.DISK_VOLUME.startswith("kigi-")


@pytest.mark.parametrize(
    "key",
    [
        names.LABEL_DEPLOYMENT,
        names.LABEL_NAMESPACE,
        names.LABEL_INSTANCE,
        names.LABEL_MACHINE,
        names.LABEL_REVISION,
        names.ANNOTATION_FINGERPRINT,
        names.ANNOTATION_OWNER,
        names.DEPLOYMENT_FINALIZER,
        names.INSTANCE_FINALIZER,
        names.CAPTURE_FINALIZER,
        names.OVERLAY_FINALIZER,
    ],
)
def test_keys_are_qualified_by_the_group(key: str) -> None:
    assert re.fullmatch(r"kigi\.dev/[a-z][-a-z]{0,62}", key)


def test_keys_are_distinct() -> None:
    keys = [value for name, value in vars(names).items() if name.startswith(("LABEL_", "ANNOTATION_"))]
    assert len(keys) == len(set(keys)) >= 7
    finalizers = [value for name, value in vars(names).items() if name.endswith("_FINALIZER")]
    assert len(finalizers) == len(set(finalizers)) >= 5
