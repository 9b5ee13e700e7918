"""Opens the repository that a verb uses, also one whose S3 server is a Service of the cluster.

The name of a Service has a meaning in the cluster alone. A verb that runs elsewhere reaches its pod through the API
server, with the caller's rights, and uses the keys of the LayerRepository's Secret if the caller names none.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from kigi.adapters.kubernetes.resources import POD, SECRET, SERVICE
from kigi.cli.cluster import Access, kigi_namespace, open_cluster
from kigi.cli.output import print_message
from kigi.cli.services import OTHER_WAY, PodPort, ServicePort, names_credentials, pod_port, selector_of, service_of
from kigi.errors import Forbidden, NotFound, RepositoryUnreachable, SpecInvalid, Unreachable

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    from kigi.adapters.kubernetes.endpoint import Endpoint
    from kigi.adapters.s3 import LayerBucket
    from kigi.api.layer_repository import LayerRepositorySpec
    from kigi.api.repositories import Repository
    from kigi.cli.repositories import Chosen, RepositoryChoice

KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


def check_extra() -> None:
    """Ends the command if the packages for repositories are missing, before anything is read."""
    import kigi.adapters.s3  # noqa: F401


@asynccontextmanager
async def open_chosen(choice: RepositoryChoice, access: Access, *, writes: bool = True) -> AsyncIterator[LayerBucket]:
    """The chosen repository while the context lasts; ``writes`` False: its reader's keys suffice.

    Raises as ``RepositoryChoice.chosen`` and ``reachable``.
    """
    async with _open(lambda: choice.chosen(access), access, writes=writes) as store:
        yield store


@asynccontextmanager
async def open_of_image(
    choice: RepositoryChoice, access: Access, name: str | None, *, writes: bool = True
) -> AsyncIterator[LayerBucket]:
    """As ``open_chosen``, for the repository that an image names."""
    async with _open(lambda: choice.of_image(access, name), access, writes=writes) as store:
        yield store


@asynccontextmanager
async def _open(find: Callable[[], Chosen], access: Access, *, writes: bool) -> AsyncIterator[LayerBucket]:
    from kigi.adapters.s3 import open_repository

    with reachable(find(), access, writes=writes) as settings:
        async with open_repository(settings) as store:
            yield store


@contextmanager
def reachable(chosen: Chosen, access: Access, *, writes: bool = True, keys: bool = True) -> Iterator[Repository]:
    """Settings with which this machine reaches the repository while the context lasts; ``keys``: with credentials.

    Opens a tunnel only for a LayerRepository whose endpoint is the Service of a plain HTTP server, and never in a pod
    of the cluster. Raises SpecInvalid, Forbidden, or RepositoryUnreachable with what the tunnel reports.
    """
    service = service_of(chosen.settings.endpoint)
    if service is None or chosen.spec is None or access.is_pod():
        yield chosen.settings
        return
    settings = chosen.settings
    if settings.addressing != "Path":
        raise SpecInvalid(f"{service}: spec.s3.addressing is {settings.addressing}, a tunnel needs Path; {OTHER_WAY}")
    if keys and not names_credentials(os.environ):
        settings = _with_keys(settings, chosen.spec, access, writes=writes)
    from kigi.adapters.kubernetes.port_forward import Tunnel

    way = _Way(access, service)
    with way.connect():
        pass  # a right that is missing is named before anything is sent
    with Tunnel(way.connect) as tunnel:
        try:
            yield settings.model_copy(update={"endpoint": tunnel.url})
        except Unreachable as exc:
            if not tunnel.problem:
                raise
            raise RepositoryUnreachable(f"{service}: {tunnel.problem}") from exc


class _Way:
    """Connects to a ready pod of a Service; finds another one when it is gone. Thread-safe."""

    def __init__(self, access: Access, service: ServicePort) -> None:
        self._access, self._service = access, service
        self._lock = threading.Lock()
        self._known: tuple[Endpoint, PodPort] | None = None

    @contextmanager
    def connect(self) -> Iterator[ClientConnection]:
        """One connection to the pod; raises KigiError."""
        from kigi.adapters.kubernetes.port_forward import open_port

        with ExitStack() as stack:
            try:
                endpoint, place = self._find(renew=False)
                stream = stack.enter_context(open_port(endpoint, *place))
            except (NotFound, Unreachable):  # the pod is another one by now, or a token has expired
                endpoint, place = self._find(renew=True)
                stream = stack.enter_context(open_port(endpoint, *place))
            yield stream

    def _find(self, *, renew: bool) -> tuple[Endpoint, PodPort]:
        with self._lock:
            if renew or self._known is None:
                self._known = self._access.endpoint(), _pod_of(self._access, self._service)
            return self._known


def _pod_of(access: Access, service: ServicePort) -> PodPort:
    with open_cluster(access) as kube:
        try:
            body = kube.get(SERVICE, service.namespace, service.name)
            pods = replace(POD, selector=selector_of(service, body))
            return pod_port(service, body or {}, kube.list_all(pods, service.namespace))
        except Forbidden as exc:
            raise Forbidden(
                f"{service} is inside the cluster: you need the right to get services, and to list pods, in namespace "
                f"{service.namespace}, {OTHER_WAY}"
            ) from exc


def _with_keys(settings: Repository, spec: LayerRepositorySpec, access: Access, *, writes: bool) -> Repository:
    """The settings with the keys of the writer's Secret, or else of the reader's if that suffices."""
    from kigi.cli.secret_keys import keys_of_secret

    credentials = spec.credentials
    reader = None if writes else credentials.reader_secret_ref
    reference = reader or credentials.writer_secret_ref
    if reference is None:
        raise SpecInvalid(f"the LayerRepository has no spec.credentials.writerSecretRef, and no keys are set; {KEYS}")
    with open_cluster(access) as kube:
        place = f"{kigi_namespace(kube)}/{reference.name}"
        try:
            body = kube.get(SECRET, *place.split("/"))
        except Forbidden as exc:
            raise Forbidden(f"you may not read Secret {place}, which has the repository's keys; {KEYS}") from exc
    keys = keys_of_secret(body)
    if not keys:
        raise SpecInvalid(f"Secret {place} does not exist, or lacks accessKeyId or secretAccessKey; {KEYS}")
    _say_once(f"no credentials for S3 are set: using the keys of Secret {place}")
    return settings.model_copy(update=dict(keys))


@functools.cache
def _say_once(text: str) -> None:
    print_message(text)
