"""The operator is killed after its n-th write, for many n, and restarted: the result is the same as without."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.deployments import (
    apply,
    deployment,
    get_deployment,
    has_only,
    is_ready,
    left_over,
    no_overlays,
    outcome,
    trees,
)
from tests.support.operator_run import OperatorRun

STAGES: tuple[dict[str, Any] | None, ...] = (
    {"state": "infected"},
    {"state": "cleaned"},
    {"state": "cleaned", "resetToken": "again"},
    None,
)
"""Deployment, switch, reset, deletion."""
MACHINES = 9
KILL_AFTER = (None, 1, 1, 2, 3, 5, 8)
"""Writes after which the operator dies, in one namespace each; None: it never does."""


async def reached(kube: KubeClient, actors: Actors, ns: str, stage: dict[str, Any] | None) -> bool:
    if stage is None:
        gone = await get_deployment(kube, ns) is None and not await left_over(kube, ns)
        return gone and no_overlays(actors, ns)
    return await is_ready(kube, ns) and await has_only(kube, ns, MACHINES)


def enter(plane: ControlPlane, ns: str, stage: dict[str, Any] | None) -> None:
    if stage is None:
        plane.kubectl("delete", "systemdeployment", "class", "-n", ns, "--wait=false")
    else:
        apply(plane, ns, deployment(**stage))


async def survive(
    plane: ControlPlane, kubeconfig: str, kube: KubeClient, actors: Actors, ns: str, kill_after: int | None
) -> tuple[list[dict[str, Any]], int]:
    """Goes through all stages with an operator that dies after each ``kill_after`` writes.

    What was there at the end of each stage, and how often the operator died.
    """
    apply(plane, ns, *trees(MACHINES))
    results, deaths = [], 0
    run = await OperatorRun(kubeconfig, kill_after=kill_after).start()
    try:
        for stage in STAGES:
            enter(plane, ns, stage)
            waiting = asyncio.create_task(eventually_async(lambda s=stage: reached(kube, actors, ns, s), 120))
            while not waiting.done():
                dying = asyncio.create_task(run.dead.wait())
                await asyncio.wait({waiting, dying}, return_when=asyncio.FIRST_COMPLETED)
                dying.cancel()
                if run.dead.is_set():
                    await run.kill()
                    deaths += 1
                    run = await OperatorRun(kubeconfig, kill_after=kill_after).start()
            try:
                await waiting
            except AssertionError as exc:
                body = await get_deployment(kube, ns)
                left = await left_over(kube, ns)
                raise AssertionError(f"{stage} after {deaths} deaths: {exc}; {body}; {left}") from None
            results.append(await outcome(kube, ns) if stage is not None else {})
    finally:
        await run.kill()
    return results, deaths


@pytest.mark.timeout(900)
async def test_the_result_is_the_same_wherever_the_operator_dies(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient
) -> None:
    deaths: Counter[int | None] = Counter()
    expected: list[dict[str, Any]] = []
    for number, kill_after in enumerate(KILL_AFTER):
        ns = f"crash-{number}"
        plane.kubectl("create", "namespace", ns)
        results, died = await survive(plane, operator_kubeconfig, kube, actors, ns, kill_after)
        deaths[kill_after] += died
        comparable = [strip_identity(result) for result in results]
        expected = expected or comparable
        assert comparable == expected
        assert not actors.violations
    assert sum(deaths.values()) >= 200, deaths
    print("deaths by writes survived:", deaths)


def strip_identity(result: dict[str, Any]) -> dict[str, Any]:
    """UUID and MAC come from the namespace, which differs from run to run; that they stay is tested elsewhere."""
    return {
        name: {key: value for key, value in item.items() if key not in ("firmware", "mac")}
        if isinstance(item, dict)
        else item
        for name, item in result.items()
    }
