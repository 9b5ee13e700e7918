"""Which layers the operator lets a node store, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kigi.api.layer_repository import LayerRepositorySpec
from kigi.api.layer_upload import LayerUpload
from kigi.api.node_cache import CaptureOrder, CaptureReport
from kigi.api.repositories import Repository, repository_of_spec
from kigi.domain.layers import TABLES_BYTES, Digest
from kigi.domain.node_protocol import UploadRefused
from kigi.domain.signed_put import LIFE_S, MAX_PUT_BYTES, parse_time
from kigi.errors import KigiError, SpecInvalid
from kigi.planning.signed_uploads import RENEW_S
from kigi.planning.steps import JoinParts
from kigi.planning.uploads import (
    MAX_REQUESTS,
    WRITER_RECHECK_S,
    Uploads,
    due_joins,
    reported_uploads,
    with_uploads,
)
from tests.support.bodies import repository_body

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DIGEST, OTHER = "sha256:" + "d" * 64, "sha256:" + "e" * 64
VIRTUAL = 2**30
WRITER = Repository(endpoint="https://s3.example", bucket="kigi", access_key_id="w", secret_access_key="hush")


def order(id_: str = "c1", **changes: Any) -> CaptureOrder:
    fields = {
        "id": id_,
        "volume": "kigi.range.web.0.dns.r1.0a1b2c3d",
        "parent_digest": "sha256:" + "a" * 64,
        "virtual_size_bytes": VIRTUAL,
        "repository_name": "main",
        "action": "Keep",
        "mounted": True,
        **changes,
    }
    return CaptureOrder.model_validate(fields)


def report(id_: str = "c1", state: str = "Storing", digest: str | None = DIGEST, size: int | None = 1000) -> Any:
    return CaptureReport(id=id_, state=state, digest=digest, size_bytes=size)


def decide(
    orders: list[CaptureOrder], *reports: CaptureReport, writer: Any = WRITER, now: datetime = NOW
) -> tuple[list[CaptureOrder], float | None]:
    writers: dict[str, Repository | KigiError] = {} if writer is None else {"main": writer}
    return with_uploads(orders, Uploads({each.id: each for each in reports}, writers, now))


def upload_of(*reports: CaptureReport, before: CaptureOrder | None = None, **options: Any) -> LayerUpload:
    ((found,), _) = decide([before or order()], *(reports or (report(),)), **options)
    assert found.upload is not None
    return found.upload


def granted() -> CaptureOrder:
    ((found,), _) = decide([order()], report())
    assert found.upload is not None
    assert found.upload.request is not None
    return found


def test_a_reported_layer_gets_a_request_for_its_own_key_and_content() -> None:
    upload = upload_of()
    assert (upload.digest, upload.size_bytes, upload.reason) == (DIGEST, 1000, None)
    assert upload.request is not None
    assert upload.request.url == f"https://s3.example/kigi/layers/sha256/{'d' * 64}"
    assert parse_time(upload.request.time) == NOW
    assert "hush" not in str(upload)


def test_a_copy_without_a_layer_gets_none() -> None:
    for each in (report(state="Copied", digest=None, size=None), report("foreign")):
        assert decide([order()], each) == ([order()], None)


@pytest.mark.parametrize("action", ["Check", "Copy"])
def test_a_copy_that_may_still_be_replaced_gets_none(action: str) -> None:
    assert decide([order(action=action)], report()) == ([order(action=action)], None)


def test_a_report_without_an_order_is_ignored() -> None:
    """A stolen node that reports layers of captures on other nodes, or of none, as many as it wants."""
    reports = [report(f"c{number}", digest=f"sha256:{number:064x}") for number in range(2, 4000)]
    assert decide([], *reports) == ([], None)
    assert decide([order()], *reports) == ([order()], None)


@pytest.mark.parametrize(
    ("digest", "size"),
    [("sha256:" + "D" * 64, 1), ("../../x", 1), ("d" * 64, 1), (DIGEST, 0), (DIGEST, -1), (DIGEST, None), (None, 5)],
)
def test_a_report_that_names_no_layer_is_ignored(digest: str | None, size: int | None) -> None:
    assert decide([order()], report(digest=digest, size=size)) == ([order()], None)


@pytest.mark.parametrize(
    ("virtual", "size", "is_permitted"),
    [
        (VIRTUAL, VIRTUAL + TABLES_BYTES, True),
        (VIRTUAL, VIRTUAL + TABLES_BYTES + 1, False),
        (2**40, MAX_PUT_BYTES, True),
        (2**40, MAX_PUT_BYTES + 1, False),
        (2**40, 2**63, False),
    ],
)
def test_a_layer_is_no_longer_than_its_disk_and_than_one_request_may_be(
    virtual: int, size: int, is_permitted: bool
) -> None:
    upload = upload_of(report(size=size), before=order(virtual_size_bytes=virtual))
    assert (upload.request is not None) == is_permitted
    assert (upload.reason == UploadRefused.reason) == (not is_permitted)
    if not is_permitted:
        words = "longer than its disk" if size > virtual + TABLES_BYTES else "spec.limits.maxPutBytes"
        assert words in str(upload.message)


def test_a_server_that_takes_more_at_once_may_get_more() -> None:
    larger = WRITER.model_copy(update={"max_put_bytes": 2**35})
    before = order(virtual_size_bytes=2**40)
    assert upload_of(report(size=2**35), before=before, writer=larger).request is not None
    assert upload_of(report(size=2**35 + 1), before=before, writer=larger).reason == UploadRefused.reason
    spec = {"limits": {"maxPutBytes": 2**35}, **repository_body()["spec"]}
    assert repository_of_spec(LayerRepositorySpec.model_validate(spec)).max_put_bytes == 2**35


def test_a_copy_has_one_layer_whatever_its_node_reports_later() -> None:
    """So that a stolen node cannot fill the repository with one capture, by one layer after another."""
    current = granted()
    for number in range(1000):
        for state in ("Stored", "Storing"):
            ((current,), _) = decide([current], report(state=state, digest=f"sha256:{number:064x}"))
            assert current.upload is not None
            assert current.upload.digest == DIGEST
            assert current.upload.request is None
    assert current.upload is not None
    assert "another layer of the same copy" in str(current.upload.message)
    assert upload_of(report(), before=current).request is not None, "the first one may still be stored"


def test_another_size_is_another_layer() -> None:
    assert upload_of(report(size=1001), before=granted()).reason == UploadRefused.reason


@pytest.mark.parametrize("state", ["Stored", "Unchanged", "Lost", "Copied", "unknown"])
def test_a_request_ends_when_the_layer_is_stored_or_the_copy_is_gone(state: str) -> None:
    upload = upload_of(report(state=state), before=granted())
    assert (upload.digest, upload.request, upload.reason) == (DIGEST, None, None)


def test_a_request_ends_when_the_node_reports_the_copy_no_more() -> None:
    ((found,), delay_s) = decide([granted()])
    assert found.upload is not None
    assert found.upload.request is None
    assert delay_s is None


def test_a_request_stays_as_it_is_until_a_third_of_its_life_is_over() -> None:
    assert RENEW_S < LIFE_S
    current, moment = granted(), NOW
    for _ in range(10):
        renewed_at = moment + timedelta(seconds=RENEW_S)
        for passed_s in (0.0, RENEW_S / 2, RENEW_S - 0.001):
            now = moment + timedelta(seconds=passed_s)
            ((same,), delay_s) = decide([current], report(state="Refused"), now=now)
            assert same == current
            assert delay_s == pytest.approx(max(1.0, (renewed_at - now).total_seconds()))
        ((current,), _) = decide([current], report(), now=renewed_at)
        assert current != same
        assert current.upload is not None
        assert current.upload.request is not None
        assert parse_time(current.upload.request.time) == renewed_at
        moment = renewed_at


@pytest.mark.parametrize(
    "now", [NOW + timedelta(days=3), NOW - timedelta(seconds=1), NOW - timedelta(days=1)], ids=["late", "back", "far"]
)
def test_a_request_of_another_time_is_replaced(now: datetime) -> None:
    """The operator was away, or its clock was set back."""
    upload = upload_of(before=granted(), now=now)
    assert upload.request is not None
    assert parse_time(upload.request.time) == now.replace(microsecond=0)


@pytest.mark.parametrize(
    "change",
    [{"secret_access_key": "rotated"}, {"access_key_id": "w2"}, {"bucket": "moved"}, {"region": "eu-1"}],
    ids=lambda change: next(iter(change)),
)
def test_a_rotated_secret_or_another_bucket_replaces_the_request_at_once(change: dict[str, str]) -> None:
    before = granted()
    assert upload_of(before=before, writer=WRITER.model_copy(update=change)) != before.upload
    assert upload_of(before=before) == before.upload


def test_an_operator_that_has_just_started_keeps_the_request_and_signs_when_it_has_the_secret() -> None:
    ((same,), delay_s) = decide([granted()], report(), writer=None, now=NOW + timedelta(seconds=9))
    assert same == granted()
    assert delay_s == WRITER_RECHECK_S
    ((fresh,), delay_s) = decide([order()], report(), writer=None)
    assert fresh.upload is not None
    assert (fresh.upload.request, fresh.upload.reason, delay_s) == (None, None, WRITER_RECHECK_S)


def test_a_repository_without_a_writer_is_named() -> None:
    before = granted()
    upload = upload_of(before=before, writer=SpecInvalid("spec.credentials.writerSecretRef is not set"))
    assert upload.request is None
    assert upload.reason == UploadRefused.reason
    assert upload.message == "repository main cannot be written to: spec.credentials.writerSecretRef is not set"
    assert upload_of(before=before.model_copy(update={"upload": upload})).request is not None, "it is set later"


def test_requests_are_few_and_orders_keep_their_places() -> None:
    orders = [order(f"c{number}") for number in range(3 * MAX_REQUESTS)]
    reports = [report(each.id, digest=f"sha256:{number:064x}") for number, each in enumerate(orders)]
    found, _ = decide(orders, *reports)
    assert [each.id for each in found] == [each.id for each in orders]
    having = [each.id for each in found if each.upload is not None and each.upload.request is not None]
    assert len(having) == MAX_REQUESTS
    assert decide(list(reversed(found)), *reports)[0] == list(reversed(found)), "others wait for their turn"
    done = [each.model_copy(update={"state": "Stored"}) if each.id in having else each for each in reports]
    later, _ = decide(found, *done)
    assert not set(having) & {each.id for each in later if each.upload is not None and each.upload.request is not None}


def test_what_a_trigger_compares_changes_with_a_layer_and_not_with_its_progress() -> None:
    first = report()
    assert reported_uploads({"c1": first}) == reported_uploads({"c1": first.model_copy(update={"uploaded_bytes": 9})})
    for other in (report(state="Stored"), report(digest=OTHER), report(size=1)):
        assert reported_uploads({"c1": other}) != reported_uploads({"c1": first})
    assert not reported_uploads({"c1": report(digest=None)})


SMALL = WRITER.model_copy(update={"max_put_bytes": 5 * 2**20})
LARGE = 12 * 2**20
PARTS = [f"sha256:{number:064x}" for number in range(3)]


def in_parts(id_: str = "c1", uploaded: int = 0, parts: list[str] = PARTS, size: int = LARGE, **changes: Any) -> Any:
    """A report of a layer in parts."""
    return report(id_, size=size).model_copy(update={"parts": parts, "uploaded_bytes": uploaded, **changes})


def test_a_large_layer_gets_a_request_for_each_part_and_none_for_the_whole() -> None:
    upload = upload_of(in_parts(), writer=SMALL)
    assert (upload.request, upload.reason) == (None, None)
    assert [(part.digest, part.size_bytes) for part in upload.parts] == [
        (PARTS[0], 5 * 2**20),
        (PARTS[1], 5 * 2**20),
        (PARTS[2], 2 * 2**20),
    ]
    assert [part.request.url.rpartition("/")[2] for part in upload.parts] == [part[7:] for part in PARTS]
    assert upload_of(in_parts(), writer=WRITER).request is not None, "this server takes it at once"
    before = order().model_copy(update={"upload": upload})
    assert upload_of(in_parts(), before=before, writer=SMALL) == upload
    later = upload_of(in_parts(), before=before, writer=SMALL, now=NOW + timedelta(seconds=RENEW_S))
    assert all(new.request != old.request for new, old in zip(later.parts, upload.parts, strict=True))


@pytest.mark.parametrize("parts", [[], PARTS[:2], [*PARTS, PARTS[0]], ["x"] * 3], ids=["none", "few", "many", "wrong"])
def test_parts_that_are_not_those_of_a_layer_of_its_size_are_refused(parts: list[str]) -> None:
    upload = upload_of(in_parts(parts=parts), writer=SMALL)
    assert (upload.parts, upload.request, upload.reason) == ([], None, UploadRefused.reason)
    assert "12.0 MiB; the repository takes 5.0 MiB in one request (spec.limits.maxPutBytes" in str(upload.message)
    fixed = upload_of(in_parts(), before=order().model_copy(update={"upload": upload}), writer=SMALL)
    assert len(fixed.parts) == 3, "a daemon that was upgraded"


def test_a_layer_of_more_than_64_parts_is_refused() -> None:
    size = 65 * 5 * 2**20
    many = in_parts(size=size, parts=[f"sha256:{number:064x}" for number in range(65)])
    assert upload_of(many, writer=SMALL).reason == UploadRefused.reason


def test_a_layer_has_one_list_of_parts_whatever_its_node_reports_later() -> None:
    current = order().model_copy(update={"upload": upload_of(in_parts(), writer=SMALL)})
    for number in range(100):
        other = in_parts(parts=[f"sha256:{number + 7:064x}", *PARTS[1:]])
        ((current,), _) = decide([current], report(state="Stored"), writer=SMALL)
        ((current,), _) = decide([current], other, writer=SMALL)
        assert current.upload is not None
        assert (current.upload.parts, current.upload.reason) == ([], UploadRefused.reason)
        assert due_joins("n1", [current], Uploads({"c1": other}, {"main": SMALL}, NOW)) == []


def test_a_layer_is_cut_again_when_the_repositorys_limit_changes_and_only_then() -> None:
    """Also a stolen node gets one list of parts signed for each limit that the administrator sets."""
    larger, most = SMALL.model_copy(update={"max_put_bytes": 6 * 2**20}), WRITER
    current = order().model_copy(update={"upload": upload_of(in_parts(), writer=SMALL)})
    done = in_parts(uploaded=LARGE)
    for each in (in_parts(), done):
        upload = upload_of(each, before=current, writer=larger)
        assert (upload.parts, upload.reason) == ([], UploadRefused.reason), "they have the former sizes"
        assert due_joins("n1", [current], Uploads({"c1": done}, {"main": larger}, NOW)) == []
    current = current.model_copy(update={"upload": upload})
    cut = in_parts(parts=[OTHER, PARTS[0]])
    found = upload_of(cut, before=current, writer=larger)
    assert [part.size_bytes for part in found.parts] == [6 * 2**20] * 2
    current = current.model_copy(update={"upload": found})
    for number in range(100):
        other = in_parts(parts=[OTHER, f"sha256:{number + 7:064x}"])
        assert upload_of(other, before=current, writer=larger).parts == []
    assert upload_of(in_parts(parts=[]), before=current, writer=most).request is not None, "it fits as a whole"


def test_a_list_of_another_limit_with_as_many_parts_is_named_until_the_node_has_cut_again() -> None:
    other = SMALL.model_copy(update={"max_put_bytes": 5 * 2**20 + 1})
    current = order().model_copy(update={"upload": upload_of(in_parts(), writer=SMALL)})
    upload = upload_of(in_parts(), before=current, writer=other)
    assert (upload.parts, upload.reason) == ([], UploadRefused.reason)
    assert "maxPutBytes of its LayerRepository has changed" in str(upload.message)
    cut = in_parts(parts=[*PARTS[:2], OTHER])
    assert len(upload_of(cut, before=current.model_copy(update={"upload": upload}), writer=other).parts) == 3


def joins(upload: LayerUpload, each: CaptureReport, **fields: Any) -> list[JoinParts]:
    uploads = Uploads({each.id: each}, {"main": SMALL}, NOW, **fields)
    ((found,), _) = with_uploads([order().model_copy(update={"upload": upload})], uploads)
    return due_joins("n1", [found], uploads)


def test_parts_are_joined_when_all_are_stored() -> None:
    upload = upload_of(in_parts(), writer=SMALL)
    assert joins(upload, in_parts(uploaded=LARGE - 1)) == []
    done = in_parts(uploaded=LARGE)
    assert joins(upload, done) == [JoinParts("c1", "n1", "main", Digest(DIGEST), LARGE, tuple(map(Digest, PARTS)))]
    without = upload_of(done, before=order().model_copy(update={"upload": upload}), writer=SMALL)
    assert (without.parts, without.reason) == ([], None), "its requests end"
    assert joins(without, done), "an operator that has just started"
    for state in ("Stored", "Lost", "Unchanged"):
        assert joins(without, in_parts(uploaded=LARGE, state=state)) == []
    assert joins(upload_of(report()), report().model_copy(update={"uploaded_bytes": LARGE})) == [], "it has no parts"


def test_parts_that_are_another_layer_are_named_and_not_joined_again() -> None:
    done = in_parts(uploaded=LARGE)
    upload = upload_of(done, writer=SMALL)
    assert joins(upload, done, failed={"c1": "not that layer"}) == []
    assert joins(upload, done, failed={"c2": "another one's"})
    uploads = Uploads({"c1": done}, {"main": SMALL}, NOW, failed={"c1": "not that layer"})
    ((found,), _) = with_uploads([order().model_copy(update={"upload": upload})], uploads)
    assert found.upload is not None
    assert (found.upload.reason, found.upload.message) == (UploadRefused.reason, "not that layer")


def test_a_join_that_failed_for_now_is_named_and_tried_again() -> None:
    done = in_parts(uploaded=LARGE)
    upload = upload_of(done, writer=SMALL)
    uploads = Uploads({"c1": done}, {"main": SMALL}, NOW, troubles={"c1": "no answer"})
    ((found,), _) = with_uploads([order().model_copy(update={"upload": upload})], uploads)
    assert found.upload is not None
    assert (found.upload.reason, found.upload.message) == (UploadRefused.reason, "no answer")
    assert len(due_joins("n1", [found], uploads)) == 1


def test_requests_of_parts_count() -> None:
    sizes, reports = 6 * 5 * 2**20, []
    orders = [order(f"c{number}") for number in range(40)]
    for number, each in enumerate(orders):
        parts = [f"sha256:{number:032x}{part:032x}" for part in range(6)]
        reports.append(in_parts(each.id, parts=parts, size=sizes, digest=f"sha256:{number:064x}"))
    found, _ = decide(orders, *reports, writer=SMALL)
    having = [each.id for each in found if each.upload is not None and each.upload.parts]
    assert len(having) == MAX_REQUESTS // 6
    again, _ = decide(found, *reports, writer=SMALL)
    assert again == found
    small = [report(each.id, digest=f"sha256:{number:064x}") for number, each in enumerate(orders)]
    mixed, _ = decide(orders, *reports[:20], *small[20:], writer=SMALL)
    whole = [each.id for each in mixed if each.upload is not None and each.upload.request is not None]
    assert len(whole) == MAX_REQUESTS - 6 * (MAX_REQUESTS // 6), "layers that get nothing take nothing"


def test_a_trigger_sees_when_all_parts_are_stored() -> None:
    assert reported_uploads({"c1": in_parts()}) == reported_uploads({"c1": in_parts(uploaded=LARGE - 1)})
    assert reported_uploads({"c1": in_parts()}) != reported_uploads({"c1": in_parts(uploaded=LARGE)})
    assert reported_uploads({"c1": in_parts()}) != reported_uploads({"c1": in_parts(parts=[*PARTS[:2], OTHER])})
