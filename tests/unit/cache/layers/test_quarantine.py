"""Files that are kept for people."""

from __future__ import annotations

import os
from pathlib import Path

from kigi.domain.layers import Digest
from kigi_cache.layers.quarantine import MAX_KEPT, Quarantine

DIGEST = Digest("sha256:" + "a" * 64)


def test_each_file_gets_a_name_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    quarantine = Quarantine(tmp_path / "kept")
    for number in range(2):
        (tmp_path / "file").write_text(str(number))
        quarantine.take(tmp_path / "file", DIGEST)
    kept = {path.name: path.read_text() for path in (tmp_path / "kept").iterdir()}
    assert kept == {"a" * 64 + ".0": "0", "a" * 64 + ".1": "1"}


def test_only_the_newest_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    quarantine = Quarantine(tmp_path / "kept")
    for number in range(MAX_KEPT + 3):
        (tmp_path / "file").write_text(str(number))
        quarantine.take(tmp_path / "file", Digest(f"sha256:{number:064x}"))
    kept = sorted(int(path.read_text()) for path in (tmp_path / "kept").iterdir())
    assert len(kept) == MAX_KEPT
    assert kept[-1] == MAX_KEPT + 2


def test_directories_and_links_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    quarantine = Quarantine(tmp_path / "kept")
    (tmp_path / "outside").write_text("stays")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").write_text("x")
    os.symlink(tmp_path / "outside", tmp_path / "link")
    for name in ("directory", "link"):
        quarantine.take(tmp_path / name, DIGEST)
    quarantine.empty()
    assert list((tmp_path / "kept").iterdir()) == []
    assert (tmp_path / "outside").read_text() == "stays"


def test_missing_files_and_directories_are_success(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "kept")
    quarantine.empty()
    quarantine.take(tmp_path / "missing", DIGEST)


def test_each_change_is_announced_before_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "file").write_text("x")
    steps: list[tuple[str, bool]] = []
    quarantine = Quarantine(tmp_path / "kept", lambda name: steps.append((name, (tmp_path / "file").exists())))
    quarantine.take(tmp_path / "file", DIGEST)
    assert steps == [("quarantine", True)]
