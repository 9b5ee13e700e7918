"""Which objects ``kigi why`` is asked about, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kigi.cli.causes import CAUSES
from kigi.cli.cluster import Access
from kigi.cli.output import Format
from kigi.cli.verbs.why import KINDS, NO_REMEDY, chosen, print_explanation
from kigi.errors import SpecInvalid
from tests.support.answering import AnsweringServer

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("SystemDeployment", "office"): {},
    ("SystemNode", "office"): {},
    ("VMImageNode", "base"): {},
    ("LayerRepository", "main"): {},
    ("SystemQuota", "lab"): {},
    ("SystemReset", "lunch"): {},
}


@pytest.mark.parametrize(
    ("subject", "kind"),
    [
        ("office", "SystemDeployment"),
        ("ksys/office", "SystemNode"),
        ("systemnode/office", "SystemNode"),
        ("systemnodes/office", "SystemNode"),
        ("SystemNode/office", "SystemNode"),
        ("kimg/base", "VMImageNode"),
        ("krepo/main", "LayerRepository"),
        ("layerrepository/main", "LayerRepository"),
        ("kquota/lab", "SystemQuota"),
        ("kreset/lunch", "SystemReset"),
    ],
)
def test_a_subject_names_one_object(subject: str, kind: str) -> None:
    assert chosen(BODIES, subject) == [(kind, subject.rpartition("/")[2])]


def test_without_a_subject_all_objects_are_explained() -> None:
    assert chosen(BODIES, None) == sorted(BODIES)


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ("base", "no SystemDeployment base"),
        ("kimg/office", "no VMImageNode office"),
        ("pod/office", "'pod' is none of Kigi's kinds: systemdeployments"),
    ],
)
def test_an_unknown_subject_is_refused(subject: str, words: str) -> None:
    with pytest.raises(SpecInvalid, match=words):
        chosen(BODIES, subject)


def test_the_short_names_are_those_of_the_crds() -> None:
    folder = Path(__file__).parents[4] / "crds"
    for short, resource in KINDS.items():
        text = (folder / f"{resource.plural}.{resource.group}.yaml").read_text()
        assert f"- {short}\n" in text.partition("shortNames:")[2]


@pytest.mark.parametrize("reason", ["AccessDenied", "Copying"])
def test_a_reason_is_explained_without_a_cluster(
    reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = Access(str(tmp_path / "absent"))
    assert print_explanation(nowhere, reason, Format.JSON) == 0
    assert json.loads(capsys.readouterr().out) == {"reason": reason, **CAUSES[reason]._asdict()}
    assert print_explanation(nowhere, reason, Format.TABLE) == 0
    assert (CAUSES[reason].remedy or NO_REMEDY) in capsys.readouterr().out


@pytest.mark.parametrize("plural", ["nodecaches", "layerrepositories", "systemquotas"])
def test_kinds_of_the_cluster_are_left_out_for_those_who_may_not_read_them(plural: str, tmp_path: Path) -> None:
    def reply(method: str, path: str) -> tuple[int, Any]:
        return (403, {}) if f"/{plural}" in path else (200, {"metadata": {}, "items": []})

    with AnsweringServer(reply) as server:
        assert print_explanation(Access(str(server.kubeconfig(tmp_path / "kubeconfig"))), None, Format.TABLE) == 0


@pytest.mark.parametrize(("status", "code"), [("True", 0), ("False", 3)])
def test_the_exit_code_tells_whether_everything_is_ready(
    status: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = {"type": "Ready", "status": status, "reason": "NoNode", "message": "0 of 2 [nodes]"}
    body = {
        "metadata": {"name": "office", "namespace": "range", "generation": 1},
        "spec": {"system": {"name": "a"}},
        "status": {"observedGeneration": 1, "conditions": [ready]},
    }

    def reply(method: str, path: str) -> tuple[int, Any]:
        return 200, {"metadata": {}, "items": [body] if "/systemdeployments" in path else []}

    with AnsweringServer(reply) as server:
        access = Access(str(server.kubeconfig(tmp_path / "kubeconfig")))
        assert print_explanation(access, None, Format.TABLE) == code
    text = capsys.readouterr().out
    assert ("0 of 2 [nodes]" in text, "everything is ready" in text) == (code == 3, code == 0)
