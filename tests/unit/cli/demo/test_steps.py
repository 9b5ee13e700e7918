"""The steps of a run against a simulated cluster, with a clock of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kigi.adapters.kubernetes.resources import IMAGE, NAMESPACE, SYSTEM, VMI
from kigi.cli.cluster import open_cluster
from kigi.cli.demo.cleanup import remove_run
from kigi.cli.demo.disks import DemoLayer, make_layers
from kigi.cli.demo.display import Display
from kigi.cli.demo.exercise import MACHINES
from kigi.cli.demo.objects import image_objects, namespace_object, system_objects
from kigi.cli.demo.run import all_phases
from kigi.cli.demo.steps import ACTIONS, Exercise, phases
from kigi.cli.exit_codes import NotReached
from kigi.cli.verbs.demo import STEPS
from kigi.errors import SpecInvalid
from tests.support.called_clock import CalledClock
from tests.support.demo_cluster import DemoCluster

NAME = "kigi-demo-run1"


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DemoLayer]:
    return make_layers(tmp_path_factory.mktemp("layers"), "run1")


@contextmanager
def exercise(
    cluster: DemoCluster, layers: dict[str, DemoLayer], folder: Path, *, guests: bool = True, timeout_s: float = 60.0
) -> Iterator[tuple[Exercise, list[str]]]:
    clock, drawn = CalledClock(), list[str]()
    with cluster.serving(folder) as access, open_cluster(access) as kube:
        kube.create(NAMESPACE, namespace_object("run1", {}))
        for body in image_objects(layers, None):
            kube.apply(IMAGE, NAME, body)
        for body in system_objects():
            kube.apply(SYSTEM, NAME, body)
        display = Display(phases(), drawn.append, say=lambda line: None, clock=clock)
        yield Exercise(kube, NAME, layers, display, guests, timeout_s, clock, clock.sleep), drawn


def test_each_step_moves_exactly_what_its_disks_lack(layers: dict[str, DemoLayer], tmp_path: Path) -> None:
    with exercise(DemoCluster(), layers, tmp_path) as (run, drawn):
        steps = [run.run(action) for action in ACTIONS]
        vmis = list(run.kube.list_all(VMI, NAME))
    assert [step.name for step in steps] == [action.name for action in ACTIONS]
    assert [step.moved_bytes for step in steps] == [step.minimum_bytes for step in steps]
    assert [round(step.moved_bytes / 1e6, 1) for step in steps] == [37.7, 3.5, 2.4, 0.0, 0.0]
    assert all(step.full_bytes > 200e6 for step in steps)
    assert len(vmis) == len(MACHINES) + 2
    assert any("10 of 10 VMs run, 0 guests have reported" in line or "0 of 10 VMs run" in line for line in drawn)
    assert any("layers are moved" in line for line in drawn), "the cause of the wait is shown"
    assert drawn[-1].startswith("[5/5] second instance")


def test_without_guests_only_the_vms_count(layers: dict[str, DemoLayer], tmp_path: Path) -> None:
    cluster = DemoCluster()
    cluster.report = lambda machine, state, boot: "SeaBIOS"
    with exercise(cluster, layers, tmp_path, guests=False) as (run, _):
        step = run.run(ACTIONS[0])
    assert step.seconds["guests"] is None
    assert step.seconds["ready"] is not None


def test_a_guest_of_another_state_ends_the_run(layers: dict[str, DemoLayer], tmp_path: Path) -> None:
    cluster = DemoCluster()
    cluster.report = lambda machine, state, boot: f"KIGI-GUEST machine={machine} state=restored boot=1\r\n"
    with (
        exercise(cluster, layers, tmp_path) as (run, _),
        pytest.raises(NotReached, match=r"instead of machine=.* state="),
    ):
        run.run(ACTIONS[0])


def test_silent_guests_are_named(layers: dict[str, DemoLayer], tmp_path: Path) -> None:
    cluster = DemoCluster()
    speaking = cluster.report
    cluster.report = lambda machine, state, boot: "" if machine == "dns2" else speaking(machine, state, boot)
    with (
        exercise(cluster, layers, tmp_path) as (run, _),
        pytest.raises(NotReached, match="have not reported on their consoles: 1/dns2; kigi console"),
    ):
        run.run(ACTIONS[0])


def test_a_deployment_that_does_not_get_ready_is_named_with_its_condition(
    layers: dict[str, DemoLayer], tmp_path: Path
) -> None:
    cluster = DemoCluster()
    cluster.readings = 10**6
    with (
        exercise(cluster, layers, tmp_path, timeout_s=5.0) as (run, _),
        pytest.raises(NotReached, match=r"deploy infected: .* is not ready after 5 s: Warming: layers are moved"),
    ):
        run.run(ACTIONS[0])


def stalled(reason: str) -> list[dict[str, str]]:
    return [{"type": "Ready", "status": "False", "reason": reason}, {"type": "Stalled", "status": "True"}]


@pytest.mark.parametrize(
    ("reason", "readings", "is_reached"),
    [("RepositoryUnknown", 30, True), ("RepositoryUnknown", 60, False), ("AccessDenied", 2, False)],
)
def test_a_node_may_learn_of_a_new_repository_within_minutes(
    layers: dict[str, DemoLayer], tmp_path: Path, reason: str, readings: int, is_reached: bool
) -> None:
    cluster = DemoCluster()
    cluster.readings, cluster.waiting = readings, stalled(reason)
    with exercise(cluster, layers, tmp_path, timeout_s=1800.0) as (run, _):
        clock = run.clock
        assert isinstance(clock, CalledClock)
        run.sleep = lambda seconds: clock.sleep(10 * seconds)
        if is_reached:
            assert 60 < (run.run(ACTIONS[0]).seconds["ready"] or 0) < 180
        else:
            with pytest.raises(NotReached, match=reason):
                run.run(ACTIONS[0])


def test_a_kubevirt_without_console_logs_is_named(layers: dict[str, DemoLayer], tmp_path: Path) -> None:
    cluster = DemoCluster()

    def drop_container(method: str, path: str) -> None:
        for each, body in cluster.objects.items():
            if "/pods/" in each:
                body["spec"]["containers"] = [{"name": "compute"}]

    cluster.on_request = drop_container
    with exercise(cluster, layers, tmp_path) as (run, _), pytest.raises(SpecInvalid, match="--no-guests"):
        run.run(ACTIONS[0])


def test_the_option_knows_the_number_of_steps() -> None:
    assert len(ACTIONS) == STEPS
    assert [phase.name for phase in all_phases(1, removes=False)] == ["make layers", "publish", ACTIONS[0].name]
    assert len(all_phases(STEPS, removes=True)) == STEPS + 3


@pytest.mark.parametrize("step", range(len(ACTIONS)))
@pytest.mark.parametrize("place", ["read", "write"])
def test_an_interruption_within_a_step_leaves_nothing(
    layers: dict[str, DemoLayer], tmp_path: Path, step: int, place: str
) -> None:
    """Ctrl-C arrives while a request of the step is on its way: the server has stored it."""
    cluster = DemoCluster()
    with exercise(cluster, layers, tmp_path) as (run, _):
        for action in ACTIONS[:step]:
            run.run(action)
        exchange, asked = run.kube._exchange, 0

        def interrupted(request: object) -> tuple[int, bytes]:
            nonlocal asked
            answer = exchange(request)  # type: ignore[arg-type]
            is_read = str(request).startswith("GET")
            asked += is_read if place == "read" else not is_read
            if asked == (5 if place == "read" else 1):
                raise KeyboardInterrupt
            return answer

        run.kube._exchange = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            run.run(ACTIONS[step])
        run.kube._exchange = exchange  # type: ignore[method-assign]
        assert remove_run(run.kube, "run1", lambda body: [], lambda text: None) == []
    assert cluster.objects == {}
