"""Keeps everyone from changing Kigi's objects while they are converted: an admission policy that exempts the migration.

Otherwise an order that a user gives after the export would be undone by the converted object.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from kigi.adapters.kubernetes.resources import Resource
from kigi.adapters.kubernetes.session import KubeSession
from kigi.domain.names import GROUP
from kigi.errors import Conflict, KigiError, NotFound, SpecInvalid, Waiting
from kigi.migration.problems import Body

NAME = "kigi-migration"
MANAGER = "kigi-migrate"
"""Field manager of the migration's own writes. Whoever may write objects may claim it: it keeps accidents away."""
MESSAGE = "kigi migrate converts this object; try again when it has ended, in the API version that the cluster then has"
POLICY = Resource(
    "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", namespaced=False
)
BINDING = Resource(
    "admissionregistration.k8s.io/v1",
    "ValidatingAdmissionPolicyBinding",
    "validatingadmissionpolicybindings",
    namespaced=False,
)
FROZEN_S = 60.0
"""Time within which an API server applies a new policy, or the end of one."""
OTHERS_S = 2.0
"""Time for other API servers, after the first one applies it."""
_PROBER = "kigi-migrate-probe"


def freeze(
    kube: KubeSession,
    resources: tuple[Resource, ...],
    probe: tuple[Resource, Body] | None,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Returns when nobody else can change objects of ``resources``.

    ``probe``: an object that another writer tries to store unchanged; None: there is none. Raises Waiting if the API
    server does not apply the policy within FROZEN_S.
    """
    for resource, manifest in ((POLICY, _policy(resources)), (BINDING, _binding())):
        with contextlib.suppress(Conflict):  # of a migration that was interrupted
            kube.create(resource, manifest)
    end = clock() + FROZEN_S
    while probe is not None and _is_refused(kube, *probe) is False:
        if clock() > end:
            raise Waiting(f"the API server does not apply ValidatingAdmissionPolicy {NAME}; see its status")
        sleep(0.2)
    sleep(OTHERS_S)


def thaw(
    kube: KubeSession,
    probe: tuple[Resource, Body] | None,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Returns when everyone may write again; ``probe`` as for ``freeze``.

    An API server goes on to refuse for seconds after the policy is deleted. Raises Waiting if it does for FROZEN_S.
    """
    for resource in (BINDING, POLICY):
        body = kube.get(resource, None, NAME)
        if body is not None:
            kube.delete(resource, None, NAME, uid=body["metadata"]["uid"])
    end = clock() + FROZEN_S
    while probe is not None and _is_refused(kube, *probe):
        if clock() > end:
            raise Waiting(f"the API server still applies the deleted ValidatingAdmissionPolicy {NAME}; call again")
        sleep(0.2)


def _is_refused(kube: KubeSession, resource: Resource, body: Body) -> bool | None:
    """Whether the policy keeps another manager from storing the object; None: the object is gone and tells nothing."""
    meta = body["metadata"]
    live = kube.get(resource, meta.get("namespace"), meta["name"])
    if live is None:
        return None
    try:
        kube.replace(resource, live, dry_run=True, manager=_PROBER)
    except (Conflict, NotFound):
        return False
    except SpecInvalid as exc:
        return MESSAGE in str(exc)
    except KigiError:
        return False
    return False


def _policy(resources: tuple[Resource, ...]) -> Body:
    names = [name for each in resources for name in (each.plural, f"{each.plural}/status")]
    rule = {
        "apiGroups": [GROUP],
        "apiVersions": ["*"],
        "operations": ["CREATE", "UPDATE", "DELETE"],
        "resources": names,
    }
    ours = f"has(request.options) && has(request.options.fieldManager) && request.options.fieldManager == '{MANAGER}'"
    return {
        "apiVersion": POLICY.api_version,
        "kind": POLICY.kind,
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/part-of": "kigi"}},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": ours, "message": MESSAGE}],
        },
    }


def _binding() -> Body:
    return {
        "apiVersion": BINDING.api_version,
        "kind": BINDING.kind,
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/part-of": "kigi"}},
        "spec": {"policyName": NAME, "validationActions": ["Deny"]},
    }
