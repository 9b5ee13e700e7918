"""The clean-up against an HTTP server that keeps a few objects, so that a finalizer can hold one of them for good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kigi.cli.cluster import Access, open_cluster
from kigi.cli.demo.cleanup import Wait, find_runs, remove_run
from kigi.cli.demo.objects import LABEL
from tests.support.answering import AnsweringServer
from tests.support.called_clock import CalledClock


class Objects:
    """Path -> object; a deleted one disappears after that many further readings, by default none."""

    def __init__(self, *paths: str, run: str = "abc") -> None:
        self.deleted: list[str] = []
        self.readings: dict[str, float] = {}
        self.bodies: dict[str, dict[str, Any]] = {}
        for path in paths:
            name = path.rpartition("/")[2]
            labels = {LABEL: run} if "/namespaces/" in path and path.count("/") == 4 else {}
            self.bodies[path] = {"metadata": {"name": name, "uid": name, "labels": labels, "finalizers": ["x"]}}

    def __call__(self, method: str, path: str) -> tuple[int, Any]:
        path = path.partition("?")[0]
        for each in [each for each in self.deleted if each in self.bodies]:
            self.readings[each] = self.readings.get(each, 0) - 1
            if self.readings[each] < 0:
                del self.bodies[each]
        if method == "DELETE":
            self.deleted.append(path)
            return 200, self.bodies.get(path, {"kind": "Status"})
        if path in self.bodies:
            return 200, self.bodies[path]
        items = [body for each, body in self.bodies.items() if each.rpartition("/")[0] == path]
        return (200, {"metadata": {}, "items": items}) if path.endswith("s") else (404, {})


NAMESPACE = "/api/v1/namespaces/kigi-demo-abc"
KIGI = "/apis/kigi.dev/v1alpha2/namespaces/kigi-demo-abc"
ALL = (NAMESPACE, f"{KIGI}/vmimagenodes/base", f"{KIGI}/vmimagenodes/mail", f"{KIGI}/systemnodes/infected",
       f"{KIGI}/systemdeployments/exercise")  # fmt: skip


@contextmanager
def server(objects: Objects, folder: Path) -> Iterator[Access]:
    with AnsweringServer(objects) as answering:
        yield Access(str(answering.kubeconfig(folder / "kubeconfig")))


def remove(objects: Objects, folder: Path, stored: list[str] | None = None) -> tuple[list[str], list[str]]:
    clock, shown = CalledClock(), list[str]()

    def remove_stored(body: dict[str, Any]) -> list[str]:
        assert body["metadata"]["name"] == "kigi-demo-abc"
        objects.deleted.append("layers")
        return stored or []

    with server(objects, folder) as access, open_cluster(access) as kube:
        wait = Wait(clock, clock.sleep, timeout_s=5.0)
        return remove_run(kube, "abc", remove_stored, shown.append, wait), shown


def test_users_go_before_what_they_use_and_the_namespace_last(tmp_path: Path) -> None:
    objects = Objects(*ALL)
    left, shown = remove(objects, tmp_path)
    assert left == []
    assert objects.bodies == {}
    names = [path.rpartition("/")[2] for path in objects.deleted]
    assert names == ["exercise", "infected", "mail", "base", "layers", "kigi-demo-abc"]
    assert shown[-1] == "deleting namespace kigi-demo-abc"


def test_what_does_not_disappear_is_named_and_its_namespace_stays(tmp_path: Path) -> None:
    objects = Objects(*ALL)
    objects.readings[f"{KIGI}/systemdeployments/exercise"] = float("inf")
    left, _ = remove(objects, tmp_path)
    assert left == ["SystemDeployment kigi-demo-abc/exercise"]
    assert [path.rpartition("/")[2] for path in objects.deleted] == ["exercise"], "nothing that it uses is deleted"


def test_layers_that_stay_keep_the_namespace_so_that_clean_finds_the_run(tmp_path: Path) -> None:
    objects = Objects(*ALL)
    left, _ = remove(objects, tmp_path, stored=["layers in bucket b"])
    assert left == ["layers in bucket b"]
    assert NAMESPACE in objects.bodies
    assert NAMESPACE not in objects.deleted


def test_another_namespace_of_that_name_is_not_touched(tmp_path: Path) -> None:
    objects = Objects(*ALL, run="other")
    left, _ = remove(objects, tmp_path)
    assert "the demo has not created it" in left[0]
    assert objects.deleted == []


def test_nothing_is_left_of_a_run_without_a_namespace(tmp_path: Path) -> None:
    assert remove(Objects(), tmp_path) == ([], [])


def test_runs_are_found_by_their_label(tmp_path: Path) -> None:
    objects = Objects(NAMESPACE)
    objects.bodies["/api/v1/namespaces/lab"] = {"metadata": {"name": "lab"}}
    with server(objects, tmp_path) as access, open_cluster(access) as kube:
        assert find_runs(kube) == ["abc"]
