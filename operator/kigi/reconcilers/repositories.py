"""LayerRepository: passes its settings and the reader's credentials on to nodes, and probes it.

The reader's credentials travel from the Secret that it names into one that the daemons' pods mount. So a node can read
no other Secret, and a rotated one reaches it without a restart. The writer's stay in this process, which signs the
nodes' uploads with them.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from dataclasses import dataclass
from typing import Any

from kigi.adapters.kubernetes.resources import CONFIG_MAP, REPOSITORY, SECRET, Resource
from kigi.adapters.s3_probe import ConditionalWrites
from kigi.api.layer_repository import LayerRepositorySpec, LayerRepositoryStatus
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
        ports.write_probes.pop(key.name, None)
        ports.authorities.pop(key.name, None)
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
    access = await _read_access(ports, record.spec)
    _use_writer(ports, key.name, access)
    await _store(ports, key.name, access)
    read_error, reachable = await _probe_reading(ports, access)
    metrics.REPOSITORY_READABLE.labels(key.name).set(read_error is None)
    written = await _probe_writing(ports, key.name, access) if read_error is None else read_error
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
    reader = await _with_credentials(ports, spec, "readerSecretRef", spec.credentials.reader_secret_ref.name)
    writer_ref = spec.credentials.writer_secret_ref
    writer = await _with_credentials(ports, spec, "writerSecretRef", writer_ref.name) if writer_ref else None
    return Access(reader, writer, ca_bundle)


async def _with_credentials(
    ports: Ports, spec: LayerRepositorySpec, field: str, secret: str
) -> Repository | SpecInvalid:
    where = f"spec.credentials.{field}: Secret {ports.settings.namespace}/{secret}"
    try:
        data = await _data(ports, SECRET, secret, where)
        return repository_of_spec(
            spec,
            access_key_id=_text(data, "accessKeyId", where),
            secret_access_key=_text(data, "secretAccessKey", where),
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


def _text(data: dict[str, Any], key: str, where: str) -> str:
    try:
        text = base64.b64decode(data.get(key) or "", validate=True).decode().strip()
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    if not text or len(text) > MAX_KEY_CHARACTERS or not text.isprintable():
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


async def _probe_reading(ports: Ports, access: Access) -> tuple[KigiError | None, bool | None]:
    """The error, and whether the server answered."""
    if not isinstance(access.reader, Repository):
        return access.reader, None
    try:
        await ports.probe.read(access.reader, access.ca_bundle)
    except KigiError as exc:
        return exc, not isinstance(exc, RepositoryUnreachable)
    return None, True


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
