"""LayerRepository: passes its settings and the reader's credentials on to nodes, and probes it.

The reader's credentials travel from the Secret that it names into one that the daemons' pods mount. So a node can read
no other Secret, and a rotated one reaches it without a restart. The writer's stay in this process, which signs the
nodes' uploads with them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from dataclasses import dataclass
from typing import Any

from kigi.adapters.kubernetes.resources import CONFIG_MAP, REPOSITORY, SECRET, Resource
from kigi.adapters.s3_probe import ConditionalWrites
from kigi.api.base import ObjectRef
from kigi.api.layer_repository import LayerRepositorySpec, LayerRepositoryStatus
from kigi.api.layer_upload import MAX_TOKEN_CHARACTERS
from kigi.api.repositories import Repository, repository_of_spec
from kigi.errors import KigiError, RepositoryUnreachable, SpecInvalid
from kigi.mirror.keys import Key, node_key
from kigi.planning.repository_files import DAEMON_SECRET, FORMER_SECRET, changed_data, repository_files
from kigi.reconcilers.writing import report_invalid, write_status
from kigi.runtime import metrics
from kigi.runtime.ports import Ports, WriteProbe
from kigi.status.repositories import UNKNOWN, RepositoryView, repository_status

PROBE_S = 60.0
"""Interval in which each repository is read, and in which a rotated Secret is found."""
WRITE_PROBE_S = 3600.0
"""Interval in which a repository with a writer is written to; a changed Secret or bucket is tested immediately."""
MAX_KEY_CHARACTERS = 512
"""Longest access key and secret; a request with the signature must fit into a NodeCache."""
MAX_CA_BYTES = 2**17
"""Largest bundle of authorities: all repositories together share Secrets of 1 MiB."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a LayerRepository's references lead to."""

    reader: Repository | KigiError | None
    writer: Repository | KigiError | None
    """None: there is none."""
    ca_bundle: str | None


async def reconcile_repository(ports: Ports, key: Key) -> float | None:
    """Stores the settings of one repository, probes it, and writes its status.

    An error of a probe is in the status, and decides when the next attempt is.
    """
    record = ports.mirror.repositories.get(None, key.name)
    if record is None or record.meta.deleting:
        for memory in (ports.write_probes, ports.authorities, ports.regions):
            memory.pop(key.name, None)
        if ports.writers.pop(key.name, None) is not None:
            _enqueue_nodes(ports, key.name)
        _forget(key.name)
        await _store(ports, key.name, Access(None, None, None))
        return None
    if isinstance(record.spec, KigiError):
        _use_writer(ports, key.name, Access(None, record.spec, None))
        _forget(key.name)
        await report_invalid(ports, REPOSITORY, record, LayerRepositoryStatus(), record.spec)
        return None
    access = _in_region(await _read_access(ports, record.spec), ports.regions.get(key.name))
    read_error, reachable, region = await _probe_reading(ports, access)
    if region is not None:
        ports.regions[key.name] = region
        access = _in_region(access, region)
    await _store(ports, key.name, access)
    metrics.REPOSITORY_READABLE.labels(key.name).set(read_error is None)
    written = await _probe_writing(ports, key.name, access) if read_error is None else read_error
    _use_writer(ports, key.name, _as_probed(access, ports.write_probes.get(key.name)))
    status = repository_status(
        RepositoryView(
            spec=record.spec,
            generation=record.meta.generation,
            old_status=record.status or LayerRepositoryStatus(),
            now=ports.now(),
            read_error=read_error,
            reachable=reachable,
            write_error=written if isinstance(written, KigiError) else None,
            conditional_writes=written if isinstance(written, str) else UNKNOWN,
            region=region,
        )
    )
    await write_status(ports, REPOSITORY, record.meta, record.status, status)
    if read_error is not None:
        raise read_error
    return PROBE_S


def _use_writer(ports: Ports, name: str, access: Access) -> None:
    """Signs uploads with these credentials from now on; nodes with uploads of others get new ones."""
    writer = access.writer or SpecInvalid("spec.credentials.writerSecretRef is not set")
    before = ports.writers.get(name)
    ports.writers[name], ports.authorities[name] = writer, access.ca_bundle
    both_errors = isinstance(before, KigiError) and isinstance(writer, KigiError)
    if str(before) != str(writer) if both_errors else before != writer:
        _enqueue_nodes(ports, name)


def _enqueue_nodes(ports: Ports, name: str) -> None:
    """Those with uploads to that repository."""
    for cache in ports.mirror.caches:
        orders = cache.spec.captures if cache.spec is not None else ()
        if any(order.upload is not None and order.repository_name == name for order in orders):
            ports.queue.add(node_key(cache.meta.name))


def _forget(name: str) -> None:
    """Ends the series of a repository that is not probed any more."""
    with contextlib.suppress(KeyError):
        metrics.REPOSITORY_READABLE.remove(name)


async def _read_access(ports: Ports, spec: LayerRepositorySpec) -> Access:
    """Raises KigiError only if the API server does not answer: then nodes keep what they have."""
    try:
        ca_bundle = await _ca_bundle(ports, spec)
    except SpecInvalid as exc:
        return Access(exc, exc if spec.credentials.writer_secret_ref else None, None)
    reader_ref, writer_ref = spec.credentials.reader_secret_ref, spec.credentials.writer_secret_ref
    reader: Repository | KigiError = await _with_credentials(ports, spec, "readerSecretRef", reader_ref)
    writer: Repository | KigiError | None = None
    if writer_ref is not None:
        writer = await _with_credentials(ports, spec, "writerSecretRef", writer_ref)
    elif reader_ref is None:
        writer = await _with_own_keys(ports, reader)
    return Access(reader, writer, ca_bundle)


async def _with_own_keys(ports: Ports, repository: Repository | KigiError) -> Repository | KigiError:
    """With the credentials of the operator's pod as they are now; temporary ones are read again at each reconcile."""
    if isinstance(repository, KigiError):
        return repository
    try:
        keys = await asyncio.to_thread(ports.own_keys, repository)
    except KigiError as exc:
        return exc
    return repository.model_copy(
        update={
            "access_key_id": keys.access_key_id,
            "secret_access_key": keys.secret_access_key,
            "session_token": keys.session_token,
        }
    )


def _in_region(access: Access, region: str | None) -> Access:
    """The region that the server has named, or accepted, precedes that of the settings."""
    reader, writer = (
        each.model_copy(update={"region": region}) if region is not None and isinstance(each, Repository) else each
        for each in (access.reader, access.writer)
    )
    assert reader is not None
    return Access(reader, writer, access.ca_bundle)


def _as_probed(access: Access, last: WriteProbe | None) -> Access:
    """Uploads to a server that refuses If-None-Match are signed without it."""
    refused = last is not None and last.result is ConditionalWrites.REFUSED
    if not refused or not isinstance(access.writer, Repository):
        return access
    return Access(access.reader, access.writer.model_copy(update={"conditional_writes": False}), access.ca_bundle)


async def _with_credentials(
    ports: Ports, spec: LayerRepositorySpec, field: str, reference: ObjectRef | None
) -> Repository | SpecInvalid:
    """Without a reference: without credentials, so that each process uses those of its pod."""
    try:
        if reference is None:
            return repository_of_spec(spec)
        where = f"spec.credentials.{field}: Secret {ports.settings.namespace}/{reference.name}"
        data = await _data(ports, SECRET, reference.name, where)
        token = _text(data, "sessionToken", where, MAX_TOKEN_CHARACTERS) if "sessionToken" in data else None
        return repository_of_spec(
            spec,
            access_key_id=_text(data, "accessKeyId", where),
            secret_access_key=_text(data, "secretAccessKey", where),
            session_token=token,
        )
    except SpecInvalid as exc:
        return exc


async def _ca_bundle(ports: Ports, spec: LayerRepositorySpec) -> str | None:
    if spec.s3.ca_bundle_ref is None:
        return None
    where = f"spec.s3.caBundleRef: ConfigMap {ports.settings.namespace}/{spec.s3.ca_bundle_ref.name}"
    bundle = (await _data(ports, CONFIG_MAP, spec.s3.ca_bundle_ref.name, where)).get("ca.crt")
    if not bundle or len(bundle) > MAX_CA_BYTES:
        raise SpecInvalid(f"{where}: key ca.crt must have 1 to {MAX_CA_BYTES} bytes; correct it")
    return str(bundle)


async def _data(ports: Ports, resource: Resource, name: str, where: str) -> dict[str, Any]:
    body = await ports.kube.get(resource, ports.settings.namespace, name)
    if body is None:
        raise SpecInvalid(f"{where} does not exist; create it, or name another one")
    return body.get("data") or {}


def _text(data: dict[str, Any], key: str, where: str, most: int = MAX_KEY_CHARACTERS) -> str:
    try:
        text = base64.b64decode(data.get(key) or "", validate=True).decode().strip()
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    if not text or len(text) > most or not text.isprintable():
        raise SpecInvalid(f"{where}: key {key} is missing, empty or no text; correct it")
    return text


async def _store(ports: Ports, name: str, access: Access) -> None:
    """Writes the repository's files into the nodes' Secret; removes those of a repository that must not be used.

    Raises SpecInvalid if the Secret does not exist: the operator may not create Secrets.
    """
    known = [record.meta.name for record in ports.mirror.repositories if not record.meta.deleting]
    reader = access.reader
    wanted = repository_files(name, reader, access.ca_bundle) if isinstance(reader, Repository) else {}
    for secret, files in ((DAEMON_SECRET, wanted), (FORMER_SECRET, {})):
        body = await ports.kube.get(SECRET, ports.settings.namespace, secret)
        if body is None and not files:
            continue
        changes = changed_data((body or {}).get("data") or {}, name, files, known if secret == DAEMON_SECRET else ())
        if not changes:
            continue
        patch = {"data": changes}
        if await ports.kube.merge_patch(SECRET, ports.settings.namespace, secret, patch) is None:
            raise SpecInvalid(
                f"Secret {ports.settings.namespace}/{secret} does not exist; apply Kigi's manifests again"
            )


async def _probe_reading(ports: Ports, access: Access) -> tuple[KigiError | None, bool | None, str | None]:
    """The error, whether the server answered, and the bucket's region if it did without an error."""
    if not isinstance(access.reader, Repository):
        return access.reader, None, None
    try:
        region = await ports.probe.read(access.reader, access.ca_bundle)
    except KigiError as exc:
        return exc, not isinstance(exc, RepositoryUnreachable), None
    return None, True, region


async def _probe_writing(ports: Ports, name: str, access: Access) -> str | KigiError:
    """Supported, Unsupported, Unknown (no writer), or the error."""
    if not isinstance(access.writer, Repository):
        return access.writer or UNKNOWN
    settings = (access.writer, access.ca_bundle)
    last = ports.write_probes.get(name)
    if last is None or last.settings != settings or ports.clock() - last.at_s >= WRITE_PROBE_S:
        ports.write_probes.pop(name, None)
        try:
            result: ConditionalWrites = await ports.probe.write(access.writer, access.ca_bundle)
        except KigiError as exc:
            return exc
        last = ports.write_probes[name] = WriteProbe(settings, ports.clock(), result)
    return last.result.value
