"""Captured layers reach a real S3 server by requests that the operator signs; daemons are played, and may be stolen."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import NODE_CACHE
from kigi.api.layer_upload import LayerUpload
from kigi.domain.layers import Digest, object_key
from kigi.errors import RepositoryUnreachable
from kigi_cache.captures.uploads import MadeLayer, cut, send_layer
from localcluster.controlplane import ControlPlane
from localcluster.s3 import READER, Credentials, S3Server
from tests.support.actors import Actors
from tests.support.cluster import REPOSITORY, eventually_async
from tests.support.deployments import apply, deployment, trees, wait_gone, wait_ready
from tests.support.operator_run import FAST, OperatorRun
from tests.support.uploads import layer_file
from tests.support.why import explained

from .test_captures import capture, drop, get, wait_done, wait_reason
from .test_repositories import put_secret, repository

SYSTEM = "kigi-system"
MACHINES = 3
SETTINGS = FAST.model_copy(update={"namespace": SYSTEM, "resync_s": 1.0})
_numbers = itertools.count()


class Publishers:
    """The publishers of all nodes: they make layers, report them, and store those that they have requests for."""

    def __init__(self, actors: Actors, kube: KubeClient, folder: Path) -> None:
        self.layers: dict[str, MadeLayer] = {}
        self.stored: set[str] = set()
        self.lies: dict[str, list[dict[str, Any]]] = {}
        """Further reports of each node."""
        self.size_of: dict[str, int] = {}
        """Reported sizes in place of the true ones, by id."""
        self.most_bytes = 2**40
        """Layers that are larger have parts."""
        self.length = 0
        """Least length of new layers, in bytes."""
        self.claimed: Digest | None = None
        """Digest that new layers have in reports, in place of their own."""
        self.sent: set[str] = set()
        """Ids of the copies whose parts are stored."""
        self._actors, self._kube, self._folder = actors, kube, folder
        self._reports = Actors._captures

    def reports_of(self, actors: Actors, node: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """In place of ``Actors._captures``."""
        found = []
        for report in self._reports(actors, node, body):
            if report["state"] == "Stored":
                id_ = report["id"]
                if id_ not in self.layers:
                    text = f"layer {node} {id_}"
                    content = text.encode() + random.Random(text).randbytes(self.length)
                    layer = cut(layer_file(self._folder, content), self.most_bytes)
                    self.layers[id_] = replace(layer, digest=self.claimed or layer.digest)
                layer = self.layers[id_]
                state = "Stored" if id_ in self.stored else "Storing"
                size = self.size_of.get(id_, layer.size_bytes)
                uploaded = size if id_ in self.sent | self.stored else 0
                report = {**report, **layer.report, "state": state, "sizeBytes": size, "uploadedBytes": uploaded}
            found.append(report)
        return [*found, *self.lies.get(node, ())]

    def report_again(self) -> None:
        """Lets all nodes report."""
        for node in self._actors.alive:
            self._actors._enqueue("cache", (None, node))  # type: ignore[arg-type]

    async def uploads(self) -> dict[str, LayerUpload]:
        """Uploads in all NodeCaches, by id of the copy."""
        found: dict[str, LayerUpload] = {}
        async for cache in self._kube.list_all(NODE_CACHE):
            for order in cache["spec"].get("captures") or ():
                if "upload" in order:
                    found[order["id"]] = LayerUpload.model_validate(order["upload"])
        return found

    async def requested(self, count: int) -> Mapping[str, LayerUpload]:
        """Uploads with requests, when there are that many."""

        async def check() -> dict[str, LayerUpload]:
            found = {id_: each for id_, each in (await self.uploads()).items() if each.request is not None}
            return found if len(found) == count else {}

        return await eventually_async(check, 30, f"{count} requests")

    async def store_parts(self, count: int) -> None:
        """Stores the parts of each layer by their requests, when there are requests for that many layers."""

        async def check() -> dict[str, LayerUpload]:
            found = {id_: each for id_, each in (await self.uploads()).items() if each.parts}
            return found if len(found) == count else {}

        for id_, upload in (await eventually_async(check, 30, f"requests for parts of {count} layers")).items():
            for piece, part in zip(self.layers[id_].pieces, upload.parts, strict=True):
                assert await send_layer(piece, part.request, None, lambda count: None)
            self.sent.add(id_)
        self.report_again()

    async def store(self, uploads: Mapping[str, LayerUpload]) -> None:
        """Stores each layer by its request."""
        for id_, upload in uploads.items():
            assert upload.request is not None
            assert await send_layer(self.layers[id_], upload.request, None, lambda count: None)
            self.stored.add(id_)
        self.report_again()


@pytest.fixture
async def publishers(
    actors: Actors, kube: KubeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Publishers]:
    made = Publishers(actors, kube, tmp_path)
    monkeypatch.setattr(Actors, "_captures", lambda actors, node, body: made.reports_of(actors, node, body))
    yield made
    monkeypatch.undo()
    made.report_again()


@pytest.fixture
async def tenant(plane: ControlPlane, s3: S3Server, bucket: str, ns: str) -> AsyncIterator[str]:
    """Name of a repository with its own writer, which the namespace may use."""
    name = f"uploads-{next(_numbers)}"
    plane.kubectl("apply", "--server-side", "-f", str(REPOSITORY / "manifests/daemon/secrets.yaml"))
    s3.grant_reading(bucket)
    put_secret(plane, "reader", READER.access_key, READER.secret_key)
    put_secret(plane, f"{name}-writer", s3.credentials.access_key, s3.credentials.secret_key)
    credentials = {"readerSecretRef": {"name": "reader"}, "writerSecretRef": {"name": f"{name}-writer"}}
    apply(plane, SYSTEM, repository(name, s3, bucket, credentials=credentials))
    plane.kubectl("label", "namespace", ns, f"tenant={name}")
    yield name
    plane.kubectl("delete", "layerrepository", name)


async def started(plane: ControlPlane, kube: KubeClient, ns: str, tenant: str) -> None:
    """A running deployment, and the order to capture it into the tenant's repository."""
    apply(plane, ns, *trees(MACHINES), deployment())
    await wait_ready(kube, ns)
    apply(plane, ns, capture(target={"repositoryRef": {"name": tenant}}))


def keys(s3: S3Server, bucket: str) -> set[str]:
    """Keys of all layers."""
    folder = s3.data / bucket / "layers" / "sha256"
    return {f"layers/sha256/{path.name}" for path in folder.iterdir()} if folder.exists() else set()


async def test_a_capture_is_stored_by_requests_of_the_operator_also_of_one_that_has_died(
    plane: ControlPlane,
    operator_kubeconfig: str,
    actors: Actors,
    kube: KubeClient,
    s3: S3Server,
    bucket: str,
    ns: str,
    tenant: str,
    publishers: Publishers,
) -> None:
    async with OperatorRun(operator_kubeconfig, settings=SETTINGS, requests=actors.vmi_request) as first:
        await started(plane, kube, ns, tenant)
        before = await publishers.requested(MACHINES)
        await first.kill()
    first_id, *_ = before
    await publishers.store({first_id: before[first_id]})  # by the request of an operator that is gone
    async with OperatorRun(operator_kubeconfig, settings=SETTINGS, requests=actors.vmi_request):
        left = await publishers.requested(MACHINES - 1)
        assert left == {id_: upload for id_, upload in before.items() if id_ != first_id}, "still valid, so the same"
        await publishers.store(left)
        await wait_done(kube, ns)
        assert keys(s3, bucket) == {object_key(layer.digest) for layer in publishers.layers.values()}

        async def ended() -> bool:
            return not await publishers.uploads()

        await eventually_async(ended, 20, "no upload is left")
        await drop(plane, ns)
        await wait_gone(plane, kube, ns)


@pytest.mark.why("UploadRefused")
async def test_a_stolen_node_gets_requests_for_its_own_copies_and_each_is_good_for_its_layer_alone(
    plane: ControlPlane,
    operator_kubeconfig: str,
    actors: Actors,
    kube: KubeClient,
    s3: S3Server,
    bucket: str,
    ns: str,
    tenant: str,
    publishers: Publishers,
    tmp_path: Path,
) -> None:
    victim = layer_file(tmp_path, b"a layer of another team")
    s3._client().put_object(  # type: ignore[attr-defined]
        Bucket=bucket, Key=object_key(victim.digest), Body=victim.path.read_bytes()
    )
    async with OperatorRun(operator_kubeconfig, settings=SETTINGS, requests=actors.vmi_request):
        await started(plane, kube, ns, tenant)
        uploads = await publishers.requested(MACHINES)
        asked = dict(uploads)
        # Reports about copies of other nodes, of other captures, and of none, as many as the API server takes.
        report = {"state": "Storing", "digest": victim.digest, "sizeBytes": victim.size_bytes}
        invented = [{"id": f"c{number}", **report} for number in range(900)]
        for node in actors.node_names:
            publishers.lies[node] = [*({"id": id_, **report} for id_ in uploads), *invented]
        publishers.report_again()
        thief = next(iter(asked))
        # It claims the digest of a stored layer for its own copy, which already has another one.
        publishers.layers[thief], kept = victim, publishers.layers[thief]

        async def is_refused() -> bool:
            publishers.report_again()
            return (await publishers.uploads())[thief].reason == "UploadRefused"

        for node in actors.node_names:
            publishers.lies[node] = invented
        await eventually_async(is_refused, 30, "the other digest is refused")
        explained("UploadRefused")
        found = await publishers.uploads()
        assert set(found) == set(asked), "no request for anything else"
        assert {id_: each.digest for id_, each in found.items()} == {id_: each.digest for id_, each in asked.items()}

        async def is_blocked() -> bool:
            disks = (await get(kube, ns))["status"].get("blockedDisks") or ()
            return any(disk["reason"] == "UploadRefused" for disk in disks)

        await eventually_async(is_blocked, 60, "the capture names the cause")
        # The request that it has, and those of other nodes, which it can read, store nothing else.
        for upload in asked.values():
            forged = layer_file(tmp_path, b"evil".ljust(upload.size_bytes, b"!"))
            claimed = MadeLayer(forged.path, Digest(upload.digest), upload.size_bytes)
            assert upload.request is not None
            with pytest.raises(RepositoryUnreachable, match="XAmzContentSHA256Mismatch"):
                await send_layer(claimed, upload.request, None, lambda count: None)
        assert keys(s3, bucket) == {object_key(victim.digest)}
        assert (s3.data / bucket / object_key(victim.digest)).read_bytes() == victim.path.read_bytes()
        # It returns to what it has reported first.
        publishers.layers[thief] = kept
        publishers.lies.clear()
        publishers.report_again()
        await publishers.store(await publishers.requested(MACHINES))
        await wait_done(kube, ns)
        await drop(plane, ns)
        await wait_gone(plane, kube, ns)


async def test_an_absurd_length_is_refused_and_a_rotated_secret_replaces_requests(
    plane: ControlPlane,
    operator_kubeconfig: str,
    actors: Actors,
    kube: KubeClient,
    s3: S3Server,
    bucket: str,
    ns: str,
    tenant: str,
    publishers: Publishers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rotated = Credentials(f"{tenant}-rotated", "another-secret")
    async with OperatorRun(operator_kubeconfig, settings=SETTINGS, requests=actors.vmi_request):
        await started(plane, kube, ns, tenant)
        uploads = await publishers.requested(MACHINES)
        await asyncio.to_thread(s3.create_user, rotated)
        policy = json.loads(s3._client().get_bucket_policy(Bucket=bucket)["Policy"])  # type: ignore[attr-defined]
        principal, resource = {"AWS": [rotated.access_key]}, f"arn:aws:s3:::{bucket}/layers/*"
        puts = {"Effect": "Allow", "Principal": principal, "Action": "s3:PutObject", "Resource": resource}
        policy["Statement"].append(puts)
        s3._client().put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
        await asyncio.to_thread(put_secret, plane, f"{tenant}-writer", rotated.access_key, rotated.secret_key)

        async def is_rotated() -> bool:
            found = [each.request.authorization for each in (await publishers.uploads()).values() if each.request]
            return len(found) == MACHINES and all(rotated.access_key in each for each in found)

        await eventually_async(is_rotated, 30, "requests of the new user")
        assert await publishers.uploads() != uploads
        await publishers.store(await publishers.requested(MACHINES))
        await wait_done(kube, ns)
        await drop(plane, ns)

        publishers.stored.clear()
        publishers.layers.clear()
        monkeypatch.setattr(publishers, "size_of", _Absurd())
        apply(plane, ns, capture(target={"systemName": "again", "repositoryRef": {"name": tenant}}))

        async def all_refused() -> bool:
            found = (await publishers.uploads()).values()
            return len(found) == MACHINES and all(each.reason == "UploadRefused" for each in found)

        await eventually_async(all_refused, 30, "absurd lengths are refused")
        assert all(each.request is None for each in (await publishers.uploads()).values())
        await drop(plane, ns)
        await wait_gone(plane, kube, ns)


async def test_a_capture_into_a_repository_without_a_writer_pauses_no_vm(
    plane: ControlPlane,
    operator_kubeconfig: str,
    actors: Actors,
    kube: KubeClient,
    s3: S3Server,
    bucket: str,
    ns: str,
    tenant: str,
    publishers: Publishers,
) -> None:
    only_reads = {"readerSecretRef": {"name": "reader"}}
    plane.kubectl("delete", "layerrepository", tenant)
    apply(plane, SYSTEM, repository(tenant, s3, bucket, credentials=only_reads))
    actors.pauses.clear()
    async with OperatorRun(operator_kubeconfig, settings=SETTINGS, requests=actors.vmi_request):
        await started(plane, kube, ns, tenant)
        message = await wait_reason(kube, ns, "UploadRefused")
        assert f"repository {tenant} takes no captures" in message
        assert not actors.pauses
        both = {**only_reads, "writerSecretRef": {"name": f"{tenant}-writer"}}
        apply(plane, SYSTEM, repository(tenant, s3, bucket, credentials=both))
        await publishers.store(await publishers.requested(MACHINES))
        await wait_done(kube, ns)
        await drop(plane, ns)
        await wait_gone(plane, kube, ns)


async def in_parts(plane: ControlPlane, s3: S3Server, bucket: str, tenant: str, publishers: Publishers) -> None:
    """The tenant's server takes 5 MiB at once, and layers have 11 MiB."""
    credentials = {"readerSecretRef": {"name": "reader"}, "writerSecretRef": {"name": f"{tenant}-writer"}}
    limits = {"maxPutBytes": 5 * 2**20}
    apply(plane, SYSTEM, repository(tenant, s3, bucket, credentials=credentials, limits=limits))
    publishers.most_bytes, publishers.length = limits["maxPutBytes"], 11 * 2**20


async def test_layers_in_parts_are_joined_by_the_operator_also_by_one_that_has_just_started(
    plane: ControlPlane,
    operator_kubeconfig: str,
    actors: Actors,
    kube: KubeClient,
    s3: S3Server,
    bucket: str,
    ns: str,
    tenant: str,
    publishers: Publishers,
) -> None:
    await in_parts(plane, s3, bucket, tenant, publishers)
    async with OperatorRun(operator_kubeconfig, settings=SETTINGS, requests=actors.vmi_request) as first:
        await started(plane, kube, ns, tenant)
        await publishers.store_parts(MACHINES)
        await first.kill()
    async with OperatorRun(operator_kubeconfig, settings=SETTINGS, requests=actors.vmi_request):
        wanted = {object_key(layer.digest) for layer in publishers.layers.values()}

        async def joined() -> bool:
            return wanted <= keys(s3, bucket)

        await eventually_async(joined, 60, "every layer is joined")
        for layer in publishers.layers.values():
            assert (s3.data / bucket / object_key(layer.digest)).read_bytes() == layer.path.read_bytes()
        publishers.stored.update(publishers.layers)
        publishers.report_again()
        await wait_done(kube, ns)
        await drop(plane, ns)
        await wait_gone(plane, kube, ns)


async def test_a_stolen_node_cannot_occupy_a_digest_by_parts_of_other_content(
    plane: ControlPlane,
    operator_kubeconfig: str,
    actors: Actors,
    kube: KubeClient,
    s3: S3Server,
    bucket: str,
    ns: str,
    tenant: str,
    publishers: Publishers,
    tmp_path: Path,
) -> None:
    await in_parts(plane, s3, bucket, tenant, publishers)
    victim = layer_file(tmp_path, b"a layer that a team will store")
    async with OperatorRun(operator_kubeconfig, settings=SETTINGS, requests=actors.vmi_request):
        apply(plane, ns, *trees(1), deployment())
        await wait_ready(kube, ns)

        publishers.claimed = victim.digest
        apply(plane, ns, capture(target={"repositoryRef": {"name": tenant}}))
        await publishers.store_parts(1)

        async def is_refused() -> bool:
            found = [each.message or "" for each in (await publishers.uploads()).values()]
            return any("are not layer" in message for message in found)

        await eventually_async(is_refused, 60, "the operator has compared the parts")
        assert object_key(victim.digest) not in keys(s3, bucket)
        await drop(plane, ns)
        await wait_gone(plane, kube, ns)


class _Absurd(dict[str, int]):
    """A length for every copy."""

    def get(self, key: str, default: Any = None) -> Any:  # type: ignore[override]
        return 2**62
