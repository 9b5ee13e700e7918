"""Finds unexpected changes in the samples. Each check is a pure function from samples to findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from soak.model import Finding, NodeState, ObjectState, Sample

HEARTBEAT_KINDS = frozenset({"NodeCache", "Lease", "Node"})
"""Kinds that are written periodically without new content: their writes are not findings."""
REPORTED_KINDS = frozenset({"SystemInstance"})
"""Kinds that report what guests write, four times per doubling: their writes are findings above ``MAY_REPORT``."""
MAY_REPORT = 20
"""Writes of one instance of ten idle VMs, whose logs grow, in an hour."""
WINDOW = 5
"""Number of samples at the start and at the end; descriptors and memory are compared by the minimum of each window,
because pools of connections and heaps vary."""
MAY_OPEN = 4
"""Number of descriptors that a process may gain between start and end."""
WARM_S = 600.0
"""Memory is compared from this time on, when imports, pools and caches have been filled."""
MAY_GROW_SHARE, MAY_GROW_BYTES = 0.10, 8 * 2**20
"""A process may grow by the larger of these two."""
LOG_LINES_PER_MINUTE, LOG_BYTES_PER_MINUTE = 6.0, 3072.0
"""Maximum that one container may log on average while the cluster does not change."""

REPEATED_EVENTS = frozenset({("kubevirt", "AdvancedFeatureUse")})
"""Namespace and reason of Warning Events that are not findings. virt-operator repeats this one about every minute while
``infra.replicas`` of the KubeVirt object is set, as it is in the local cluster."""

Check = Callable[[Sequence[Sample]], Iterator[Finding]]


def find(samples: Sequence[Sample]) -> list[Finding]:
    """Findings of all checks, in their order. The first sample is the baseline."""
    return [finding for check in CHECKS for finding in check(samples)]


def failed_samples(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Parts that could not be read, and parts that fewer than two samples have: these could not be compared."""
    for sample in samples:
        for failure in sample.failures:
            yield Finding("sample", failure.partition(":")[0], failure, sample.at_s)
    for part in ("objects", "events", "counts", "nodes"):
        # Events expire, so an empty list of them is valid; all other parts must have content.
        parts = [getattr(sample, part) for sample in samples]
        if sum(one is not None and (bool(one) or part == "events") for one in parts) < 2:
            yield Finding("sample", part, f"fewer than two samples have {part}: they could not be compared")


def conditions(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Status, reason, message or lastTransitionTime of a condition changed, or a condition was added or removed."""
    for sample, name, old, new in _object_pairs(samples):
        for kind in sorted(old.conditions.keys() | new.conditions.keys()):
            before, after = old.conditions.get(kind), new.conditions.get(kind)
            if before != after:
                yield Finding("conditions", name, f"{kind}: {before} became {after}", sample.at_s)


def restarts(samples: Sequence[Sample]) -> Iterator[Finding]:
    """A container restarted or was replaced."""
    for sample, name, old, new in _object_pairs(samples):
        for container in sorted(old.containers.keys() & new.containers.keys()):
            before, after = old.containers[container], new.containers[container]
            if (before.id, before.restarts) != (after.id, after.restarts):
                text = f"{container}: restarts {before.restarts} -> {after.restarts}, id {before.id} -> {after.id}"
                yield Finding("restarts", name, text, sample.at_s)


def not_ready(samples: Sequence[Sample]) -> Iterator[Finding]:
    """A container of an unfinished pod is not ready; reported at the first sample of each unready period."""
    before: set[tuple[str, str]] = set()
    for sample in samples:
        if sample.objects is None:
            continue
        unready = {
            (name, container): one
            for name, state in sample.objects.items()
            if state.phase != "Succeeded"
            for container, one in state.containers.items()
            if not one.ready
        }
        for (name, container), one in sorted(unready.items()):
            if (name, container) not in before:
                yield Finding("not ready", name, f"{container} is {one.state or 'unknown'}", sample.at_s)
        before = set(unready)


def phases(samples: Sequence[Sample]) -> Iterator[Finding]:
    """The phase of an object, a VM's printable status or a Lease's holder changed."""
    for sample, name, old, new in _object_pairs(samples):
        if old.phase != new.phase:
            yield Finding("phase", name, f"{old.phase} became {new.phase}", sample.at_s)


def objects(samples: Sequence[Sample]) -> Iterator[Finding]:
    """An object was created, deleted or recreated."""
    for old, new in pairwise([sample for sample in samples if sample.objects is not None]):
        before, after = old.objects or {}, new.objects or {}
        for name in sorted(after.keys() - before.keys()):
            yield Finding("objects", name, "appeared", new.at_s)
        for name in sorted(before.keys() - after.keys()):
            yield Finding("objects", name, "vanished", new.at_s)
        for name in sorted(before.keys() & after.keys()):
            if before[name].uid != after[name].uid:
                yield Finding("objects", name, f"recreated: uid {before[name].uid} became {after[name].uid}", new.at_s)


def changes(samples: Sequence[Sample]) -> Iterator[Finding]:
    """A field other than a condition changed; ``conditions`` checks conditions."""
    for sample in samples[1:]:
        for change in sample.changes:
            if ".conditions" not in f".{change.path}":
                yield Finding("changes", change.object, f"{change.path}: {change.old} became {change.new}", sample.at_s)


def writes(samples: Sequence[Sample]) -> Iterator[Finding]:
    """An object without a heartbeat was written, even without effect; the text has the count and the field managers."""
    times: dict[str, int] = {}
    managers: dict[str, set[str]] = {}
    for _, name, old, new in _object_pairs(samples):
        if old.version != new.version and name.split()[0] not in HEARTBEAT_KINDS:
            times[name] = times.get(name, 0) + 1
            managers.setdefault(name, set()).update(
                writer for writer, time in new.writers.items() if old.writers.get(writer) != time
            )
    for name, count in sorted(times.items()):
        if name.split()[0] in REPORTED_KINDS and count <= MAY_REPORT:
            continue
        by = ", ".join(sorted(managers[name])) or "unknown"
        yield Finding("writes", name, f"written in {count} of {len(samples) - 1} intervals, by {by}")


def stored_objects(samples: Sequence[Sample]) -> Iterator[Finding]:
    """The number of stored objects of a kind, except Events, differs between start and end."""
    readable = [sample for sample in samples if sample.counts]
    if len(readable) < 2:
        return
    first, last = readable[0].counts or {}, readable[-1].counts or {}
    for resource in sorted(first.keys() | last.keys()):
        before, after = first.get(resource, 0), last.get(resource, 0)
        if before != after:
            yield Finding("stored objects", resource, f"{before} at the start, {after} at the end")


def warning_events(samples: Sequence[Sample]) -> Iterator[Finding]:
    """An Event of type Warning is new or was repeated."""
    readable = [sample for sample in samples if sample.warnings is not None]
    for old, new in pairwise(readable):
        before = old.warnings or {}
        for uid, event in (new.warnings or {}).items():
            known = before.get(uid)
            if (event.object.partition(" ")[2].partition("/")[0], event.reason) in REPEATED_EVENTS:
                continue
            if known is None or event.count > known.count:
                text = f"{event.reason} ({event.count}): {event.message}"
                yield Finding("warning events", event.object, text, new.at_s)


def mounts(samples: Sequence[Sample]) -> Iterator[Finding]:
    """A node gained or lost a mount."""
    for sample, node, old, new in _node_pairs(samples):
        before, after = Counter(old.mounts), Counter(new.mounts)
        for name in sorted(before.keys() | after.keys()):
            if before[name] != after[name]:
                text = f"{name}: mounted {before[name]} times, then {after[name]}"
                yield Finding("mounts", node, text, sample.at_s)


def processes(samples: Sequence[Sample]) -> Iterator[Finding]:
    """One of Kigi's processes started or ended."""
    for sample, node, old, new in _node_pairs(samples):
        for name in sorted(new.processes.keys() - old.processes.keys()):
            yield Finding("processes", f"{node} {name}", "started", sample.at_s)
        for name in sorted(old.processes.keys() - new.processes.keys()):
            yield Finding("processes", f"{node} {name}", "ended", sample.at_s)


def descriptors(samples: Sequence[Sample]) -> Iterator[Finding]:
    """A process gained more than ``MAY_OPEN`` descriptors, by the minima of the first and the last window."""
    for name, series in process_series(samples, lambda process: process.descriptors).items():
        values = [value for _, value in series]
        if len(values) >= 2 * WINDOW:
            before, after = min(values[:WINDOW]), min(values[-WINDOW:])
            if after > before + MAY_OPEN:
                yield Finding("descriptors", name, f"{before} at the start, {after} at the end")


def memory(samples: Sequence[Sample]) -> Iterator[Finding]:
    """A process is larger than after the warm-up; of a run shorter than twice `WARM_S`, the first half warms up."""
    for name, series in process_series(samples, lambda process: process.memory_bytes).items():
        warm_s = min(WARM_S, samples[-1].at_s / 2)
        values = [value for at_s, value in series if at_s >= warm_s]
        if len(values) >= 2 * WINDOW:
            before, after = min(values[:WINDOW]), min(values[-WINDOW:])
            if after - before > max(MAY_GROW_SHARE * before, MAY_GROW_BYTES):
                text = f"{before / 2**20:.1f} MiB after {warm_s:.0f} s, {after / 2**20:.1f} MiB at the end"
                yield Finding("memory", name, text)


def log_rates(samples: Sequence[Sample]) -> Iterator[Finding]:
    """A container logs more than an unchanged cluster explains."""
    minutes = span_s(samples) / 60
    for name, (lines, size_bytes, _, _) in log_totals(samples).items():
        if minutes and (lines / minutes > LOG_LINES_PER_MINUTE or size_bytes / minutes > LOG_BYTES_PER_MINUTE):
            text = (
                f"{lines / minutes:.1f} lines and {size_bytes / minutes:.0f} bytes a minute, more than "
                f"{LOG_LINES_PER_MINUTE:.0f} lines or {LOG_BYTES_PER_MINUTE:.0f} bytes"
            )
            yield Finding("log rate", name, text)


def log_errors(samples: Sequence[Sample]) -> Iterator[Finding]:
    """A container logged an error."""
    for sample in samples[1:]:
        for node in (sample.nodes or {}).values():
            for name, growth in node.logs.items():
                if growth.errors:
                    text = f"{growth.errors} errors; warnings and errors begin: {' | '.join(growth.examples)}"
                    yield Finding("log errors", name, text, sample.at_s)


CHECKS: tuple[Check, ...] = (
    *(failed_samples, conditions, restarts, not_ready, phases, objects, changes, writes, stored_objects),
    *(warning_events, mounts, processes, descriptors, memory, log_rates, log_errors),
)


def span_s(samples: Sequence[Sample]) -> float:
    """Seconds from the first to the last sample."""
    return samples[-1].at_s - samples[0].at_s if samples else 0.0


def log_totals(samples: Sequence[Sample]) -> dict[str, tuple[int, int, int, int]]:
    """Container -> (lines, bytes, warnings, errors) logged since the first sample."""
    totals: dict[str, tuple[int, int, int, int]] = {}
    for sample in samples[1:]:
        for node in (sample.nodes or {}).values():
            for name, one in node.logs.items():
                lines, size_bytes, warnings, errors = totals.get(name, (0, 0, 0, 0))
                totals[name] = (
                    lines + one.lines, size_bytes + one.size_bytes, warnings + one.warnings, errors + one.errors,
                )  # fmt: skip
    return totals


def process_series(samples: Sequence[Sample], figure: Callable[..., float]) -> dict[str, list[tuple[float, float]]]:
    """``node program pid@start`` -> (seconds, figure) of each sample with this process."""
    series: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        for node, state in (sample.nodes or {}).items():
            for name, process in state.processes.items():
                series.setdefault(f"{node} {name}", []).append((sample.at_s, figure(process)))
    return series


def _object_pairs(samples: Sequence[Sample]) -> Iterator[tuple[Sample, str, ObjectState, ObjectState]]:
    """(later sample, object, earlier state, later state) of each object in consecutive readable samples."""
    for old, new in pairwise([sample for sample in samples if sample.objects is not None]):
        before, after = old.objects or {}, new.objects or {}
        for name in sorted(before.keys() & after.keys()):
            yield new, name, before[name], after[name]


def _node_pairs(samples: Sequence[Sample]) -> Iterator[tuple[Sample, str, NodeState, NodeState]]:
    names = sorted({name for sample in samples for name in sample.nodes or {}})
    for name in names:
        have = [(sample, sample.nodes[name]) for sample in samples if sample.nodes and name in sample.nodes]
        for (_, old), (sample, new) in pairwise(have):
            yield sample, name, old, new
