"""The address of an API server and the credentials for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kigi.adapters.kubernetes.kubeconfig import Context, Entry
from kigi.errors import SpecInvalid

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Folder with a pod's token, namespace and CA."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An API server, and the credentials for it. Certificates and keys are PEM."""

    server: str
    """URL without a trailing slash."""
    ca: bytes | None = None
    """PEM of its CA; None: the system's CAs."""
    insecure: bool = False
    server_name: str | None = None
    """Name expected in the server's certificate, if it is not the URL's host."""
    proxy: str | None = None
    token: str | None = field(default=None, repr=False)
    password: tuple[str, str] | None = field(default=None, repr=False)
    """(user, password) of basic authentication."""
    certificate: tuple[bytes, bytes] | None = field(default=None, repr=False)
    """(certificate, key)."""
    impersonated: tuple[tuple[str, str], ...] = ()
    """Impersonate-* headers."""


def is_pod(environment: Mapping[str, str]) -> bool:
    """Whether this process runs in a pod, and KUBECONFIG is not set."""
    return "KUBERNETES_SERVICE_HOST" in environment and "KUBECONFIG" not in environment


def pod_namespace() -> str:
    """Namespace of the pod that this process runs in."""
    try:
        return (ACCOUNT / "namespace").read_text().strip() or "default"
    except OSError:
        return "default"


def pod_endpoint(environment: Mapping[str, str]) -> Endpoint:
    """The API server with the pod's service account. Raises SpecInvalid if the pod has none."""
    host, port = environment["KUBERNETES_SERVICE_HOST"], environment.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        token, ca = (ACCOUNT / "token").read_text().strip(), (ACCOUNT / "ca.crt").read_bytes()
    except OSError as exc:
        raise SpecInvalid(f"this pod has no account: {exc.strerror}: {exc.filename}; give --kubeconfig") from exc
    return Endpoint(f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}", ca, token=token)


def endpoint_of(context: Context) -> Endpoint:
    """Server and credentials of a context. Reads files, and runs the user's credential plugin. Raises SpecInvalid."""
    cluster, user = context.cluster, context.user or Entry("", Path(), {})
    server = str(cluster.fields["server"]).rstrip("/")
    if not server.startswith(("https://", "http://")):
        raise SpecInvalid(f"kubeconfig: server {server!r} of cluster {cluster.name!r} is no http(s) URL; correct it")
    credentials: Mapping[str, Any] = {}
    if user.fields.get("exec"):
        from kigi.adapters.kubernetes.exec_credentials import run_plugin

        credentials = run_plugin(user, cluster)
    token = user.fields.get("token") or _token(user) or credentials.get("token")
    name, password = user.fields.get("username"), user.fields.get("password")
    return Endpoint(
        server=server,
        ca=cluster.data("certificate-authority"),
        insecure=bool(cluster.fields.get("insecure-skip-tls-verify")),
        server_name=cluster.fields.get("tls-server-name") or None,
        proxy=cluster.fields.get("proxy-url") or None,
        token=str(token) if token else None,
        password=(str(name), str(password or "")) if name and not token else None,
        certificate=_certificate(user, credentials),
        impersonated=tuple(_impersonated(user.fields)),
    )


def _token(user: Entry) -> str | None:
    """Token in the user's token file, or the last token of its auth provider."""
    path = user.fields.get("tokenFile")
    if path:
        try:
            return (user.folder / str(path)).read_text().strip()
        except OSError as exc:
            raise SpecInvalid(f"kubeconfig: tokenFile of {user.name!r}: {exc.strerror}: {exc.filename}") from exc
    provider = (user.fields.get("auth-provider") or {}).get("config") or {}
    return provider.get("id-token") or provider.get("access-token")


def _certificate(user: Entry, credentials: Mapping[str, Any]) -> tuple[bytes, bytes] | None:
    made, key = credentials.get("clientCertificateData"), credentials.get("clientKeyData")
    if made and key:
        return str(made).encode(), str(key).encode()
    certificate, secret = user.data("client-certificate"), user.data("client-key")
    return (certificate, secret) if certificate and secret else None


def _impersonated(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    headers = [("Impersonate-User", str(fields["as"]))] if fields.get("as") else []
    if fields.get("as-uid"):
        headers.append(("Impersonate-Uid", str(fields["as-uid"])))
    headers += [("Impersonate-Group", str(group)) for group in fields.get("as-groups") or ()]
    for key, values in (fields.get("as-user-extra") or {}).items():
        headers += [(f"Impersonate-Extra-{key}", str(value)) for value in values]
    return headers
