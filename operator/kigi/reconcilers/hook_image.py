"""The image of the disk hook's sidecar: that of the operator's own Deployment, unless KIGI_HOOK_IMAGE names another.

The name in the Deployment is used, not the imageID of a running container: a runtime may report the latter in a form
that no registry serves. A digest (``kigi@sha256:...``) stays one, so that the hook has the operator's version.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kigi.adapters.kubernetes.resources import WORKLOAD
from kigi.domain.kubevirt import KubeVirtState
from kigi.errors import KigiError, NotFound, SpecInvalid, Unreachable
from kigi.runtime.ports import Ports

logger = logging.getLogger(__name__)

WORKLOAD_NAME = "kigi-operator"
"""Name of the operator's Deployment; its role may read no other."""
CONTAINER = "operator"


async def read_hook_image(ports: Ports) -> bool:
    """Reads the image into ``ports``. False: the API server did not answer, so the caller must repeat it.

    Without a Deployment or the right to read it, ``ports.hook_image`` stays empty: ``with_hook_image`` reports why.
    """
    if ports.settings.hook_image:
        return True
    namespace = ports.settings.namespace
    try:
        found = await ports.kube.get(WORKLOAD, namespace, WORKLOAD_NAME)
        if found is None:
            raise NotFound(f"Deployment {namespace}/{WORKLOAD_NAME} does not exist")
        ports.hook_image, ports.hook_image_problem = image_of(found), ""
    except Unreachable as exc:
        logger.warning("image of the operator not read", extra={"error": str(exc)})
        return False
    except KigiError as exc:
        ports.hook_image_problem = str(exc)
        logger.warning("image of the operator not known", extra={"error": str(exc)})
    return True


def image_of(deployment: Mapping[str, Any]) -> str:
    """Image of the operator's container; raises SpecInvalid if there is none."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    for container in containers:
        if container.get("name") == CONTAINER and container.get("image"):
            return str(container["image"])
    meta = deployment["metadata"]
    raise SpecInvalid(
        f"Deployment {meta.get('namespace')}/{meta.get('name')}: spec.template.spec.containers has no {CONTAINER!r}"
    )


def with_hook_image(state: KubeVirtState, ports: Ports) -> KubeVirtState:
    """The state as it is; without a hook if that is a sidecar whose image is not known."""
    if state.hook != "Sidecar" or ports.hook_image:
        return state
    why = f"the image of the disk hook is not known ({ports.hook_image_problem}); set KIGI_HOOK_IMAGE of the operator"
    return replace(state, hook=None, why_not=why)
