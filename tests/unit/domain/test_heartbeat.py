"""Names of the nodes' Leases: valid and different, however long the nodes' names are."""

from __future__ import annotations

import re

import pytest

from kigi.api.base import DNS_SUBDOMAIN
from kigi.domain.heartbeat import (
    HEARTBEAT_S,
    MAX_CERTIFICATES,
    SILENT_AFTER_S,
    build_lease,
    certificates_of,
    lease_name,
    node_of_lease,
)
from kigi.domain.names import ANNOTATION_PEER_CERTIFICATES

LONG = "a" * 240


@pytest.mark.parametrize(
    "node",
    ["n", "node-a.example.org", LONG + "bcd", LONG + "bcde", LONG + "b-d-e", LONG + "b.defghijklmn", "a." * 126 + "a"],
)
def test_a_lease_has_a_valid_name(node: str) -> None:
    assert re.fullmatch(DNS_SUBDOMAIN, node)
    name = lease_name(node)
    assert len(name) <= 253
    assert re.fullmatch(DNS_SUBDOMAIN, name), name
    assert name == "kigi-node-" + node or len(name) == 253


def test_no_node_has_the_name_of_the_leaders_lease() -> None:
    assert lease_name("kigi-operator") == "kigi-node-kigi-operator"
    assert lease_name("operator") != "kigi-operator"


def test_a_lease_belongs_to_the_node_that_holds_it() -> None:
    lease = build_lease("n1", "kigi-system", cache=("n1", "u"), time="2026-01-01T00:00:00Z")
    assert node_of_lease(lease) == "n1"
    assert node_of_lease(lease | {"spec": {"holderIdentity": "n2"}}) is None, "another node's name"
    assert node_of_lease(lease | {"spec": {}}) is None
    assert node_of_lease(lease | {"metadata": {"name": "kigi-operator"}}) is None


def test_three_heartbeats_may_be_late() -> None:
    assert SILENT_AFTER_S >= 4 * HEARTBEAT_S


def test_a_lease_publishes_certificates_of_its_own_node() -> None:
    shown = ("a" * 64, "0" * 64)
    lease = build_lease("n1", "kigi-system", cache=("n1", "u"), time="2026-01-01T00:00:00Z", certificates=shown)
    assert certificates_of(lease, "n1") == set(shown)
    assert certificates_of(lease, "n2") == set()
    assert certificates_of(lease | {"spec": {"holderIdentity": "n2"}}, "n2") == set(), "the name is that of n1"


@pytest.mark.parametrize(
    "text", [None, "", ",", "a" * 63, "A" * 64, "g" * 64, " " + "a" * 64, "a" * 64 + "\n", "sha256:" + "a" * 64, "*", 7]
)
def test_what_is_no_fingerprint_is_not_read(text: object) -> None:
    lease = {
        "metadata": {"name": "kigi-node-n", "annotations": {ANNOTATION_PEER_CERTIFICATES: text}},
        "spec": {"holderIdentity": "n"},
    }
    assert certificates_of(lease, "n") == set()


def test_only_a_few_fingerprints_are_read() -> None:
    many = [f"{number:064x}" for number in range(1000)]
    lease = build_lease("n", "s", cache=("n", "u"), time="t", certificates=many)
    assert certificates_of(lease, "n") == set(many[:MAX_CERTIFICATES])
    assert certificates_of({"metadata": {"name": "kigi-node-n"}, "spec": {"holderIdentity": "n"}}, "n") == set()
