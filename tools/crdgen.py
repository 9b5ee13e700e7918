"""The CustomResourceDefinitions of ``crds/``, made from the pydantic models: ``python -m tools.crdgen``.

The API server takes only *structural* schemas: no ``$ref``, no ``title``, no ``anyOf`` with null, boolean
``exclusiveMinimum``. Source: Kubernetes documentation, "Specifying a structural schema".
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from kigi.api.base import Column, Model, Rule
from kigi.api.build import SystemBuild
from kigi.api.capture import SystemCapture
from kigi.api.deployment import SystemDeployment
from kigi.api.grant import TreeGrant
from kigi.api.image import VMImageNode
from kigi.api.instance import SystemInstance
from kigi.api.layer_repository import LayerRepository
from kigi.api.memory_image import VMMemoryImage
from kigi.api.node_cache import NodeCache
from kigi.api.prefetch import SystemPrefetch
from kigi.api.quota import SystemQuota
from kigi.api.reset import SystemReset
from kigi.api.system import SystemNode
from kigi.domain.names import GROUP, VERSION

Schema = dict[str, Any]

KINDS: tuple[type[Model], ...] = (
    VMImageNode,
    SystemNode,
    VMMemoryImage,
    SystemDeployment,
    SystemInstance,
    SystemReset,
    SystemCapture,
    SystemPrefetch,
    SystemBuild,
    TreeGrant,
    NodeCache,
    LayerRepository,
    SystemQuota,
)
STATUS_DEFAULT: Schema = {"observedGeneration": -1}
"""An object that no controller has seen yet must not look healthy (kstatus compares this with the generation)."""

_DROPPED = frozenset({"title", "$defs"})
_INT64 = re.compile(r"(Bytes|BytesTotal|BytesPerSecond|Milliseconds|[gG]eneration|tolerationSeconds)$")
"""Fields whose numbers may exceed 2^31; all other integers are counts of format int32."""


class _Structural(GenerateJsonSchema):
    """pydantic's generator, adapted to the subset of OpenAPI v3 that Kubernetes accepts."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        result = super().int_schema(schema)
        if "exclusiveMinimum" in result:
            result["minimum"] = result.pop("exclusiveMinimum") + 1
        return result

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return super().float_schema(schema) | {"format": "double"}

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        result = super().default_schema(schema)
        if result.get("default", ...) is None:
            del result["default"]
        factory = schema.get("default_factory")
        if isinstance(factory, type) and issubclass(factory, Model):
            # An empty object, so that the API server fills in the defaults of its fields.
            result["default"] = {}
        return result

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        result = super().model_schema(schema)
        rules: Sequence[Rule] = getattr(schema["cls"], "RULES", ())
        if rules:
            result["x-kubernetes-validations"] = [_validation(rule) for rule in rules]
        return result


def _validation(rule: Rule) -> Schema:
    result: Schema = {"rule": rule.rule, "message": rule.message}
    if rule.path is not None:
        result["fieldPath"] = rule.path
    if rule.optional_old_self:
        result["optionalOldSelf"] = True
    return result


def build_schema(model: type[Model]) -> Schema:
    """Structural schema of a model: references inlined, every field described.

    Raises ValueError, naming the field, where a description is missing.
    """
    raw = model.model_json_schema(by_alias=True, schema_generator=_Structural)
    schema: Schema = _inline(raw, raw.get("$defs", {}))
    _require_descriptions(schema, model.__name__)
    return schema


def _inline(node: Any, definitions: Mapping[str, Schema]) -> Any:
    """``node`` without references and titles; what stands beside a reference wins over what it refers to."""
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        return _inline(target | {key: value for key, value in node.items() if key != "$ref"}, definitions)
    result: Schema = {}
    for key, value in node.items():
        if key == "properties":
            if not value:  # the API server drops it, and the definition would never be as it was applied
                continue
            result[key] = {name: _formatted(name, _inline(field, definitions)) for name, field in value.items()}
        elif key == "additionalProperties" and not isinstance(value, dict):
            continue
        elif key not in _DROPPED:
            result[key] = value if key in ("default", "enum") else _inline(value, definitions)
    if "const" in result:
        result["enum"] = [result.pop("const")]
    return result


def _formatted(name: str, field: Schema) -> Schema:
    """The schema of a field; an integer, or the integers of a list, get the format that the field's name implies."""
    if field.get("type") == "integer":
        return {**field, "format": "int64" if _INT64.search(name) else "int32"}
    if "items" in field:
        return {**field, "items": _formatted(name, field["items"])}
    if field.get("default") == {} and not _has_defaults(field.get("properties", {})):
        return {key: value for key, value in field.items() if key != "default"}
    return field


def _has_defaults(properties: Schema) -> bool:
    return any("default" in field or _has_defaults(field.get("properties", {})) for field in properties.values())


def _require_descriptions(schema: Schema, path: str) -> None:
    for name, field in schema.get("properties", {}).items():
        if not field.get("description"):
            raise ValueError(f"{path}.{name}: no description; give the field one, with its unit")
        _require_descriptions(field, f"{path}.{name}")
        _require_descriptions(field.get("items", {}), f"{path}.{name}[]")


def _without_defaults(schema: Any) -> Any:
    """A status is written whole by its one writer: defaults would only make what others left out look said."""
    if isinstance(schema, dict):
        return {key: _without_defaults(value) for key, value in schema.items() if key != "default"}
    return schema


def _field_model(kind: type[Model], name: str) -> type[Model]:
    field: FieldInfo = kind.model_fields[name]
    assert isinstance(field.annotation, type)
    assert issubclass(field.annotation, Model)
    return field.annotation


def build_crd(kind: type[Model]) -> Schema:
    """The CustomResourceDefinition of one kind, as the object that the API server takes."""
    spec = build_schema(_field_model(kind, "spec"))
    if not kind.model_fields["spec"].is_required():
        spec["default"] = {}
    status = _without_defaults(build_schema(_field_model(kind, "status")))
    status["properties"]["observedGeneration"]["default"] = -1
    status["default"] = dict(STATUS_DEFAULT)
    rules: Sequence[Rule] = getattr(kind, "RULES", ())
    root: Schema = {
        "description": kind.__doc__,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    if rules:
        root["x-kubernetes-validations"] = [_validation(rule) for rule in rules]
    return _crd(kind, root)


def _crd(kind: type[Model], schema: Schema) -> Schema:
    name: str = kind.KIND  # type: ignore[attr-defined]
    group: str = getattr(kind, "GROUP", GROUP)
    selectable: Sequence[str] = getattr(kind, "SELECTABLE", ())
    plural: str = kind.PLURAL  # type: ignore[attr-defined]
    columns: Sequence[Column] = kind.COLUMNS  # type: ignore[attr-defined]
    subresources: Schema = {"status": {}}
    if scale := getattr(kind, "SCALE", None):
        keys = ("specReplicasPath", "statusReplicasPath", "labelSelectorPath")
        subresources["scale"] = dict(zip(keys, scale, strict=True))
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": getattr(kind, "SCOPE", "Namespaced"),
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": plural,
                "singular": name.lower(),
                "shortNames": list(kind.SHORT),  # type: ignore[attr-defined]
                "categories": ["kigi"],
            },
            "versions": [
                {
                    "name": getattr(kind, "VERSION", VERSION),
                    "served": True,
                    "storage": True,
                    "subresources": subresources,
                    "additionalPrinterColumns": [_column(column) for column in columns],
                    **({"selectableFields": [{"jsonPath": path} for path in selectable]} if selectable else {}),
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _column(column: Column) -> Schema:
    result: Schema = {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.json_path,
        "description": column.description,
    }
    if column.priority:
        result["priority"] = column.priority
    return result


class _Dumper(yaml.SafeDumper):
    """Block style without anchors: equal parts are written out, and lists are indented under their key."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def render_crds() -> dict[str, str]:
    """File name -> text of every CustomResourceDefinition."""
    files: dict[str, str] = {}
    for kind in KINDS:
        crd = build_crd(kind)
        body = yaml.dump(crd, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
        files[f"{crd['metadata']['name']}.yaml"] = f"# Made by 'make crds' from operator/kigi/api; do not edit.\n{body}"
    return files


def stale_files(directory: Path) -> list[str]:
    """Names of the files in ``directory`` that differ from what the models say, or should not be there."""
    wanted = render_crds()
    present = {path.name: path.read_text(encoding="utf-8") for path in directory.glob("*.yaml")}
    return sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or with ``--check`` only say which are stale; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.crdgen", description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=Path("crds"))
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not as generated")
    options = parser.parse_args(arguments)
    directory: Path = options.directory
    if options.check:
        stale = stale_files(directory) if directory.is_dir() else [str(directory)]
        for name in stale:
            sys.stderr.write(f"{name}: not as the models say; run 'make crds'\n")
        return 1 if stale else 0
    directory.mkdir(parents=True, exist_ok=True)
    files = render_crds()
    for name in stale_files(directory):
        path = directory / name
        if name in files:
            path.write_text(files[name], encoding="utf-8")
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
