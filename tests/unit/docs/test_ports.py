"""The page of ports states what the manifests and the defaults of the settings state, and no more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kigi.runtime.settings import Settings
from kigi_cache.settings import DaemonSettings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/ports.md").read_text()
WORKLOADS = ("Deployment", "DaemonSet")


def objects() -> Iterator[dict[str, Any]]:
    for folder in ("operator", "daemon"):
        for path in sorted((ROOT / "manifests" / folder).glob("*.yaml")):
            yield from (each for each in yaml.safe_load_all(path.read_text()) if each)


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its two first lines."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\|(.*)\|$", part, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines[2:]]


def container_ports() -> dict[str, tuple[int, str]]:
    """``kind/name of the port`` -> number and the variable that sets it, of all pods of Kigi."""
    found = {}
    for body in objects():
        if body["kind"] in WORKLOADS:
            for container in body["spec"]["template"]["spec"]["containers"]:
                for port in container.get("ports", ()):
                    found[f"{body['kind']}/{port['name']}"] = port["containerPort"], container["name"]
    return found


def test_the_ports_are_those_of_the_pods() -> None:
    listed = {(int(row[0]), row[2]) for row in rows("Ports of Kigi")}
    who = {"operator": "operator", "cache": "node cache daemon"}
    assert listed == {(number, who[container]) for number, container in container_ports().values()}


def test_the_ports_are_the_defaults_of_the_settings() -> None:
    listed = {row[5].strip("`"): int(row[0]) for row in rows("Ports of Kigi")}
    assert Settings().http_port == listed["KIGI_HTTP_PORT"]
    assert DaemonSettings.model_fields["http_address"].default.port == listed["KIGI_HTTP_ADDR"]
    values = {
        one["name"]: one.get("value")
        for body in objects()
        if body["kind"] in WORKLOADS
        for container in body["spec"]["template"]["spec"]["containers"]
        for one in container.get("env", ())
    }
    for name, number in listed.items():
        assert values.get(name, f":{number}") == f":{number}", name


def test_no_pod_uses_the_hosts_network_or_ports_and_no_service_is_open() -> None:
    for body in objects():
        if body["kind"] in WORKLOADS:
            spec = body["spec"]["template"]["spec"]
            assert not spec.get("hostNetwork", False)
            assert not any("hostPort" in port for one in spec["containers"] for port in one.get("ports", ()))
        if body["kind"] == "Service":
            assert body["spec"].get("type", "ClusterIP") == "ClusterIP"


def test_the_network_policies_are_those_of_the_manifests() -> None:
    found = set()
    pods = {"kigi-operator": "operator", "kigi-node-cache": "node cache daemon"}
    for body in objects():
        if body["kind"] == "NetworkPolicy":
            assert body["spec"]["policyTypes"] == ["Ingress"]
            for rule in body["spec"]["ingress"]:
                (source,) = rule["from"]
                label = source.get("namespaceSelector", {}).get("matchLabels")
                text = f"namespaces with the label `kigi-metrics: {label['kigi-metrics']}`" if label else ""
                found |= {
                    (pods[body["metadata"]["name"]], text or "the other daemons", p["port"]) for p in rule["ports"]
                }
    assert {tuple(row) for row in rows("NetworkPolicies")} == found


def test_every_port_has_a_default_and_every_number_is_on_the_page() -> None:
    for number, _ in container_ports().values():
        assert f"| {number} |" in PAGE
