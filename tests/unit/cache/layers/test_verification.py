"""Whether a file is the layer of its digest."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from kigi.domain.layers import digest_hex
from kigi.domain.qcow2 import HEADER_BYTES
from kigi.errors import LayerCorrupt, LayerRefused
from kigi_cache.layers.verification import check_content, read_whole
from tests.support.stored import content, layer_of

DATA = content(1)
LAYER = layer_of(DATA)
SHA = digest_hex(LAYER.digest)


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    sizes: list[int] = []
    reading = read_whole(path, sizes.append)
    assert (reading.sha256, reading.header, sum(sizes)) == (SHA, DATA[:HEADER_BYTES], len(DATA))
    assert reading.found.st_ino == path.stat().st_ino


def test_an_empty_file_has_no_header(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read_whole(tmp_path / "file", lambda count: None).header == b""


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_whatever_is_not_a_regular_file_is_corrupt(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "link":
        (tmp_path / "target").write_bytes(DATA)
        path.symlink_to(tmp_path / "target")
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(LayerCorrupt, match="file"):
        read_whole(path, lambda count: None)


def test_a_missing_file_is_an_error_of_the_file_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_whole(tmp_path / "missing", lambda count: None)


def test_right_content_is_accepted() -> None:
    check_content(LAYER, len(DATA), SHA, DATA[:HEADER_BYTES])
    check_content(LAYER.digest, 0, SHA, b"")


@pytest.mark.parametrize(
    ("size_bytes", "sha256", "header", "error", "match"),
    [
        pytest.param(
            len(DATA) - 1, SHA, DATA, LayerCorrupt, f"{len(DATA) - 1} bytes instead of {len(DATA)}", id="size"
        ),
        pytest.param(len(DATA), "f" * 64, DATA, LayerCorrupt, "have the digest sha256:ffff", id="digest"),
        pytest.param(len(DATA), SHA, b"\0" * HEADER_BYTES, LayerRefused, "(magic)", id="header"),
    ],
)
def test_wrong_content_is_named(
    size_bytes: int, sha256: str, header: bytes, error: type[Exception], match: str
) -> None:
    with pytest.raises(error) as refused:
        check_content(LAYER, size_bytes, sha256, header[:HEADER_BYTES])
    assert match in str(refused.value)


def test_the_header_must_have_the_declared_parent() -> None:
    with pytest.raises(LayerRefused, match="parent"):
        check_content(replace(LAYER, parent=layer_of(content(2)).digest), len(DATA), SHA, DATA[:HEADER_BYTES])
