"""The image of the disk hook: set, or that of the operator's own Deployment."""

from __future__ import annotations

from typing import Any, cast

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.domain.kubevirt import KubeVirtState
from kigi.errors import Forbidden, KigiError, SpecInvalid, Unreachable
from kigi.reconcilers.hook_image import image_of, read_hook_image, with_hook_image
from kigi.runtime.ports import Ports
from kigi.runtime.queue import WorkQueue
from kigi.runtime.settings import Settings
from tests.support.mirrors import new_mirror

IMAGE = "registry.example/kigi@sha256:" + "0" * 64


def deployment(*containers: dict[str, str]) -> dict[str, Any]:
    meta = {"name": "kigi-operator", "namespace": "elsewhere"}
    return {"metadata": meta, "spec": {"template": {"spec": {"containers": list(containers)}}}}


class Api:
    """Answers a request for the Deployment."""

    def __init__(self, answer: dict[str, Any] | KigiError | None) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str | None, str]] = []

    async def get(self, resource: Any, namespace: str | None, name: str) -> dict[str, Any] | None:
        self.asked.append((resource.path(), namespace, name))
        if isinstance(self.answer, KigiError):
            raise self.answer
        return self.answer


def ports_on(api: Api, **fields: Any) -> Ports:
    settings = Settings(identity="me", namespace="elsewhere", **fields)
    return Ports(cast(KubeClient, api), new_mirror(), WorkQueue(), settings)


async def test_it_is_the_image_of_the_operators_container_as_the_deployment_names_it() -> None:
    api = Api(deployment({"name": "proxy", "image": "mesh:1"}, {"name": "operator", "image": IMAGE}))
    ports = ports_on(api)
    assert await read_hook_image(ports)
    assert ports.hook_image == IMAGE
    assert api.asked == [("/apis/apps/v1/deployments", "elsewhere", "kigi-operator")]


async def test_a_set_image_wins_and_asks_nothing() -> None:
    api = Api(deployment({"name": "operator", "image": IMAGE}))
    ports = ports_on(api, hook_image="mirror.example/hook:1")
    assert await read_hook_image(ports)
    assert (ports.hook_image, api.asked) == ("mirror.example/hook:1", [])


async def test_a_silent_api_server_is_asked_again() -> None:
    ports = ports_on(Api(Unreachable("silent")))
    assert not await read_hook_image(ports)
    assert ports.hook_image == ""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "Deployment elsewhere/kigi-operator does not exist"),
        (Forbidden("cannot get deployments"), "cannot get deployments"),
        (deployment({"name": "other", "image": "x"}), "containers has no 'operator'"),
        (deployment({"name": "operator"}), "containers has no 'operator'"),
    ],
    ids=["missing", "forbidden", "another container", "no image"],
)
async def test_without_an_image_no_sidecar_is_offered_and_the_reason_is_named(answer: Any, words: str) -> None:
    """A VM whose pod names a wrong image would wait for it until a person finds out."""
    api = Api(answer)
    ports = ports_on(api)
    assert await read_hook_image(ports)
    state = with_hook_image(KubeVirtState("v1.7.0", "Sidecar"), ports)
    assert (state.version, state.hook, state.pending) == ("v1.7.0", None, False)
    assert words in state.why_not
    assert "set KIGI_HOOK_IMAGE" in state.why_not
    api.answer = deployment({"name": "operator", "image": IMAGE})
    assert await read_hook_image(ports)
    assert with_hook_image(KubeVirtState("v1.7.0", "Sidecar"), ports).hook == "Sidecar"


@pytest.mark.parametrize("state", [KubeVirtState("v1.9.0", "Plugin"), KubeVirtState(why_not="no KubeVirt")])
def test_other_hooks_need_no_image(state: KubeVirtState) -> None:
    assert with_hook_image(state, ports_on(Api(None))) is state


def test_a_deployment_without_the_container_is_invalid() -> None:
    with pytest.raises(SpecInvalid, match="Deployment elsewhere/kigi-operator"):
        image_of(deployment())
