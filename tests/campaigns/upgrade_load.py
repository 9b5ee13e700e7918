"""Users of the campaign ``upgrade``: they change deployments, and remember which orders were accepted."""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.support.raw_api import Object, RawApi

QUIET, BUSY = ("quiet-0", "quiet-1"), ("busy-0", "busy-1")
STATES = ("infected", "cleaned", "restored")
OLD, NEW = "v1alpha1", "v1alpha2"
TEMPORARY = 3
"""Most deployments that users create and delete beside the others."""


@dataclass
class Order:
    """What users have last asked of a deployment, and the API server has accepted."""

    state: str
    replicas: int = 1
    token: str | None = None


@dataclass
class Orders:
    """Of every deployment that exists; ``unsure``: an answer was lost."""

    wanted: dict[str, Order] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    done: Counter[str] = field(default_factory=Counter)


class Users:
    """Makes one order after the other in a thread, in the version of the API that the cluster has."""

    def __init__(self, api: RawApi, namespace: str, chance: random.Random, pause_s: float = 0.3) -> None:
        self.version = OLD
        self.orders = Orders()
        self._api, self._namespace, self._chance, self._pause_s = api, namespace, chance, pause_s
        self._numbers = iter(range(1, 10**9))
        self._on = True
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def path(self, name: str = "", plural: str = "systemdeployments") -> str:
        """Path of an object or a collection."""
        base = f"/apis/kigi.dev/{self.version}/namespaces/{self._namespace}/{plural}"
        return f"{base}/{name}" if name else base

    def create(self, name: str, state: str, replicas: int = 1) -> None:
        """A deployment; it is remembered if the API server accepts it."""
        spec: Object = {"replicas": replicas, **self._power()}
        if self.version == OLD:
            spec["system"] = {"name": state}
        else:
            spec |= {"systemRef": {"name": state}, "ordinals": {"start": 0}}
        kind = f"kigi.dev/{self.version}"
        body = {"apiVersion": kind, "kind": "SystemDeployment", "metadata": {"name": name}, "spec": spec}
        if self._send("create", name, lambda: self._api.create(self.path(), body).code):
            self.orders.wanted[name] = Order(state, replicas)

    def delete(self, name: str) -> None:
        """Deletes a deployment."""
        if self._send("delete", name, lambda: self._api.delete(self.path(name)).code):
            self.orders.wanted.pop(name, None)

    def power(self, *, on: bool) -> None:
        """Turn every deployment on or off; those that users create later, too."""
        self._on = on
        for name in list(self.orders.wanted):
            self._send("power", name, lambda name=name: self._api.patch(self.path(name), {"spec": self._power()}).code)

    def _power(self) -> Object:
        return {"running": self._on} if self.version == OLD else {"powerState": "On" if self._on else "Off"}

    def start(self) -> None:
        """Begin to order."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Make no further order."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60)
            self._thread = None

    def _run(self) -> None:
        while not self._stop.wait(self._chance.uniform(0.2, 1.8) * self._pause_s):
            self._order()

    def _order(self) -> None:
        temporary = [name for name in self.orders.wanted if name.startswith("temp-")]
        name = self._chance.choice([*BUSY, *temporary])
        way = self._chance.choice(("switch", "switch", "reset", "scale", "instance", "create", "delete", "again"))
        if way == "create":
            if len(temporary) < TEMPORARY:
                self.create(f"temp-{next(self._numbers)}", self._chance.choice(STATES))
        elif way == "delete":
            if temporary:
                self.delete(self._chance.choice(temporary))
        elif way == "again":
            self._again(self._chance.choice(BUSY))
        elif name in self.orders.wanted:
            getattr(self, f"_{way}")(name)

    def _again(self, name: str) -> None:
        """A deployment is deleted, and another one of the same name created as soon as the API server permits it."""
        if name in self.orders.wanted:
            if self._chance.random() < 0.3:
                self.delete(name)
        else:
            self.create(name, self._chance.choice(STATES))

    def _switch(self, name: str) -> None:
        state = self._chance.choice(STATES)
        spec = {"system" if self.version == OLD else "systemRef": {"name": state}}
        if self._patch("switch", name, spec):
            self.orders.wanted[name].state = state

    def _reset(self, name: str) -> None:
        token = f"t{next(self._numbers)}"
        if self._patch("reset", name, {"reset" if self.version == OLD else "resetToken": token}):
            self.orders.wanted[name].token = token

    def _scale(self, name: str) -> None:
        replicas = self._chance.choice((1, 2))
        if self._patch("scale", name, {"replicas": replicas}):
            self.orders.wanted[name].replicas = replicas

    def _instance(self, name: str) -> None:
        """Instance 0 in another state, or off, or as its deployment."""
        state = self._chance.choice((None, *STATES))
        runs = self._chance.choice((None, None, False)) if self._on else None
        if self.version == OLD:
            override: Object = {"instance": 0}
            override |= {"system": {"name": state}} if state else {}
            override |= {} if runs is None else {"running": runs}
            self._patch("instance", name, {"overrides": [override]})
        else:
            spec: Object = {"systemRef": {"name": state} if state else None}
            spec["powerState"] = None if runs is None else "Off"
            path = self.path(f"{name}-0", "systeminstances")
            self._send("instance", name, lambda: self._api.patch(path, {"spec": spec}).code)

    def _patch(self, way: str, name: str, spec: dict[str, Any]) -> bool:
        return self._send(way, name, lambda: self._api.patch(self.path(name), {"spec": spec}).code)

    def _send(self, way: str, name: str, call: Any) -> bool:
        """Whether the order was accepted."""
        try:
            code = call()
        except OSError:
            self.orders.unsure.add(name)
            self.orders.done["without an answer"] += 1
            return False
        accepted = 200 <= code < 300
        self.orders.done[way if accepted else f"refused with {code}"] += 1
        return accepted
