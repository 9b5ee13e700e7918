"""A cluster for ``kigi demo`` in one HTTP server: objects, and a deployment that is Ready some readings after a change.

It replaces API server, operator, nodes and KubeVirt as far as the command observes them. ``tests/integration/operator/
test_demo.py`` has the real API server and operator.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kigi.cli.cluster import Access
from kigi.cli.demo.exercise import MACHINES, resolved_images
from kigi.cli.demo.guests import CONTAINER, CREATED_BY
from kigi.cli.demo.objects import DEPLOYMENT_NAME, SECOND
from kigi.domain.names import LABEL_INSTANCE, LABEL_MACHINE
from tests.support.answering import AnsweringServer

Body = dict[str, Any]
READY = [{"type": "Ready", "status": "True", "reason": "Deployed", "message": ""}]
NOT_READY = [{"type": "Ready", "status": "False", "reason": "Warming", "message": "layers are moved"}]


class DemoCluster:
    """Objects by path. ``readings``: answers of an object that is not Ready, after each change."""

    def __init__(self) -> None:
        self.objects: dict[str, Body] = {}
        self.readings = 2
        self.waiting: list[Body] = NOT_READY
        """Conditions of such an object."""
        self.report: Callable[[str, str, str], str] = lambda machine, state, boot: (
            f"KIGI-GUEST machine={machine} state={state} boot={boot}\r\n"
        )
        """Line on the console of a machine in a state."""
        self.on_request: Callable[[str, str], None] = lambda method, path: None
        self._left: dict[str, int] = {}
        self._uids = itertools.count(1)
        self._held: dict[str, int] = {}
        self._state = {"1": "", "2": ""}

    @contextmanager
    def serving(self, folder: Path) -> Iterator[Access]:
        """Access to the cluster while the context lasts."""
        with AnsweringServer(self._answer) as self._server:
            server = self._server
            yield Access(str(server.kubeconfig(folder / "kubeconfig")), namespace="kigi-demo-run1")

    def _answer(self, method: str, target: str) -> tuple[int, Any]:
        path = urlsplit(target).path
        self.on_request(method, path)
        match method:
            case "DELETE":
                self._delete(path)
                return 200, {"kind": "Status"}
            case "POST" | "PATCH":
                return self._write(method, path, self._server.asked[-1][3])
        if path.endswith("/log"):
            return 200, self._log(path).encode()
        if path.endswith("nodecaches"):
            layers = [{"digest": digest, "state": "Held"} for digest in self._held]
            return 200, {"items": [{"metadata": {"name": "n"}, "status": {"layers": layers}}]}
        if path in self.objects:
            return 200, self._observed(path)
        items = [body for each, body in self.objects.items() if each.rpartition("/")[0] == path]
        return (200, {"metadata": {}, "items": items}) if path.endswith("s") else (404, {"message": path})

    def _write(self, method: str, path: str, body: Body) -> tuple[int, Any]:
        if path.endswith("selfsubjectreviews"):
            return 201, {"status": {"userInfo": {"username": "alice"}}}
        if method == "POST":
            meta = body["metadata"]
            path += f"/{meta.get('name') or meta['generateName'] + 'x'}"
        old = self.objects.get(path, {})
        generation = old.get("metadata", {}).get("generation", 0) + (body.get("spec") != old.get("spec"))
        meta = {"uid": str(next(self._uids)), **old.get("metadata", {}), **body["metadata"], "generation": generation}
        meta.setdefault("name", path.rpartition("/")[2])
        self.objects[path] = {**body, "metadata": meta}
        self._left[path] = self.readings
        return 200, self.objects[path]

    def _observed(self, path: str) -> Body:
        """The object with its status; a deployment or a reset takes effect with the last reading."""
        body = self.objects[path]
        if path in self._left:
            self._left[path] -= 1
            if self._left[path] > 0:
                return {
                    **body,
                    "status": {"observedGeneration": body["metadata"]["generation"], "conditions": self.waiting},
                }
            del self._left[path]
            self._take_effect(path, body)
        status = {"observedGeneration": body["metadata"]["generation"], "conditions": READY}
        return {**body, "status": status}

    def _take_effect(self, path: str, body: Body) -> None:
        space = path.partition("/namespaces/")[2].partition("/")[0]
        if "systemdeployments" in path:
            state = body["spec"]["systemRef"]["name"]
            if body["spec"]["replicas"] == 2:
                self._start(space, "2", state, SECOND)
            else:
                self._start(space, "1", state, [machine.name for machine in MACHINES])
        elif "systemresets" in path:
            self._start(space, "1", self._state["1"], [machine.name for machine in MACHINES])

    def _start(self, space: str, instance: str, state: str, running: Any) -> None:
        """Gives all machines new disks, and starts ``running`` on them."""
        self._state[instance] = state
        images = {p.rpartition("/")[2]: b for p, b in self.objects.items() if "vmimagenodes" in p}
        for image in resolved_images(state).values():
            name: str | None = image
            while name is not None:
                layer = images[name]["spec"]["layer"]
                self._held[layer["digest"]] = layer["sizeBytes"]
                name = images[name]["spec"].get("parentRef", {}).get("name")
        kigi = f"/apis/kigi.dev/v1alpha2/namespaces/{space}/systeminstances/{DEPLOYMENT_NAME}-{instance}"
        status = {"machines": [{"name": machine.name, "nodeName": "n"} for machine in MACHINES]}
        self.objects[kigi] = {
            "metadata": {"name": f"{DEPLOYMENT_NAME}-{instance}", "uid": kigi, "generation": 1},
            "spec": {"name": instance},
            "status": status,
        }
        for machine in running:
            uid, name = str(next(self._uids)), f"{DEPLOYMENT_NAME}-{instance}-{machine}"
            labels = {LABEL_INSTANCE: instance, LABEL_MACHINE: machine}
            vmi = f"/apis/kubevirt.io/v1/namespaces/{space}/virtualmachineinstances/{name}"
            self.objects[vmi] = {
                "metadata": {"name": name, "uid": uid, "labels": labels},
                "status": {"phase": "Running"},
            }
            pod = f"/api/v1/namespaces/{space}/pods/{name}"
            self.objects[pod] = {
                "metadata": {"name": name, "labels": {CREATED_BY: uid, **labels}},
                "spec": {"containers": [{"name": CONTAINER}]},
                "status": {"phase": "Running"},
            }

    def _log(self, path: str) -> str:
        labels = self.objects[path.removesuffix("/log")]["metadata"]["labels"]
        machine, state = labels[LABEL_MACHINE], self._state[labels[LABEL_INSTANCE]]
        image = resolved_images(state)[machine]
        return self.report(machine, image.partition("-")[2] or "original", "1")

    def _delete(self, path: str) -> None:
        self.objects.pop(path, None)
        if "systemdeployments" in path:
            ended = ("virtualmachineinstances", "/pods/", "systeminstances")
            self.objects = {p: b for p, b in self.objects.items() if not any(each in p for each in ended)}
        if path.count("/") == 4:
            self.objects = {p: b for p, b in self.objects.items() if not p.startswith(f"{path}/")}
