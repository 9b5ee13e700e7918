"""``kigi delete`` and ``kigi flatten`` on a real API server and a real S3 server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kigi.adapters.qemu_img import DisksDiffer
from kigi.adapters.s3 import LayerBucket, open_repository
from kigi.api.repositories import Repository
from kigi.domain.images import Image
from kigi.domain.layers import Digest
from kigi.publishing import raw_disk
from kigi.publishing.flatten import flatten_image
from kigi.publishing.layer_folder import LayerFolder
from kigi.publishing.layer_writer import Difference
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.support.chains import run
from tests.support.command import Site
from tests.support.deployments import deployment, machine, system
from tests.support.layers import environment
from tests.support.why import explained


@pytest.fixture
def site(crds: ControlPlane, namespace: str, s3: S3Server, bucket: str, tmp_path: Path) -> Site:
    return Site(crds, namespace, s3, bucket, tmp_path)


@asynccontextmanager
async def repository(site: Site) -> AsyncIterator[LayerBucket]:
    where = Repository(endpoint=site.s3.endpoint, bucket=site.bucket)
    async with open_repository(where, environment(site.s3)) as opened:
        yield opened


def objects(site: Site) -> set[str]:
    return {path.name for path in (site.s3.data / site.bucket).rglob("sha256/*") if path.is_file()}


def test_what_is_used_is_not_deleted_and_the_users_are_named(site: Site) -> None:
    site.grow("base", "top", "spare")
    ns = ["-n", site.namespace]
    site.apply(system("lab", None, [machine("m", "top")]), deployment(state="lab"))
    assert "InUse" in site.fail("delete", "image", "base", *ns)
    for kind, name, users in (
        ("image", "base", "VMImageNode top"),
        ("image", "top", "SystemNode lab, VMImageNode spare"),
        ("state", "lab", "SystemDeployment class"),
    ):
        assert f"used by {users}; delete them first" in site.fail("delete", kind, name, *ns, "--dry-run")
    assert "does not exist" in site.fail("delete", "state", "nobody", *ns)
    assert site.names("vmimagenode") == {"base", "top", "spare"}
    done = json.loads(site.succeed("delete", "image", "spare", "--yes", *ns, "-o", "json"))
    assert done == {"kind": "VMImageNode", "namespace": site.namespace, "name": "spare", "action": "deleted"}
    site.plane.kubectl("delete", "systemdeployment", "class", *ns)
    assert "deleted" in site.succeed("delete", "state", "lab", "--yes", *ns)
    assert site.names("vmimagenode") == {"base", "top"} and site.names("systemnode") == set()


def test_a_dry_run_prints_the_bytes_that_a_deletion_would_free(site: Site) -> None:
    site.grow("base", "top")
    ns = ["-n", site.namespace]
    size = site.get("vmimagenode", "top")["spec"]["layer"]["sizeBytes"]
    assert f"this frees {size} bytes (" in site.succeed("delete", "image", "top", *ns, "--dry-run")
    site.apply(system("lab", None, [machine("m", "top")]))
    both = size + site.get("vmimagenode", "base")["spec"]["layer"]["sizeBytes"]
    said = site.succeed("delete", "state", "lab", *ns, "--dry-run")
    assert f"frees 0 bytes; its images that nothing else uses are {both} bytes (" in said and "top, base" in said
    assert site.names("systemnode") == {"lab"}
    twin: dict[str, Any] = {**site.get("vmimagenode", "top"), "metadata": {"name": "twin"}}
    twin.pop("status", None)
    other = Site(site.plane, "default", site.s3, site.bucket, site.folder)
    other.apply(twin)
    try:
        said = site.succeed("delete", "state", "lab", *ns, "--dry-run")
        assert f"are {both - size} bytes (" in said, "a tree of another namespace names the layer"
    finally:
        site.plane.kubectl("delete", "vmimagenode", "twin", "-n", "default")


@pytest.mark.parametrize(("parent", "below"), [(None, []), ("base", ["base"]), ("two", ["base", "two"])])
def test_a_flat_image_shows_a_guest_the_same_bytes_on_a_shorter_chain(
    site: Site, parent: str | None, below: list[str]
) -> None:
    site.grow("base", "two", "three", "four", "five")
    flags = ["--parent", parent] if parent else []
    site.succeed("flatten", "five", "--name", "flat", *flags, "--apply", "-n", site.namespace)
    flat = site.get("vmimagenode", "flat")
    five = site.get("vmimagenode", "five")
    assert flat["spec"].get("parentRef") == ({"name": parent} if parent else None)
    origin = {"imageName": "five", "digest": five["spec"]["layer"]["digest"]}
    assert flat["spec"]["provenance"] == {"flattened": origin}
    assert site.names("vmimagenode") == {"base", "two", "three", "four", "five", "flat"}
    # A fresh folder, filled from the repository alone: what a node would have.
    fresh = site.folder / "fresh"
    fresh.mkdir()
    for name in (*below, "flat", "three", "four", "five", "base", "two"):
        digest = site.get("vmimagenode", name)["spec"]["layer"]["digest"]
        (fresh / f"{digest.removeprefix('sha256:')}.qcow2").write_bytes(site.stored(digest).read_bytes())
    files = [fresh / f"{image['spec']['layer']['digest'].removeprefix('sha256:')}.qcow2" for image in (flat, five)]
    run("qemu-img", "compare", "-s", "-f", "qcow2", "-F", "qcow2", *map(str, files))


def test_nothing_is_flattened_that_cannot_be(site: Site) -> None:
    site.grow("base", "top")
    ns = ["-n", site.namespace]
    assert "one layer on base already" in site.fail("flatten", "top", "--name", "flat", "--parent", "base", *ns)
    assert "is no ancestor" in site.fail("flatten", "top", "--name", "flat", "--parent", "nobody", *ns)
    assert "NameTaken" in site.fail("flatten", "top", "--name", "base", *ns)
    assert "ImageMissing" in site.fail("flatten", "nobody", "--name", "flat", *ns)
    assert len(objects(site)) == 2


@pytest.mark.why("DisksDiffer")
async def test_a_flat_layer_that_is_not_equal_is_never_stored(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site.grow("base", "two", "three")
    before = objects(site)
    path = []
    for name in ("base", "two", "three"):
        spec = site.get("vmimagenode", name)["spec"]
        layer = spec["layer"]
        parent = spec.get("parentRef", {}).get("name")
        path.append(Image(name, Digest(layer["digest"]), layer["sizeBytes"], layer["virtualSizeBytes"], parent))
    honest = raw_disk.compare

    def forgetful(*arguments: Any) -> Difference:
        return Difference(honest(*arguments).data[:-1], ())

    monkeypatch.setattr(raw_disk, "compare", forgetful)
    async with repository(site) as store:
        with pytest.raises(DisksDiffer) as refused:
            await flatten_image(path, None, LayerFolder(tmp_path / "layers"), store)
    explained(refused.value)
    assert objects(site) == before


def test_a_chain_deeper_than_the_repository_takes_is_refused_and_flatten_is_the_way_out(site: Site) -> None:
    site.repository("shallow", limits={"maxDepth": 3})
    site.grow("base", "two", "three")
    disk = site.folder / "more.raw"
    disk.write_bytes(b"more".ljust(8 * 2**20, b"\0"))
    ns = ["-n", site.namespace, "--repository", "shallow"]
    refused = site.fail("publish", disk, "--name", "four", "--parent", "three", *ns)
    assert "ChainTooDeep" in refused and "kigi flatten PARENT --name NEW" in refused and "3 (maxDepth)" in refused
    site.succeed("flatten", "three", "--name", "flat", "--parent", "base", "--apply", *ns[:2])
    site.succeed("publish", disk, "--name", "four", "--parent", "flat", "--apply", *ns)
    assert site.get("vmimagenode", "four")["spec"]["parentRef"] == {"name": "flat"}
