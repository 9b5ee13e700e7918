"""The files that daemon and publisher share."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kigi_cache.captures.files import COPY, ORDER, RESULT, CopyFiles, is_id, read_json, write_json


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
    assert [path.name for path in files.begin("c1").iterdir()] == ["chain"]


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
    path = tmp_path / RESULT
    write_json(path, {"a": 1})
    with path.open() as old:
        write_json(path, {"a": 2})
        assert json.load(old) == {"a": 1}
    assert read_json(path) == {"a": 2}
    assert os.listdir(tmp_path) == [RESULT]


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_a_file_without_an_object_is_empty(tmp_path: Path, text: str) -> None:
    (tmp_path / RESULT).write_text(text)
    assert read_json(tmp_path / RESULT) == {}


@pytest.mark.parametrize("text", ["c1", "a", "a-b", "a" * 63])
def test_an_id_is_a_dns_label(text: str) -> None:
    assert is_id(text)


@pytest.mark.parametrize("text", ["", "A", "-a", "a-", "a/b", "..", ".new", "a" * 64, "c1\n"])
def test_no_other_name_is_an_id(text: str) -> None:
    assert not is_id(text)
