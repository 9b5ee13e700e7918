"""What verbs make of their arguments before they use a cluster or a repository."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kigi.cli.cluster import Access
from kigi.cli.named_layers import Sources, read_digests
from kigi.cli.repositories import RepositoryChoice, default_layers_dir
from kigi.cli.verbs.capture import capture_spec
from kigi.cli.verbs.console import refusal
from kigi.cli.verbs.diff import two_names
from kigi.cli.verbs.export import which
from kigi.cli.verbs.gc import parse_age
from kigi.cli.verbs.import_ import _at
from kigi.cli.verbs.plan import load
from kigi.cli.verbs.reset import new_token
from kigi.domain.images import Image
from kigi.domain.layers import Digest
from kigi.domain.systems import System
from kigi.errors import DeploymentMissing, Forbidden, ImageMissing, KigiError, RepositoryUnknown, SpecInvalid

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
    plain = {"deployment": {"name": "office"}, "instance": 2}
    assert capture_spec("office", 2, (), None, quiesce=True) == {**plain, "quiesce": "Auto"}
    full = {**plain, "quiesce": "Pause", "machines": ["web", "db"], "description": ""}
    assert capture_spec("office", 2, ("web", "db"), "", quiesce=False) == full


def test_each_reset_token_is_new_and_has_the_time() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    tokens = {new_token(now) for _ in range(20)}
    assert len(tokens) > 1
    assert all(token.startswith("kigi-20260102T030405Z-") for token in tokens)


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
    ("repository", "layer"),
    [("default", {"digest": DIGEST}), ("far", {"digest": DIGEST, "repository": "far"})],
)
def test_an_imported_image_is_in_the_repository_of_this_site(repository: str, layer: dict[str, Any]) -> None:
    spec = {"layer": {"digest": DIGEST, "repository": "theirs"}, "os": "linux"}
    assert _at(repository, spec) == {"layer": layer, "os": "linux"}
    assert spec["layer"] == {"digest": DIGEST, "repository": "theirs"}


SETTINGS = "repositories: {default: {endpoint: 'http://a', bucket: one}, far: {endpoint: 'http://b', bucket: two}}"


def test_options_replace_server_and_bucket_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KIGI_S3_ENDPOINT", "KIGI_S3_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    settings = tmp_path / "repositories.yaml"
    settings.write_text(SETTINGS)
    found = [
        RepositoryChoice(settings).load(),
        RepositoryChoice(settings, "far").load(),
        RepositoryChoice(settings, "far", bucket="three").load(),
        RepositoryChoice(None, endpoint="http://c", bucket="four").load(),
    ]
    assert [(each.endpoint, each.bucket) for each in found] == [
        ("http://a", "one"),
        ("http://b", "two"),
        ("http://b", "three"),
        ("http://c", "four"),
    ]
    with pytest.raises(RepositoryUnknown, match="'none' is not configured"):
        RepositoryChoice(settings, "none").load()
    with pytest.raises(SpecInvalid, match="--endpoint, --bucket"):
        RepositoryChoice(settings, bucket="x").load()


def test_layers_are_kept_in_the_cache_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KIGI_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_layers_dir() == Path("/cache/kigi/published")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_layers_dir() == Path("/home/me/.cache/kigi/published")
    monkeypatch.setenv("KIGI_CACHE", "/kigi")
    assert default_layers_dir() == Path("/kigi/published")
