"""Pure decisions on an S3 server inside the cluster: which Service an endpoint names, and which pod and port serve it.

Source of the names: https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from kigi.errors import RepositoryUnreachable, SpecInvalid

OWN_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_SHARED_CREDENTIALS_FILE",
)
"""Variables by which the caller names credentials. A default profile and the metadata of a machine are meant
for another server."""
OTHER_WAY = "or set KIGI_S3_ENDPOINT and KIGI_S3_BUCKET to a server that this machine reaches"
_NAME = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"({_NAME})\.({_NAME})\.svc(?:\.cluster\.local)?\.?")


class ServicePort(NamedTuple):
    """A port of a Service of the cluster."""

    namespace: str
    name: str
    port: int

    def __str__(self) -> str:
        return f"Service {self.namespace}/{self.name}"


class PodPort(NamedTuple):
    """A TCP port of a pod."""

    namespace: str
    pod: str
    port: int

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.pod}"


def service_of(endpoint: str) -> ServicePort | None:
    """The Service of ``http://NAME.NAMESPACE.svc[.cluster.local][:PORT]``; None for every other URL.

    https is another URL: the server's certificate has to fit the name that the client calls.
    """
    try:
        url = urlsplit(endpoint)
        host, port = url.hostname or "", url.port
    except ValueError:
        return None
    if url.scheme != "http" or "@" in url.netloc or url.path not in ("", "/") or url.query or url.fragment:
        return None
    found = _HOST.fullmatch(host)
    return ServicePort(found[2], found[1], 80 if port is None else port) if found else None


def selector_of(service: ServicePort, body: Mapping[str, Any] | None) -> str:
    """Label selector of the Service's pods.

    Raises RepositoryUnreachable if there is no such Service, and SpecInvalid if its traffic goes to no pods of its
    namespace: to another name (ExternalName), or to addresses in EndpointSlices that a user writes.
    """
    if body is None:
        raise RepositoryUnreachable(f"{service} does not exist; correct spec.s3.endpoint of the LayerRepository")
    spec = body.get("spec") or {}
    selector = spec.get("selector") or {}
    if spec.get("type") == "ExternalName" or not selector:
        raise SpecInvalid(
            f"{service} selects no pods, so that this machine cannot reach it through the API server; {OTHER_WAY}"
        )
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))


def pod_port(service: ServicePort, body: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]) -> PodPort:
    """The first ready pod of the Service by name, and its port. Raises SpecInvalid or RepositoryUnreachable."""
    ports = (body.get("spec") or {}).get("ports") or ()
    port = next((p for p in ports if p.get("port") == service.port and p.get("protocol", "TCP") == "TCP"), None)
    if port is None:
        known = ", ".join(str(each.get("port")) for each in ports)
        raise SpecInvalid(f"{service} has no TCP port {service.port}, only {known}; correct spec.s3.endpoint")
    ready = sorted((pod for pod in pods if _is_ready(pod)), key=lambda pod: str(pod["metadata"]["name"]))
    if not ready:
        raise RepositoryUnreachable(
            f"{service} has no ready pod; kubectl -n {service.namespace} get pods -l '{selector_of(service, body)}'"
        )
    target = port.get("targetPort") or service.port
    number = target if isinstance(target, int) else _named_port(ready[0], str(target))
    if number is None:
        raise SpecInvalid(f"{service}: pod {ready[0]['metadata']['name']} has no port named {target}")
    return PodPort(service.namespace, str(ready[0]["metadata"]["name"]), number)


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    is_ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
    return is_ready and "deletionTimestamp" not in pod["metadata"]


def _named_port(pod: Mapping[str, Any], name: str) -> int | None:
    containers = (pod.get("spec") or {}).get("containers") or ()
    ports = (port for container in containers for port in container.get("ports") or ())
    return next((int(port["containerPort"]) for port in ports if port.get("name") == name), None)


def names_credentials(environment: Mapping[str, str]) -> bool:
    """Whether the caller names credentials for S3; an empty variable counts as unset."""
    return any(environment.get(name) for name in OWN_CREDENTIALS)
