"""The rules for every schema. Each is a pure function from a CRD to the places that break it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from tools.crdgen import Schema
from tools.crdsize import size_rule
from tools.crdtexts import no_absence, no_place, no_sentence, no_unit
from tools.crdwalk import Field, Problem, fields_of, kind_of, schema_of, version_of

Rule = Callable[[Schema], Iterator[Problem]]

BOOLEANS = {
    "removed": "a child state lacks what its parent has; there is no third case",
    "persistent": "KubeVirt's field, described in order to refuse it",
    "mounted": "whether a pod has mounted a volume; an order of the operator to the daemon",
    "suspend": "as in a CronJob",
    "descendants": "a grant covers the subtree, or it does not",
}
"""Names of booleans that a spec may have, with the reason."""
OPEN_OBJECTS = re.compile(r"\.patch(\.|$)")
"""Objects whose further fields are KubeVirt's."""
OTHER_TIMES = {"readyBy": "a deadline; 'by' says so"}
REFERENCE = frozenset({"name", "namespace", "kind", "apiGroup"})
SELECTABLE = (
    ".spec.parentRef.name",
    ".spec.systemRef.name",
    ".spec.deploymentRef.name",
    ".spec.instanceRef.name",
    ".spec.name",
    ".spec.nodeName",
)
MORE_VALUES = "further values may be added"
PRIORITY_0 = 6
BINARY64 = 2**53


def _each(name: str, message: str, breaks: Callable[[Field], bool]) -> Rule:
    """Rule that looks at one field at a time."""

    def rule(crd: Schema) -> Iterator[Problem]:
        return (Problem(name, field.path, message) for field in fields_of(crd) if breaks(field))

    rule.__name__ = name.replace("-", "_")
    return rule


def _is_string(field: Field) -> bool:
    return field.schema.get("type") == "string"


def _is_list(field: Field) -> bool:
    return field.schema.get("type") == "array"


def _is_map(field: Field) -> bool:
    return isinstance(field.schema.get("additionalProperties"), dict)


def _is_open(field: Field) -> bool:
    return bool(field.schema.get("x-kubernetes-preserve-unknown-fields"))


def _is_quantity(field: Field) -> bool:
    return bool(field.schema.get("x-kubernetes-int-or-string"))


def _is_reference(schema: Schema) -> bool:
    """Whether an object only names another object."""
    properties = set(schema.get("properties", {}))
    return "name" in properties and properties <= REFERENCE


def _is_keyed(field: Field) -> bool:
    """Whether the field is an item of a list whose items are objects of their own, with a name as key."""
    return field.path.endswith("[]") and field.parent.get("x-kubernetes-list-type") == "map"


def _unnamed_reference(field: Field) -> bool:
    if not _is_reference(field.schema) or _is_keyed(field) or _is_open(field):
        return False
    return not field.name.endswith("Refs" if field.path.endswith("[]") else "Ref")


def _false_reference(field: Field) -> bool:
    if field.name.endswith("Refs") and not field.path.endswith("[]"):
        return not (_is_list(field) and _is_reference(field.schema["items"]))
    return field.name.endswith("Ref") and not _is_reference(field.schema)


def _key_of_reference(field: Field) -> bool:
    items = field.schema.get("items", {})
    is_keyed = field.schema.get("x-kubernetes-list-type") == "map"
    return is_keyed and _is_reference(items) and "x-kubernetes-preserve-unknown-fields" not in items


def _wrong_type(field: Field) -> bool:
    """Whether the type contradicts the suffix of the field's name."""
    schema = field.schema
    if _is_list(field) or _is_map(field) or _is_quantity(field):
        return False
    if re.search(r"[a-z]At$", field.name) or (field.name == "time" and field.in_status):
        return True
    if schema.get("format") == "date-time" or field.name.endswith("Time"):
        named = field.name.endswith("Time") or field.name == "time" or field.name in OTHER_TIMES
        return not named or schema.get("format") != "date-time"
    if field.name.endswith(("Bytes", "Milliseconds")):
        return schema.get("format") != "int64"
    return field.name.endswith("Seconds") and schema.get("type") != "integer"


def _too_large(field: Field) -> bool:
    """Whether a number may exceed what every JSON parser keeps exactly."""
    return field.schema.get("type") == "integer" and field.schema.get("maximum", 0) > BINARY64


def _columns(crd: Schema) -> Iterator[Problem]:
    kind = kind_of(crd)
    columns = version_of(crd)["additionalPrinterColumns"]
    shown = [column for column in columns if not column.get("priority")]
    if len(shown) > PRIORITY_0:
        yield Problem("columns", kind, f"{len(shown)} columns at priority 0, at most {PRIORITY_0}; set priority 1")
    for column in columns:
        path, place = column["jsonPath"], f"{kind}.{column['name']}"
        if "[*]" in path:
            yield Problem("columns", place, "the API server prints only the first match of [*]; show a count instead")
        if not column.get("priority") and (path.endswith((".message", "Bytes")) or "Bytes." in path):
            yield Problem("columns", place, "long texts and numbers of bytes have priority 1")
        if not _leads_to_a_field(schema_of(crd), path):
            yield Problem("columns", place, f"the schema has no {path}")


def _leads_to_a_field(schema: Schema, path: str) -> bool:
    if path.startswith(".metadata."):
        return True
    for part in path.replace('[?(@.type=="Ready")]', "[?]").removeprefix(".").split("."):
        name, _, in_list = part.partition("[")
        schema = schema.get("properties", {}).get(name, {})
        if in_list:
            schema = schema.get("items", {})
    return bool(schema)


def _selectable(crd: Schema) -> Iterator[Problem]:
    listed = {item["jsonPath"] for item in version_of(crd).get("selectableFields", ())}
    for path in SELECTABLE:
        if _leads_to_a_field(schema_of(crd), path) and path not in listed:
            yield Problem("selectable", f"{kind_of(crd)}{path}", "a reference is not selectable; add it to SELECTABLE")
    for path in sorted(listed):
        if not _leads_to_a_field(schema_of(crd), path):
            yield Problem("selectable", f"{kind_of(crd)}{path}", "selectable, but the schema has no such field")


def _kstatus(crd: Schema) -> Iterator[Problem]:
    version, status = version_of(crd), schema_of(crd)["properties"]["status"]
    if "status" not in version["subresources"] or status.get("default") != {"observedGeneration": -1}:
        yield Problem("kstatus", kind_of(crd), "needs the status subresource and status.observedGeneration: -1")
    if "phase" in status["properties"]:
        yield Problem("kstatus", f"{kind_of(crd)}.status.phase", "conditions replace phases")


RULES: tuple[Rule, ...] = (
    _each("no-default-in-items", "no default below a list; absent has the meaning",
          lambda f: f.in_items and "default" in f.schema),
    _each("no-default", "no default in a spec, as another object may decide; absent has the meaning",
          lambda f: not f.in_status and not f.in_items and f.schema.get("default", {}) != {}),
    _each("no-float", "no floats; use an integer with its unit in the name",
          lambda f: f.schema.get("type") == "number"),
    _each("no-boolean", "no booleans in a spec; use an enum or an object, which can grow",
          lambda f: not f.in_status and f.schema.get("type") == "boolean" and f.name not in BOOLEANS),
    _each("list-type", "a list needs x-kubernetes-list-type",
          lambda f: _is_list(f) and "x-kubernetes-list-type" not in f.schema),
    _each("max-items", "a list needs maxItems", lambda f: _is_list(f) and "maxItems" not in f.schema),
    _each("max-length", "a string needs maxLength, enum or a format",
          lambda f: _is_string(f) and not f.schema.keys() & {"maxLength", "enum", "format"}),
    _each("max-properties", "a map needs maxProperties", lambda f: _is_map(f) and "maxProperties" not in f.schema),
    _each("closed-object", "only KubeVirt's parts of a patch keep unknown fields",
          lambda f: _is_open(f) and not OPEN_OBJECTS.search(f.path)),
    _each("open-status", "a status has no enum, pattern, minimum or maximum: a newer writer's word must not be refused",
          lambda f: f.in_status and not f.in_conditions
          and bool(f.schema.keys() & {"enum", "minimum", "maximum", "pattern", "multipleOf"})),
    _each("reference-name", "an object that only names another one ends in Ref or Refs", _unnamed_reference),
    _each("reference-type", "what ends in Ref or Refs is {namespace?, name}, or a list of them", _false_reference),
    _each("reference-key", "a list of references is atomic: a key could never gain a namespace", _key_of_reference),
    _each("suffix", "...Time is a date-time, ...Seconds an integer, ...Bytes and ...Milliseconds int64; no ...At",
          _wrong_type),
    _each("exact-number", "at most 2^53, which every JSON parser keeps exactly", _too_large),
    _each("more-values", f"the description of an enum contains '{MORE_VALUES}'",
          lambda f: not f.in_status and len(f.schema.get("enum", ())) > 1
          and MORE_VALUES not in str(f.schema.get("description") or f.parent.get("description")).lower()),
    _each("sentence", "a description is a sentence, or several", no_sentence),
    _each("unit", "the description of a quantity names its unit", no_unit),
    _each("absence", "the description of an optional value says what its absence means", no_absence),
    _each("place", "the description of a reference says in which namespace names are resolved", no_place),
    _columns,
    _selectable,
    _kstatus,
    size_rule,
)  # fmt: skip
