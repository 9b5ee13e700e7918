"""What verbs make of their arguments before they use a cluster or a repository."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kigi.cli.choice import Chosen
from kigi.cli.cluster import Access
from kigi.cli.keep import capture_spec
from kigi.cli.named_layers import Sources, read_digests
from kigi.cli.repositories import default_layers_dir
from kigi.cli.verbs.console import refusal
from kigi.cli.verbs.diff import two_names
from kigi.cli.verbs.export import which
from kigi.cli.verbs.gc import parse_age
from kigi.cli.verbs.import_ import _at
from kigi.cli.verbs.plan import load
from kigi.cli.verbs.reset import WEEK_S, reset_spec
from kigi.domain.images import Image
from kigi.domain.layers import Digest
from kigi.domain.systems import System
from kigi.errors import DeploymentMissing, Forbidden, ImageMissing, KigiError, SpecInvalid

DIGEST = Digest("sha256:" + "1" * 64)


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("0s", timedelta()),
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("24h", timedelta(days=1)),
        ("7d", timedelta(days=7)),
    ],
)
def test_an_age_is_a_number_with_a_unit(text: str, age: timedelta) -> None:
    assert parse_age(text) == age


@pytest.mark.parametrize("text", ["", "7", "d", "1.5h", "-1d", "1w", "1 d", "1234567d", "7d "])
def test_another_age_is_refused(text: str) -> None:
    with pytest.raises(SpecInvalid, match="write 30m, 24h or 7d"):
        parse_age(text)


IMAGES = {name: Image(name, DIGEST, 1, 512) for name in ("web", "both")}
SYSTEMS = {name: System(name) for name in ("lab", "both")}


@pytest.mark.parametrize(
    ("node", "found"),
    [
        ("lab", ("lab", None)),
        ("web", (None, "web")),
        ("state/both", ("both", None)),
        ("image/both", (None, "both")),
    ],
)
def test_a_node_to_export_is_a_state_or_an_image(node: str, found: tuple[str | None, str | None]) -> None:
    assert which(node, IMAGES, SYSTEMS) == found


@pytest.mark.parametrize(
    ("node", "error", "words"),
    [
        ("both", SpecInvalid, "state/both or image/both"),
        ("pod/web", SpecInvalid, "state/NAME or image/NAME"),
        ("state/web", ImageMissing, "no valid state web"),
        ("image/lab", ImageMissing, "no valid image lab"),
        ("nothing", ImageMissing, "no valid state or image nothing"),
    ],
)
def test_another_node_is_refused(node: str, error: type[KigiError], words: str) -> None:
    with pytest.raises(error, match=words):
        which(node, IMAGES, SYSTEMS)


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, SpecInvalid, "log in again"),
        (403, Forbidden, "virtualmachineinstances/console"),
        (404, DeploymentMissing, "does not run; see kigi status"),
        (503, SpecInvalid, "answers 503 busy"),
    ],
)
def test_a_refused_console_names_the_remedy(status: int, error: type[KigiError], words: str) -> None:
    found = refusal(status, "busy", "VM ns/office-0-web", "https://server")
    assert type(found) is error
    assert words in str(found)


@pytest.mark.parametrize("words", [("a", "b"), ("a..b",)])
def test_a_difference_is_of_two_states(words: tuple[str, ...]) -> None:
    assert two_names(words) == ("a", "b")


@pytest.mark.parametrize("words", [("a",), ("a..",), ("..b",), ("a..b..c",), ("a", "b", "c"), ("a", "")])
def test_another_number_of_states_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(SpecInvalid, match=r"name two states as A B or A\.\.B"):
        two_names(words)


def test_a_capture_has_only_the_fields_that_are_given() -> None:
    plain = {"instanceRef": {"name": "office-2"}, "requestedBy": "alice"}
    assert capture_spec("office-2", (), None, None, "alice") == plain
    full = {
        **plain,
        "quiescePolicy": "PauseOnly",
        "machines": ["web", "db"],
        "target": {"description": ""},
    }
    assert capture_spec("office-2", ("web", "db"), "", "PauseOnly", "alice") == full


def test_a_reset_names_what_was_given_and_the_caller() -> None:
    everything = Chosen("range", "office", None, (), ("1", "2"), (), is_everything=True)
    assert reset_spec(everything, "alice", None, WEEK_S) == {
        "deploymentRef": {"name": "office"},
        "requestedBy": "alice",
        "ttlSecondsAfterFinished": WEEK_S,
    }
    some = Chosen("range", "office", None, (), ("7", "9"), ("db", "web"), is_everything=False)
    assert reset_spec(some, "alice", "lunch", 0) == {
        "deploymentRef": {"name": "office"},
        "requestedBy": "alice",
        "instances": ["7", "9"],
        "machines": ["db", "web"],
        "reason": "lunch",
        "ttlSecondsAfterFinished": 0,
    }


def test_a_file_has_objects_with_names(tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text("---\nkind: A\nmetadata: {name: a}\n---\n---\nkind: B\nmetadata: {name: b}\n")
    assert [each["kind"] for each in load(file)] == ["A", "B"]


@pytest.mark.parametrize("text", [None, "a: b: c", "[1]", "text", "kind: A", "kind: A\nmetadata: {}"])
def test_another_file_is_refused_with_its_name(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "objects.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SpecInvalid, match=r"objects\.yaml"):
        load(file)


def test_a_list_of_digests_may_have_comments(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text(f"# of another cluster\n\n  {DIGEST}  \n")
    assert read_digests(file) == [DIGEST]


@pytest.mark.parametrize("text", [None, "sha256:abc", f"{DIGEST} {DIGEST}", DIGEST.upper()])
def test_a_list_with_anything_else_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "list").write_text(text)
    with pytest.raises(SpecInvalid, match="list"):
        read_digests(tmp_path / "list")


def test_a_further_cluster_needs_its_kubeconfig(tmp_path: Path) -> None:
    Sources(Access()).check()
    with pytest.raises(SpecInvalid, match=r"--also: .*absent is no file"):
        Sources(Access(), [tmp_path / "absent"]).check()


@pytest.mark.parametrize(
    ("repository", "place"),
    [(None, {}), ("far", {"repositoryRef": {"name": "far"}})],
)
def test_an_imported_image_is_in_the_repository_of_this_site(repository: str | None, place: dict[str, Any]) -> None:
    spec = {"layer": {"digest": DIGEST}, "repositoryRef": {"name": "theirs"}, "guest": {"os": "linux"}}
    assert _at(repository, spec) == {"layer": {"digest": DIGEST}, "guest": {"os": "linux"}, **place}
    assert spec["repositoryRef"] == {"name": "theirs"}


def test_layers_are_kept_in_the_cache_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KIGI_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_layers_dir() == Path("/cache/kigi/published")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_layers_dir() == Path("/home/me/.cache/kigi/published")
    monkeypatch.setenv("KIGI_CACHE", "/kigi")
    assert default_layers_dir() == Path("/kigi/published")
