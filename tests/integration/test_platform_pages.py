"""Overlays and objects of docs/platforms are exact: they render, and API server and KubeVirt's sources take them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.controlplane import ControlPlane
from tests.support.kubevirt_crds import VERSION, install_kubevirt_crds

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs/platforms"
OVERLAYS = ["openshift", "k0s", "microk8s", "harvester", "talos"]
KUBELETS = {"k0s": "/var/lib/k0s/kubelet", "microk8s": "/var/snap/microk8s/common/var/lib/kubelet"}
USUAL = "/var/lib/kubelet"
Object = dict[str, Any]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```$", (PAGES / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)


def overlay(page: str) -> str:
    (found,) = [block for block in blocks(page) if block.startswith("# kustomization.yaml\n")]
    return found


@pytest.fixture(scope="module")
def plane(crds: ControlPlane) -> ControlPlane:
    install_kubevirt_crds(crds)
    crds.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/namespace.yaml"))
    return crds


@pytest.fixture(scope="module", params=OVERLAYS)
def rendered(request: pytest.FixtureRequest, plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(name of the page, text that kustomize makes of its overlay beside a copy of the manifests)."""
    root = tmp_path_factory.mktemp(request.param)
    for folder in ("manifests", "crds"):
        shutil.copytree(ROOT / folder, root / folder)
    (root / "overlay").mkdir()
    (root / "overlay/kustomization.yaml").write_text(overlay(request.param))
    return request.param, plane.kubectl("kustomize", str(root / "overlay"))


def one(text: str, kind: str, name: str) -> Object:
    (found,) = [each for each in yaml.safe_load_all(text) if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return dict(found)


def test_the_server_takes_what_the_overlay_renders(plane: ControlPlane, rendered: tuple[str, str]) -> None:
    _, text = rendered
    plane.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
        input_text=text,
    )


def test_the_overlay_makes_what_the_page_states(rendered: tuple[str, str]) -> None:
    page, text = rendered
    daemon = one(text, "DaemonSet", "kigi-node-cache")["spec"]["template"]["spec"]
    hosts = {volume["name"]: volume["hostPath"]["path"] for volume in daemon["volumes"] if "hostPath" in volume}
    cache = daemon["containers"][0]
    mounts = {mount["name"]: mount["mountPath"] for mount in cache["volumeMounts"]}
    kubelet = KUBELETS.get(page, USUAL)
    assert hosts["kubelet"] == mounts["kubelet"] == kubelet, "the daemon uses the kubelet's paths unchanged"
    assert {"name": "KIGI_KUBELET_ROOT", "value": kubelet} in cache["env"]
    assert kubelet == USUAL or USUAL not in json.dumps(daemon).replace(kubelet, ""), "one place was left out"
    assert mounts["cache"] == "/var/lib/kigi", "the directory in the container stays"
    assert hosts["captures"] == f"{hosts['cache']}/captures", "both must be on one file system"
    subject = one(text, "ClusterRoleBinding", "kigi-disk-mount")["subjects"][0]["namespace"]
    assert (hosts["cache"], subject) == {
        "harvester": ("/var/lib/harvester/defaultdisk/kigi", "harvester-system"),
        "talos": ("/var/mnt/kigi", "kubevirt"),
        "openshift": ("/var/lib/kigi", "openshift-cnv"),
    }.get(page, ("/var/lib/kigi", "kubevirt"))


def test_openshift_gets_its_binding_and_no_fixed_user(rendered: tuple[str, str]) -> None:
    page, text = rendered
    operator = one(text, "Deployment", "kigi-operator")["spec"]["template"]["spec"]["securityContext"]
    assert ("runAsUser" in operator) == (page != "openshift")
    assert ("system:openshift:scc:privileged" in text) == (page == "openshift")


@pytest.mark.parametrize("page", KUBELETS)
def test_kubevirt_takes_its_object(plane: ControlPlane, page: str) -> None:
    (block,) = [each for each in blocks(page) if "kind: KubeVirt\n" in each]
    document = yaml.safe_load(block)
    document["metadata"]["namespace"] = "default"
    plane.kubectl(
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
        input_text=yaml.safe_dump(document),
    )
    customized = document["spec"]["customizeComponents"]
    sources = kubevirt_sources()
    for flag, value in customized["flags"]["handler"].items():
        assert f'"{flag}"' in sources["cmd/virt-handler/virt-handler.go"]
        assert value.startswith(KUBELETS[page])
    (patch,) = customized["patches"]
    spec = json.loads(patch["patch"])["spec"]["template"]["spec"]
    for volume in spec["volumes"]:
        assert f'{{"{volume["name"]}", ' in sources["pkg/virt-operator/resource/generate/components/daemonsets.go"]
        assert volume["hostPath"]["path"].startswith(KUBELETS[page])
    assert spec["containers"][0]["volumeMounts"][0]["mountPath"] == KUBELETS[page]


def kubevirt_sources() -> dict[str, str]:
    command = ["go", "mod", "download", "-json", f"kubevirt.io/kubevirt@{VERSION}"]
    module = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    names = ("cmd/virt-handler/virt-handler.go", "pkg/virt-operator/resource/generate/components/daemonsets.go")
    return {name: (Path(module["Dir"]) / name).read_text() for name in names}


def test_every_page_states_what_was_not_run_and_every_block_is_valid() -> None:
    pages = sorted(path.stem for path in PAGES.glob("*.md") if path.stem != "README")
    assert len(pages) == 9
    overview = (PAGES / "README.md").read_text()
    for page in pages:
        text = (PAGES / f"{page}.md").read_text()
        assert re.search(r"^## Not run\n\n\S", text, re.MULTILINE), page
        assert f"({page}.md)" in overview
        for block in blocks(page):
            list(yaml.safe_load_all(block))
