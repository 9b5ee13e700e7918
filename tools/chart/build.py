"""The chart's files and its archive."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.chart.source import Object, SourceFile, load, read
from tools.chart.templates import SYSTEM, template, wrapped
from tools.chart.values import values_schema, values_yaml
from tools.chart.workloads import defaults_of, image, is_workload

ROOT = Path(__file__).resolve().parents[2]
_STATIC = Path(__file__).parent / "static"
_PART_OF = {"app.kubernetes.io/part-of": "kigi"}
_NO_IMAGE = {"repository": "", "tag": "", "digest": ""}
KUBERNETES = ">=1.30.0-0"


@dataclass(frozen=True, slots=True)
class Release:
    """Version of the chart and of its images. ``images``: key such as ``operator`` -> ``name:tag@digest``."""

    version: str
    images: Mapping[str, str]


def chart_files(release: Release, root: Path = ROOT) -> dict[str, str]:
    """Path in the chart -> content of every file, from the manifests below ``root``."""
    manifests = root / "manifests"
    files = {
        "Chart.yaml": _chart_yaml(release),
        "values.yaml": values_yaml(default_values(root, release.images), flow),
        "values.schema.json": json.dumps(values_schema(), indent=1) + "\n",
        "README.md": (_STATIC / "README.md").read_text().replace("VERSION", release.version),
        "LICENSE": (root / "LICENSE").read_text(),
        **{f"dashboards/{path.name}": path.read_text() for path in sorted((manifests / "dashboards").glob("*.json"))},
        "templates/_helpers.tpl": (_STATIC / "_helpers.tpl").read_text(),
        "templates/NOTES.txt": (_STATIC / "NOTES.txt").read_text(),
        "templates/s3-secret.yaml": (_STATIC / "s3-secret.yaml").read_text(),
    }
    files |= {f"templates/{source.name}.yaml": template(source) for source in load(manifests)}
    files |= {f"templates/{name}.yaml": text for name, text in _optional(manifests)}
    return files


def default_values(root: Path = ROOT, images: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Content of ``values.yaml``: what the manifests have, or of images what ``images`` names."""

    manifests = root / "manifests"
    objects = [item for source in (*load(manifests), *load(manifests / "s3")) for item in source.objects]
    found: dict[str, Any] = {
        "images": {"registry": "", "pullPolicy": "", "pullSecrets": [], "hook": _NO_IMAGE},
        "namespace": {"create": False},
        "crds": {"install": True, "keep": True},
        "kubelet": {"rootDirectory": "/var/lib/kubelet"},
        "kubevirt": {"namespace": "kubevirt"},
        "daemon": {"cacheDirectory": "/var/lib/kigi"},
        "networkPolicies": {"enabled": True},
        "podMonitor": {"enabled": False, "labels": {}},
        "prometheusRule": {"enabled": False, "labels": {}},
        "dashboards": {"enabled": False, "labels": {"grafana_dashboard": "1"}},
        "openshift": {"enabled": False},
        "s3": {"enabled": False, "storageClassName": "", "bucket": "kigi", "repository": "main"},
    }
    for item in filter(is_workload, objects):
        for path, value in defaults_of(item).items():
            _put(found, path, value)
        for claim in item["spec"].get("volumeClaimTemplates", ()):
            found["s3"]["size"] = claim["spec"]["resources"]["requests"]["storage"]
    for key, text in (images or {}).items():
        found["images"][key] = image(text)
    return found


def flow(value: Any) -> str:
    """One value in one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=2**31, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def archive(files: Mapping[str, str], epoch: int) -> bytes:
    """The chart as ``helm package`` makes it, with the time ``epoch`` for each file: equal input gives equal bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files, key=lambda name: (name != "Chart.yaml", name)):
            info = tarfile.TarInfo(f"kigi/{name}")
            data = files[name].encode()
            info.size, info.mode, info.mtime = len(data), 0o644, epoch
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(packed.getvalue(), mtime=epoch)


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *above, last = path.split(".")
    for key in above:
        values = values.setdefault(key, {})
    values[last] = value


def _optional(manifests: Path) -> Iterator[tuple[str, str]]:
    monitor = SourceFile("podmonitor", read(manifests / "monitoring/podmonitor.yaml"))
    yield "podmonitor", template(monitor, ".Values.podMonitor.enabled")
    rule = SourceFile("prometheusrule", (prometheus_rule(manifests),))
    yield "prometheusrule", template(rule, ".Values.prometheusRule.enabled")
    yield "dashboards", _dashboards()
    openshift = SourceFile("openshift", read(manifests / "components/openshift/scc.yaml"))
    yield "openshift", template(openshift, ".Values.openshift.enabled")
    for source in load(manifests / "s3"):
        if source.name == "repository":
            yield "s3-repository", _repository(source)
        else:
            yield f"s3-{source.name}", template(source, ".Values.s3.enabled")


def prometheus_rule(manifests: Path) -> Object:
    """The alerts as an object of the Prometheus operator."""
    meta = {"name": "kigi", "namespace": SYSTEM, "labels": _PART_OF}
    spec = yaml.safe_load((manifests / "alerts/kigi.yaml").read_text())
    return {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": meta, "spec": spec}


def _dashboards() -> str:
    meta = {"name": "kigi-dashboards", "namespace": SYSTEM, "labels": _PART_OF}
    head = template(SourceFile("dashboards", ({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta},)))
    names = sorted(path.name for path in (ROOT / "manifests/dashboards").glob("*.json"))
    data = "data:\n" + "".join(f'  {name}: {{{{ .Files.Get "dashboards/{name}" | toJson }}}}\n' for name in names)
    return wrapped(head + data, ".Values.dashboards.enabled")


def _repository(source: SourceFile) -> str:
    """A hook, as its kind exists only after the installation; and only if it does not exist, as Helm replaces hooks."""
    (item,) = source.objects
    hook = {"helm.sh/hook": "post-install,post-upgrade"}
    hooked = SourceFile("s3-repository", ({**item, "metadata": {**item["metadata"], "annotations": hook}},))
    known = '.Capabilities.APIVersions.Has "kigi.dev/v1alpha2/LayerRepository"'
    found = f'({known}) (lookup "kigi.dev/v1alpha2" "LayerRepository" "" .Values.s3.repository)'
    return wrapped(template(hooked), f"and .Values.s3.enabled (not (and {found}))")


def _chart_yaml(release: Release) -> str:
    content = {
        "apiVersion": "v2",
        "name": "kigi",
        "type": "application",
        "version": release.version,
        "appVersion": release.version,
        "kubeVersion": KUBERNETES,
        "description": "Systems of virtual machines on KubeVirt, from trees of differential qcow2 layers.",
        "keywords": ["kubevirt", "qcow2", "csi", "virtual machines"],
        "annotations": {"artifacthub.io/license": "Apache-2.0", "artifacthub.io/operator": "true"},
    }
    return yaml.safe_dump(content, sort_keys=False, width=2**31)
