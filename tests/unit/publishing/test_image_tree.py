"""Folders of images: their manifest, the order of publication, and the VMImageNodes that come of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from kigi.adapters.s3 import LayerBucket
from kigi.domain.layers import Digest, Layer
from kigi.errors import SpecInvalid
from kigi.publishing.image_node import image_object
from kigi.publishing.image_tree import load_manifest, publish_tree
from kigi.publishing.layer_folder import LayerFolder
from kigi.publishing.levels import level_names
from kigi.publishing.publish import Published
from tests.support.memory_repository import MemoryRepository


def manifest(folder: Path, *images: dict[str, Any]) -> Path:
    (folder / "manifest.json").write_text(json.dumps({"images": images, "systems": [{"any": "thing"}]}))
    return folder


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("{", "manifest.json"),
        ("{}", "images"),
        ('{"images": []}', "images"),
        ('{"images": [{"name": "a"}]}', "file"),
        ("[]", "manifest.json"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_with_the_field(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(SpecInvalid, match=words):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"name": "b", "parent": "a", "file": "b.raw"}, "its parent 'a' does not come before it"),
        ({"name": "b", "file": "../b.raw"}, "lies outside the folder"),
        ({"name": "b", "file": "/etc/passwd"}, "lies outside the folder"),
    ],
)
async def test_an_image_that_may_not_be_published_is_named(tmp_path: Path, image: dict[str, Any], words: str) -> None:
    folder = LayerFolder(tmp_path / "layers")
    with pytest.raises(SpecInvalid, match=words):
        await publish_tree(manifest(tmp_path, image), folder, cast(LayerBucket, MemoryRepository()))


async def test_a_tree_is_published_parents_first_and_once(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"a" * 65536)
    (tmp_path / "b.raw").write_bytes(b"b" * 65536)
    manifest(
        tmp_path,
        {"name": "a", "file": "a.raw", "os": "linux"},
        {"name": "b", "parent": "a", "file": "b.raw", "description": "child"},
    )
    repository, reported = MemoryRepository(), list[tuple[str, bool]]()
    for _ in range(2):
        objects = await publish_tree(
            tmp_path,
            LayerFolder(tmp_path / "layers"),
            cast(LayerBucket, repository),
            lambda image, published: reported.append((image.name, published.sent)),
        )
    assert reported == [("a", True), ("b", True), ("a", False), ("b", False)]
    assert [each["metadata"]["name"] for each in objects] == ["a", "b"]
    assert objects[0]["spec"]["guest"] == {"os": "linux"}
    assert objects[1]["spec"]["parentRef"] == {"name": "a"}
    assert {each["spec"]["layer"]["digest"] for each in objects} == set(repository.layers)


LAYER = Layer(Digest("sha256:" + "1" * 64), 300, 512)


def test_an_image_object_has_only_the_fields_that_are_given() -> None:
    layer = {"digest": LAYER.digest, "sizeBytes": 300, "virtualSizeBytes": 512}
    plain = image_object("web", Published(LAYER, True), None)
    assert plain["kind"] == "VMImageNode"
    assert plain["spec"] == {"layer": layer}
    full = image_object(
        "web", Published(LAYER, True), "base", guest={"os": "linux"}, description="text", repository="far"
    )
    assert full["spec"] == {
        "layer": layer,
        "repositoryRef": {"name": "far"},
        "parentRef": {"name": "base"},
        "guest": {"os": "linux"},
        "description": "text",
    }


@pytest.mark.parametrize(
    ("count", "names"), [(1, ["web"]), (2, ["web-level0", "web"]), (3, ["web-level0", "web-level1", "web"])]
)
def test_levels_are_numbered_from_the_root(count: int, names: list[str]) -> None:
    assert level_names("web", count) == names
