"""Which bucket a verb uses: that of an option, of the environment, or of a LayerRepository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kigi.cli.cluster import Access
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.repositories import RepositoryChoice
from kigi.errors import Forbidden, NoDefaultRepository, RepositoryUnknown, SpecInvalid
from tests.support.answering import AnsweringServer
from tests.support.bodies import repository_body

LAB, ALL = {"matchLabels": {"tenant": "lab"}}, dict[str, Any]()


class Cluster:
    """An API server with LayerRepositories and the namespace ``range``, of which the caller may read ``readable``."""

    def __init__(self, *repositories: dict[str, Any], readable: tuple[str, ...] = ("list", "get", "namespace")) -> None:
        self._repositories = {body["metadata"]["name"]: body for body in repositories}
        self._readable = readable
        self.server = AnsweringServer(self._reply)

    def _reply(self, method: str, path: str) -> tuple[int, Any]:
        path = path.partition("?")[0]
        if path == "/api/v1/namespaces/range":
            return self._if("namespace", {"metadata": {"name": "range", "labels": {"tenant": "lab"}}})
        tail = path.partition("/layerrepositories")[2]
        if not tail:
            return self._if("list", {"metadata": {}, "items": list(self._repositories.values())})
        found = self._repositories.get(tail.removeprefix("/"))
        return self._if("get", found) if found else (404, {"kind": "Status", "message": "not found"})

    def _if(self, right: str, body: Any) -> tuple[int, Any]:
        return (200, body) if right in self._readable else (403, {"kind": "Status", "message": "no"})

    def access(self, folder: Path) -> Access:
        return Access(str(self.server.kubeconfig(folder / "kubeconfig")))


def repository(name: str, **spec: Any) -> dict[str, Any]:
    return repository_body(name, s3={"endpoint": f"http://{name}", "bucket": f"bucket-of-{name}"}, **spec)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KIGI_S3_ENDPOINT", "KIGI_S3_BUCKET"):
        monkeypatch.delenv(name, raising=False)


def test_a_server_needs_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Access("/absent")
    found = RepositoryChoice("main", endpoint="http://c", bucket="four").load(nowhere)
    assert (found.endpoint, found.bucket) == ("http://c", "four")
    monkeypatch.setenv("KIGI_S3_ENDPOINT", "http://env")
    assert RepositoryChoice().load(nowhere).bucket == "kigi"
    monkeypatch.setenv("KIGI_S3_BUCKET", "five")
    assert RepositoryChoice().load(nowhere).bucket == "five"
    assert RepositoryChoice(bucket="six").load(nowhere).bucket == "six"
    assert RepositoryChoice(endpoint="http://c").load(nowhere).endpoint == "http://c"


@pytest.mark.parametrize(
    ("choice", "variables", "words"),
    [
        (
            RepositoryChoice(endpoint="c"),
            {},
            "--endpoint 'c': it has no scheme; write https://c; expected: URL of the S3",
        ),
        (RepositoryChoice(endpoint="http://c", bucket="X!"), {}, "--bucket 'X!': "),
        (RepositoryChoice(), {"KIGI_S3_ENDPOINT": "http://c/path"}, "KIGI_S3_ENDPOINT 'http://c/path': "),
        (RepositoryChoice(endpoint="http://c"), {"KIGI_S3_BUCKET": "B"}, "KIGI_S3_BUCKET 'B': "),
    ],
)
def test_a_wrong_option_or_variable_is_named_with_its_value_and_an_example(
    choice: RepositoryChoice, variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionInvalid) as caught:
        choice.load(Access("/absent"))
    text = str(caught.value)
    assert text.startswith(words)
    assert ", such as " in text
    assert "\n" not in text
    assert "pydantic" not in text


def test_a_stored_repository_that_is_invalid_is_named(tmp_path: Path) -> None:
    cluster = Cluster(repository_body("main", s3={"endpoint": "http://c", "bucket": "B"}))
    with cluster.server, pytest.raises(SpecInvalid, match=r"LayerRepository main: spec\.s3\.bucket 'B': ") as caught:
        RepositoryChoice("main").load(cluster.access(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_repository_of_the_cluster_is_used_with_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(repository("main", limits={"maxDepth": 3}), readable=("get",))
    with cluster.server:
        found = RepositoryChoice("main").load(cluster.access(tmp_path))
        assert (found.endpoint, found.bucket, found.max_depth) == ("http://main", "bucket-of-main", 3)
        assert RepositoryChoice("main", bucket="other").load(cluster.access(tmp_path)).bucket == "other"
        monkeypatch.setenv("KIGI_S3_ENDPOINT", "http://env")
        assert RepositoryChoice("main").load(cluster.access(tmp_path)).endpoint == "http://main", "it was named"


def test_an_image_names_its_repository_unless_a_server_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(repository("main"), repository("cold", defaultFor="None"))
    with cluster.server:
        access = cluster.access(tmp_path)
        assert RepositoryChoice().of_image(access, "cold").settings.endpoint == "http://cold"
        assert RepositoryChoice().of_image(access, None).settings.endpoint == "http://main"
        monkeypatch.setenv("KIGI_S3_ENDPOINT", "http://env")
        assert RepositoryChoice().of_image(access, "cold").settings.endpoint == "http://env"


def test_the_default_is_that_of_the_namespace(tmp_path: Path) -> None:
    lab = repository("lab", namespaceSelector=LAB, defaultFor="SelectedNamespaces")
    cluster = Cluster(repository("main"), lab)
    with cluster.server:
        assert RepositoryChoice().load(cluster.access(tmp_path)).endpoint == "http://lab"


def test_without_a_default_there_is_a_remedy(tmp_path: Path) -> None:
    cluster = Cluster(repository("main", defaultFor="None"))
    with cluster.server, pytest.raises(NoDefaultRepository, match="or set KIGI_S3_ENDPOINT and KIGI_S3_BUCKET"):
        RepositoryChoice().load(cluster.access(tmp_path))


def test_a_repository_that_does_not_exist_is_named(tmp_path: Path) -> None:
    cluster = Cluster()
    with cluster.server, pytest.raises(RepositoryUnknown, match="there is no LayerRepository main; name another one"):
        RepositoryChoice("main").load(cluster.access(tmp_path))


@pytest.mark.parametrize(
    ("readable", "name", "words"),
    [
        ((), "main", r"the right to get layerrepositories\.kigi\.dev main"),
        ((), None, r"list these in all namespaces: layerrepositories\.kigi\.dev"),
        (("list",), None, "the right to get namespaces range"),
    ],
)
def test_a_missing_right_is_named_with_another_way(
    tmp_path: Path, readable: tuple[str, ...], name: str | None, words: str
) -> None:
    cluster = Cluster(repository("main"), readable=readable)
    with cluster.server, pytest.raises(Forbidden, match=words) as caught:
        RepositoryChoice(name).load(cluster.access(tmp_path))
    assert "or set KIGI_S3_ENDPOINT and KIGI_S3_BUCKET" in str(caught.value)
