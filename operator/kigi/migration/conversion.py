"""Conversion of a whole cluster: pure, and complete before anything is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from kigi.api.base import Model
from kigi.api.capture import SystemCapture
from kigi.api.deployment import SystemDeployment
from kigi.api.image import VMImageNode
from kigi.api.instance import SystemInstance
from kigi.api.layer_repository import LayerRepository
from kigi.api.prefetch import SystemPrefetch
from kigi.api.quota import SystemQuota
from kigi.api.system import SystemNode
from kigi.domain import kinds, names
from kigi.domain.machine_patch import patch_problem
from kigi.migration.deployments import convert_deployment, convert_overrides
from kigi.migration.problems import Body, Findings
from kigi.migration.quotas import quotas_for_pins
from kigi.migration.repositories import DEFAULT_SECRETS, Secrets, convert_repositories
from kigi.migration.requests import capture_names, convert_capture, convert_prefetch
from kigi.migration.trees import NetworkNames, convert_image, convert_system

MODELS: Mapping[str, type[Model]] = {
    kinds.REPOSITORY: LayerRepository,
    kinds.IMAGE: VMImageNode,
    kinds.SYSTEM: SystemNode,
    kinds.DEPLOYMENT: SystemDeployment,
    kinds.INSTANCE: SystemInstance,
    kinds.CAPTURE: SystemCapture,
    kinds.QUOTA: SystemQuota,
    kinds.PREFETCH: SystemPrefetch,
}
"""In the order in which the converted objects are written: what is named comes before what names it."""
UNSEEN: Body = {"observedGeneration": -1}
"""Status of an object that the operator of v1alpha2 has not seen yet: it reports everything anew."""
OLD_KINDS = (kinds.IMAGE, kinds.SYSTEM, kinds.DEPLOYMENT, kinds.CAPTURE, kinds.PREFETCH)
"""Kinds of v1alpha1 whose objects are converted. NodeCaches are made anew in their group."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """The objects of v1alpha2, in the order in which they are written."""

    objects: tuple[Body, ...]
    findings: Findings


def convert(
    objects: Iterable[Body], repositories: Body | None = None, secrets: Secrets = DEFAULT_SECRETS
) -> Conversion:
    """Every object of v1alpha1 in v1alpha2. An object that has a converted form already is not among ``objects``."""
    findings = Findings()
    by_kind: dict[str, list[Body]] = defaultdict(list)
    for body in objects:
        by_kind[body["kind"]].append(body)
    converted: list[Body] = []
    if repositories is not None:
        converted += convert_repositories(repositories, secrets, findings)
    for namespace in sorted({body["metadata"]["namespace"] for bodies in by_kind.values() for body in bodies}):
        local = {
            kind: [b for b in bodies if b["metadata"]["namespace"] == namespace] for kind, bodies in by_kind.items()
        }
        converted += _namespace(local, findings)
    converted += quotas_for_pins(by_kind.get(kinds.PREFETCH, ()), findings)
    for body in converted:
        body["apiVersion"] = names.API_VERSION
        if body["kind"] in OLD_KINDS and body["kind"] != kinds.CAPTURE:
            body["status"] = dict(UNSEEN)
        _check(body, findings)
        if body["kind"] == kinds.SYSTEM:
            _check_patches(body, findings)
    order = list(MODELS)
    return Conversion(tuple(sorted(converted, key=lambda body: order.index(body["kind"]))), findings)


def _namespace(by_kind: Mapping[str, Sequence[Body]], findings: Findings) -> list[Body]:
    captures = list(by_kind.get(kinds.CAPTURE, ()))
    systems = by_kind.get(kinds.SYSTEM, ())
    deployments = by_kind.get(kinds.DEPLOYMENT, ())
    network_of, capture_of = NetworkNames(systems), capture_names(captures)
    return [
        *(convert_image(body, capture_of) for body in by_kind.get(kinds.IMAGE, ())),
        *(convert_system(body, network_of, capture_of) for body in systems),
        *(convert_deployment(body) for body in deployments),
        *(instance for body in deployments for instance in convert_overrides(body, findings)),
        *(convert_capture(body, findings) for body in captures),
        *(convert_prefetch(body, findings) for body in by_kind.get(kinds.PREFETCH, ())),
    ]


def _check_patches(body: Body, findings: Findings) -> None:
    """A patch of a field that v1alpha2 does not permit would be pruned silently."""
    for machine in body["spec"].get("machines") or ():
        problem = patch_problem((machine.get("patch") or {}).get("merge") or {})
        if problem is not None:
            findings.problem(body, f"spec.machines[{machine['name']}].template.patch: {problem}")


def _check(body: Body, findings: Findings) -> None:
    """A converted object that its model refuses is a problem: the API server would refuse it half-way."""
    try:
        MODELS[body["kind"]].model_validate(body)
    except ValidationError as exc:
        for error in exc.errors(include_url=False, include_context=False):
            field = ".".join(map(str, error["loc"]))
            findings.problem(body, f"v1alpha2 refuses {field}: {error['msg']}; change the object before the migration")
