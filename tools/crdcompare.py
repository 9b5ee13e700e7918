"""Compares the CRDs with those of the last release: ``python -m tools.crdcompare``.

Prints every change that breaks a stored object, a manifest or a client. Kinds in an alpha version may change, so the
exit code is 1 only for later versions. At a release, copy ``crds/*.yaml`` to ``tools/released``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tools.crdgen import KINDS, Schema, build_crd
from tools.crdwalk import kind_of, schema_of, version_of

RELEASED = Path(__file__).with_name("released")
_AT_MOST = ("maxLength", "maxItems", "maxProperties", "maximum")
_AT_LEAST = ("minLength", "minItems", "minProperties", "minimum")
_EQUAL = ("type", "format", "pattern", "multipleOf", "x-kubernetes-list-type", "x-kubernetes-list-map-keys")


class Change(NamedTuple):
    """An incompatible change of one field."""

    path: str
    what: str


def changes(path: str, old: Schema, new: Schema) -> Iterator[Change]:
    """Incompatible changes from ``old`` to ``new``, parents before children."""
    yield from _of_field(path, old, new)
    before, after = old.get("properties", {}), new.get("properties", {})
    for name in before:
        if name not in after:
            yield Change(f"{path}.{name}", "removed")
        else:
            yield from changes(f"{path}.{name}", before[name], after[name])
    for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
        yield Change(f"{path}.{name}", "required now")
    for key, sign in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(old.get(key), Mapping) and isinstance(new.get(key), Mapping):
            yield from changes(f"{path}{sign}", old[key], new[key])


def _of_field(path: str, old: Schema, new: Schema) -> Iterator[Change]:
    for key in _AT_MOST:
        if key in new and (key not in old or new[key] < old[key]):
            yield Change(path, f"{key} is {new[key]} now, and was {old.get(key, 'unlimited')}")
    for key in _AT_LEAST:
        if key in new and (key not in old or new[key] > old[key]):
            yield Change(path, f"{key} is {new[key]} now, and was {old.get(key, 'unlimited')}")
    for key in _EQUAL:
        looser = key in ("pattern", "multipleOf") and key not in new
        if old.get(key) != new.get(key) and not looser:
            yield Change(path, f"{key} is {new.get(key)} now, and was {old.get(key)}")
    yield from _of_values(path, old, new)


def _of_values(path: str, old: Schema, new: Schema) -> Iterator[Change]:
    if "enum" in new and (gone := [value for value in old.get("enum", ["any value"]) if value not in new["enum"]]):
        yield Change(path, f"no longer accepts {gone}")
    if "enum" in old and (added := [value for value in new.get("enum", ()) if value not in old["enum"]]):
        yield Change(path, f"a client of the last release does not know {added}")
    if old.get("default") != new.get("default"):
        yield Change(path, f"default is {new.get('default')} now, and was {old.get('default')}")
    known = {rule["rule"] for rule in old.get("x-kubernetes-validations", ())}
    for rule in new.get("x-kubernetes-validations", ()):
        if rule["rule"] not in known:
            yield Change(path, f"a new rule: {rule['message']}")


def compare(old: Mapping[str, Schema], new: Mapping[str, Schema]) -> Iterator[tuple[str, list[Change]]]:
    """(version, incompatible changes) of each kind that the last release had in the same version."""
    for kind, before in old.items():
        if kind not in new:
            yield version_of(before)["name"], [Change(kind, "removed")]
        elif _version(before) == _version(new[kind]):
            yield version_of(before)["name"], list(changes(kind, schema_of(before), schema_of(new[kind])))


def _version(crd: Schema) -> tuple[str | None, str]:
    """Group and version."""
    return crd["spec"].get("group"), version_of(crd)["name"]


def released() -> dict[str, Any]:
    """The CRDs of the last release by kind."""
    found = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(RELEASED.glob("*.yaml"))]
    return {kind_of(crd): crd for crd in found}


def main() -> int:
    """Print the changes; 1 if a version that is not alpha has one."""
    code = 0
    for version, found in compare(released(), {kind.__name__: build_crd(kind) for kind in KINDS}):
        for change in found:
            print(f"{version} {change.path}: {change.what}")
        code |= bool(found) and "alpha" not in version
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
