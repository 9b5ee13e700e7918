"""Settings of repositories and credentials, from files and variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from kigi.adapters.repositories import load_repositories, read_credentials
from kigi.api.repositories import Repository
from kigi.errors import RepositoryUnknown, SpecInvalid

LAB = "repositories:\n  lab: {endpoint: 'https://s3.lab', bucket: layers, maxDepth: 8}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "repositories.yaml"
    path.write_text(text)
    return path


def test_a_file_has_repositories_by_name(tmp_path: Path) -> None:
    found = load_repositories(write(tmp_path, LAB), {})
    assert (found.get("lab").endpoint, found.get("lab").bucket, found.get("lab").max_depth) == (
        "https://s3.lab",
        "layers",
        8,
    )
    with pytest.raises(RepositoryUnknown, match=r"'default' is not configured; repositories\.yaml has lab"):
        found.get("default")


def test_variables_replace_the_default_and_keep_its_other_fields(tmp_path: Path) -> None:
    path = write(tmp_path, LAB + "  default: {endpoint: 'http://a', bucket: aaa, region: eu}\n")
    variables = {"KIGI_S3_ENDPOINT": "http://b"}
    default = load_repositories(path, variables).get("default")
    assert (default.endpoint, default.bucket, default.region) == ("http://b", "kigi", "eu")
    named = load_repositories(None, {**variables, "KIGI_S3_BUCKET": "bbb"})
    assert list(named.repositories) == ["default"]
    assert named.get("default").bucket == "bbb"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "at least 1 item", id="empty"),
        pytest.param("a: [", "while parsing", id="not-yaml"),
        pytest.param("- a", "expected a mapping, not list", id="a-list"),
        pytest.param("repositories: [a]", "repositories: expected a mapping, not list", id="a-list-of-repositories"),
        pytest.param("repositories: {Lab: {}}", "repository name 'Lab'", id="name"),
        pytest.param("repositories: {7: {}}", "repository name 7", id="name-that-is-a-number"),
        pytest.param("repositories: {a: {bucket: abc}}", "endpoint", id="no-endpoint"),
        pytest.param("repositories: {a: {endpoint: 'ftp://x', bucket: abc}}", "endpoint", id="not-http"),
        pytest.param("repositories: {a: {endpoint: 'http://x', bucket: abc, maxDepth: 0}}", "maxDepth", id="depth"),
    ],
)
def test_a_damaged_file_is_reported_with_its_path_and_field(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SpecInvalid, match=words) as caught:
        load_repositories(path, {})
    assert str(path) in str(caught.value)


def test_a_file_that_is_missing_or_no_text_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match="No such file"):
        load_repositories(tmp_path / "absent", {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecInvalid, match="decode"):
        load_repositories(tmp_path / "binary", {})


def test_a_wrong_variable_is_reported_without_a_file() -> None:
    with pytest.raises(SpecInvalid, match="KIGI_S3_ENDPOINT"):
        load_repositories(None, {"KIGI_S3_ENDPOINT": "s3.example"})


def test_credentials_come_from_a_folder_and_follow_a_rotation(tmp_path: Path) -> None:
    repository = Repository(endpoint="http://x", bucket="abc", credentials_dir=str(tmp_path))
    with pytest.raises(SpecInvalid, match=r"credentialsDir: cannot read .*accessKeyId"):
        read_credentials(repository, {})
    (tmp_path / "accessKeyId").write_text("one\n")
    (tmp_path / "secretAccessKey").write_text("secret\n")
    assert read_credentials(repository, {"AWS_ACCESS_KEY_ID": "unused"}) == ("one", "secret")
    (tmp_path / "accessKeyId").write_text("two")
    assert read_credentials(repository, {}) == ("two", "secret")


def test_credentials_come_from_variables_without_a_folder() -> None:
    repository = Repository(endpoint="http://x", bucket="abc")
    variables = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    assert read_credentials(repository, variables) == ("a", "b")
    del variables["AWS_SECRET_ACCESS_KEY"]
    with pytest.raises(SpecInvalid, match="set AWS_SECRET_ACCESS_KEY, or credentialsDir"):
        read_credentials(repository, variables)
