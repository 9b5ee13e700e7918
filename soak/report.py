"""Figures of a run: tables for the terminal, and JSON; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from rich.table import Table

from soak import checks
from soak.model import Finding, Process, Sample

_SHOWN = 3
"""Maximum number of findings per check and subject on the terminal; report.json has all."""


def build(samples: Sequence[Sample], findings: Sequence[Finding], context: Mapping[str, Any]) -> dict[str, Any]:
    """Content of report.json; ``context`` adds fields."""
    minutes = checks.span_s(samples) / 60
    return {
        **context,
        "samples": len(samples),
        "minutes": round(minutes, 1),
        "clean": not findings,
        "findings": [asdict(finding) for finding in findings],
        "processes": process_figures(samples),
        "logs": log_figures(samples),
        "writes": write_figures(samples),
        "events": _last(samples, "events"),
        "storedObjects": _last(samples, "counts"),
        "mounts": {node: len(state.mounts) for node, state in (_last(samples, "nodes") or {}).items()},
        "sampleSeconds": _range([sample.took_s for sample in samples]),
    }


def process_figures(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Process -> descriptors and MiB at start and end (minimum of a window), maximum MiB, CPU seconds per minute."""
    minutes = checks.span_s(samples) / 60
    figures = {}
    for name, series in checks.process_series(samples, lambda process: process).items():
        found: list[Process] = [process for _, process in series]  # type: ignore[misc]
        first, last = found[: checks.WINDOW], found[-checks.WINDOW :]
        figures[name] = {
            "descriptorsFirst": min(one.descriptors for one in first),
            "descriptorsLast": min(one.descriptors for one in last),
            "mibFirst": _mib(min(one.memory_bytes for one in first)),
            "mibLast": _mib(min(one.memory_bytes for one in last)),
            "mibMost": _mib(max(one.memory_bytes for one in found)),
            "cpuSecondsPerMinute": round((found[-1].cpu_s - found[0].cpu_s) / minutes, 2) if minutes else 0.0,
        }
    return figures


def log_figures(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Container -> lines and bytes per minute, number of warnings and errors."""
    minutes = checks.span_s(samples) / 60 or 1.0
    return {
        name: {
            "linesPerMinute": round(lines / minutes, 2),
            "bytesPerMinute": round(size_bytes / minutes, 1),
            "warnings": warnings,
            "errors": errors,
        }
        for name, (lines, size_bytes, warnings, errors) in sorted(checks.log_totals(samples).items())
    }


def write_figures(samples: Sequence[Sample]) -> dict[str, int]:
    """Object -> number of intervals between samples in which it was written, heartbeats included."""
    times: dict[str, int] = {}
    readable = [sample.objects for sample in samples if sample.objects is not None]
    for old, new in pairwise(readable):
        for name in old.keys() & new.keys():
            if old[name].version != new[name].version:
                times[name] = times.get(name, 0) + 1
    return dict(sorted(times.items()))


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Tables of processes and logs, with one row per process and container."""
    processes = Table(title="Kigi's processes at start and end", title_justify="left")
    for column in ("process", "descriptors", "MiB", "most MiB", "CPU s/min"):
        processes.add_column(column, justify="left" if column == "process" else "right")
    for name, one in sorted(report["processes"].items()):
        processes.add_row(
            name,
            f"{one['descriptorsFirst']} / {one['descriptorsLast']}",
            f"{one['mibFirst']} / {one['mibLast']}",
            str(one["mibMost"]),
            str(one["cpuSecondsPerMinute"]),
        )
    logs = Table(title="Logs", title_justify="left")
    for column in ("container", "lines/min", "bytes/min", "warnings", "errors"):
        logs.add_column(column, justify="left" if column == "container" else "right")
    for name, one in report["logs"].items():
        logs.add_row(
            name, str(one["linesPerMinute"]), str(one["bytesPerMinute"]), str(one["warnings"]), str(one["errors"])
        )
    return [processes, logs]


def lines(findings: Sequence[Finding]) -> list[str]:
    """Findings as lines for the terminal; more than ``_SHOWN`` of one check and subject are summed up."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.check, finding.subject), []).append(finding)
    found = []
    for (check, subject), group in groups.items():
        for finding in group[:_SHOWN]:
            when = "" if finding.at_s is None else f" at {finding.at_s:.0f} s"
            found.append(f"{check}: {subject}{when}: {finding.text}")
        if len(group) > _SHOWN:
            found.append(f"{check}: {subject}: {len(group) - _SHOWN} more")
    return found


def _last(samples: Sequence[Sample], part: str) -> Any:
    return next((found for sample in reversed(samples) if (found := getattr(sample, part))), None)


def _range(values: Sequence[float]) -> dict[str, float]:
    return {"least": min(values), "most": max(values)} if values else {}


def _mib(size_bytes: int) -> float:
    return round(size_bytes / 2**20, 1)
