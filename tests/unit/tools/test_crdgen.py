"""The committed CRDs are what the models say, and what the models say is a structural schema."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

from kigi.api.base import Model
from tools import crdgen

ROOT = Path(__file__).parents[3]
CRDS = {kind.__name__: crdgen.build_crd(kind) for kind in crdgen.KINDS}
KEYWORDS = {
    "type", "properties", "required", "items", "additionalProperties", "description", "default", "enum", "format",
    "pattern", "minimum", "maximum", "multipleOf", "minLength", "maxLength", "minItems", "maxItems", "maxProperties",
    "nullable", "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string",
}  # fmt: skip


def schema_of(kind: str) -> dict[str, Any]:
    (version,) = CRDS[kind]["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def walk(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from walk(field, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from walk(schema[key], f"{path}[]")


def test_the_committed_files_are_what_the_models_say() -> None:
    assert crdgen.stale_files(ROOT / "crds") == [], "run 'make crds'"


def test_every_committed_file_is_installed() -> None:
    listed = yaml.safe_load((ROOT / "crds/Kustomization").read_text())["resources"]
    assert sorted(listed) == sorted(path.name for path in (ROOT / "crds").glob("*.yaml"))


def test_check_finds_a_changed_a_missing_and_a_foreign_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "crds"
    shutil.copytree(ROOT / "crds", directory)
    assert crdgen.main(["--check", str(directory)]) == 0
    (directory / "systemnodes.kigi.dev.yaml").write_text("changed")
    (directory / "nodecaches.node.kigi.dev.yaml").unlink()
    (directory / "old.yaml").write_text("kind: Old")
    assert crdgen.main(["--check", str(directory)]) == 1
    said = capsys.readouterr().err
    assert all(name in said for name in ("systemnodes.kigi.dev.yaml", "nodecaches.node.kigi.dev.yaml", "old.yaml"))
    assert "vmimagenodes" not in said
    assert crdgen.main([str(directory)]) == 0
    assert crdgen.main(["--check", str(directory)]) == 0


def test_check_of_a_directory_that_is_not_there_fails(tmp_path: Path) -> None:
    assert crdgen.main(["--check", str(tmp_path / "none")]) == 1


def test_the_files_equal_the_generated_objects() -> None:
    for text in crdgen.render_crds().values():
        crd = yaml.safe_load(text)
        assert crd == CRDS[crd["spec"]["names"]["kind"]]


@pytest.mark.parametrize("kind", CRDS)
def test_a_schema_uses_only_what_a_structural_schema_may(kind: str) -> None:
    for path, schema in walk(schema_of(kind)):
        assert schema.keys() <= KEYWORDS, path
        assert isinstance(schema.get("type"), str) or schema.get("x-kubernetes-int-or-string"), path


@pytest.mark.parametrize("kind", CRDS)
def test_every_field_is_described(kind: str) -> None:
    for part in ("spec", "status"):
        for path, schema in walk(schema_of(kind)["properties"][part], part):
            if not path.endswith("[]"):
                assert schema["description"], path


@pytest.mark.parametrize("kind", CRDS)
def test_every_number_has_a_format_and_every_number_of_a_spec_has_bounds(kind: str) -> None:
    for path, schema in walk(schema_of(kind)):
        if schema.get("type") in ("integer", "number"):
            large = path.endswith(
                ("Bytes", "BytesTotal", "BytesPerSecond", "Milliseconds", "eneration", "tolerationSeconds")
            )
            assert schema["format"] in ("int64" if large else "int32", "double"), path
            # A toleration's seconds are Kubernetes' own and may be any number.
            if path.startswith(".spec") and not path.endswith("tolerationSeconds"):
                assert {"minimum", "maximum"} <= schema.keys(), path


@pytest.mark.parametrize("kind", CRDS)
def test_everything_in_spec_that_can_grow_is_bounded(kind: str) -> None:
    bound = {"array": "maxItems", "string": "maxLength"}
    for path, schema in walk(schema_of(kind)["properties"]["spec"], "spec"):
        free = any(part in path for part in (".metadata.labels[]", ".metadata.annotations[]"))
        if (
            schema.get("type") in bound
            and not schema.keys() & {"enum", "format"}
            and not free
            and not path.endswith(("digest", "parent"))
        ):
            assert bound[schema["type"]] in schema, path
        if "additionalProperties" in schema:
            assert "maxProperties" in schema, path


@pytest.mark.parametrize("kind", CRDS)
def test_a_new_object_has_observed_generation_minus_one(kind: str) -> None:
    status = schema_of(kind)["properties"]["status"]
    assert status["default"] == {"observedGeneration": -1}
    assert [path for path, schema in walk(status) if "default" in schema] == ["", ".observedGeneration"]


@pytest.mark.parametrize("kind", CRDS)
def test_list_keys_are_fields_that_every_item_has(kind: str) -> None:
    for path, schema in walk(schema_of(kind)):
        if schema.get("x-kubernetes-list-type") == "map":
            assert set(schema["x-kubernetes-list-map-keys"]) <= set(schema["items"]["required"]), path


@pytest.mark.parametrize("kind", CRDS)
def test_a_refusal_names_the_field_and_the_remedy(kind: str) -> None:
    messages = [
        (path, rule["message"])
        for path, schema in walk(schema_of(kind))
        for rule in schema.get("x-kubernetes-validations", ())
    ]
    assert kind == "NodeCache" or len(messages) >= 2
    for path, message in messages:
        _, colon, remedy = message.partition(": ")
        if "immutable" in message:
            assert "instead" in message, path
        else:
            assert colon, f"{path}: {message!r} names no field"
            assert len(remedy.split()) >= 5, f"{path}: {message!r} names no remedy"
        assert "\n" not in message


@pytest.mark.parametrize(
    ("kind", "short", "scope"),
    [
        ("VMImageNode", "kimg", "Namespaced"),
        ("SystemNode", "ksys", "Namespaced"),
        ("SystemDeployment", "ksd", "Namespaced"),
        ("SystemInstance", "ksi", "Namespaced"),
        ("SystemReset", "kreset", "Namespaced"),
        ("SystemCapture", "kcap", "Namespaced"),
        ("SystemPrefetch", "kpre", "Namespaced"),
        ("SystemBuild", "kbuild", "Namespaced"),
        ("NodeCache", "knc", "Cluster"),
    ],
)
def test_names_scope_and_columns(kind: str, short: str, scope: str) -> None:
    spec = CRDS[kind]["spec"]
    assert (spec["scope"], spec["names"]["shortNames"], spec["names"]["categories"]) == (scope, [short], ["kigi"])
    (version,) = spec["versions"]
    assert version["subresources"]["status"] == {}
    assert ("scale" in version["subresources"]) == (kind == "SystemDeployment")
    columns = {column["name"]: column for column in version["additionalPrinterColumns"]}
    assert {"Ready", "State", "Message", "Age"} <= columns.keys()
    for column in columns.values():
        assert _finds(schema_of(kind), column["jsonPath"]), column["name"]


def _finds(schema: dict[str, Any], path: str) -> bool:
    """Whether a printer column's path leads to a field of the schema."""
    if path.startswith(".metadata."):
        return True
    for part in path.removeprefix(".").replace('[?(@.type=="Ready")]', "[*]").split("."):
        name, _, listed = part.partition("[")
        schema = schema.get("properties", {}).get(name, {})
        if listed:
            schema = schema.get("items", {})
    return bool(schema)


def test_a_field_without_description_is_refused_by_its_name() -> None:
    class Bare(Model):
        """A model with a field that says nothing."""

        size_bytes: int = Field(gt=0)

    with pytest.raises(ValueError, match=r"Bare\.sizeBytes: no description"):
        crdgen.build_schema(Bare)


def test_bounds_that_exclude_become_bounds_that_include() -> None:
    class Bounded(Model):
        """A model with an exclusive bound."""

        size_bytes: int = Field(gt=0, description="Bytes.")
        ratio: float | None = Field(default=None, description="A ratio.")

    properties = crdgen.build_schema(Bounded)["properties"]
    assert properties["sizeBytes"] == {"description": "Bytes.", "format": "int64", "minimum": 1, "type": "integer"}
    assert properties["ratio"] == {"description": "A ratio.", "format": "double", "type": "number"}


def test_an_empty_object_is_filled_in_only_for_the_defaults_in_it() -> None:
    class Plain(Model):
        """Without defaults."""

        size_bytes: int | None = Field(default=None, description="Bytes.")

    class Filled(Model):
        """With a default."""

        count: int = Field(default=3, description="A count.")

    class Outer(Model):
        """Both."""

        plain: Plain = Field(default_factory=Plain, description="A part.")
        filled: Filled = Field(default_factory=Filled, description="A part.")

    properties = crdgen.build_schema(Outer)["properties"]
    assert "default" not in properties["plain"], "a value that the API server adds differs from the manifest"
    assert properties["filled"]["default"] == {}
