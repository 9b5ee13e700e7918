"""Real servers, started once per run and only when a test asks for them."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.support import why
from tests.support.cluster import install_crds

_numbers = itertools.count(1)

# A law must not fail because the machine is busy: no time limit for an example or for its generation.
settings.register_profile("busy-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy-machine")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test with the marker ``why("Reason", ...)`` has made ``kigi why`` explain these, or fails."""
    why.EXPLAINED.clear()
    done = yield
    wanted = {reason for marker in item.iter_markers("why") for reason in marker.args}
    assert wanted <= why.EXPLAINED, f"kigi why was not made to explain {sorted(wanted - why.EXPLAINED)}"
    return done


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real kube-apiserver with etcd; ``api.kubeconfig`` is its admin's, ``api.kubectl(...)`` runs kubectl."""
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as server:
        yield server


@pytest.fixture(scope="session")
def crds(api: ControlPlane) -> ControlPlane:
    """The API server with Kigi's CRDs."""
    install_crds(api)
    return api


@pytest.fixture
def namespace(api: ControlPlane) -> str:
    """A new namespace; it is not deleted, the server is thrown away."""
    name = f"test-{next(_numbers)}"
    api.kubectl("create", "namespace", name)
    return name


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server on loopback."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """A new bucket."""
    return s3.create_bucket(f"bucket-{next(_numbers)}")


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]
