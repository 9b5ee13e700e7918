"""The models read every object that the API server accepts, and write it back unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi.api.base import Model
from tests.support.crd_objects import SPECS, build
from tools.crdgen import KINDS

ROOT = Path(__file__).parents[3]
MODELS = {kind.__name__: kind for kind in KINDS}


def _documents() -> list[Any]:
    good = [pytest.param(build(kind, "good"), id=kind) for kind in SPECS]
    for path in sorted((ROOT / "manifests/examples").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if document["kind"] in MODELS:
                good.append(pytest.param(document, id=f"{path.stem}-{document['metadata']['name']}"))
    return good


@pytest.mark.parametrize("document", _documents())
def test_an_object_is_read_and_written_back_without_loss(document: dict[str, Any]) -> None:
    read = MODELS[document["kind"]].model_validate(document)
    assert _contains(read.to_api()["spec"], document["spec"])
    assert MODELS[document["kind"]].model_validate(read.to_api()) == read


def _contains(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return all(key in value and _contains(value[key], item) for key, item in wanted.items())
    if isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(_contains, value, wanted))
    return bool(value == wanted)


@pytest.mark.parametrize("kind", MODELS)
def test_an_untouched_object_is_read_as_not_observed(kind: str) -> None:
    document = build(kind, "fresh") | {"status": {"observedGeneration": -1}}
    read: Any = MODELS[kind].model_validate(document)
    assert read.status.observed_generation == -1
    assert read.status.conditions == []


@pytest.mark.parametrize("kind", MODELS)
def test_fields_of_a_later_version_are_no_error(kind: str) -> None:
    document = build(kind, "later") | {"status": {"observedGeneration": 3, "future": {"x": 1}}}
    document["spec"]["future"] = True
    model: type[Model] = MODELS[kind]
    assert "future" not in model.model_validate(document).to_api()["spec"]


def test_a_patch_survives_reading_and_writing() -> None:
    merge = {"spec": {"evictionStrategy": "None"}, "metadata": {"labels": {"a": "b"}}}
    patch = {"merge": merge, "remove": ["spec.domain.devices.rng"]}
    spec = {"machines": [{"name": "m", "patch": patch}]}
    read = MODELS["SystemNode"].model_validate(build("SystemNode", "s", spec))
    assert read.to_api()["spec"]["machines"][0]["patch"] == patch
