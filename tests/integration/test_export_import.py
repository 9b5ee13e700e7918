"""``kigi export`` and ``kigi import`` between two sites, and files that were made to do harm."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kigi.adapters.s3 import open_repository
from kigi.api.repositories import Repository
from kigi.domain.archive import END, MANIFEST, member_header, padding
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.support.command import Site
from tests.support.deployments import system
from tests.support.layers import environment
from tests.support.why import explained

Members = list[tuple[str, bytes]]


@pytest.fixture
def site(crds: ControlPlane, namespace: str, s3: S3Server, bucket: str, tmp_path: Path) -> Site:
    return Site(crds, namespace, s3, bucket, tmp_path)


@pytest.fixture
def other(site: Site, crds: ControlPlane, s3: S3Server, tmp_path: Path) -> Site:
    """Another site: its own namespace, bucket and folder."""
    name = f"{site.namespace}-there"
    crds.kubectl("create", "namespace", name)
    (tmp_path / "there").mkdir()
    return Site(crds, name, s3, s3.create_bucket(f"{site.bucket}-there"), tmp_path / "there")


def layers(site: Site) -> set[str]:
    return {path.name for path in (site.s3.data / site.bucket).rglob("sha256/*") if path.is_file()}


def lab(site: Site) -> None:
    """Three images, and two states; the second changes the machine's image."""
    site.grow("base", "web", "web-broken")
    hardware = {"cpu": {"cores": 1}, "memory": {"guest": "128Mi"}}
    site.apply(
        system("clean", None, [{"name": "m", "rootDisk": {"imageRef": {"name": "web"}}, "hardware": hardware}]),
        system("broken", "clean", [{"name": "m", "rootDisk": {"imageRef": {"name": "web-broken"}}}]),
    )


def exported(site: Site, *arguments: str | Path) -> Path:
    file = site.folder / "lab.tar"
    site.succeed("export", *arguments, "-o", file, "-n", site.namespace)
    return file


def unpack(file: Path) -> Members:
    with tarfile.open(file) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def pack(file: Path, members: Members) -> Path:
    data = [member_header(name, len(text)) + text + bytes(padding(len(text))) for name, text in members]
    file.write_bytes(b"".join(data) + END)
    return file


def test_a_state_moves_with_all_that_it_needs_and_only_with_what_the_other_site_lacks(site: Site, other: Site) -> None:
    lab(site)
    first = exported(site, "clean")
    assert unpack(first)[0][0] == MANIFEST and len(unpack(first)) == 3
    there = ["-n", other.namespace]
    other.succeed("import", first, *there)
    assert (other.names("vmimagenode"), other.names("systemnode")) == ({"base", "web"}, {"clean"})
    have = other.folder / "have.txt"
    have.write_text(other.succeed("export", "--list-have"))
    assert {line.removeprefix("sha256:") for line in have.read_text().splitlines()} == layers(other)
    second = exported(site, "state/broken", "--have", have)
    assert len(unpack(second)) == 2, "the manifest and the one layer that is new"
    other.succeed("import", second, *there)
    assert layers(other) == layers(site) and len(layers(site)) == 3
    for kind, name in (("vmimagenode", "web-broken"), ("systemnode", "broken"), ("systemnode", "clean")):
        assert other.get(kind, name)["spec"] == site.get(kind, name)["spec"]
    before = {name: other.get("vmimagenode", name)["metadata"]["resourceVersion"] for name in ("base", "web")}
    assert "0 of 5" in other.kigi("import", second, *there).stderr
    assert {n: other.get("vmimagenode", n)["metadata"]["resourceVersion"] for n in before} == before


def test_an_image_moves_with_its_descendants_on_request(site: Site, other: Site) -> None:
    lab(site)
    other.succeed("import", exported(site, "image/web", "--children"), "-n", other.namespace)
    assert (other.names("vmimagenode"), other.names("systemnode")) == ({"base", "web", "web-broken"}, set())


async def test_an_import_resumes_after_an_interruption(site: Site, other: Site) -> None:
    lab(site)
    file = exported(site, "broken")
    other.succeed("import", file, "-n", other.namespace)
    where = Repository(endpoint=other.s3.endpoint, bucket=other.bucket)
    async with open_repository(where, environment(other.s3)) as store:
        for item in (await store.objects())[0][:2]:
            assert await store.remove(item)
    assert len(layers(other)) == 1
    other.plane.kubectl("delete", "systemnode", "broken", "-n", other.namespace)
    assert "1 of 5" in other.kigi("import", file, "-n", other.namespace).stderr
    assert layers(other) == layers(site) and other.names("systemnode") == {"clean", "broken"}


def test_a_node_that_is_there_and_another_one_is_never_overwritten(site: Site, other: Site) -> None:
    lab(site)
    file = exported(site, "broken")
    other.grow("base")
    stored = layers(other)
    assert "NameTaken" in other.fail("import", file, "-n", other.namespace)
    assert other.names("vmimagenode") == {"base"} and layers(other) == stored


def test_layers_that_neither_the_file_nor_the_repository_has_are_named(site: Site, other: Site) -> None:
    lab(site)
    have = site.folder / "have.txt"
    have.write_text(site.succeed("export", "--list-have"))
    file = exported(site, "broken", "--have", have)
    assert "LayerMissing" in other.fail("import", file, "-n", other.namespace)
    assert other.names("vmimagenode") == set()


def change_manifest(members: Members, change: Callable[[dict[str, Any]], object]) -> Members:
    manifest = json.loads(members[0][1])
    change(manifest)
    return [(MANIFEST, json.dumps(manifest).encode()), *members[1:]]


HARM: dict[str, Callable[[Members], Members]] = {
    "path": lambda m: [*m[:1], ("../../../tmp/x.qcow2", m[1][1]), *m[2:]],
    "wrong digest": lambda m: [*m[:1], (m[1][0], m[1][1][:-1] + b"x"), *m[2:]],
    "wrong digest, last": lambda m: [*m[:-1], (m[-1][0], m[-1][1][:-1] + b"x")],
    "truncated layer": lambda m: [*m[:1], (m[1][0], m[1][1][:-512]), *m[2:]],
    "member missing": lambda m: m[:-1],
    "one more": lambda m: [*m, ("layers/more.qcow2", b"x")],
    "order": lambda m: [m[0], *reversed(m[1:])],
    "no manifest": lambda m: m[1:],
    "manifest is no JSON": lambda m: [(MANIFEST, b"{"), *m[1:]],
    "manifest is deep": lambda m: [(MANIFEST, b"[" * 100_000), *m[1:]],
    "another format": lambda m: change_manifest(m, lambda d: d.update(format="kigi.dev/export-9")),
    "missing parent": lambda m: change_manifest(m, lambda d: d["images"].pop(0)),
    "missing image": lambda m: change_manifest(m, lambda d: d["images"].pop()),
    "missing parent state": lambda m: change_manifest(m, lambda d: d["systems"].pop(0)),
    "name": lambda m: change_manifest(m, lambda d: d["images"][0].update(name="../base")),
    "a node twice": lambda m: change_manifest(m, lambda d: d["images"].append(d["images"][0])),
    "huge size": lambda m: change_manifest(m, lambda d: d["images"][0]["spec"]["layer"].update(sizeBytes=2**45)),
    "other parent": lambda m: change_manifest(m, lambda d: d["images"][1]["spec"].pop("parentRef")),
    "other virtual size": lambda m: change_manifest(
        m, lambda d: [each["spec"]["layer"].update(virtualSizeBytes=2**30) for each in d["images"]]
    ),
    "a layer twice": lambda m: change_manifest(m, lambda d: d["included"].append(d["included"][0])),
    "a layer of nobody": lambda m: change_manifest(m, lambda d: d["included"].append("sha256:" + "0" * 64)),
    "refused by the API server": lambda m: change_manifest(
        m, lambda d: d["systems"][0]["spec"]["machines"][0].update(hardware={"cpu": {"cores": -1}})
    ),
}


@pytest.mark.why("ArchiveRefused")
def test_a_file_that_was_made_to_do_harm_changes_nothing(site: Site, other: Site) -> None:
    lab(site)
    members = unpack(exported(site, "broken"))
    survived = []
    for what, harm in HARM.items():
        file = pack(site.folder / "harm.tar", harm(list(members)))
        errors = other.fail("import", file, "-n", other.namespace)
        if layers(other) or other.names("vmimagenode") or other.names("systemnode") or not errors.startswith("kigi: "):
            survived.append((what, errors))
    whole = (site.folder / "lab.tar").read_bytes()
    for end in (0, 100, 511, 512, 5000, len(whole) // 2, len(whole) - 1):
        (site.folder / "harm.tar").write_bytes(whole[:end])
        errors = other.fail("import", site.folder / "harm.tar", "-n", other.namespace)
        if layers(other) or not errors.startswith("kigi: ArchiveRefused: "):
            survived.append((f"cut at {end}", errors))
    explained(errors.split(": ")[1])
    assert not survived
    other.succeed("import", pack(site.folder / "harm.tar", members), "-n", other.namespace)
