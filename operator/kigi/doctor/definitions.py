"""Kigi's CustomResourceDefinitions: present, served in this version, and with every field that it writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kigi.adapters.kubernetes.installation import DEFINITION
from kigi.api.base import Model
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
from kigi.doctor.facts import Body, Facts
from kigi.doctor.findings import Diagnosis
from kigi.domain.names import GROUP, VERSION

MODELS: tuple[type[Model], ...] = (
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
"""Every kind of this version."""
REMEDY = "kubectl apply --server-side -f crds: the definitions of version {version}"
SHOWN = 3
Schema = Mapping[str, Any]


def check_definitions(facts: Facts) -> Iterator[Diagnosis]:
    """One finding for each definition that does not suit, or one for all."""
    listing = facts.of(DEFINITION)
    if listing.unread:
        yield Diagnosis("definitions", "not checked", "CustomResourceDefinition", listing.unread)
        return
    remedy = REMEDY.format(version=facts.version)
    bad = False
    for model in MODELS:
        name = definition_name(model)
        problem = _problem(listing.find(name), model)
        if problem:
            bad = True
            yield Diagnosis("definitions", "error", f"CustomResourceDefinition/{name}", problem, remedy)
    if not bad:
        text = f"{len(MODELS)} definitions serve the kinds of version {facts.version}"
        yield Diagnosis("definitions", "ok", "CustomResourceDefinition", text)


def definition_name(model: type[Model]) -> str:
    """Name of the kind's CustomResourceDefinition."""
    return f"{vars(model)['PLURAL']}.{vars(model).get('GROUP', GROUP)}"


def _problem(body: Body | None, model: type[Model]) -> str:
    """What is wrong with a definition; empty if nothing is."""
    if body is None:
        return "it does not exist"
    wanted = str(vars(model).get("VERSION", VERSION))
    versions = {each["name"]: each for each in body["spec"].get("versions") or ()}
    if wanted not in versions:
        return f"it has the versions {', '.join(sorted(versions))}, and not {wanted}"
    found = versions[wanted]
    if not found.get("served"):
        return f"version {wanted} is not served"
    if not found.get("storage"):
        stored = next((name for name, each in versions.items() if each.get("storage")), "another one")
        return f"objects are stored in version {stored}, not in {wanted}"
    conditions = {each["type"]: each for each in (body.get("status") or {}).get("conditions") or ()}
    for kind in ("Established", "NamesAccepted"):
        if conditions.get(kind, {}).get("status") == "False":
            return f"it is not {kind}: {conditions[kind].get('message') or conditions[kind].get('reason')}"
    missing = sorted(missing_fields(found["schema"]["openAPIV3Schema"], model))
    if not missing:
        return ""
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    return f"it is of another version of Kigi: it lacks the fields {', '.join(missing[:SHOWN])}{more}"


def missing_fields(schema: Schema, model: type[Model]) -> Iterator[str]:
    """Paths of fields of spec and status that the model has, and the definition's schema would drop."""
    raw = model.model_json_schema(by_alias=True)
    definitions = raw.get("$defs", {})
    for part in ("spec", "status"):
        if part in raw["properties"]:
            stored = (schema.get("properties") or {}).get(part) or {}
            yield from _missing(raw["properties"][part], stored, definitions, part, ())


def _missing(
    wanted: Schema, stored: Schema, definitions: Mapping[str, Schema], path: str, above: tuple[str, ...]
) -> Iterator[str]:
    if stored.get("x-kubernetes-preserve-unknown-fields") or stored.get("x-kubernetes-int-or-string"):
        return
    for choice in (wanted, *wanted.get("anyOf", ()), *wanted.get("allOf", ())):
        reference = str(choice.get("$ref", "")).rpartition("/")[2]
        if reference and reference not in above:  # a model that has itself as a part is compared once
            yield from _missing(definitions[reference], stored, definitions, path, (*above, reference))
        if "items" in choice and "items" in stored:
            yield from _missing(choice["items"], stored["items"], definitions, f"{path}[]", above)
        for name, field in (choice.get("properties") or {}).items():
            if name not in (stored.get("properties") or {}):
                yield f"{path}.{name}"
            else:
                yield from _missing(field, stored["properties"][name], definitions, f"{path}.{name}", above)
