"""Which Service an endpoint names, and which pod and port serve it."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.cli.services import (
    OWN_CREDENTIALS,
    PodPort,
    ServicePort,
    names_credentials,
    pod_port,
    selector_of,
    service_of,
)
from kigi.errors import RepositoryUnreachable, SpecInvalid
from tests.support.pod_network import ready_pod

S3 = ServicePort("kigi-system", "kigi-s3", 9000)


@pytest.mark.parametrize(
    ("endpoint", "found"),
    [
        ("http://kigi-s3.kigi-system.svc:9000", S3),
        ("http://kigi-s3.kigi-system.svc:9000/", S3),
        ("http://kigi-s3.kigi-system.svc.cluster.local:9000", S3),
        ("http://kigi-s3.kigi-system.svc.cluster.local.:9000", S3),
        ("http://KIGI-S3.kigi-system.svc", ServicePort("kigi-system", "kigi-s3", 80)),
        ("http://minio.storage.svc:1", ServicePort("storage", "minio", 1)),
    ],
)
def test_a_name_of_a_service_is_one(endpoint: str, found: ServicePort) -> None:
    assert service_of(endpoint) == found


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://kigi-s3.kigi-system.svc:9000",
        "http://kigi-s3.kigi-system:9000",
        "http://kigi-s3:9000",
        "http://s3.example",
        "http://10.96.0.7:9000",
        "http://kigi-s3.kigi-system.svc.example:9000",
        "http://kigi-s3.kigi-system.svc.cluster.local.example:9000",
        "http://a.kigi-s3.kigi-system.svc:9000",
        "http://kigi-s3.kigi-system.svc:9000@evil.example",
        "http://user@kigi-s3.kigi-system.svc:9000",
        "http://kigi-s3.kigi-system.svc:9000/../secrets",
        "http://kigi-s3.kigi-system.svc:9000?x=.svc",
        "http://kigi-s3.kigi-system.svc:9000#x",
        "http://..%2f..%2fsecrets.kigi-system.svc",
        "http://kigi_s3.kigi-system.svc",
        "http://-a.kigi-system.svc",
        "http://" + "a" * 64 + ".kigi-system.svc",
        "http://kigi-s3.kigi-system.svc:99999",
        "http://kigi-s3.kigi-system.svc:x",
        "http://[::1]:9000",
        "http://[",
        "",
    ],
)
def test_everything_else_is_reached_by_its_own_address(endpoint: str) -> None:
    assert service_of(endpoint) is None


def service(**spec: Any) -> dict[str, Any]:
    default = {"selector": {"b": "2", "a": "1"}, "ports": [{"port": 9000, "targetPort": "s3"}]}
    return {"spec": {**default, **spec}}


def test_the_selector_has_every_label() -> None:
    assert selector_of(S3, service()) == "a=1,b=2"


@pytest.mark.parametrize(
    "spec", [{"selector": None}, {"selector": {}}, {"type": "ExternalName", "externalName": "evil.example"}]
)
def test_a_service_whose_traffic_leaves_its_pods_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(SpecInvalid, match=r"Service kigi-system/kigi-s3 selects no pods.*KIGI_S3_ENDPOINT"):
        selector_of(S3, service(**spec))


def test_a_missing_service_is_named() -> None:
    with pytest.raises(RepositoryUnreachable, match="kigi-system/kigi-s3 does not exist"):
        selector_of(S3, None)


@pytest.mark.parametrize(
    ("target", "number"), [("s3", 9000), (9001, 9001), (None, 9000), ("9000", None), ("other", None)]
)
def test_the_port_is_that_of_the_pod(target: object, number: int | None) -> None:
    body = service(ports=[{"port": 9000, "protocol": "UDP"}, {"port": 9000, "targetPort": target}])
    if number is None:
        with pytest.raises(SpecInvalid, match=f"pod kigi-s3-0 has no port named {target}"):
            pod_port(S3, body, [ready_pod("kigi-s3-0")])
    else:
        assert pod_port(S3, body, [ready_pod("kigi-s3-0")]) == PodPort("kigi-system", "kigi-s3-0", number)


def test_another_port_of_the_service_is_named() -> None:
    with pytest.raises(SpecInvalid, match="has no TCP port 9000, only 80"):
        pod_port(S3, service(ports=[{"port": 80}]), [ready_pod("kigi-s3-0")])


def test_the_first_ready_pod_serves() -> None:
    leaving = ready_pod("a")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    pods = [ready_pod("d"), leaving, ready_pod("b", ready=False), ready_pod("c")]
    assert pod_port(S3, service(), pods).pod == "c"
    with pytest.raises(RepositoryUnreachable, match="no ready pod; kubectl -n kigi-system get pods -l 'a=1,b=2'"):
        pod_port(S3, service(), [ready_pod("b", ready=False), leaving])


@pytest.mark.parametrize("name", OWN_CREDENTIALS)
def test_the_caller_names_credentials_by_a_variable(name: str) -> None:
    assert names_credentials({name: "x"})
    assert not names_credentials({name: "", "AWS_REGION": "eu", "AWS_SECRET_ACCESS_KEY": "alone"})
