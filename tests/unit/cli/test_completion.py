"""The shell completes names from the cluster, and gets none, and no error, where the cluster cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete

from kigi.cli.completion import complete_states
from kigi.cli.main import app
from kigi.cli.verbs.switch import command as switch
from tests.support.answering import AnsweringServer


def complete(*words: str, incomplete: str = "") -> list[str]:
    return [item.value for item in BashComplete(app, {}, "kigi", "_").get_completions(list(words), incomplete)]


def names(*names: str) -> tuple[int, object]:
    return 200, {"metadata": {}, "items": [{"metadata": {"name": name}} for name in names]}


def test_names_are_completed_in_the_namespace_and_cluster_of_the_line(tmp_path: Path) -> None:
    with AnsweringServer(lambda method, path: names("office", "other", "lab")) as server:
        config = str(server.kubeconfig(tmp_path / "kubeconfig"))
        assert complete("switch", "--kubeconfig", config, "-n", "team", incomplete="o") == ["office", "other"]
        assert complete("switch", "--kubeconfig", config, "office") == ["lab", "office", "other"]
        paths = [path.partition("?")[0] for _, path, _, _ in server.asked]
    assert [path.partition("/namespaces/")[2] for path in paths] == ["team/systemdeployments", "range/systemnodes"]


@pytest.mark.parametrize("content", [None, "a: b: c", "{}", "{current-context: x}"])
def test_without_a_cluster_there_are_no_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "kubeconfig").write_text(content)
    for name in [name for name in os.environ if name.startswith("KUBE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    assert complete("switch", incomplete="o") == []


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_without_the_right_there_are_no_names(tmp_path: Path, status: int) -> None:
    with AnsweringServer(lambda method, path: (status, {})) as server:
        config = str(server.kubeconfig(tmp_path / "kubeconfig"))
        assert complete("status", "--kubeconfig", config) == []


def test_a_fault_in_the_code_is_not_hidden() -> None:
    context = click.Context(switch)
    context.params = {"kubeconfig": 5}
    with pytest.raises(TypeError):
        complete_states(context, switch.params[1], "")


@pytest.mark.parametrize(
    ("words", "found"), [(("completion",), ["bash", "zsh", "fish"]), (("delete",), ["image", "state"])]
)
def test_choices_are_completed(words: tuple[str, ...], found: list[str]) -> None:
    assert complete(*words) == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_calls_kigi(shell: str) -> None:
    from click.testing import CliRunner

    done = CliRunner().invoke(app, ["completion", shell])
    assert done.exit_code == 0
    assert f"_KIGI_COMPLETE={shell}_complete" in done.output
