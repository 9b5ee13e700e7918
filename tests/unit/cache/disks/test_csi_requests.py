"""What a request must have; the driver's own tests send the same over gRPC."""

from __future__ import annotations

import json
from typing import Any

import pytest
from grpc import StatusCode

from kigi.domain.chain_attribute import chain_from_text, chain_text
from kigi_cache.disks.csi_errors import Refused
from kigi_cache.disks.csi_requests import check_pod, handle_and_target, parse_chain
from kigi_cache.rpc import csi_pb2 as pb

DIGESTS = [f"sha256:{digit * 64}" for digit in "abc"]
CHAIN = [{"digest": d, "sizeBytes": 400, "virtualSizeBytes": 1024, "repository": "default"} for d in DIGESTS]


BAD_CHAINS: dict[str, Any] = {
    "empty": [],
    "an object": {},
    "65 layers": [{**CHAIN[0], "digest": f"sha256:{n:064x}"} for n in range(65)],
    "a layer twice": [CHAIN[0], CHAIN[1], CHAIN[0]],
    "digest in capitals": [{**CHAIN[0], "digest": "sha256:" + "A" * 64}],
    "digest of another kind": [{**CHAIN[0], "digest": "sha512:" + "a" * 64}],
    "digest with a path": [{**CHAIN[0], "digest": "sha256:../" + "a" * 61}],
    "digest with a line end": [{**CHAIN[0], "digest": CHAIN[0]["digest"] + "\n"}],  # type: ignore[operator]
    "no digest": [{"sizeBytes": 1, "virtualSizeBytes": 512}],
    "no size": [{**CHAIN[0], "sizeBytes": 0}],
    "negative size": [{**CHAIN[0], "sizeBytes": -1}],
    "too big": [{**CHAIN[0], "sizeBytes": 2**60}],
    "size as a word": [{**CHAIN[0], "sizeBytes": "big"}],
    "odd virtual size": [{**CHAIN[0], "virtualSizeBytes": 513}],
    "shrinking": [CHAIN[0], {**CHAIN[1], "virtualSizeBytes": 512}],
    "repository with a slash": [{**CHAIN[0], "repository": "a/b"}],
}


@pytest.mark.parametrize("chain", BAD_CHAINS.values(), ids=BAD_CHAINS.keys())
def test_a_bad_chain_is_refused(chain: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_chain(json.dumps(chain))


def test_a_chain_that_would_fill_the_memory_is_not_parsed() -> None:
    with pytest.raises(ValueError, match="at most"):
        parse_chain("[" * 10**6)


def test_the_operators_own_attribute_is_read_as_it_was_meant() -> None:
    chain = chain_from_text(json.dumps(CHAIN))
    assert parse_chain(chain_text(chain)) == chain


def test_a_layer_may_be_larger_than_its_parent_but_not_smaller() -> None:
    grown = [CHAIN[0], {**CHAIN[1], "virtualSizeBytes": 2048}]
    assert [layer.virtual_size_bytes for layer in parse_chain(json.dumps(grown))] == [1024, 2048]
    with pytest.raises(ValueError, match="below its parent's"):
        parse_chain(json.dumps(list(reversed(grown))))


def test_the_text_of_a_refusal_is_short_whatever_was_sent() -> None:
    with pytest.raises(Refused, match="not a Kigi volume handle") as refused:
        handle_and_target("x" * 10_000, "/pods/a")
    assert refused.value.code == StatusCode.INVALID_ARGUMENT
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("context", [{}, {"csi.storage.k8s.io/pod.name": "virt-launcher-office-1-mail1-x7k2p"}])
def test_a_virtual_machines_pod_gets_its_disk(context: dict[str, str]) -> None:
    check_pod(pb.NodePublishVolumeRequest(volume_id="v", volume_context=context))


@pytest.mark.parametrize("pod", ["reader", "", "x-virt-launcher-a", "virt-launcher"])
def test_another_pod_gets_no_disk(pod: str) -> None:
    request = pb.NodePublishVolumeRequest(volume_id="v", volume_context={"csi.storage.k8s.io/pod.name": pod})
    with pytest.raises(Refused, match="capture the machine") as refused:
        check_pod(request)
    assert refused.value.code == StatusCode.FAILED_PRECONDITION
