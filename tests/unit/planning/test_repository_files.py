"""Keys of the Secrets that pass repositories on to nodes."""

from __future__ import annotations

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from kigi.adapters.repositories import load_repositories
from kigi.api.repositories import Repository
from kigi.planning.repository_files import changed_data, repository_files

LAB = Repository(
    endpoint="https://s3.lab", bucket="layers", addressing="VirtualHost", access_key_id="a", secret_access_key="b"
)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_what_the_operator_writes_is_what_the_daemon_reads(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name, text in repository_files("lab", LAB, "PEM").items():
        (tmp_path / name).write_text(text)
    found = load_repositories(tmp_path, {}).get("lab")
    assert found == LAB.model_copy(update={"ca_file": str(tmp_path / "lab.ca.crt"), "rendered": True})


def test_without_a_bundle_there_is_one_file() -> None:
    assert list(repository_files("lab", LAB, None)) == ["lab.json"]
    assert "caFile" not in json.loads(repository_files("lab", LAB, None)["lab.json"])


def test_a_change_touches_only_its_repository_and_removes_what_belongs_to_none() -> None:
    present = {
        "lab.json": encoded("old"),
        "lab.ca.crt": encoded("old"),
        "other.json": encoded("o"),
        "other.ca.crt": encoded("o"),
        "gone.json": encoded("g"),
        "stray": encoded("s"),
    }
    changes = changed_data(present, "lab", {"lab.json": "new"}, ["lab", "other"])
    assert changes == {"lab.json": encoded("new"), "lab.ca.crt": None, "gone.json": None, "stray": None}


def test_nothing_changes_where_all_is_written() -> None:
    files = repository_files("lab", LAB, "PEM")
    assert changed_data({name: encoded(text) for name, text in files.items()}, "lab", files, ["lab"]) == {}


names = st.sampled_from(["a", "b", "c", "d"])


@given(st.sets(names), st.lists(names, max_size=8))
def test_after_every_repository_was_written_the_secret_has_exactly_them(known: set[str], old: list[str]) -> None:
    """Whatever was in it, in whatever order they are written."""
    data = {f"{name}.json": encoded("old") for name in old}
    for name in sorted(known):
        for key, value in changed_data(data, name, {f"{name}.json": name}, known).items():
            if value is None:
                del data[key]
            else:
                data[key] = value
    if known:
        assert data == {f"{name}.json": encoded(name) for name in known}
