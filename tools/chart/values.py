"""The values of the chart: their schema and meaning as models, their defaults from the manifests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from tools.chart.settings import settings_schema

_NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_QUANTITY = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?$"}]}
Quantities = Annotated[
    dict[str, Any], WithJsonSchema({"type": "object", "additionalProperties": _QUANTITY, "title": "Quantities"})
]
Labels = dict[str, str]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Image(_Part):
    """Where one image is."""

    repository: str = Field(pattern=r"^[a-z0-9][a-zA-Z0-9._:/-]*$|^$", description="Name without tag.")
    tag: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$|^$", description="Tag; may be empty with a digest.")
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$|^$", description="Digest, which wins over the tag.")


class PullSecret(_Part):
    """A Secret of the release's namespace."""

    name: str = Field(min_length=1, description="Name of a Secret of type kubernetes.io/dockerconfigjson.")


class Images(_Part):
    """Images of all pods."""

    registry: str = Field(
        pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._:/-]*[a-zA-Z0-9]$|^$",
        description="Registry or mirror in front of every repository below, such as registry.example:5000/mirror.",
    )
    pullPolicy: Annotated[str, WithJsonSchema({"type": "string", "enum": ["Always", "IfNotPresent", "Never"]})] = Field(
        description="imagePullPolicy of all containers."
    )
    pullSecrets: list[PullSecret] = Field(
        description="Secrets for pulling, as a list of {name: ...}. VMs' pods are in other namespaces: give the Secret "
        "to their service accounts, too, if the registry of the hook image needs one."
    )
    operator: Image = Field(description="Image of the operator.")
    daemon: Image = Field(description="Image of the node cache daemon and of the capture publisher.")
    hook: Image = Field(
        description="Image of the hook in VMs' pods, where KubeVirt has no Plugins. Empty repository: the operator's."
    )


class Namespace(_Part):
    """The release's namespace."""

    create: bool = Field(
        description="Render the Namespace itself, with its Pod Security labels: for 'helm template' and GitOps. "
        "'helm install' needs a namespace that exists."
    )


class Crds(_Part):
    """Definitions of Kigi's kinds."""

    install: bool = Field(description="Install and upgrade the definitions with the chart.")
    keep: bool = Field(description="Keep the definitions, and with them all objects, when the release is uninstalled.")


class Kubelet(_Part):
    """What the kubelet of the nodes uses."""

    rootDirectory: str = Field(
        pattern=r"^(/[A-Za-z0-9._-]+)+$",
        description="The kubelet's --root-dir. k0s: /var/lib/k0s/kubelet; MicroK8s: "
        "/var/snap/microk8s/common/var/lib/kubelet.",
    )


class KubeVirt(_Part):
    """What KubeVirt uses."""

    namespace: str = Field(pattern=_NAME, description="Namespace of KubeVirt's controller, which may mount disks.")


class Resources(_Part):
    """Requests and limits of a container."""

    requests: Quantities = Field(description="Reserved amounts, such as {cpu: 50m, memory: 128Mi}.")
    limits: Quantities = Field(description="Maximum amounts, such as {memory: 1Gi}.")


class Operator(_Part):
    """The Deployment kigi-operator."""

    replicas: int = Field(ge=1, le=5, description="Pods, of which one leads. 1: no PodDisruptionBudget either.")
    resources: Resources = Field(description="Resources of its container.")
    nodeSelector: Labels = Field(description="Labels of the nodes that it may run on.")
    tolerations: list[dict[str, Any]] = Field(description="Taints that it tolerates.")
    settings: Annotated[dict[str, Any], WithJsonSchema(settings_schema("operator"))] = Field(
        description="Variables of kigi-operator, such as KIGI_WORKERS: 16."
    )


class Daemon(_Part):
    """The DaemonSet kigi-node-cache."""

    cacheDirectory: str = Field(
        pattern=r"^(/[A-Za-z0-9._-]+)+$",
        description="Directory of layers and overlays on each node. A change leaves what the old one has: it is for "
        "the first installation.",
    )
    resources: Resources = Field(description="Resources of the container cache.")
    nodeSelector: Labels = Field(description="Labels of the nodes that have a cache.")
    tolerations: list[dict[str, Any]] = Field(description="Taints that it tolerates.")
    settings: Annotated[dict[str, Any], WithJsonSchema(settings_schema("daemon"))] = Field(
        description="Variables of kigi-cache, such as KIGI_CONNECTIONS: 16."
    )


class Publisher(_Part):
    """The container capture-publisher of the same DaemonSet."""

    resources: Resources = Field(description="Resources of the container.")
    settings: Annotated[dict[str, Any], WithJsonSchema(settings_schema("publisher"))] = Field(
        description="Variables of kigi-capture-publisher."
    )


class Switch(_Part):
    """An optional part."""

    enabled: bool = Field(description="Whether the part is installed.")


class Labelled(Switch):
    """An optional object that another program selects by labels."""

    labels: Labels = Field(description="Further labels, by which the program that reads the object selects it.")


class S3(Switch):
    """An S3 server for a first try."""

    image: Image = Field(description="Image of versitygw.")
    size: str = Field(pattern=r"^[0-9]+(\.[0-9]+)?([kMGTPE]i?)?$", description="Size of its volume.")
    storageClassName: str = Field(description="Class of its volume; empty: the cluster's default.")
    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", description="Bucket that it has at its start.")
    repository: str = Field(
        pattern=_NAME, description="Name of the LayerRepository that is created for the bucket, if it does not exist."
    )
    resources: Resources = Field(description="Resources of its container.")


class Values(_Part):
    """All values of the chart."""

    images: Images = Field(description="Images.")
    namespace: Namespace = Field(description="The namespace is the release's: helm install --namespace NAME.")
    crds: Crds = Field(description="Definitions of Kigi's kinds.")
    kubelet: Kubelet = Field(description="The nodes' kubelet.")
    kubevirt: KubeVirt = Field(description="KubeVirt.")
    operator: Operator = Field(description="The Deployment kigi-operator.")
    daemon: Daemon = Field(description="The DaemonSet kigi-node-cache, one pod on each node.")
    publisher: Publisher = Field(description="The container capture-publisher of the same pods.")
    networkPolicies: Switch = Field(
        description="NetworkPolicies: layers only to daemons, metrics only to namespaces with the label "
        "kigi-metrics=allowed."
    )
    podMonitor: Labelled = Field(description="PodMonitor of the Prometheus operator.")
    prometheusRule: Labelled = Field(description="PrometheusRule with Kigi's alerts.")
    dashboards: Labelled = Field(description="ConfigMap with the dashboard, for Grafana's sidecar.")
    openshift: Switch = Field(
        description="What OpenShift needs: privileged containers for the daemons, and no fixed user for the operator. "
        "Set kubevirt.namespace=openshift-cnv, too."
    )
    s3: S3 = Field(
        description="An S3 server with one volume, for a first try. The volume has the only copy of the layers."
    )


def values_schema() -> dict[str, Any]:
    """``values.schema.json``. Every value is optional, as Helm merges what is given with the defaults."""
    schema = Values.model_json_schema()
    schema["properties"]["global"] = {"type": "object", "description": "What a parent chart passes on; unused."}
    cleaned: dict[str, Any] = _clean(schema)
    return {"$schema": "http://json-schema.org/draft-07/schema#", **cleaned}


def rows(defaults: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(path, default as JSON-like text, meaning) of every value, parents before their children."""
    yield from _rows(Values, defaults, "")


def values_yaml(defaults: Mapping[str, Any], dump: Any) -> str:
    """``values.yaml``: the defaults, each group with its meaning. ``dump`` writes one value as YAML flow text."""
    head = "# Values of the chart; values.schema.json refuses all others. docs/reference/chart.md describes each.\n"
    return head + "\n".join(_yaml(Values, defaults, 0, dump)) + "\n"


def _yaml(model: type[BaseModel], values: Mapping[str, Any], indent: int, dump: Any) -> Iterator[str]:
    pad = " " * indent
    for name, field in model.model_fields.items():
        value, inner = values[name], field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner not in (Image, Resources):
            if indent == 0:
                yield ""
            yield from _comment(field.description or "", pad)
            yield f"{pad}{name}:"
            yield from _yaml(inner, value, indent + 2, dump)
        else:
            yield from _comment(field.description or "", pad)
            yield f"{pad}{name}: {dump(value)}"


def _comment(text: str, pad: str) -> Iterator[str]:
    line = f"{pad}#"
    for word in text.split():
        if len(line) + len(word) > 118:
            yield line
            line = f"{pad}#"
        line += f" {word}"
    yield line


def _rows(model: type[BaseModel], values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        inner, value, path = field.annotation, values[name], f"{prefix}{name}"
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield path, "", field.description or ""
            yield from _rows(inner, value, f"{path}.")
        else:
            yield path, _plain(value), field.description or ""


def _plain(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case Mapping():
            return "{" + ", ".join(f"{key}: {_plain(each)}" for key, each in value.items()) + "}"
        case str() if value == "":
            return '""'
        case Sequence() if not isinstance(value, str):
            return "[" + ", ".join(_plain(each) for each in value) + "]"
        case _:
            return str(value)


def _clean(node: Any) -> Any:
    if isinstance(node, Mapping):
        dropped = ("title", "required") if "properties" in node or "type" in node else ("title",)
        kept = {key: value for key, value in node.items() if key not in dropped or not isinstance(value, str | list)}
        return {key: _clean(value) for key, value in kept.items()}
    return [_clean(each) for each in node] if isinstance(node, list) else node
