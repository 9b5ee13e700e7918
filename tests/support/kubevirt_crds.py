"""KubeVirt's CRDs with its own schemas, read from its Go module at run time; this repository has no copy."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from localcluster.controlplane import ControlPlane
from localcluster.definitions import wait_until_served
from localcluster.kubevirt import DEFAULT_RELEASE, RELEASES

VERSION = RELEASES[DEFAULT_RELEASE].version
PLUGIN_VERSION = RELEASES["1.9"].version
KINDS = {
    "virtualmachine": ("VirtualMachine", "virtualmachines", ["vm", "vms"]),
    "virtualmachineinstance": ("VirtualMachineInstance", "virtualmachineinstances", ["vmi", "vmis"]),
    "kubevirt": ("KubeVirt", "kubevirts", ["kv", "kvs"]),
}
_SCHEMAS = "pkg/virt-operator/resource/generate/components/validations_generated.go"


def schemas() -> dict[str, Any]:
    """Singular name -> schema of each of KubeVirt's kinds."""
    command = ["go", "mod", "download", "-json", f"kubevirt.io/kubevirt@{VERSION}"]
    module = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    text = (Path(module["Dir"]) / _SCHEMAS).read_text()
    found = re.findall(r'^\t"([a-z]+)": `(.*?)`,$', text, re.MULTILINE | re.DOTALL)
    return {name: yaml.load(body, yaml.CSafeLoader)["openAPIV3Schema"] for name, body in found if name in KINDS}


def install_kubevirt_crds(api: ControlPlane) -> None:
    """Let the API server serve VirtualMachines, their VMIs and KubeVirt objects, like KubeVirt."""
    crds = []
    for singular, schema in schemas().items():
        kind, plural, short = KINDS[singular]
        version = {
            "name": "v1",
            "served": True,
            "storage": True,
            "schema": {"openAPIV3Schema": schema},
            # In KubeVirt a VMI has no status subresource: its components write the whole object.
            "subresources": {} if singular == "virtualmachineinstance" else {"status": {}},
        }
        names = {"kind": kind, "plural": plural, "singular": singular, "shortNames": short}
        spec = {"group": "kubevirt.io", "names": names, "scope": "Namespaced", "versions": [version]}
        crds.append(
            {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": f"{plural}.kubevirt.io"},
                "spec": spec,
            }
        )
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": crds})
    api.kubectl("apply", "--server-side", "-f", "-", input_text=text)
    wait_until_served(api.kubectl)


def install_plugin_crd(api: ControlPlane) -> None:
    """Let the API server serve Plugins, like KubeVirt 1.9."""
    command = ["go", "mod", "download", "-json", f"kubevirt.io/kubevirt@{PLUGIN_VERSION}"]
    module = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    text = (Path(module["Dir"]) / _SCHEMAS).read_text()
    (body,) = re.findall(r'^\t"plugin": `(.*?)`,$', text, re.MULTILINE | re.DOTALL)
    schema = yaml.load(body, yaml.CSafeLoader)["openAPIV3Schema"]
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": "Plugin", "plural": "plugins", "singular": "plugin"}
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "plugins.plugin.kubevirt.io"},
        "spec": {"group": "plugin.kubevirt.io", "names": names, "scope": "Cluster", "versions": [version]},
    }
    api.kubectl("apply", "--server-side", "-f", "-", input_text=json.dumps(crd))
    wait_until_served(api.kubectl)


def install_kubevirt_object(api: ControlPlane, version: str = VERSION, gates: tuple[str, ...] = ("Sidecar",)) -> None:
    """Create a KubeVirt object that is Deployed and has these feature gates."""
    spec = {"configuration": {"developerConfiguration": {"featureGates": list(gates)}}}
    body = {"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"}, "spec": spec}
    api.kubectl("apply", "--server-side", "-n", "default", "-f", "-", input_text=json.dumps(body))
    status = json.dumps({"status": {"phase": "Deployed", "observedKubeVirtVersion": version}})
    api.kubectl("patch", "-n", "default", "kubevirt/kubevirt", "--subresource=status", "--type=merge", "-p", status)
