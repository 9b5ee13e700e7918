"""The commands in README match the examples that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "manifests/examples"


def _objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((EXAMPLES / name).read_text(encoding="utf-8")))


def test_readme_publishes_every_image_of_its_states_parents_first() -> None:
    published: list[str] = []
    for name, parent in re.findall(r"kigi publish \S+ --name (\S+)(?: --parent (\S+))? --apply", README):
        assert not parent or parent in published
        published.append(name)
    machines = [machine for state in _objects("systems.yaml") for machine in state["spec"]["machines"]]
    assert {m["rootDisk"]["imageRef"]["name"] for m in machines if "rootDisk" in m} <= set(published)


def test_readme_uses_the_deployment_and_states_of_the_examples() -> None:
    (deployment,) = _objects("deployment.yaml")
    states = {state["metadata"]["name"] for state in _objects("systems.yaml")}
    named = re.findall(r"(?:ksd |systemdeployment/|kigi (?:plan|reset|capture) )([a-z-]+)", README)
    assert set(named) == {deployment["metadata"]["name"]}
    switched = re.findall(r'"system":\{"name":"([a-z-]+)"\}|--system ([a-z-]+)', README)
    assert {state for pair in switched for state in pair if state} <= states
    assert switched


def test_every_file_in_readme_exists() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    assert linked
    assert [path for path in linked if not (ROOT / path).exists()] == []
