"""A run from its namespace to its report, and its removal, also after an interruption."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import IMAGE, NAMESPACE, SYSTEM
from kigi.cli.cluster import PUBLISH_MANAGER, open_cluster
from kigi.cli.demo.checks import Request, Site, choose_repository
from kigi.cli.demo.cleanup import find_runs, remove_layers, remove_run
from kigi.cli.demo.costs import Step
from kigi.cli.demo.disks import DemoLayer, make_layers
from kigi.cli.demo.display import Display
from kigi.cli.demo.estimate import Phase
from kigi.cli.demo.objects import (
    ANNOTATION_REPOSITORY,
    image_objects,
    namespace_name,
    namespace_object,
    system_objects,
)
from kigi.cli.demo.report import build_markdown, build_svg, mb
from kigi.cli.demo.steps import ACTIONS, Exercise, phases
from kigi.cli.output import print_message
from kigi.cli.reach import reachable
from kigi.errors import KigiError

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession
    from kigi.adapters.s3 import LayerBucket

BUSY_S = 10.0
PARALLEL = 4
TITLE = "Ten VMs, three states"


@dataclass(slots=True)
class Result:
    """What a run has done; ``error``: why it did not reach its end, ``left``: what could not be removed."""

    run: str
    site: Site
    steps: list[Step] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each phase."""
    published_bytes: int = 0
    kept: bool = False
    error: str | None = None
    left: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            "run": self.run,
            "namespace": namespace_name(self.run),
            "site": asdict(self.site),
            "publishedBytes": self.published_bytes,
            "steps": [step.to_json() for step in self.steps],
            "seconds": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            "kept": self.kept,
            "error": self.error,
            "left": self.left,
        }


def all_phases(steps: int, *, removes: bool) -> list[Phase]:
    """Phases of a run of so many steps, with their guessed durations."""
    first = [Phase("make layers", "make", 1, 2.0), Phase("publish", "publish", 44e6, 10.0)]
    return [*first, *phases()[:steps], *([Phase("clean up", "clean", 1, 30.0)] if removes else [])]


def carry_out(request: Request, result: Result, display: Display, steps: int, timeout_s: float) -> None:
    """Publishes, and carries out the first ``steps``; ``result`` is up to date at any time. Raises KigiError."""
    namespace = namespace_name(request.run)
    chosen = choose_repository(request)
    with (
        tempfile.TemporaryDirectory(prefix="kigi-demo-") as scratch,
        open_cluster(request.access, manager=PUBLISH_MANAGER, busy_s=BUSY_S) as kube,
    ):
        kube.create(NAMESPACE, namespace_object(request.run, request.labels, request.repository.name))
        with display.phase("make layers"):
            layers = make_layers(Path(scratch), request.run)
        with display.phase("publish"), reachable(chosen, request.access) as repository:
            result.published_bytes = asyncio.run(_publish(repository, layers, display))
            _apply_trees(kube, namespace, layers, request.repository.name)
        exercise = Exercise(kube, namespace, layers, display, request.reads_guests, timeout_s)
        for action in ACTIONS[:steps]:
            result.steps.append(exercise.run(action))
            result.seconds.update(display.seconds)
            print_message(_summary(result.steps[-1]))


def _summary(step: Step) -> str:
    guests = step.seconds.get("guests")
    ended = f"guests {guests:.0f} s" if guests is not None else f"ready {step.seconds['ready']:.0f} s"
    return f"{step.name}: {mb(step.moved_bytes)} MB moved instead of {mb(step.full_bytes)} MB, {ended}"


async def _publish(repository: Any, layers: Mapping[str, DemoLayer], display: Display) -> int:
    """Stores all layers, parents first in order of their start; the stored bytes."""
    from kigi.adapters.s3 import open_repository
    from kigi.adapters.s3_errors import first_error

    total = sum(made.layer.size_bytes for made in layers.values())
    sent = 0

    def progress(count: int) -> None:
        nonlocal sent
        sent += count
        display.show(44e6 * sent / total, f"{mb(sent)} of {mb(total)} MB stored")

    async def store_one(store: LayerBucket, made: DemoLayer) -> None:
        async with limit:
            await store.publish(made.path, made.layer.digest, progress)

    limit = asyncio.Semaphore(PARALLEL)
    async with open_repository(repository) as store:
        try:
            async with asyncio.TaskGroup() as group:
                for made in layers.values():
                    group.create_task(store_one(store, made))
        except ExceptionGroup as exc:
            raise first_error(exc) from exc
    return sent


def _apply_trees(kube: KubeSession, namespace: str, layers: Mapping[str, DemoLayer], repository: str | None) -> None:
    for body in image_objects(layers, repository):
        kube.apply(IMAGE, namespace, body)
    for body in system_objects():
        kube.apply(SYSTEM, namespace, body)


def remove(request: Request, show: Callable[[str], None] = lambda text: None) -> list[str]:
    """Removes everything of the run; what is left, empty on success. Works after an interruption at any point."""
    try:
        with open_cluster(request.access, busy_s=BUSY_S) as kube:
            return remove_run(kube, request.run, lambda namespace: _remove_stored(request, namespace), show)
    except KigiError as exc:
        return [f"Namespace {namespace_name(request.run)}: {exc}"]


def _remove_stored(request: Request, namespace: Mapping[str, Any]) -> list[str]:
    """Deletes the layers from the repository of the run, whose name the ``namespace`` has; what is left."""
    recorded = (namespace["metadata"].get("annotations") or {}).get(ANNOTATION_REPOSITORY)
    choice = request.repository
    if choice.name is None and choice.endpoint is None:
        choice = replace(choice, name=recorded)
    labels = namespace["metadata"].get("labels") or {}
    try:
        chosen = choose_repository(replace(request, repository=choice, labels=labels))
        with tempfile.TemporaryDirectory(prefix="kigi-demo-") as scratch:
            digests = [made.layer.digest for made in make_layers(Path(scratch), request.run).values()]
        with reachable(chosen, request.access) as repository:
            return remove_layers(repository, digests)
    except KigiError as exc:
        return [f"layers of run {request.run}: {exc}"]


def earlier_runs(request: Request) -> list[str]:
    """Runs whose namespace exists."""
    with open_cluster(request.access) as kube:
        return find_runs(kube)


def write_report(result: Result, out: Path) -> None:
    """Writes ``report.json``, ``report.svg`` and ``report.md`` into the folder, which is created if missing."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(result.to_json(), indent=2) + "\n")
    if result.steps:
        (out / "report.svg").write_text(build_svg(result.steps, TITLE))
        (out / "report.md").write_text(build_markdown(result.steps, TITLE, "report.svg"))
