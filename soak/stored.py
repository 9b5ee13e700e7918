"""Writes samples to ``samples.jsonl``, one per line, and reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from soak.model import Change, Condition, Container, LogGrowth, NodeState, ObjectState, Process, Sample, WarningEvent

_Part = TypeVar("_Part")


def line(sample: Sample) -> str:
    """The sample as one line of JSON, with a newline."""
    return json.dumps(sample.to_json(), sort_keys=True) + "\n"


def load(path: Path) -> list[Sample]:
    """All samples of a file. Raises ValueError, KeyError or TypeError for a file of another format."""
    with path.open() as file:
        return [_sample(json.loads(text)) for text in file]


def _sample(data: dict[str, Any]) -> Sample:
    return Sample(
        **{
            **data,
            "failures": tuple(data["failures"]),
            "changes": tuple(Change(**change) for change in data["changes"]),
            "objects": _each(data["objects"], _object),
            "warnings": _each(data["warnings"], lambda event: WarningEvent(**event)),
            "nodes": _each(data["nodes"], _node),
        }
    )


def _object(data: dict[str, Any]) -> ObjectState:
    conditions = {name: Condition(**one) for name, one in data["conditions"].items()}
    containers = {name: Container(**one) for name, one in data["containers"].items()}
    return ObjectState(**{**data, "conditions": conditions, "containers": containers})


def _node(data: dict[str, Any]) -> NodeState:
    return NodeState(
        mounts=tuple(data["mounts"]),
        processes={name: Process(**one) for name, one in data["processes"].items()},
        logs={name: LogGrowth(**{**one, "examples": tuple(one["examples"])}) for name, one in data["logs"].items()},
    )


def _each(data: Mapping[str, Any] | None, build: Callable[[Any], _Part]) -> dict[str, _Part] | None:
    return None if data is None else {name: build(one) for name, one in data.items()}
