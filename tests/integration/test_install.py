"""The documented commands, in their order, on a real API server: installation, feature gate, uninstallation.

No registry and no kubelet exist here; ``tests/e2e/test_install_page.py`` has kubelets. A command that needs them is
listed with what stands in for it. A command of the page that is not listed fails the test, as does one that is listed
and no longer on the page.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi.domain import names
from localcluster.build import binary
from localcluster.controlplane import ControlPlane
from localcluster.processes import free_port
from localcluster.s3 import ROOT as OWNER
from localcluster.s3 import S3Server
from tests.campaigns.stolen_s3 import SETUPS, USERS, prepare
from tests.support.cluster import eventually
from tests.support.documented import ROOT, commands, section
from tests.support.helm import Helm
from tests.support.install_page import IMAGE, PREPARATION, SYSTEM, adapt_repository, five_commands, steps
from tests.support.kubevirt_crds import VERSION, install_kubevirt_crds
from tests.support.raw_api import Object, RawApi
from tools.chart.__main__ import own_images
from tools.chart.build import Release

GATES = ["ExpandDisks", "CPUManager"]
OTHERS = "example.org/backup"
KUBEVIRT = "/apis/kubevirt.io/v1/namespaces/kubevirt/kubevirts"
KINDS = "/apis/kigi.dev/v1alpha2/namespaces/default"


class World:
    """A checkout, a cluster with KubeVirt's objects, and a bucket; ``run`` is the shell of the person who installs."""

    def __init__(self, folder: Path, plane: ControlPlane, s3: S3Server) -> None:
        self.folder, self.plane, self.s3 = folder, plane, s3
        self.api = RawApi(plane.kubeconfig)
        self.operator: subprocess.Popen[bytes] | None = None
        self.log = folder / "operator.log"
        for name in ("manifests", "crds"):
            shutil.copytree(ROOT / name, folder / name)
        self.programs = folder / "bin"
        self.programs.mkdir()
        for name in ("kubectl", "kustomize"):
            (self.programs / name).symlink_to(binary(name))
        (self.programs / "kigi").write_text(f'#!/bin/sh\nexec {sys.executable} -m kigi.cli.main "$@"\n')
        (self.programs / "kigi").chmod(0o755)

    def run(self, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command as it is on the page."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "KIGI_", "POD_"))}
        env = {
            **kept,
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "KUBECONFIG": str(self.plane.kubeconfig),
            "KUBECACHEDIR": str(self.folder / "kubectl"),
            "AWS_ACCESS_KEY_ID": OWNER.access_key,
            "AWS_SECRET_ACCESS_KEY": OWNER.secret_key,
            "PYTHONPATH": str(ROOT / "operator"),
            "COLUMNS": "200",
        }
        done = subprocess.run(
            ["bash", "-ceu", command], cwd=self.folder, env=env, capture_output=True, text=True, timeout=180
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def start_operator(self) -> None:
        """What a kubelet does with the Deployment: its command, its account and its variables; then its report."""
        path = f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/kigi-operator"
        pod = self.api.get(path).object()["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert (container["image"], container["command"]) == (IMAGE, ["kigi-operator"])
        assert "KIGI_HOOK_IMAGE" not in str(container["env"])
        env = {
            "PATH": os.environ["PATH"],
            "POD_NAME": "kigi-operator-0",
            "POD_NAMESPACE": SYSTEM,
            "KUBECONFIG": str(self.plane.token_kubeconfig(SYSTEM, pod["serviceAccountName"])),
            "KIGI_HTTP_PORT": str(free_port()),
            "KIGI_RESYNC_SECONDS": "5",
            "PYTHONPATH": str(ROOT / "operator"),
        }
        with self.log.open("wb") as out:
            command = [sys.executable, "-m", "kigi.main"]
            self.operator = subprocess.Popen(command, env=env, stdout=out, stderr=out, cwd=self.folder)
        condition = {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable", "message": ""}
        report = {"status": {"conditions": [condition], "replicas": 2, "readyReplicas": 2}}
        self.api.patch(f"{path}/status", report).object()

    def stop_operator(self) -> None:
        if self.operator is not None:
            self.operator.kill()
            self.operator.wait(30)
            self.operator = None

    def gates(self) -> list[str]:
        spec = self.api.get(f"{KUBEVIRT}/kubevirt").object()["spec"]
        found: list[str] = spec["configuration"]["developerConfiguration"]["featureGates"]
        return found

    def reset_kubevirt(self, configuration: Any) -> None:
        """A deployed KubeVirt with that configuration; None: the field is absent."""
        self.api.delete(f"{KUBEVIRT}/kubevirt")
        spec = {} if configuration is None else {"configuration": configuration}
        body = {"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"}, "spec": spec}
        self.api.create(KUBEVIRT, body).object()
        status = {"status": {"phase": "Deployed", "observedKubeVirtVersion": VERSION}}
        self.api.patch(f"{KUBEVIRT}/kubevirt/status", status).object()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("install")
    with ControlPlane(folder / "plane") as plane, S3Server(folder / "s3", versions=True) as s3:
        prepare(s3)
        install_kubevirt_crds(plane)
        checkout = folder / "checkout"
        checkout.mkdir()
        made = World(checkout, plane, s3)
        plane.kubectl("create", "namespace", "kubevirt")
        made.reset_kubevirt({"developerConfiguration": {"featureGates": GATES}})
        yield made
        made.stop_operator()


def adapt(world: World) -> None:
    """What the page asks for: endpoint, bucket and keys."""
    path = world.folder / "manifests/examples/repositories.yaml"
    adapt_repository(path, world.s3.endpoint, SETUPS[1], USERS["reader"], USERS["writer"])


def has_command(world: World) -> None:
    """In place of pipx: the distribution has the program that the shell of this test runs."""
    assert 'kigi = "kigi.cli.main:main"' in (ROOT / "pyproject.toml").read_text()


Step = Callable[[World], None] | None
INSTALL: dict[str, tuple[Step, bool]] = {
    f"(cd manifests && kustomize edit set image kigi:dev={IMAGE})": (None, True),
    "kubectl apply --server-side -k manifests": (None, True),
    "kubectl -n kigi-system wait --for=condition=Available deployment/kigi-operator --timeout=5m": (
        World.start_operator,
        True,
    ),
    "pipx install '.[publish]'": (has_command, False),
    "kigi enable-hook": (None, True),
    "kubectl apply --server-side -f manifests/examples/repositories.yaml": (adapt, True),
    "kubectl wait --for=condition=Ready layerrepository/main --timeout=2m": (None, True),
    "kigi repository check main": (None, True),
    "kigi demo --keep --steps 1": (None, False),
}
"""Each command of the page: what happens before it, and whether it runs as it is."""


FIVE = (
    "helm install kigi dist/kigi-0.1.0.tgz --namespace kigi-system --create-namespace --wait --timeout 10m "
    "--set s3.enabled=true \\\n"
    "  --set images.operator.repository=registry.example/kigi --set images.daemon.repository=registry.example/kigi",
    "pipx install '.[publish]'",
    "kigi enable-hook",
    "kigi doctor",
    "kigi demo --keep --steps 1",
)
"""``tests/e2e/test_install_page.py`` runs them."""


def test_the_page_has_these_commands_in_this_order() -> None:
    assert steps() == list(INSTALL)
    assert five_commands() == list(FIVE)
    assert len(FIVE) == 5
    assert commands(section("README.md", "## Install on a cluster")) == [*PREPARATION, *FIVE, *INSTALL]


def test_the_chart_of_the_page_has_the_image_that_is_built(tmp_path: Path) -> None:
    """And all that the first command asks for."""
    helm = Helm(tmp_path, Release("0.1.0", own_images("0.1.0")))
    words = shlex.split(FIVE[0].replace("\\\n", " "))
    assert words[:4] == ["helm", "install", "kigi", f"dist/{helm.archive.name}"]
    sets = [word for before, word in itertools.pairwise(words) if before == "--set"]
    rendered = helm.template(*sets)
    pods = [each["spec"]["template"]["spec"] for each in rendered if each["kind"] in ("Deployment", "DaemonSet")]
    assert {container["image"] for pod in pods for container in pod["containers"]} == {IMAGE}
    (server,) = (each["spec"]["template"]["spec"] for each in rendered if each["kind"] == "StatefulSet")
    images = [container["image"] for part in ("initContainers", "containers") for container in server[part]]
    assert images == [IMAGE, "versity/versitygw:v1.8.0"], "a registry of one's own has no versitygw"
    assert [each["metadata"]["name"] for each in rendered if each["kind"] == "LayerRepository"] == ["main"]


def test_the_documented_commands_install_kigi(world: World) -> None:
    for command in steps():
        before, runs = INSTALL[command]
        if before is not None:
            before(world)
        if runs:
            world.run(command)
    assert world.gates() == [*GATES, "Sidecar"]
    (repository,) = json.loads(world.run("kubectl get layerrepositories -o json").stdout)["items"]
    assert {c["type"]: c["status"] for c in repository["status"]["conditions"]}["Ready"] == "True"
    log = world.log.read_text()
    assert "leading" in log
    assert "image of the operator not known" not in log, "its role lets it read its Deployment"


def test_the_commands_again_change_nothing(world: World) -> None:
    if world.operator is None:
        pytest.skip("nothing is installed")
    world.run("kubectl apply --server-side -k manifests")
    said = world.run("kigi enable-hook").stderr
    assert "its hook (Sidecar) is available already" in said
    assert world.gates() == [*GATES, "Sidecar"]


def by_hand(configuration: Any) -> tuple[str, str]:
    """The command of the page for a KubeVirt object with this configuration, and the one for the other case."""
    looks, appends, sets = commands(section("docs/install.md", "## The feature gate"))
    assert looks.startswith("kubectl -n kubevirt get kubevirt kubevirt -o jsonpath=")
    has_list = bool((configuration or {}).get("developerConfiguration", {}).get("featureGates"))
    return (appends, sets) if has_list else (sets, appends)


CONFIGURATIONS = {
    "gates are set": {"developerConfiguration": {"featureGates": GATES}},
    "an empty list": {"developerConfiguration": {"featureGates": []}},
    "no list": {"developerConfiguration": {"logVerbosity": {"virtAPI": 2}}},
    "no developerConfiguration": {"network": {"permitBridgeInterfaceOnPodNetwork": True}},
    "an empty configuration": {},
    "no configuration": None,
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS.values(), ids=list(CONFIGURATIONS))
def test_the_gate_is_added_and_nothing_else_changes(world: World, configuration: Any) -> None:
    """By ``kigi enable-hook`` and by the page's commands for kubectl."""
    command, _ = by_hand(configuration)
    before = (configuration or {}).get("developerConfiguration", {}).get("featureGates", [])
    for line in ("kigi enable-hook", command.replace("FIRST-OF-THE-LIST", GATES[0])):
        world.reset_kubevirt(configuration)
        world.run(line)
        spec = world.api.get(f"{KUBEVIRT}/kubevirt").object()["spec"]
        assert spec["configuration"]["developerConfiguration"].pop("featureGates") == [*before, "Sidecar"], line
        kept = json.loads(json.dumps(configuration or {}))
        kept.setdefault("developerConfiguration", {}).pop("featureGates", None)
        assert spec["configuration"] == kept


def test_the_commands_for_kubectl_remove_no_gate_that_was_set_meanwhile(world: World) -> None:
    world.reset_kubevirt({"developerConfiguration": {"featureGates": ["Another", *GATES]}})
    command, _ = by_hand({"developerConfiguration": {"featureGates": GATES}})
    refused = world.run(command.replace("FIRST-OF-THE-LIST", GATES[0]), check=False)
    assert refused.returncode != 0
    assert world.gates() == ["Another", *GATES]


def test_a_dry_run_changes_nothing(world: World) -> None:
    world.reset_kubevirt({"developerConfiguration": {"featureGates": GATES}})
    assert "feature gate Sidecar would be added" in world.run("kigi enable-hook --dry-run").stderr
    assert world.gates() == GATES


def test_gates_of_another_operator_are_left_to_it(world: World) -> None:
    world.reset_kubevirt({"developerConfiguration": {"featureGates": GATES}})
    label = {"metadata": {"labels": {"app.kubernetes.io/managed-by": "hco-operator"}}}
    world.api.patch(f"{KUBEVIRT}/kubevirt", label).object()
    refused = world.run("kigi enable-hook", check=False)
    assert refused.returncode == 1
    assert "belongs to HyperConverged kubevirt-hyperconverged" in refused.stderr
    assert "kubectl annotate --overwrite -n kubevirt hyperconverged" in refused.stderr
    assert world.gates() == GATES


def release_commands() -> list[str]:
    return commands(section("docs/uninstall.md", "## If the operator is gone already"))


def test_the_page_of_uninstallation_has_these_commands() -> None:
    assert release_commands() == [
        "kigi release --dry-run",
        "kigi release --yes",
        "kubectl delete persistentvolumes -l kigi.dev/deployment --wait=false",
        "kigi release --yes",
    ]


def leave_objects(world: World) -> None:
    """A deployment with its instance, a used state and a disk, as a running operator leaves them."""
    world.run("kubectl apply -f manifests/examples/systems.yaml -f manifests/examples/deployment.yaml")
    finalizers = f"{KINDS}/systemdeployments/office"
    eventually(
        lambda: names.DEPLOYMENT_FINALIZER in (world.api.get(finalizers).body["metadata"].get("finalizers") or ()),
        60,
        "the operator took the deployment",
    )
    eventually(lambda: world.api.get(f"{KINDS}/systeminstances/office-1").code == 200, 60, "it made the instance")
    world.stop_operator()
    used = {"metadata": {"finalizers": [names.IN_USE_FINALIZER, OTHERS]}}
    world.api.patch(f"{KINDS}/systemnodes/office-infected", used).object()
    world.api.create("/api/v1/persistentvolumes", volume("kigi.default.office.1.mail1.r1", names.OVERLAY_FINALIZER))
    world.api.create("/api/v1/persistentvolumes", volume("of-another-driver", OTHERS, driver="other.example.org"))


def volume(name: str, finalizer: str, driver: str = "disk.kigi.dev") -> Object:
    labels = {"kigi.dev/deployment": "office"} if driver == "disk.kigi.dev" else {}
    return {
        "metadata": {"name": name, "labels": labels, "finalizers": [finalizer]},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "csi": {"driver": driver, "volumeHandle": f"{name}.0a1b2c3d", "volumeAttributes": {"node": "node-a"}},
        },
    }


def hanging(world: World) -> dict[str, list[str]]:
    """Objects that --dry-run lists, with the finalizers that stay."""
    data = json.loads(world.run("kigi release --dry-run -o json").stdout)
    return {f"{one['kind']}/{one['name']}": one["others"] for one in data["hanging"]}


def test_objects_that_wait_for_a_deleted_operator_are_freed_by_the_documented_commands(world: World) -> None:
    """The order that the page warns of."""
    if world.operator is None:
        pytest.skip("nothing is installed")
    leave_objects(world)
    refused = world.run("kigi release --yes", check=False)
    assert (refused.returncode, f"Deployment {SYSTEM}/kigi-operator has replicas" in refused.stderr) == (1, True)
    assert hanging(world) == {}, "nothing is deleted yet"
    world.run("kubectl delete -k manifests --ignore-not-found --wait=false")
    expected = {"SystemDeployment/office", "SystemInstance/office-1", "SystemNode/office-infected"}
    eventually(lambda: expected <= hanging(world).keys(), 60, "the CRDs wait for these objects")
    assert hanging(world)["SystemNode/office-infected"] == [OTHERS]
    asked = world.run("kigi release < /dev/null", check=False)
    assert (asked.returncode, "give --yes" in asked.stderr) == (5, True)
    dry, first, volumes, second = release_commands()
    listed = world.run(dry).stdout
    assert "office-infected" in listed
    assert OTHERS in listed
    assert expected <= hanging(world).keys(), "a dry run and a question without an answer free nothing"
    world.run(first)
    assert hanging(world) == {}
    state = world.api.get(f"{KINDS}/systemnodes/office-infected").object()
    assert state["metadata"]["finalizers"] == [OTHERS], "the finalizers of others stay"
    world.run(volumes)
    protection = "kubernetes.io/pv-protection"
    assert hanging(world) == {"PersistentVolume/kigi.default.office.1.mail1.r1": [protection]}
    assert "the overlay kigi.default.office.1.mail1.r1.0a1b2c3d" in world.run(dry).stdout
    world.run(second)
    meta = world.api.get("/api/v1/persistentvolumes/kigi.default.office.1.mail1.r1").object()["metadata"]
    assert meta["finalizers"] == [protection], "Kubernetes removes its own"
    other = world.api.get("/api/v1/persistentvolumes/of-another-driver").object()["metadata"]
    assert (OTHERS in other["finalizers"], "deletionTimestamp" in other) == (True, False)
    world.api.patch(f"{KINDS}/systemnodes/office-infected", {"metadata": {"finalizers": None}})
    eventually(
        lambda: "kigi.dev" not in world.run("kubectl get crd -o name").stdout, 180, "the last CRD of Kigi is gone"
    )
    assert "no object waits" in world.run("kigi release --yes").stderr


@pytest.mark.parametrize("images", [1, 3])
def test_the_overlay_of_the_page_builds(tmp_path: Path, images: int) -> None:
    """With the components that it names, the setting of any kubelet directory, and one image or three."""
    text = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```yaml\n")[1:]]
    kustomization, three, root, patch = (yaml.safe_load(block) for block in blocks)
    kustomization |= patch
    if images == 3:
        kustomization |= {"images": three["images"], "components": kustomization["components"] + three["components"]}
    for name in ("manifests", "crds"):
        shutil.copytree(ROOT / name, tmp_path / name)
    folder = tmp_path / "kigi"
    folder.mkdir()
    kustomization["resources"].append("kubelet-root.yaml")
    kustomization["components"].append("../manifests/components/kubelet-root")
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    (folder / "kubelet-root.yaml").write_text(yaml.safe_dump(root))
    done = subprocess.run([binary("kustomize"), "build", folder], check=True, capture_output=True, text=True)
    objects = {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(done.stdout) if o}
    daemon = objects["DaemonSet", "kigi-node-cache"]
    assert daemon["metadata"]["namespace"] == "vm-range"
    pod = daemon["spec"]["template"]["spec"]
    image = {1: IMAGE, 3: IMAGE.replace("/kigi:", "/kigi-daemon:")}[images]
    assert {c["image"] for c in pod["containers"]} == {image}
    assert pod["imagePullSecrets"] == [{"name": "kigi-registry"}]
    assert {"name": "KIGI_KUBELET_ROOT", "value": "/srv/kubelet"} in pod["containers"][0]["env"]
    (subject,) = objects["ClusterRoleBinding", "kigi-disk-mount"]["subjects"]
    assert (subject["namespace"], subject["name"]) == ("harvester-system", "kubevirt-controller")


def test_every_component_is_named_on_the_page() -> None:
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    components = [path.name for path in (ROOT / "manifests/components").iterdir()]
    assert components
    assert [name for name in components if f"`{name}`" not in page] == []
