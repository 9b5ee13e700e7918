"""The files that daemon and publisher share."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from kigi_cache.captures.files import (
    COPY,
    HEARTBEAT,
    MAX_JSON_BYTES,
    ORDER,
    PUBLISHER_GID,
    PUBLISHER_UID,
    RESULT,
    CopyFiles,
    is_id,
    read_json,
    write_json,
)


@pytest.fixture
def files(tmp_path: Path) -> CopyFiles:
    made = CopyFiles(tmp_path)
    made.recover()
    return made


def copied(files: CopyFiles, id_: str) -> Path:
    (files.begin(id_) / COPY).write_bytes(b"x")
    files.commit(id_)
    return files.directory(id_)


def test_a_copy_is_listed_when_it_is_complete_and_durable_when_it_has_its_order(files: CopyFiles) -> None:
    building = files.begin("c1")
    assert files.ids() == []
    (building / COPY).write_bytes(b"x")
    files.commit("c1")
    assert files.ids() == ["c1"]
    assert not files.is_durable("c1")
    assert files.ordered_at_s("c1") is None
    files.make_durable("c1", {"parent": "p"})
    assert files.is_durable("c1")
    assert files.ordered_at_s("c1") is not None
    assert read_json(files.directory("c1") / ORDER) == {"parent": "p"}


def test_a_copy_that_is_deleted_while_it_becomes_durable_stays_deleted(files: CopyFiles) -> None:
    copied(files, "c1")
    files.delete("c1")
    files.make_durable("c1", {})
    assert files.ids() == []
    files.delete("c1")


def test_an_unchanged_disk_is_durable_and_has_its_result(files: CopyFiles) -> None:
    files.begin("c1")
    files.mark_unchanged("c1")
    files.commit("c1")
    assert files.is_durable("c1")
    assert files.result("c1") == {"state": "Unchanged"}


def test_beginning_again_forgets_the_first_attempt(files: CopyFiles) -> None:
    (files.begin("c1") / COPY).write_bytes(b"half")
    assert sorted(str(path.relative_to(files.root)) for path in files.begin("c1").rglob("*")) == [
        ".new/c1/chain",
        ".new/c1/out",
    ]


def test_a_start_deletes_what_a_crash_has_left(files: CopyFiles, tmp_path: Path) -> None:
    copied(files, "durable")
    files.make_durable("durable", {})
    copied(files, "doubtful")
    files.begin("half")
    (files.root / ".old" / "x").mkdir()
    CopyFiles(tmp_path).recover()
    assert files.ids() == ["durable"]
    assert os.listdir(files.root / ".new") == os.listdir(files.root / ".old") == []


def test_there_are_no_copies_without_a_directory(tmp_path: Path) -> None:
    files = CopyFiles(tmp_path / "none")
    assert files.ids() == []
    assert files.publisher_seen_s() is None
    assert files.result("c1") == {}


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with path.open() as old:
        write_json(path, {"a": 2})
        assert json.load(old) == {"a": 1}
    assert read_json(path) == {"a": 2}
    assert os.listdir(tmp_path) == ["result.json"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", '{"a":' * 10_000, "1" * 10_000, "\ud800", '{"a": "' + "x" * MAX_JSON_BYTES + '"}'],
    ids=["none", "open", "list", "number", "deep", "long-number", "no-text", "large"],
)
def test_a_file_without_an_object_is_empty(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_bytes(text.encode(errors="surrogatepass"))
    assert read_json(tmp_path / "result.json") == {}


@pytest.mark.timeout(20)
def test_a_publishers_result_is_read_from_nothing_but_a_file(files: CopyFiles, tmp_path: Path) -> None:
    """A pipe would block the daemon, and a link would lead it to any file of the node."""
    result = copied(files, "c1") / RESULT
    (tmp_path / "elsewhere").write_text('{"state": "Stored"}')
    for make in (
        lambda: result.symlink_to(tmp_path / "elsewhere"),
        lambda: os.mkfifo(result),
        lambda: result.symlink_to("/dev/zero"),
    ):
        make()
        assert files.result("c1") == {}
        result.unlink()
    result.mkdir()
    assert files.result("c1") == {}


def owner_and_mode(path: Path) -> tuple[int, int, str]:
    found = os.lstat(path)
    return found.st_uid, found.st_gid, oct(stat.S_IMODE(found.st_mode))


def test_the_publisher_reads_a_copy_and_writes_only_its_own_directory(files: CopyFiles) -> None:
    directory = copied(files, "c1")
    files.make_durable("c1", {"parent": "p"})
    root = os.getuid()
    assert {name: owner_and_mode(directory / name) for name in (".", COPY, "chain", "out")} == {
        ".": (root, PUBLISHER_GID, "0o750"),
        COPY: (root, PUBLISHER_GID, "0o440"),
        "chain": (root, PUBLISHER_GID, "0o750"),
        "out": (PUBLISHER_UID, PUBLISHER_GID, "0o700"),
    }
    assert owner_and_mode(directory / ORDER)[2] == "0o644", "in a directory that no other group enters"
    assert owner_and_mode(files.root) == (root, PUBLISHER_GID, "0o750")
    assert owner_and_mode(files.root / HEARTBEAT) == (PUBLISHER_UID, PUBLISHER_GID, "0o640")
    for hidden in (".new", ".old"):
        assert owner_and_mode(files.root / hidden)[2] == "0o700"


def test_the_file_of_the_heartbeat_is_none(files: CopyFiles, tmp_path: Path) -> None:
    assert files.publisher_seen_s() is None
    os.utime(files.root / HEARTBEAT, (1000.0, 1000.0))
    CopyFiles(tmp_path).recover()
    assert files.publisher_seen_s() == 1000.0, "a start of the daemon keeps it"


def test_a_copy_of_an_earlier_version_is_given_to_the_publisher(files: CopyFiles, tmp_path: Path) -> None:
    """It had its result beside the copy, and all of it was root's."""
    directory = files.root / "c1"
    (directory / "chain").mkdir(parents=True)
    (directory / COPY).write_bytes(b"x")
    write_json(directory / "result.json", {"state": "Stored"})
    write_json(directory / ORDER, {"parent": "p"})
    for _ in range(2):  # a second start changes nothing
        CopyFiles(tmp_path).recover()
        assert files.result("c1") == {"state": "Stored"}
        assert owner_and_mode(directory / "out") == (PUBLISHER_UID, PUBLISHER_GID, "0o700")
        assert owner_and_mode(directory / RESULT)[0] == PUBLISHER_UID
        assert owner_and_mode(directory / COPY) == (os.getuid(), PUBLISHER_GID, "0o440")
        assert not (directory / "result.json").exists()


def test_a_layer_that_the_publisher_has_linked_stays_roots(files: CopyFiles, tmp_path: Path) -> None:
    """Where the kernel lets users link files of others, ``fs.protected_hardlinks=0``."""
    directory = copied(files, "c1")
    files.make_durable("c1", {})
    layer = tmp_path / "layer"
    layer.write_bytes(b"x")
    os.link(layer, directory / RESULT)
    CopyFiles(tmp_path).recover()
    assert os.lstat(layer).st_uid == os.getuid()


def test_what_cannot_be_deleted_stops_no_start(files: CopyFiles, tmp_path: Path) -> None:
    """Such as directories deeper than any program expects."""
    here = os.open(files.root / ".old", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    CopyFiles(tmp_path).recover()
    assert files.ids() == []
    subprocess.run(["rm", "-rf", str(files.root / ".old" / "d")], check=True, timeout=60)


@pytest.mark.parametrize("text", ["c1", "a", "a-b", "a" * 63])
def test_an_id_is_a_dns_label(text: str) -> None:
    assert is_id(text)


@pytest.mark.parametrize("text", ["", "A", "-a", "a-", "a/b", "..", ".new", "a" * 64, "c1\n"])
def test_no_other_name_is_an_id(text: str) -> None:
    assert not is_id(text)
