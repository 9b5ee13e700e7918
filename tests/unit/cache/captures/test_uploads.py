"""When the publisher sends a layer, and what happens to one that is refused or was made before."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kigi.api.layer_upload import LayerUpload, PartUpload, SignedRequest
from kigi.domain.layers import Digest, digest_of_hex, layer_file_name
from kigi.domain.signed_put import time_text
from kigi.errors import AccessDenied, KigiError, LayerCorrupt, RepositoryUnreachable
from kigi_cache.captures import publisher as module
from kigi_cache.captures.files import COPY, OUT, RESULT, UPLOAD, CopyFiles, read_json, write_json
from kigi_cache.captures.publisher import JOIN_CHECK_S, REFUSED_RETRY_S, RETRY_S, Publisher, made_before
from kigi_cache.captures.uploads import MadeLayer, Piece, cut, requests_for
from tests.support.copies import PARENT
from tests.support.manual_clock import ManualClock

CONTENT = b"a layer"
DIGEST = digest_of_hex(hashlib.sha256(CONTENT).hexdigest())


class Store:
    """A repository: what is stored, and how it answers."""

    def __init__(self) -> None:
        self.stored: set[Digest] = set()
        self.error: KigiError | None = None
        self.sent: list[SignedRequest] = []
        self.rival = False
        """Another publisher is faster."""

    async def is_stored(self, path: Path, digest: Digest) -> bool:
        return digest in self.stored

    async def size_of(self, digest: Digest) -> int | None:
        return 1 if digest in self.stored else None

    async def send(self, layer: MadeLayer | Piece, request: SignedRequest, *_: Any) -> bool:
        self.sent.append(request)
        if self.error is not None:
            raise self.error
        self.stored.add(layer.digest)
        return not self.rival


class Node:
    """A publisher whose layers are ``CONTENT``."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.store, self.made, self.monkeypatch = root, Store(), 0, monkeypatch
        self.time = ManualClock()
        self.files = CopyFiles(root)
        self.files.recover()
        (root / "repositories").mkdir(exist_ok=True)
        (root / "repositories" / "default.json").write_text('{"endpoint": "http://s3.example", "bucket": "kigi"}')
        self.start()

        @contextlib.asynccontextmanager
        async def opened(repository: Any) -> AsyncIterator[Store]:
            yield self.store

        async def make(publisher: Publisher, directory: Path, order: Any, repository: Any) -> MadeLayer:
            self.made += 1
            path = directory / OUT / layer_file_name(DIGEST)
            path.write_bytes(CONTENT)
            return MadeLayer(path, DIGEST, len(CONTENT))

        monkeypatch.setattr(module, "open_repository", opened)
        monkeypatch.setattr(module, "send_layer", self.store.send)
        monkeypatch.setattr(Publisher, "_make", make)

    def start(self) -> None:
        """The publisher starts, again."""
        self.publisher = Publisher(self.root, self.root / "repositories", self.time.clock)

    def copy(self, id_: str = "c1") -> Path:
        building = self.files.begin(id_)
        (building / COPY).write_bytes(b"x")
        self.files.commit(id_)
        self.files.make_durable(id_, {"parent": PARENT, "repository": "default"})
        return self.files.directory(id_)

    def permit(self, id_: str = "c1", *, minute: int = 0, digest: str = DIGEST, size: int = len(CONTENT)) -> None:
        """What the daemon writes when the operator has answered."""
        time = time_text(datetime(2026, 3, 1, 12, minute, tzinfo=UTC))
        request = SignedRequest(url="http://s3.example/x", time=time, authorization=f"signed at {time}")
        upload = LayerUpload(digest=digest, size_bytes=size, request=request)
        self.files.write_upload(id_, upload.to_api())

    async def step(self) -> list[str]:
        """One round; ids of the copies that were tried."""
        due = self.publisher.due()
        for directory in due:
            await self.publisher.publish(directory)
        return [directory.name for directory in due]

    def result(self, id_: str = "c1") -> dict[str, Any]:
        return read_json(self.files.directory(id_) / RESULT)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


async def test_a_layer_is_reported_and_waits_for_its_request_without_cost(node: Node) -> None:
    node.copy()
    assert await node.step() == ["c1"]
    assert node.result() == {"state": "Storing", "digest": DIGEST, "sizeBytes": len(CONTENT)}
    for _ in range(3):
        assert await node.step() == []
    node.permit()
    assert await node.step() == ["c1"]
    assert (node.result()["state"], node.result()["uploadedBytes"]) == ("Stored", len(CONTENT))
    assert await node.step() == []
    assert (node.made, len(node.store.sent)) == (1, 1)


async def test_a_waiting_layer_holds_up_no_other_copy(node: Node) -> None:
    for id_ in ("c1", "c2"):
        node.copy(id_)
    assert await node.step() == ["c1", "c2"]
    node.permit("c2")
    assert await node.step() == ["c2"]
    assert node.result("c2")["state"] == "Stored"
    assert node.result("c1")["state"] == "Storing"


@pytest.mark.parametrize(
    "wrong", [{"digest": "sha256:" + "e" * 64}, {"size": 1}, {"size": 2**40}], ids=["digest", "short", "long"]
)
async def test_a_request_for_another_layer_is_not_used(node: Node, wrong: dict[str, Any]) -> None:
    node.copy()
    await node.step()
    node.permit(**wrong)
    assert await node.step() == []
    assert node.store.sent == []


@pytest.mark.parametrize("text", ["", "[]", '{"digest": 1}', '{"digest": "x", "sizeBytes": 7}', "{" * 5000])
async def test_a_damaged_answer_is_no_answer(node: Node, text: str) -> None:
    node.copy()
    await node.step()
    (node.files.directory("c1") / UPLOAD).write_text(text)
    assert await node.step() == []
    assert requests_for(MadeLayer(Path("x"), DIGEST, 7, ()), {}) == ()


async def test_a_refused_request_is_reported_with_its_layer_and_replaced_at_once(node: Node) -> None:
    """The operator signs another one for a layer that is reported, such as after a rotated Secret."""
    node.copy()
    await node.step()
    node.permit()
    node.store.error = AccessDenied("InvalidAccessKeyId")
    assert await node.step() == ["c1"]
    refused = node.result()
    assert (refused["state"], refused["reason"], refused["digest"]) == ("Refused", "AccessDenied", DIGEST)
    assert await node.step() == []
    node.store.error = None
    node.permit(minute=5)
    assert await node.step() == ["c1"]
    assert node.result()["state"] == "Stored"
    assert "reason" not in node.result()
    assert node.made == 1


async def test_the_same_request_is_tried_again_after_a_pause(node: Node) -> None:
    node.copy()
    await node.step()
    node.permit()
    for error, wait_s in ((RepositoryUnreachable("no answer"), RETRY_S), (AccessDenied("?"), REFUSED_RETRY_S)):
        node.store.error = error
        await node.step()
        node.time.advance(wait_s - 0.5)
        assert await node.step() == []
        node.time.advance(0.5)
        assert node.publisher.due() == [node.files.directory("c1")]
    node.store.error = None
    await node.step()
    assert node.result()["state"] == "Stored"


async def test_a_request_that_was_withdrawn_is_not_used(node: Node) -> None:
    node.copy()
    await node.step()
    node.permit()
    write_json(node.files.directory("c1") / UPLOAD, {"digest": DIGEST, "sizeBytes": len(CONTENT)})
    assert await node.step() == []


async def test_a_publisher_that_starts_again_makes_no_layer_again(node: Node) -> None:
    node.copy()
    await node.step()
    node.permit()
    node.store.error = RepositoryUnreachable("cut")
    await node.step()
    node.start()
    node.store.error = None
    assert await node.step() == ["c1"]
    assert (node.result()["state"], node.made) == ("Stored", 1)


async def test_a_publisher_that_starts_again_trusts_no_file(node: Node) -> None:
    directory = node.copy()
    await node.step()
    assert made_before(directory) is not None
    (directory / OUT / layer_file_name(DIGEST)).write_bytes(b"cut off")
    assert made_before(directory) is None
    node.start()
    await node.step()
    assert node.made == 2
    for damaged in ({"digest": "../../etc/passwd"}, {"digest": 5}, {}, {"digest": "sha256:" + "0" * 64}):
        write_json(directory / RESULT, damaged)
        assert made_before(directory) is None


async def test_a_new_copy_of_the_same_name_gets_its_own_layer(node: Node) -> None:
    node.copy()
    await node.step()
    node.files.delete("c1")
    node.copy()
    assert await node.step() == ["c1"]
    assert node.made == 2


async def test_a_layer_that_is_stored_already_is_not_sent(node: Node) -> None:
    node.store.stored.add(DIGEST)
    node.copy()
    await node.step()
    node.permit()
    await node.step()
    assert (node.result()["state"], node.store.sent) == ("Stored", [])


async def test_a_layer_that_another_publisher_stores_meanwhile_is_compared(node: Node) -> None:
    node.store.rival = True
    node.copy()
    await node.step()
    node.permit()
    await node.step()
    assert (node.result()["state"], len(node.store.sent)) == ("Stored", 1)


async def test_other_content_under_its_digest_is_reported(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def corrupt(path: Path, digest: Digest) -> bool:
        raise LayerCorrupt("remove the damaged object")

    node.copy()
    await node.step()
    node.permit()
    monkeypatch.setattr(node.store, "is_stored", corrupt)
    await node.step()
    assert (node.result()["reason"], node.result()["digest"]) == ("LayerCorrupt", DIGEST)


async def test_an_object_that_comes_and_goes_ends_the_attempt(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(path: Path, digest: Digest) -> bool:
        return False

    node.store.rival = True
    monkeypatch.setattr(node.store, "is_stored", never)
    node.copy()
    await node.step()
    node.permit()
    await node.step()
    assert (node.result()["reason"], len(node.store.sent)) == ("RepositoryUnreachable", 2)


MIB = 2**20
MOST = 5 * MIB


class LargeNode(Node):
    """A publisher whose layers have 12 MiB, at a server that takes 5 MiB at once."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(root, monkeypatch)
        settings = {"endpoint": "http://s3.example", "bucket": "kigi", "maxPutBytes": MOST}
        (root / "repositories" / "default.json").write_text(json.dumps(settings))
        content = b"".join(bytes([number]) * MIB for number in range(12))
        self.digest = digest_of_hex(hashlib.sha256(content).hexdigest())

        async def make(publisher: Publisher, directory: Path, order: Any, repository: Any) -> MadeLayer:
            self.made += 1
            path = directory / OUT / layer_file_name(self.digest)
            path.write_bytes(content)
            return MadeLayer(path, self.digest, len(content))

        monkeypatch.setattr(Publisher, "_make", make)
        self.parts = [
            digest_of_hex(hashlib.sha256(content[at : at + MOST]).hexdigest()) for at in range(0, 12 * MIB, MOST)
        ]

    def permit_parts(self, *, minute: int = 0, parts: list[Digest] | None = None) -> None:
        """What the daemon writes when the operator has answered."""
        time = time_text(datetime(2026, 3, 1, 12, minute, tzinfo=UTC))
        sizes = [MOST, MOST, 2 * MIB]
        uploads = [
            PartUpload(
                digest=digest,
                size_bytes=size,
                request=SignedRequest(url="http://s3.example/x", time=time, authorization=f"{digest} at {time}"),
            )
            for digest, size in zip(parts or self.parts, sizes, strict=True)
        ]
        self.files.write_upload("c1", LayerUpload(digest=self.digest, size_bytes=12 * MIB, parts=uploads).to_api())


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LargeNode:
    return LargeNode(tmp_path, monkeypatch)


async def test_a_large_layer_is_reported_with_its_parts_which_are_sent_and_then_joined(large: LargeNode) -> None:
    large.copy()
    await large.step()
    about = {"digest": large.digest, "sizeBytes": 12 * MIB, "parts": large.parts}
    assert large.result() == {"state": "Storing", **about}
    large.permit()  # for the whole: of another repository's settings
    assert await large.step() == []
    large.permit_parts()
    assert await large.step() == ["c1"]
    assert large.result() == {"state": "Storing", **about, "uploadedBytes": 12 * MIB}
    assert [request.authorization.partition(" ")[0] for request in large.store.sent] == large.parts
    write_json(large.files.directory("c1") / UPLOAD, {"digest": large.digest, "sizeBytes": 12 * MIB})
    assert await large.step() == ["c1"], "it looks for the layer"
    assert await large.step() == []
    large.time.advance(JOIN_CHECK_S)
    assert await large.step() == ["c1"]
    assert large.result()["state"] == "Storing"
    large.store.stored.add(large.digest)
    large.time.advance(JOIN_CHECK_S)
    await large.step()
    assert large.result() == {"state": "Stored", **about, "uploadedBytes": 12 * MIB}


async def test_an_upload_in_parts_goes_on_where_it_was_broken_off(large: LargeNode) -> None:
    large.copy()
    await large.step()
    large.permit_parts()
    large.store.stored.add(large.parts[0])
    large.store.error = RepositoryUnreachable("cut")
    await large.step()
    assert (large.result()["state"], large.result()["parts"]) == ("Refused", large.parts)
    assert len(large.store.sent) == 1
    large.start()
    large.store.error = None
    await large.step()
    assert [request.authorization.partition(" ")[0] for request in large.store.sent[1:]] == large.parts[1:]
    assert (large.made, large.result()["uploadedBytes"]) == (1, 12 * MIB)


async def test_requests_for_other_parts_are_not_used(large: LargeNode) -> None:
    large.copy()
    await large.step()
    large.permit_parts(parts=large.parts[::-1])
    assert await large.step() == []
    assert large.store.sent == []


async def test_a_large_layer_that_is_stored_already_is_not_sent(large: LargeNode) -> None:
    large.store.stored.add(large.digest)
    large.copy()
    await large.step()
    large.permit_parts()
    await large.step()
    assert (large.result()["state"], large.store.sent) == ("Stored", [])


def test_the_parts_of_a_file_are_its_ranges(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4 * 1024 * 3)
    size = path.stat().st_size
    for most in (MIB, MIB + 1, size - 1, size // 2):
        layer = cut(MadeLayer(path, DIGEST, size), most)
        assert layer.parts is not None
        data, end = path.read_bytes(), 0
        for part in layer.parts:
            content = data[part.offset_bytes : part.offset_bytes + part.size_bytes]
            assert (part.offset_bytes, len(content)) == (end, part.size_bytes)
            assert part.digest == digest_of_hex(hashlib.sha256(content).hexdigest())
            end += part.size_bytes
        assert end == size
    assert cut(MadeLayer(path, DIGEST, size), size).parts == ()


async def test_each_part_is_sent_with_the_request_of_its_time(large: LargeNode) -> None:
    """A layer of many parts takes longer than a request lives."""
    large.copy()
    await large.step()
    large.permit_parts()
    send = large.store.send

    async def slowly(piece: Piece, request: SignedRequest, *rest: Any) -> bool:
        large.permit_parts(minute=5 * len(large.store.sent) + 5)
        return await send(piece, request, *rest)

    large.monkeypatch.setattr(module, "send_layer", slowly)
    await large.step()
    assert [request.time for request in large.store.sent] == [
        "20260301T120000Z",
        "20260301T120500Z",
        "20260301T121000Z",
    ]


async def test_a_layer_that_waits_for_its_join_is_looked_for_at_a_bounded_pace_also_after_errors(
    large: LargeNode,
) -> None:
    large.copy()
    await large.step()
    large.permit_parts()
    await large.step()

    async def refused(path: Path, digest: Digest) -> bool:
        raise AccessDenied("the reader was rotated")

    with large.monkeypatch.context() as patch:
        patch.setattr(large.store, "is_stored", refused)
        assert await large.step() == ["c1"]
        assert (large.result()["reason"], large.result()["uploadedBytes"]) == ("AccessDenied", 12 * MIB)
        large.time.advance(JOIN_CHECK_S)
        assert await large.step() == []
    large.store.stored.add(large.digest)
    large.time.advance(REFUSED_RETRY_S)
    await large.step()
    assert large.result()["state"] == "Stored"


async def test_a_layer_whose_repository_is_unknown_is_tried_at_a_bounded_pace(large: LargeNode) -> None:
    large.copy()
    await large.step()
    large.start()
    settings = (large.root / "repositories" / "default.json").read_text()
    (large.root / "repositories" / "default.json").unlink()
    assert await large.step() == ["c1"]
    assert large.result()["reason"] == "RepositoryUnknown"
    assert await large.step() == []
    (large.root / "repositories" / "default.json").write_text(settings)
    large.time.advance(REFUSED_RETRY_S)
    assert await large.step() == ["c1"]
    assert large.result()["state"] == "Storing"
    assert large.made == 1


async def test_parts_that_were_deleted_before_the_join_are_sent_again(large: LargeNode) -> None:
    large.copy()
    await large.step()
    large.permit_parts()
    await large.step()
    write_json(large.files.directory("c1") / UPLOAD, {"digest": large.digest, "sizeBytes": 12 * MIB})
    large.store.stored.discard(large.parts[1])  # gc
    large.time.advance(JOIN_CHECK_S)
    await large.step()
    assert "uploadedBytes" not in large.result(), "so that the operator signs requests again"
    large.permit_parts(minute=5)
    await large.step()
    assert large.result()["uploadedBytes"] == 12 * MIB
    assert [request.authorization.partition(" ")[0] for request in large.store.sent] == [*large.parts, large.parts[1]]
