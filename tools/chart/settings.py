"""Variables of the programs that the chart's values may set, and their JSON schema, from the settings models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kigi.adapters.environment import EnvironmentSettings, default_text
from kigi.runtime.settings import Settings
from kigi_cache.settings import DaemonSettings, PublisherSettings

PROGRAMS: Mapping[str, type[EnvironmentSettings]] = {
    "operator": Settings,
    "daemon": DaemonSettings,
    "publisher": PublisherSettings,
}
"""Key of the values -> settings of its program."""
FIXED = {
    "KIGI_HOOK_IMAGE": "images.hook",
    "KIGI_CACHE_ROOT": "daemon.cacheDirectory",
    "POD_NAMESPACE": "the pod",
    "POD_NAME": "the pod",
    "POD_IPS": "the pod",
    "NODE_NAME": "the pod",
    "KIGI_IDENTITY": "the pod's name",
    "KIGI_LEADER_ELECTION": "operator.replicas",
    "KIGI_HTTP_HOST": "the container's port",
    "KIGI_HTTP_PORT": "the container's port",
    "KIGI_HTTP_ADDR": "the container's port",
    "KIGI_PEER_ADDR": "the container's port",
    "KIGI_PEER_SERVICE": "the Service of the daemons",
    "KIGI_PEERS": "the Service of the daemons",
    "KIGI_PEER_TOKEN": "the pod's volumes",
    "KIGI_REPOSITORIES": "the pod's volumes",
    "KIGI_KUBELET_ROOT": "kubelet.rootDirectory",
    "KIGI_CSI_SOCKET": "kubelet.rootDirectory",
    "KIGI_CSI_ENDPOINT": "kubelet.rootDirectory",
    "KIGI_REGISTRATION_DIR": "kubelet.rootDirectory",
    "KUBECONFIG": "the pod's service account",
}
"""Variables that no value sets -> what defines them instead."""


def offered(program: str) -> dict[str, str]:
    """Variable -> field of each setting of the program that a value may set, in the order of the model."""
    fields = PROGRAMS[program].model_fields
    return {str(field.validation_alias): name for name, field in fields.items() if field.validation_alias not in FIXED}


def settings_schema(program: str) -> dict[str, Any]:
    """JSON schema of the map ``<program>.settings``: a property for each offered variable, and no other."""
    model = PROGRAMS[program]
    described = model.model_json_schema(by_alias=True)["properties"]
    properties = {name: _property(model, field, described[name]) for name, field in offered(program).items()}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _property(model: type[EnvironmentSettings], field: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in schema.items() if key not in ("title", "default")}
    # A variable that may be unset is left out of the values instead of being null.
    if "anyOf" in kept:
        kept["anyOf"] = [each for each in kept["anyOf"] if each != {"type": "null"}]
        if len(kept["anyOf"]) == 1:
            kept |= kept.pop("anyOf")[0]
    kept["description"] = f"{kept['description']} Default: {default_text(model, field)}."
    return kept
