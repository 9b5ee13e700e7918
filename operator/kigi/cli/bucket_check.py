"""Asks the bucket of a LayerRepository as the users in its Secrets: ``kigi repository check``, for ``kigi doctor``."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kigi.adapters.kubernetes.resources import CONFIG_MAP, SECRET
from kigi.cli.reach import reachable
from kigi.cli.repositories import Chosen
from kigi.cli.secret_keys import Keys, keys_of_secret
from kigi.cli.services import names_credentials
from kigi.doctor.facts import Body, RepositoryAnswer
from kigi.errors import Forbidden, KigiError, SpecInvalid
from kigi.extras import PUBLISH, missing_extra

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession
    from kigi.api.repositories import Repository
    from kigi.cli.cluster import Access
    from kigi.domain.repository_points import Point

SECRET_MISSING = "SecretMissing"
PROBE_S = 5.0
"""Time in which a server must answer for its clock to be known."""


def check_bucket(
    kube: KubeSession, access: Access, namespace: str, body: Body, environment: Mapping[str, str]
) -> RepositoryAnswer:
    """The bucket's answers to reader and writer. ``body``: a LayerRepository. ``namespace``: Kigi's.

    A server that is a Service of the cluster is reached through the API server, with the caller's rights. Stores the
    empty object ``layers/kigi-write-probe``, as the operator does, if there is a writer.
    """
    try:
        chosen, bundle = _read_repository(kube, namespace, body)
        keys = {user: _read_keys(kube, namespace, body, user) for user in ("reader", "writer")}
    except Forbidden as exc:
        return RepositoryAnswer(unread=f"{exc}; kigi repository check asks with credentials of the environment")
    except KigiError as exc:
        return RepositoryAnswer(reason=exc.reason, message=str(exc))
    except ValueError as exc:
        return RepositoryAnswer(reason=SECRET_MISSING, message=str(exc))
    if not keys["reader"]:
        return RepositoryAnswer(
            unread="spec.credentials names no reader: operator and daemons use the credentials of their pods, and the "
            "condition Ready of the LayerRepository has the operator's result; kigi repository check asks with yours"
        )
    try:
        with reachable(chosen, access, keys=False) as settings:
            return _answer(settings, keys, bundle, environment)
    except (Forbidden, SpecInvalid) as exc:  # of the way to a Service
        return RepositoryAnswer(unread=str(exc))
    except KigiError as exc:
        return RepositoryAnswer(reason=exc.reason, message=str(exc))


def _answer(
    repository: Repository, keys: Mapping[str, Keys], bundle: str | None, environment: Mapping[str, str]
) -> RepositoryAnswer:
    users = {user: repository.model_copy(update=dict(found)) for user, found in keys.items() if found}
    with tempfile.TemporaryDirectory(prefix="kigi-") as folder:
        if bundle is not None:
            file = Path(folder) / "ca.crt"
            file.write_text(bundle, encoding="utf-8")
            users = {user: each.model_copy(update={"ca_file": str(file)}) for user, each in users.items()}
        ahead_s = None
        try:
            ahead_s = asyncio.run(_ahead(repository, bundle))
            points = asyncio.run(_ask(users["reader"], users.get("writer"), bundle, environment))
        except KigiError as exc:
            return RepositoryAnswer(reason=exc.reason, message=str(exc), ahead_s=ahead_s)
        except ImportError as exc:
            missing = missing_extra(exc, "asking the bucket", PUBLISH)
            if missing is None:
                raise
            return RepositoryAnswer(unread=str(missing))
    return RepositoryAnswer(points=tuple(points), ahead_s=ahead_s)


async def _ask(
    reader: Repository, writer: Repository | None, bundle: str | None, environment: Mapping[str, str]
) -> list[Point]:
    from kigi.adapters.s3_checks import ask_all
    from kigi.adapters.s3_probe import S3Probe
    from kigi.domain.repository_points import points_of

    await S3Probe().read(reader, bundle)
    has_own = names_credentials(environment) and writer is not None
    nobody = dict.fromkeys(("access_key_id", "secret_access_key", "session_token"))
    caller = reader.model_copy(update=nobody) if has_own else None
    points = points_of(await ask_all(caller or writer or reader, reader, writer, environment))
    if writer is not None:
        return points
    return [point for point in points if point.name.startswith("reader")]


def _read_repository(kube: KubeSession, namespace: str, body: Body) -> tuple[Chosen, str | None]:
    """Server and bucket, and the authorities of its endpoint as PEM. Raises SpecInvalid and Forbidden."""
    from kigi.api.layer_repository import LayerRepositorySpec
    from kigi.api.repositories import repository_of_spec

    try:
        spec = LayerRepositorySpec.model_validate(body["spec"])
    except ValueError as exc:
        raise SpecInvalid(f"LayerRepository {body['metadata']['name']} cannot be read: {exc}") from exc
    chosen = Chosen(repository_of_spec(spec), spec)
    if spec.s3.ca_bundle_ref is None:
        return chosen, None
    name = spec.s3.ca_bundle_ref.name
    bundle = ((kube.get(CONFIG_MAP, namespace, name) or {}).get("data") or {}).get("ca.crt")
    if not bundle:
        raise SpecInvalid(f"spec.s3.caBundleRef: ConfigMap {namespace}/{name} with the key ca.crt does not exist")
    return chosen, str(bundle)


def _read_keys(kube: KubeSession, namespace: str, body: Body, user: str) -> Keys:
    """Credentials of the Secret; none if the repository names none. Raises Forbidden, or ValueError without them."""
    field = f"{user}SecretRef"
    name = ((body["spec"].get("credentials") or {}).get(field) or {}).get("name")
    if not name:
        return {}
    keys = keys_of_secret(kube.get(SECRET, namespace, name))
    if not keys:
        raise ValueError(
            f"spec.credentials.{field}: Secret {namespace}/{name} does not exist, or lacks accessKeyId or "
            "secretAccessKey"
        )
    return keys


async def _ahead(repository: Repository, bundle: str | None) -> float | None:
    """Seconds that the S3 server's clock is ahead: any answer has a header Date, also a refusal."""
    import aiohttp

    from kigi.adapters.proxies import proxy_for
    from kigi.adapters.tls import tls_context
    from kigi.cli.installation_facts import seconds_ahead

    try:
        tls, proxy = tls_context(ca_data=bundle) if bundle is not None else True, proxy_for(repository.endpoint)
        timeout, through = aiohttp.ClientTimeout(total=PROBE_S), proxy.geturl() if proxy is not None else None
        async with aiohttp.ClientSession(timeout=timeout) as session:
            started = time.time()
            async with session.head(repository.endpoint, ssl=tls, proxy=through, allow_redirects=False) as answer:
                return seconds_ahead(answer.headers.get("Date", ""), started, time.time())
    except (aiohttp.ClientError, OSError, ValueError, SpecInvalid):
        return None
