"""Settings of repositories and credentials, from files and variables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kigi.adapters.repositories import load_repositories, read_repository
from kigi.api.repositories import Repository
from kigi.errors import RepositoryUnknown, SpecInvalid
from kigi.planning.repository_files import repository_files

LAB = {"endpoint": "https://s3.lab", "bucket": "layers", "maxDepth": 8}
KEYS = {"accessKeyId": "reader", "secretAccessKey": "hush-hush"}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.json"
    path.write_text(text)
    return path


def test_a_folder_has_a_file_for_each_repository(tmp_path: Path) -> None:
    write(tmp_path, "lab", json.dumps(LAB | KEYS | {"caFile": "lab.ca.crt"}))
    (tmp_path / "lab.ca.crt").write_text("PEM")
    found = load_repositories(tmp_path, {})
    lab = found.get("lab")
    assert (lab.endpoint, lab.bucket, lab.max_depth) == ("https://s3.lab", "layers", 8)
    assert lab.ca_file == str(tmp_path / "lab.ca.crt")
    with pytest.raises(RepositoryUnknown, match=r"'default' is not known here; LayerRepository default must exist"):
        found.get("default")


def test_a_folder_that_is_not_mounted_yet_has_no_repository(tmp_path: Path) -> None:
    assert load_repositories(tmp_path / "absent", {}).repositories == {}
    assert load_repositories(None, {}).repositories == {}


def test_variables_are_the_repository_default(tmp_path: Path) -> None:
    write(tmp_path, "lab", json.dumps(LAB))
    found = load_repositories(tmp_path, {"KIGI_S3_ENDPOINT": "http://b"})
    assert {name: each.bucket for name, each in found.repositories.items()} == {"lab": "layers", "default": "kigi"}
    named = load_repositories(None, {"KIGI_S3_ENDPOINT": "http://b", "KIGI_S3_BUCKET": "bbb"})
    assert named.get("default").bucket == "bbb"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        pytest.param("a", "", "Expecting value", id="empty"),
        pytest.param("a", "{", "Expecting property name", id="not-json"),
        pytest.param("a", '["a"]', "expected a mapping, not list", id="a-list"),
        pytest.param("Lab", json.dumps(LAB), "'Lab' is no name of a repository", id="name"),
        pytest.param("a" * 64, json.dumps(LAB), "no name of a repository", id="long-name"),
        pytest.param("a", '{"bucket": "abc"}', "endpoint", id="no-endpoint"),
        pytest.param("a", json.dumps(LAB | {"endpoint": "ftp://x"}), "endpoint", id="not-http"),
        pytest.param("a", json.dumps(LAB | {"maxDepth": 0}), "maxDepth", id="depth"),
    ],
)
def test_a_damaged_file_is_reported_with_its_field_and_left_out(
    tmp_path: Path, name: str, text: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(SpecInvalid, match=words):
        read_repository(path)
    write(tmp_path, "other", json.dumps(LAB))
    assert list(load_repositories(tmp_path, {}).repositories) == ["other"]
    assert [getattr(record, "path", "") for record in caplog.records] == [str(path)]


def test_a_file_that_is_missing_or_no_text_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match="No such file"):
        read_repository(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecInvalid, match="decode"):
        read_repository(tmp_path / "binary.json")


def test_wrong_variables_are_reported() -> None:
    with pytest.raises(SpecInvalid, match="KIGI_S3_ENDPOINT"):
        load_repositories(None, {"KIGI_S3_ENDPOINT": "s3.example"})


@pytest.mark.parametrize("wrong", [{"secretAccessKey": 7}, {"secretAccessKey": ["hush-hush"]}, {"endpoint": "x"}])
def test_no_error_and_no_representation_shows_a_secret(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(SpecInvalid) as caught:
        read_repository(write(tmp_path, "lab", json.dumps(LAB | KEYS | wrong)))
    assert "hush" not in str(caught.value)
    half = json.dumps(LAB | KEYS)[:-1]
    with pytest.raises(SpecInvalid) as caught:
        read_repository(write(tmp_path, "lab", half))
    assert "hush" not in str(caught.value)
    assert "hush" not in repr(Repository.model_validate(LAB | KEYS))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"endpoint": "s3.example:9000"},
            "endpoint 's3.example:9000': it has no scheme; write https://s3.example:9000",
        ),
        ({"endpoint": "https://s3.example/kigi"}, "it has the path /kigi; write https://s3.example, and the bucket"),
        ({"endpoint": "ftp://s3.example"}, "the scheme 'ftp' is not known; write https://s3.example"),
        ({"endpoint": "https://me:hush-hush@s3.example"}, "it has a user; leave it out"),
        ({"endpoint": "https://s3.example:99999"}, "with a port of 1 to 65535"),
        ({"endpoint": ""}, "it is empty; write https://HOST"),
        ({"endpoint": "https://"}, "it has no host"),
        (
            {"bucket": "My_Bucket"},
            "bucket 'My_Bucket': does not have the right form; expected: Name of the bucket: 3 to 63 lower-case",
        ),
        ({"region": "Frankfurt am Main"}, "region 'Frankfurt am Main': does not have the right form"),
        ({"addressing": "path"}, "addressing 'path': write Path or VirtualHost"),
        ({"secretAcessKey": "hush-hush"}, "secretAcessKey: no such field; did you mean secretAccessKey?"),
        ({"end_point": "https://b"}, "end_point: no such field; did you mean endpoint?"),
        ({"colour": "red"}, "colour: no such field; there are endpoint, bucket, region"),
        ({"maxDepth": "deep", "regoin": "x"}, "maxDepth .*; regoin: no such field; did you mean region?"),
    ],
)
def test_each_wrong_field_has_a_sentence(tmp_path: Path, change: dict[str, str], words: str) -> None:
    with pytest.raises(SpecInvalid, match=words) as caught:
        read_repository(write(tmp_path, "lab", json.dumps(LAB | change)))
    assert "validation error" not in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SpecInvalid, match=r"endpoint: required, but not set; expected: .*; bucket: required, but not set"
    ):
        read_repository(write(tmp_path, "lab", "{}"))


def test_a_file_of_a_later_operator_may_have_fields_that_this_daemon_does_not_know(tmp_path: Path) -> None:
    (found,) = repository_files("lab", Repository.model_validate(LAB), None).values()
    later = json.loads(found) | {"regoin": "x"}
    assert read_repository(write(tmp_path, "lab", json.dumps(later))).bucket == "layers"


def test_the_largest_request_may_be_a_quantity() -> None:
    variables = {"KIGI_S3_ENDPOINT": "http://b", "KIGI_S3_MAX_PUT_BYTES": "8Mi"}
    assert load_repositories(None, variables).get("default").max_put_bytes == 8 * 2**20
    with pytest.raises(SpecInvalid, match="KIGI_S3_MAX_PUT_BYTES 'much': write bytes, or a quantity"):
        load_repositories(None, variables | {"KIGI_S3_MAX_PUT_BYTES": "much"})
