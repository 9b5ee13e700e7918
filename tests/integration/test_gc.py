"""``kigi gc`` on a real S3 server, with the trees of a real API server."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kigi.adapters.s3 import LayerBucket, open_repository
from kigi.api.repositories import Repository
from kigi.cli.cluster import Access
from kigi.cli.collection import ReadNamed, check_unnamed, delete_garbage, find_garbage
from kigi.cli.named_layers import Sources, read_named_layers
from kigi.cli.verbs.gc import command
from kigi.domain.layers import Digest, object_key
from kigi.domain.names import API_VERSION, NODE_API_VERSION
from kigi.errors import LayerMissing
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.support.command import Site
from tests.support.layers import environment

DAY_S = 86400


@pytest.fixture
def site(crds: ControlPlane, namespace: str, s3: S3Server, bucket: str, tmp_path: Path) -> Site:
    return Site(crds, namespace, s3, bucket, tmp_path)


def make_old(site: Site, days: float = 2) -> None:
    """Every object of the bucket was stored that long ago: its file is its LastModified."""
    for path in (site.s3.data / site.bucket).rglob("sha256/*"):
        os.utime(path, (time.time() - days * DAY_S,) * 2)


def layers(site: Site) -> set[str]:
    return {f"sha256:{path.name}" for path in (site.s3.data / site.bucket).rglob("sha256/*") if path.is_file()}


def digest_of(site: Site, name: str) -> str:
    return str(site.get("vmimagenode", name)["spec"]["layer"]["digest"])


def forget(site: Site, *names: str) -> None:
    site.plane.kubectl("delete", "vmimagenode", *names, "-n", site.namespace)


def test_old_layers_that_no_tree_names_are_deleted_on_request(site: Site) -> None:
    site.grow("base", "two", "three")
    kept, doomed = {digest_of(site, name) for name in ("base", "two")}, digest_of(site, "three")
    forget(site, "three")
    assert "0 layers that no tree names" in site.succeed("gc", "--delete", "--yes"), "too young"
    make_old(site)
    said = site.succeed("gc")
    assert doomed.removeprefix("sha256:") in said and "nothing was deleted" in said
    assert layers(site) == kept | {doomed}
    keep = site.folder / "keep.txt"
    keep.write_text(f"# of another cluster\n\n{doomed}\n")
    assert "0 layers that no tree names" in site.succeed("gc", "--delete", "--yes", "--keep-file", keep)
    assert "0 layers" in site.succeed("gc", "--delete", "--yes", "--grace", "3d")
    assert "deleted 1 layers" in site.succeed("gc", "--delete", "--yes")
    assert layers(site) == kept


def test_a_chain_stays_whole_when_a_parents_object_was_deleted_by_force(site: Site) -> None:
    site.grow("base", "two", "three")
    every = layers(site)
    forget(site, "base", "two")
    make_old(site)
    assert "0 layers that no tree names" in site.succeed("gc", "--delete", "--yes")
    assert layers(site) == every and len(every) == 3


def test_trees_of_other_namespaces_and_other_clusters_count(site: Site, crds: ControlPlane) -> None:
    site.grow("base", "two")
    make_old(site)
    every = layers(site)
    elsewhere = Site(crds, f"{site.namespace}-more", site.s3, site.bucket, site.folder)
    crds.kubectl("create", "namespace", elsewhere.namespace)
    for name in ("base", "two"):
        image = {**site.get("vmimagenode", name), "metadata": {"name": name}}
        image.pop("status", None)
        elsewhere.apply(image)
    forget(site, "base", "two")
    assert "0 layers that no tree names" in site.succeed("gc", "--delete", "--yes", "--also", crds.kubeconfig)
    assert layers(site) == every


def test_the_wrong_cluster_deletes_nothing(site: Site) -> None:
    site.grow("base")
    forget(site, "base")
    make_old(site)
    every = layers(site)
    assert "--all-unused" in site.fail("gc", "--delete", "--yes")
    assert "is no file" in site.fail("gc", "--delete", "--yes", "--all-unused", "--also", site.folder / "absent")
    assert "--grace" in site.fail("gc", "--delete", "--yes", "--all-unused", "--grace", "yesterday")
    bad = site.folder / "keep.txt"
    bad.write_text("sha256:abc\n")
    assert "not a layer digest" in site.fail("gc", "--delete", "--yes", "--all-unused", "--keep-file", bad)
    assert layers(site) == every
    site.succeed("gc", "--delete", "--yes", "--all-unused")
    assert layers(site) == set()


async def test_unfinished_uploads_are_given_up_when_they_are_old(site: Site) -> None:
    where = Repository(endpoint=site.s3.endpoint, bucket=site.bucket)
    async with open_repository(where, environment(site.s3)) as store:
        key = object_key(Digest(f"sha256:{1:064x}"))
        await store._begin(key)
        assert "0 unfinished uploads" in site.succeed("gc", "--delete", "--yes")
        assert [upload.key for upload in await store.uploads()] == [key]
        assert "gave up 1 unfinished uploads" in site.succeed("gc", "--delete", "--yes", "--grace", "0s")
        assert await store.uploads() == []


@asynccontextmanager
async def store_of(site: Site) -> AsyncIterator[LayerBucket]:
    where = Repository(endpoint=site.s3.endpoint, bucket=site.bucket)
    async with open_repository(where, environment(site.s3)) as store:
        yield store


async def collect(store: LayerBucket, read_named: ReadNamed) -> dict[str, Any]:
    """``kigi gc --delete`` in this process."""
    done: dict[str, Any] = {"deleted": []}
    found = await find_garbage(store, read_named, timedelta(hours=24))
    await delete_garbage(store, found, read_named, done)
    await check_unnamed(store, done["deleted"], read_named)
    return done


async def test_a_publication_between_the_listing_and_the_deletion_is_seen(site: Site) -> None:
    """The trees are read again right before a batch; a layer that was stored anew stays, whoever names it."""
    site.grow("base", "two", "three", "four")
    make_old(site)
    images: dict[str, dict[str, Any]] = {}
    for name in ("three", "four"):
        images[name] = {**site.get("vmimagenode", name), "metadata": {"name": name}}
        images[name].pop("status", None)
    forget(site, "three", "four")
    readings = 0

    async with store_of(site) as store:

        async def read_named() -> set[Digest]:
            nonlocal readings
            readings += 1
            if readings == 2:
                site.apply(images["three"])
                os.utime(site.stored(images["four"]["spec"]["layer"]["digest"]))
            return await read_named_layers(store, Sources(Access(str(site.plane.kubeconfig))))

        done = await collect(store, read_named)
    assert readings >= 2
    assert done["deleted"] == []
    assert len(layers(site)) == 4


async def test_a_layer_that_a_tree_names_while_it_is_deleted_is_reported(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.grow("base", "two")
    make_old(site)
    image = {**site.get("vmimagenode", "two"), "metadata": {"name": "two"}}
    image.pop("status", None)
    forget(site, "two")
    remove = LayerBucket.remove

    async def late(self: LayerBucket, item: Any) -> bool:
        site.apply(image)
        return await remove(self, item)

    monkeypatch.setattr(LayerBucket, "remove", late)
    for name, value in {
        **environment(site.s3),
        "KIGI_S3_ENDPOINT": site.s3.endpoint,
        "KIGI_S3_BUCKET": site.bucket,
        "KUBECONFIG": str(site.plane.kubeconfig),
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LayerMissing, match=image["spec"]["layer"]["digest"]):
        await asyncio.to_thread(command.main, ["--delete", "--yes"], standalone_mode=False)
    assert "deleted 1 layers" in capsys.readouterr().out


def test_the_chain_below_a_running_capture_is_kept(site: Site) -> None:
    """The image's object was deleted by force, so that nothing else names its layers."""
    site.grow("base", "two", "three")
    every, parent = layers(site), digest_of(site, "three")
    spec = {"instanceRef": {"name": "class-1"}, "requestedBy": "admin"}
    site.apply({"apiVersion": API_VERSION, "kind": "SystemCapture", "metadata": {"name": "after"}, "spec": spec})
    order = {"id": "c1", "volume": "v", "parentDigest": parent, "virtualSizeBytes": 65536, "repositoryName": "default"}
    orders = [{**order, "action": "Keep", "mounted": False}]
    cache = {"nodeName": "node-a", "operatorProtocol": 2, "protocol": 2, "captures": orders}
    meta = {"name": f"n-{site.namespace}"}
    site.apply({"apiVersion": NODE_API_VERSION, "kind": "NodeCache", "metadata": meta, "spec": cache})

    forget(site, "base", "two", "three")
    make_old(site)
    site.succeed("gc", "--delete", "--yes", "--all-unused")
    assert layers(site) == every
    site.plane.kubectl("delete", "nodecache", meta["name"])
    site.succeed("gc", "--delete", "--yes", "--all-unused")
    assert layers(site) == set()


# A bucket that keeps versions.


@pytest.fixture
def versioned(
    crds: ControlPlane, namespace: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with S3Server(tmp_path_factory.mktemp("versions"), versions=True) as server:
        client: Any = server._client()
        client.create_bucket(Bucket="kept")
        client.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": "Enabled"})
        yield Site(crds, namespace, server, "kept", tmp_path)


def stored_versions(site: Site) -> dict[str, list[str]]:
    """Kinds of what the bucket has, by layer."""
    client: Any = site.s3._client()
    found: dict[str, list[str]] = {}
    answer = client.list_object_versions(Bucket=site.bucket, Prefix="layers/sha256/")
    for kind in ("Versions", "DeleteMarkers"):
        for item in answer.get(kind, ()):
            found.setdefault("sha256:" + item["Key"].rpartition("/")[2], []).append(kind)
    return found


def test_a_bucket_with_versions_says_that_nothing_is_freed_until_they_go(versioned: Site) -> None:
    site = versioned
    site.grow("base", "two", "three", "four")
    digests = {name: digest_of(site, name) for name in ("base", "two", "three", "four")}
    forget(site, "three", "four")
    said = site.succeed("gc", "--grace", "0s")
    assert "the bucket keeps versions: a deleted layer frees no space" in said
    result = json.loads(site.succeed("gc", "--grace", "0s", "--delete", "--yes", "-o", "json"))
    assert (result["versioned"], len(result["deleted"]), result["freedBytes"]) == (True, 2, 0)
    assert stored_versions(site)[digests["three"]] == ["Versions", "DeleteMarkers"], "it can be restored"
    assert "0 versions and delete markers" in site.succeed("gc", "--versions"), "deleted within the grace period"
    found = site.succeed("gc", "--versions", "--grace", "0s")
    assert "4 versions and delete markers" in found
    assert "nothing was deleted" in found
    forget(site, "two")
    result = json.loads(site.succeed("gc", "--versions", "--grace", "0s", "--delete", "--yes", "-o", "json"))
    assert result["versionsDeleted"] == 6, "those of 'two', which is deleted now, as well"
    assert result["freedBytes"] == sum(path.stat().st_size for path in _files(site, digests, "two", "three", "four"))
    assert stored_versions(site) == {digests["base"]: ["Versions"]}


def _files(site: Site, digests: dict[str, str], *names: str) -> list[Path]:
    """The local copies of layers."""
    return [next(site.folder.rglob(f"*{digests[name].removeprefix('sha256:')}*")) for name in names]


def test_versions_under_a_retention_stay_and_are_counted(versioned: Site) -> None:
    site = versioned
    client: Any = site.s3._client()
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    client.put_object_lock_configuration(
        Bucket="locked", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    site = dataclasses.replace(site, bucket="locked")
    site.grow("base", "two")
    forget(site, "two")
    said = site.succeed("gc", "--versions", "--delete", "--yes", "--grace", "0s")
    assert "1 versions stay: the server refuses to delete them (403)" in said
    assert "deleted 1 layers" in said
    assert sorted(stored_versions(site).values()) == [["Versions"], ["Versions", "DeleteMarkers"]], "it stays deleted"
