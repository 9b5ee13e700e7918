"""The steps of a run: deploy, switch twice, reset, add an instance. Each is applied, awaited and measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import DEPLOYMENT, INSTANCE, NODE_CACHE, RESET, Resource
from kigi.cli.demo.costs import Ledger, Step
from kigi.cli.demo.disks import DemoLayer
from kigi.cli.demo.display import Display
from kigi.cli.demo.estimate import Phase
from kigi.cli.demo.exercise import MACHINES, resolved_images
from kigi.cli.demo.guests import Machine, read_reports, read_vmis
from kigi.cli.demo.objects import DEPLOYMENT_NAME, SECOND, deployment_object, reset_object, second_instance
from kigi.cli.demo.report import mb
from kigi.cli.exit_codes import NotReached
from kigi.cli.identity import caller_name
from kigi.cli.wait import is_ready
from kigi.errors import RepositoryUnknown

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession

POLL_S = 1.0
VARIANT = "demo"
MESSAGE = 160
"""Characters of a condition's message that the line of progress shows until the first VM runs."""
NEW_REPOSITORY_S = 180.0
"""Time in which nodes get to know a new LayerRepository: kubelets renew mounted Secrets each minute or so."""
GUESS_S = 60.0
"""First guess of the time in which ten VMs start."""


@dataclass(frozen=True, slots=True)
class Action:
    """One step: ``state`` of all instances afterwards; ``instance``: the one that gets new disks."""

    name: str
    state: str
    instance: str = "1"
    reset: bool = False

    @property
    def machines(self) -> tuple[Machine, ...]:
        """Machines that start in this step."""
        names = SECOND if self.instance == "2" else tuple(machine.name for machine in MACHINES)
        return tuple((self.instance, name) for name in names)


ACTIONS = (
    Action("deploy infected", "infected"),
    Action("switch to cleaned", "cleaned"),
    Action("switch to restored", "restored"),
    Action("reset", "restored", reset=True),
    Action("second instance", "restored", instance="2"),
)


def phases() -> list[Phase]:
    """One for each step; its units are the VMs that start and the guests that report."""
    share = {action.name: len(action.machines) / len(MACHINES) for action in ACTIONS}
    return [Phase(action.name, "start", 2 * len(action.machines), GUESS_S * share[action.name]) for action in ACTIONS]


@dataclass(slots=True)
class Exercise:
    """A run on a cluster whose trees are applied."""

    kube: KubeSession
    namespace: str
    layers: Mapping[str, DemoLayer]
    display: Display
    reads_guests: bool = True
    timeout_s: float = 1800.0
    """Time that one step may take."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(
            {name: chain_of(name, self.layers) for name in self.layers},
            {name: made.layer.size_bytes for name, made in self.layers.items()},
            {name: made.flat_bytes for name, made in self.layers.items()},
        )

    def run(self, action: Action) -> Step:
        """Applies the step and waits until its VMs run and their guests have reported. Raises NotReached."""
        with self.display.phase(action.name):
            began, before, held = self.clock(), set(read_vmis(self.kube, self.namespace)), self._held_bytes()
            resource, written = self._apply(action)
            self._wait_ready(action, resource, written, before, began + self.timeout_s)
            ready_s = self.clock() - began
            guests_s = self._wait_guests(action, before, began) if self.reads_guests else None
        minimum, full, image_cache = self.ledger.book(self._disks(action))
        times = {} if action.reset else self._times()
        return Step(
            VARIANT,
            action.name,
            self._held_bytes() - held,
            minimum,
            full,
            image_cache,
            {**times, "ready": round(ready_s, 1), "guests": guests_s},
        )

    def _apply(self, action: Action) -> tuple[Resource, dict[str, Any]]:
        if action.reset:
            return RESET, self.kube.create(RESET, reset_object(self.namespace, caller_name(self.kube)))
        if action.instance == "2":
            self.kube.apply(INSTANCE, self.namespace, second_instance())
        body = deployment_object(action.state, int(action.instance))
        return DEPLOYMENT, self.kube.apply(DEPLOYMENT, self.namespace, body)

    def _wait_ready(
        self, action: Action, resource: Resource, written: Mapping[str, Any], before: set[str], deadline_s: float
    ) -> None:
        name, generation = written["metadata"]["name"], written["metadata"]["generation"]
        while True:
            body = self.kube.get(resource, self.namespace, name)
            if body is None:
                raise NotReached(f"{resource.kind} {self.namespace}/{name} was deleted")
            ready, message = self._is_ready(body, generation, deadline_s - self.timeout_s)
            if ready:
                return
            started = len(set(read_vmis(self.kube, self.namespace)) - before)
            why = f" ({message[:MESSAGE]})" if not started else ""
            self.display.show(started, f"{self._progress()}{started} of {len(action.machines)} VMs run{why}")
            if self.clock() > deadline_s:
                raise NotReached(
                    f"{action.name}: {resource.kind} {self.namespace}/{name} is not ready after "
                    f"{self.timeout_s:.0f} s: {message}"
                )
            self.sleep(POLL_S)

    def _is_ready(self, body: Mapping[str, Any], generation: int, began: float) -> tuple[bool, str]:
        """As ``is_ready``; a node that does not know the repository yet is no reason to give up."""
        try:
            return is_ready(body, generation)
        except NotReached as exc:
            if not str(exc).startswith(RepositoryUnknown.reason) or self.clock() > began + NEW_REPOSITORY_S:
                raise
            return False, str(exc)

    def _wait_guests(self, action: Action, before: set[str], began: float) -> float:
        """Waits for the reports of the step's guests; seconds since ``began``. Raises NotReached."""
        wanted, reports = set(action.machines), dict[Machine, dict[str, str]]()
        while True:
            vmis = {u: m for u, m in read_vmis(self.kube, self.namespace).items() if u not in before and m in wanted}
            missing = {uid: machine for uid, machine in vmis.items() if machine not in reports}
            for uid, report in read_reports(self.kube, self.namespace, missing).items():
                check_report(action, missing[uid], report, self.layers)
                reports[missing[uid]] = report
            if len(reports) == len(wanted):
                return round(self.clock() - began, 1)
            self.display.show(
                len(wanted) + len(reports),
                f"{len(wanted)} of {len(wanted)} VMs run, {len(reports)} guests have reported",
            )
            if self.clock() > began + self.timeout_s:
                silent = ", ".join(f"{instance}/{machine}" for instance, machine in sorted(wanted - set(reports)))
                raise NotReached(
                    f"{action.name}: after {self.timeout_s:.0f} s these guests have not reported on their consoles: "
                    f"{silent}; kigi console {DEPLOYMENT_NAME} MACHINE -n {self.namespace} shows one (call with --keep)"
                )
            self.sleep(POLL_S)

    def _progress(self) -> str:
        body = self.kube.get(DEPLOYMENT, self.namespace, DEPLOYMENT_NAME) or {}
        progress = (body.get("status") or {}).get("progress") or {}
        held, wanted = progress.get("heldBytes", 0), progress.get("wantedBytes", 0)
        return f"{mb(held)} of {mb(wanted)} MB on the nodes, " if wanted else ""

    def _held_bytes(self) -> int:
        """Bytes of the run's own layers on all nodes: other deployments have none of them."""
        sizes = {made.layer.digest: made.layer.size_bytes for made in self.layers.values()}
        return sum(
            sizes.get(layer["digest"], 0)
            for cache in self.kube.list_all(NODE_CACHE)
            for layer in (cache.get("status") or {}).get("layers") or ()
            if layer["state"] == "Held"
        )

    def _disks(self, action: Action) -> list[tuple[str, str]]:
        """(node, image) of each new disk, also of machines that are off."""
        images = resolved_images(action.state)
        found = []
        for body in self.kube.list_all(INSTANCE, self.namespace):
            if body["spec"]["name"] == action.instance:
                machines = (body.get("status") or {}).get("machines") or ()
                found += [(machine.get("nodeName") or "", images[machine["name"]]) for machine in machines]
        return found

    def _times(self) -> dict[str, float | None]:
        body = self.kube.get(DEPLOYMENT, self.namespace, DEPLOYMENT_NAME) or {}
        change = (body.get("status") or {}).get("lastChange") or {}
        fields = {
            "placed": "placedMilliseconds",
            "cached": "cachedMilliseconds",
            "machines": "machinesCreatedMilliseconds",
        }
        return {phase: change[key] / 1000 if key in change else None for phase, key in fields.items()}


def chain_of(image: str, layers: Mapping[str, DemoLayer]) -> list[str]:
    """The image and its ancestors, root first."""
    chain: list[str] = []
    name: str | None = image
    while name is not None:
        chain.insert(0, name)
        name = layers[name].branch.parent
    return chain


def check_report(action: Action, machine: Machine, report: Mapping[str, str], layers: Mapping[str, DemoLayer]) -> None:
    """Raises NotReached if a guest reports another machine or state than that of its image."""
    expected = layers[resolved_images(action.state)[machine[1]]].branch
    if (report.get("machine"), report.get("state")) != (expected.machine, expected.state):
        raise NotReached(
            f"{action.name}: the guest of {'/'.join(machine)} reports {dict(report)} instead of "
            f"machine={expected.machine} state={expected.state}"
        )
