"""Layers and archives have the form that containerd reads."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from localcluster.images import Image, file_capability, load, pack, pack_files, write_archive


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {member.name: member for member in archive}


def test_a_layers_digest_is_that_of_its_content_and_load_finds_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/file").write_text("content")
    layer = pack(root, tmp_path / "layer.tar")
    data = layer.path.read_bytes()
    assert layer.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert layer.size_bytes == len(data)
    assert load(tmp_path / "layer.tar") == layer
    layer.path.write_bytes(data[:-1])
    assert load(tmp_path / "layer.tar") is None


def test_the_same_tree_gives_the_same_digest_in_another_place(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        root = tmp_path / name
        root.mkdir()
        for file in ("b", "a") if name == "one" else ("a", "b"):
            (root / file).write_text(file)
            os.utime(root / file, (1_700_000_000.5, 1_700_000_000.5))
        digests.add(pack(root, tmp_path / f"{name}.tar").digest)
    assert len(digests) == 1


def test_hard_links_are_stored_once_and_excluded_folders_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "run/inner").mkdir(parents=True)
    (root / "a").write_bytes(b"x" * 5000)
    os.link(root / "a", root / "b")
    (root / "c").symlink_to("a")
    found = members(pack(root, tmp_path / "layer.tar", exclude=("run",)).path)
    assert set(found) == {"a", "b", "c"}
    assert found["a"].isreg() and found["a"].size == 5000
    assert found["b"].islnk() and found["b"].linkname == "a"
    assert found["c"].issym() and found["c"].linkname == "a"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes what overlayfs leaves")
def test_a_file_removed_by_an_overlay_becomes_a_whiteout(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "replaced").mkdir(parents=True)
    os.mknod(upper / "gone", 0o020000, os.makedev(0, 0))
    os.setxattr(upper / "replaced", "trusted.overlay.opaque", b"y")
    found = members(pack(upper, tmp_path / "layer.tar").path)
    assert set(found) == {".wh.gone", "replaced", "replaced/.wh..wh..opq"}


def test_a_file_capability_is_in_the_layer_in_the_kernels_form(tmp_path: Path) -> None:
    files: dict[str, Path | str | bytes] = {"usr/bin/tool": b"\x7fELF", "etc/text": "words"}
    layer = pack_files(files, tmp_path / "layer.tar", capabilities={"usr/bin/tool": file_capability(10)})
    found = members(layer.path)
    # VFS_CAP_REVISION_2 with the effective bit, then permitted = 1 << 10; all little-endian.
    value = found["usr/bin/tool"].pax_headers["SCHILY.xattr.security.capability"].encode()
    assert value == bytes.fromhex("01000002 00040000 00000000 00000000 00000000")
    assert not found["etc/text"].pax_headers


def test_an_archive_has_each_layer_once_and_leaves_out_what_is_present(tmp_path: Path) -> None:
    shared, own = (pack_files({name: name}, tmp_path / f"{name}.tar") for name in ("shared", "own"))
    images = [Image("example/a:1", (shared, own), entrypoint=("/a",)), Image("example/b:1", (shared,), user="7")]
    stream = io.BytesIO()
    write_archive(images, stream, present={own.digest})
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        names = archive.getnames()
        assert names.count(f"blobs/sha256/{shared.digest.removeprefix('sha256:')}") == 1
        assert f"blobs/sha256/{own.digest.removeprefix('sha256:')}" not in names

        def blob(digest: str) -> bytes:
            file = archive.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
            assert file is not None
            data = file.read()
            assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
            return data

        index = archive.extractfile("index.json")
        assert index is not None
        manifests = json.loads(index.read())["manifests"]
        assert [one["annotations"]["io.containerd.image.name"] for one in manifests] == ["example/a:1", "example/b:1"]
        first = json.loads(blob(manifests[0]["digest"]))
        assert [layer["digest"] for layer in first["layers"]] == [shared.digest, own.digest]
        config = json.loads(blob(first["config"]["digest"]))
        assert config["rootfs"]["diff_ids"] == [shared.digest, own.digest]
        assert config["config"]["Entrypoint"] == ["/a"]
