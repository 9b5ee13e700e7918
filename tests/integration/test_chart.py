"""The Helm chart, rendered by Helm: it is what kustomize makes, every value has an effect, wrong ones are refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import get_session

from localcluster.build import binary
from localcluster.controlplane import ControlPlane
from localcluster.processes import free_port, is_listening
from tests.support.cluster import ensure_namespace, eventually
from tests.support.helm import Helm, HelmFailed, Object, by_label, without_policy
from tests.support.install_page import five_commands
from tools.chart.__main__ import own_images, project_version
from tools.chart.build import Release, default_values
from tools.chart.settings import PROGRAMS, offered
from tools.chart.values import rows
from tools.chart.workloads import is_workload

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "0" * 64
WORKLOADS = ("Deployment kigi-system/kigi-operator", "DaemonSet kigi-system/kigi-node-cache")


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(tmp_path_factory.mktemp("helm"), Release("1.2.3", {}))


def kustomize(folder: Path, **fields: Any) -> list[Object]:
    """Objects of an overlay of the manifests; paths in ``components`` begin at ``manifests/components``."""
    base = os.path.relpath(ROOT / "manifests", folder)
    fields["components"] = [f"{base}/components/{name}" for name in fields.get("components", ())]
    fields["resources"] = [base]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(fields))
    call = [binary("kustomize"), "build", str(folder)]
    done = subprocess.run(call, check=True, capture_output=True, text=True, timeout=120)
    return [each for each in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if each]


def without_false_namespace(item: Object) -> Object:
    """kustomize sets a namespace on kinds of the cluster that it does not know; the API server ignores it."""
    if not item["kind"].startswith("ValidatingAdmission"):
        return item
    return {**item, "metadata": {key: value for key, value in item["metadata"].items() if key != "namespace"}}


CREATED = "namespace.create=true"
SAME: dict[str, tuple[tuple[str, ...], str, dict[str, Any]]] = {
    "default": ((CREATED,), "kigi-system", {}),
    "another namespace": ((CREATED,), "other", {"namespace": "other"}),
    "k0s": (
        (CREATED, "kubelet.rootDirectory=/var/lib/k0s/kubelet"),
        "kigi-system",
        {"components": ["kubelet-root-k0s"]},
    ),
    "openshift": (
        (CREATED, "openshift.enabled=true", "kubevirt.namespace=openshift-cnv"),
        "other",
        {"components": ["openshift"], "namespace": "other"},
    ),
    "pull secret": (
        (CREATED, "images.pullSecrets[0].name=kigi-registry"),
        "kigi-system",
        {"components": ["pull-secret"]},
    ),
    "image": (
        (
            CREATED,
            "images.registry=r.example:5000/a",
            *(f"images.{part}.digest={DIGEST},images.{part}.tag=" for part in ("operator", "daemon")),
        ),
        "kigi-system",
        {"images": [{"name": "kigi", "newName": "r.example:5000/a/kigi", "digest": DIGEST}]},
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_the_chart_is_what_kustomize_makes(helm: Helm, tmp_path: Path, case: str) -> None:
    sets, namespace, fields = SAME[case]
    charted = by_label([without_policy(each) for each in helm.template(*sets, namespace=namespace)])
    expected = by_label([without_false_namespace(each) for each in kustomize(tmp_path, **fields)])
    assert charted.keys() == expected.keys()
    for name, item in expected.items():
        assert charted[name] == item, name


def test_by_default_only_the_namespace_is_missing(helm: Helm, tmp_path: Path) -> None:
    missing = by_label(kustomize(tmp_path)).keys() - by_label(helm.template()).keys()
    assert missing == {"Namespace kigi-system"}


def test_helm_finds_no_fault(helm: Helm) -> None:
    out = helm("lint", "--strict", str(helm.folder))
    assert "0 chart(s) failed" in out
    assert "WARNING" not in out


def test_the_chart_of_make_chart_has_the_image_of_the_readme(tmp_path: Path) -> None:
    """docs/install.md installs it with this value and no other."""
    version = project_version()
    chart = Helm(tmp_path, Release(version, own_images(version)))
    objects = chart.template("images.registry=registry.example")
    pods = [each["spec"]["template"]["spec"] for each in objects if is_workload(each)]
    images = {container["image"] for pod in pods for container in pod["containers"]}
    (built,) = re.findall(r"docker build -t (\S+) \.", (ROOT / "README.md").read_text())
    assert images == {built}


S3 = "s3.enabled=true"
EFFECTS: dict[str, tuple[str, ...]] = {
    # path: the values that change it, after those that its part needs
    "images.registry": ("images.registry=r.example",),
    "images.pullPolicy": ("images.pullPolicy=Always",),
    "images.pullSecrets": ("images.pullSecrets[0].name=x",),
    **{
        f"images.{part}.{field}": (f"images.{part}.{field}={value}",)
        for part in ("operator", "daemon")
        for field, value in (("repository", "other"), ("tag", "v2"), ("digest", DIGEST))
    },
    "images.hook.repository": ("images.hook.repository=hook",),
    "images.hook.tag": ("images.hook.repository=hook", "images.hook.tag=v2"),
    "images.hook.digest": ("images.hook.repository=hook", f"images.hook.digest={DIGEST}"),
    "namespace.create": (CREATED,),
    "crds.install": ("crds.install=false",),
    "crds.keep": ("crds.keep=false",),
    "kubelet.rootDirectory": ("kubelet.rootDirectory=/x",),
    "kubevirt.namespace": ("kubevirt.namespace=x",),
    "operator.replicas": ("operator.replicas=1",),
    "operator.nodeSelector": ("operator.nodeSelector.a=b",),
    "operator.tolerations": ("operator.tolerations[0].operator=Exists",),
    "operator.settings": ("operator.settings.KIGI_WORKERS=9",),
    "daemon.cacheDirectory": ("daemon.cacheDirectory=/x",),
    "daemon.nodeSelector": ("daemon.nodeSelector.a=b",),
    "daemon.tolerations": ("daemon.tolerations=null",),
    "daemon.settings": ("daemon.settings.KIGI_MIN_FREE=null",),
    "publisher.settings": ("publisher.settings.KIGI_LOG_LEVEL=DEBUG",),
    **{
        f"{part}.resources.{kind}": (f"{part}.resources.{kind}.cpu=3",)
        for part in ("operator", "daemon", "publisher")
        for kind in ("requests", "limits")
    },
    "networkPolicies.enabled": ("networkPolicies.enabled=false",),
    "podMonitor.enabled": ("podMonitor.enabled=true",),
    "podMonitor.labels": ("podMonitor.enabled=true", "podMonitor.labels.a=b"),
    "prometheusRule.enabled": ("prometheusRule.enabled=true",),
    "prometheusRule.labels": ("prometheusRule.enabled=true", "prometheusRule.labels.a=b"),
    "dashboards.enabled": ("dashboards.enabled=true",),
    "dashboards.labels": ("dashboards.enabled=true", "dashboards.labels.a=b"),
    "openshift.enabled": ("openshift.enabled=true",),
    "s3.enabled": (S3,),
    "s3.image.repository": (S3, "s3.image.repository=other"),
    "s3.image.tag": (S3, "s3.image.tag=v2"),
    "s3.image.digest": (S3, f"s3.image.digest={DIGEST}"),
    "s3.size": (S3, "s3.size=1Gi"),
    "s3.storageClassName": (S3, "s3.storageClassName=fast"),
    "s3.bucket": (S3, "s3.bucket=other"),
    "s3.repository": (S3, "s3.repository=other"),
    "s3.resources.requests": (S3, "s3.resources.requests.cpu=3"),
    "s3.resources.limits": (S3, "s3.resources.limits.cpu=3"),
}


def rendered(helm: Helm, *sets: str) -> str:
    """What the chart renders, without the generated keys of the S3 server."""
    objects = by_label(helm.template(*sets))
    for user in ("reader", "writer"):
        objects.pop(f"Secret kigi-system/kigi-s3-{user}", None)
    return json.dumps(objects, sort_keys=True)


def test_every_value_has_a_case() -> None:
    paths = [path for path, _, _ in rows(default_values())]
    leaves = {path for path in paths if not any(other.startswith(f"{path}.") for other in paths)}
    assert leaves == EFFECTS.keys()


@pytest.mark.parametrize("path", EFFECTS)
def test_every_value_has_an_effect(helm: Helm, path: str) -> None:
    *before, last = EFFECTS[path]
    assert rendered(helm, *before) != rendered(helm, *before, last)


def test_every_setting_reaches_its_program_as_it_is_written(helm: Helm) -> None:
    """Also a number that the template engine would write as 5.24288e+07."""
    given: dict[str, Any] = {}
    for program in PROGRAMS:
        fields = PROGRAMS[program].model_fields
        given[program] = {"settings": {name: _sample(name, fields[field]) for name, field in offered(program).items()}}
    objects = by_label(helm.template(values=given))
    for program, container in (("operator", 0), ("daemon", 0), ("publisher", 1)):
        pod = objects[WORKLOADS[program != "operator"]]["spec"]["template"]["spec"]
        environment = {each["name"]: each.get("value") for each in pod["containers"][container]["env"]}
        for name, value in given[program]["settings"].items():
            assert environment[name] == str(value)


def _sample(name: str, field: Any) -> Any:
    if "LEVEL" in name:
        return "DEBUG"
    if name == "KIGI_OVERLAY_FORM":
        return "v1alpha1"
    if name in ("KIGI_MIN_FREE", "KIGI_OVERLAY_HEADROOM"):
        return "20Gi"
    return 52428800 if name in ("KIGI_SCRUB_BYTES_PER_S", "KIGI_BUDGET_BYTES", "KIGI_WORKERS") else 42


REFUSED = [
    ("image.tag=1", "image"),
    ("operator.replica=2", "/operator"),
    ("operator.replicas=0", "/operator/replicas"),
    ("operator.replicas=two", "/operator/replicas"),
    ("operator.settings.KIGI_WORKERS=0", "/operator/settings/KIGI_WORKERS"),
    ("operator.settings.KIGI_WORKER=8", "/operator/settings"),
    ("operator.settings.KUBECONFIG=/x", "/operator/settings"),
    ("daemon.settings.KIGI_MIN_FREE=much", "/daemon/settings/KIGI_MIN_FREE"),
    ("daemon.settings.KIGI_BUDGET_PERCENT=101", "/daemon/settings/KIGI_BUDGET_PERCENT"),
    ("daemon.resources.limits.memory=1 GB", "/daemon/resources/limits/memory"),
    ("kubelet.rootDirectory=var/lib", "/kubelet/rootDirectory"),
    ("images.pullSecrets=x", "/images/pullSecrets"),
    ("images.operator.digest=sha256:1", "/images/operator/digest"),
    ("networkPolicies=false", "/networkPolicies"),
    ("s3.bucket=A", "/s3/bucket"),
]


@pytest.mark.parametrize(("wrong", "path"), REFUSED, ids=[wrong for wrong, _ in REFUSED])
def test_a_wrong_value_is_refused_with_its_path(helm: Helm, wrong: str, path: str) -> None:
    with pytest.raises(HelmFailed) as refused:
        helm.template(wrong)
    text = str(refused.value)
    assert f"'{path}'" in text or f"'{path.strip('/')}'" in text, text


ALL = (
    "dashboards.enabled=true", "openshift.enabled=true", S3, "images.pullSecrets[0].name=x",
    "daemon.settings.KIGI_CONNECTIONS=16",
)  # fmt: skip


def test_the_server_accepts_the_chart_with_every_part(helm: Helm, crds: ControlPlane, tmp_path: Path) -> None:
    """All but what the Prometheus operator defines."""
    ensure_namespace(crds, "charted")
    path = tmp_path / "objects.yaml"
    path.write_text(yaml.safe_dump_all(helm.template(*ALL, namespace="charted")))
    accepted = crds.kubectl(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", str(path)
    )
    assert "statefulset.apps/kigi-s3" in accepted
    assert "layerrepository.kigi.dev/main" in accepted
    assert "rolebinding.rbac.authorization.k8s.io/kigi-node-cache-privileged" in accepted


def test_alerts_and_dashboard_are_those_of_the_manifests(helm: Helm) -> None:
    parts = [f"{name}.enabled=true" for name in ("prometheusRule", "podMonitor", "dashboards")]
    objects = by_label(helm.template(*parts))
    rule = objects["PrometheusRule kigi-system/kigi"]
    assert rule["spec"] == yaml.safe_load((ROOT / "manifests/alerts/kigi.yaml").read_text())
    shown = objects["ConfigMap kigi-system/kigi-dashboards"]
    assert shown["data"]["kigi.json"] == (ROOT / "manifests/dashboards/kigi.json").read_text()
    assert shown["data"]["kigi-class.json"] == (ROOT / "manifests/dashboards/kigi-class.json").read_text()
    assert shown["metadata"]["labels"]["grafana_dashboard"] == "1"
    (endpoint,) = objects["PodMonitor kigi-system/kigi"]["spec"]["podMetricsEndpoints"]
    selected = objects["PodMonitor kigi-system/kigi"]["spec"]["selector"]["matchLabels"].items()
    for name in WORKLOADS:
        template = objects[name]["spec"]["template"]
        assert selected <= template["metadata"]["labels"].items()
        ports = [port["name"] for each in template["spec"]["containers"] for port in each.get("ports", ())]
        assert endpoint["port"] in ports


def test_the_notes_name_the_next_step(helm: Helm) -> None:
    install = ("install", "kigi", str(helm.archive), "--dry-run=client", "--namespace", "kigi-system")
    assert "create a LayerRepository" in helm(*install)
    notes = helm(*install, "--set", S3)
    first = [line.strip() for line in notes.splitlines() if line.startswith("  kigi ")]
    assert first == five_commands()[2:]
    assert "LayerRepository main is the S3 server kigi-s3" in notes


def test_readers_of_the_first_s3_server_only_read(helm: Helm, tmp_path: Path) -> None:
    """The containers' commands on the real server, with the volume in another place."""
    objects = by_label(helm.template(S3, "s3.bucket=firsts"))
    pod = objects["StatefulSet kigi-system/kigi-s3"]["spec"]["template"]["spec"]
    keys = {user: {"accessKeyId": f"kigi-{user}", "secretAccessKey": f"{user}-secret"} for user in ("reader", "writer")}
    (prepare,), (server,) = pod["initContainers"], pod["containers"]

    def environment(container: Object) -> dict[str, str]:
        found = {}
        for each in container["env"]:
            source = each["valueFrom"]["secretKeyRef"]
            found[each["name"]] = keys[source["name"].removeprefix("kigi-s3-")][source["key"]]
        return {**os.environ, **found}

    def placed(text: str) -> str:
        return text.replace("/data", str(tmp_path)).replace("=:9000", f"=127.0.0.1:{port}")

    port = free_port("127.0.0.1")
    command = [sys.executable, *(placed(part) for part in prepare["command"][1:])]
    for _ in range(2):  # a restarted pod prepares its volume again
        subprocess.run(command, env=environment(prepare), check=True, timeout=60)
    call = [str(binary("versitygw")), *(placed(part) for part in server["args"])]
    process = subprocess.Popen(call, env=environment(server))
    try:
        eventually(lambda: is_listening("127.0.0.1", port), what="the S3 server listens")
        reader, writer = (_client(port, **keys[user]) for user in ("reader", "writer"))
        writer.put_object(Bucket="firsts", Key="layers/a", Body=b"content")
        assert reader.get_object(Bucket="firsts", Key="layers/a")["Body"].read() == b"content"
        assert [each["Key"] for each in reader.list_objects_v2(Bucket="firsts")["Contents"]] == ["layers/a"]
        for refused in (
            lambda: reader.put_object(Bucket="firsts", Key="layers/b", Body=b""),
            lambda: reader.delete_object(Bucket="firsts", Key="layers/a"),
        ):
            with pytest.raises(ClientError, match="AccessDenied"):
                refused()
        with pytest.raises(ClientError, match="PreconditionFailed"):
            writer.put_object(Bucket="firsts", Key="layers/a", Body=b"x", IfNoneMatch="*")
    finally:
        process.terminate()
        process.wait(20)


def _client(port: int, accessKeyId: str, secretAccessKey: str) -> Any:
    return get_session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=accessKeyId,
        aws_secret_access_key=secretAccessKey,
        config=Config(s3={"addressing_style": "path"}),
    )
