"""The page of names lists what the code and the manifests use, and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from kigi.api import conditions
from kigi.domain import names
from tools.namesdoc import NAMESPACE_LABELS, VERBS, constants, described, render_names

ROOT = Path(__file__).parents[3]
SOURCES = [
    path for folder in ("operator/kigi", "node-cache-daemon/kigi_cache") for path in (ROOT / folder).rglob("*.py")
]
OLD_NAMES = ROOT / "operator" / "kigi" / "migration" / "names.py"
"""Names of v1alpha1, which Kigi reads once and never writes."""
KEY = re.compile(r"^([a-z.]+\.)?kigi\.dev/[a-z][-a-z]*$")
KUBERNETES_VERBS = {
    "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection",
    "use", "bind", "escalate", "impersonate", "approve", "sign", "attest",
}  # fmt: skip


def section(title: str) -> str:
    (text,) = re.findall(rf"^## {title}$(.*?)(?=^## |\Z)", render_names(), re.MULTILINE | re.DOTALL)
    return str(text)


def listed(title: str) -> set[str]:
    return set(re.findall(r"^\| `([^`]+)` \|", section(title), re.MULTILINE))


def literals(path: Path) -> Iterator[str]:
    """The texts in a source file, f-strings with their constants, without docstrings."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_key_in_the_manifests_is_listed() -> None:
    keys = {
        key
        for folder in ("manifests", "crds", "scenario")
        for path in (ROOT / folder).rglob("*.yaml")
        for key in re.findall(r"[a-z.]*kigi\.dev/[a-z][-a-z]*\b(?!\d)", path.read_text(encoding="utf-8"))
        if KEY.match(key) and not re.fullmatch(r"(node\.)?kigi\.dev/v", key)
    }
    others = {"disk.kigi.dev/csi", "plugins/disk.kigi.dev", "kigi.dev/docs"}  # paths, and the address of the docs
    assert keys - others <= listed("Labels") | listed("Annotations") | listed("Finalizers")


def test_keys_are_written_in_one_module_only() -> None:
    """So that the page, which is made from that module, is complete."""
    found = {
        (str(path.relative_to(ROOT)), text)
        for path in SOURCES
        for text in literals(path)
        if KEY.match(text) and path not in (OLD_NAMES, Path(str(names.__file__)))
    }
    assert found == set()


@pytest.mark.parametrize("title", ["Labels", "Annotations", "Finalizers", "Conditions"])
def test_every_listed_name_is_used(title: str) -> None:
    module: ModuleType = conditions if title == "Conditions" else names
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    for value in listed(title):
        (constant,) = [name.constant for name in constants(module) if name.value == value]
        assert len(re.findall(rf"\b{constant}\b", text)) > 1, f"{constant} is not used"


def test_types_of_conditions_are_constants_of_one_module() -> None:
    """A literal or a constant elsewhere would be missing on the page."""
    known = {name.constant for name in constants(conditions)}
    found = {
        (str(path.relative_to(ROOT)), ast.unparse(node.args[0]))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Finding" and node.args
    }
    assert "READY" in {text for _, text in found}
    variables = {text for _, text in found if text.isidentifier() and text.islower()}
    assert {(path, text) for path, text in found if text not in known | variables} == set()


def test_labels_of_namespaces_in_the_manifests_are_listed() -> None:
    found: set[str] = set()
    for path in [*(ROOT / "manifests/operator").glob("*.yaml"), *(ROOT / "manifests/daemon").glob("*.yaml")]:
        for selector in re.findall(r"namespaceSelector:\s+matchLabels: \{([^}]*)\}", path.read_text(encoding="utf-8")):
            found |= {pair.partition(":")[0].strip() for pair in selector.split(",")}
    assert {key for key in found if not key.startswith("kubernetes.io/")} == NAMESPACE_LABELS.keys()


def test_verbs_of_our_own_are_those_of_the_roles() -> None:
    verbs: set[str] = set()
    for path in (ROOT / "manifests/rbac").glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            verbs |= {verb for rule in document.get("rules") or () for verb in rule["verbs"]}
    assert verbs - KUBERNETES_VERBS == VERBS.keys() == listed("Verbs")


def test_texts_are_short_enough_for_the_size_of_a_status() -> None:
    """The worst-case sizes count 63 characters for the type and the reason of a condition."""
    for title in ("Conditions", "Reasons"):
        assert max(map(len, listed(title))) <= 63


def test_a_constant_without_a_meaning_is_named(tmp_path: Path) -> None:
    module = ModuleType("words")
    module.__file__ = str(tmp_path / "words.py")
    Path(module.__file__).write_text('A = "a"\n"""First\nletter, see ``B``."""\nB = "b"\nC = 3\nd = "d"\n')
    exec(compile(Path(module.__file__).read_text(), "words", "exec"), vars(module))
    found = list(constants(module))
    assert found == [("A", "a", "First letter, see `B`."), ("B", "b", "")]
    assert described(found[:1]) == [("`a`", "First letter, see `B`.")]
    with pytest.raises(ValueError, match="B: no text below it"):
        described(found)
