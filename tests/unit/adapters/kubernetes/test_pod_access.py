"""Clients of a pod while its token and its cluster's CA change under them, against a real TLS server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.configuration import load_configuration
from kigi.adapters.kubernetes.pod_access import TOKEN_READ_S, TokenFile
from kigi.adapters.kubernetes.resources import NODE
from kigi.errors import Unreachable
from kigi_cache.node.kube import KubeApi
from tests.support.pod_api import Authority, PodApi


async def answer(request: web.Request) -> web.StreamResponse:
    if "nodecaches" in request.path:
        return web.json_response({"items": [], "metadata": {"resourceVersion": "7"}})
    return web.json_response({"kind": "Node", "metadata": {"name": "n"}})


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("first")


@pytest.fixture
async def pod(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PodApi]:
    api = PodApi(tmp_path / "pod", answer)
    api.trust(authority)
    await api.serve(authority)
    api.enter(monkeypatch)
    yield api
    await api.close()


async def test_the_operator_goes_on_when_its_token_is_replaced(pod: PodApi) -> None:
    async with KubeClient(await load_configuration()) as kube:
        assert await kube.get(NODE, None, "n")
        pod.token = "second"
        pod.write_token("second")
        with pytest.raises(Unreachable, match="Unauthorized"):  # the known token is younger than TOKEN_READ_S
            await kube.get(NODE, None, "n")
        assert await kube.get(NODE, None, "n")
        assert pod.refusals == 1


async def test_the_daemon_goes_on_when_its_token_is_replaced(pod: PodApi) -> None:
    api = KubeApi("n")
    await api.open()
    try:
        assert (await api.get()).resource_version == "7"
        pod.token = "second"
        pod.write_token("second")
        with pytest.raises(Unreachable, match="Unauthorized"):
            await api.get()
        assert (await api.get()).resource_version == "7"
    finally:
        await api.close()


async def test_the_operator_goes_on_when_the_clusters_ca_is_replaced(pod: PodApi) -> None:
    second = Authority("second")
    async with KubeClient(await load_configuration()) as kube:
        assert await kube.get(NODE, None, "n")
        await pod.serve(second)
        with pytest.raises(Unreachable, match="certificate"):
            await kube.get(NODE, None, "n")
        pod.trust(second)
        with pytest.raises(Unreachable, match="certificate"):
            await kube.get(NODE, None, "n")
        assert await kube.get(NODE, None, "n")


async def test_the_daemon_goes_on_when_the_clusters_ca_is_replaced(pod: PodApi) -> None:
    second = Authority("second")
    api = KubeApi("n")
    await api.open()
    try:
        assert (await api.get()).resource_version == "7"
        await pod.serve(second)
        pod.trust(second)
        with pytest.raises(Unreachable, match="certificate"):
            await api.get()
        assert (await api.get()).resource_version == "7"
    finally:
        await api.close()


def test_a_token_file_is_read_again_by_a_clock_that_is_never_set_back(tmp_path: Path) -> None:
    path, now = tmp_path / "token", [1000.0]
    configuration = SimpleNamespace(api_key={})
    hook = TokenFile(path, lambda: now[0])
    hook(configuration)
    assert configuration.api_key == {}
    path.write_text("one\n")
    hook(configuration)
    assert configuration.api_key == {"BearerToken": "Bearer one"}
    path.write_text("two")
    now[0] += TOKEN_READ_S - 1
    hook(configuration)
    assert configuration.api_key == {"BearerToken": "Bearer one"}
    now[0] += 1
    path.unlink()
    hook(configuration)
    assert configuration.api_key == {"BearerToken": "Bearer one"}, "an absent file does not take the token away"
    path.write_text("three")
    hook(configuration)
    assert configuration.api_key == {"BearerToken": "Bearer three"}
