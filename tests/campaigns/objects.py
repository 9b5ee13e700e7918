"""Hostile objects of one tenant against a real API server and a real operator, while another tenant works.

Without Kigi's admission policies, as if every object had been stored by an earlier version. What must hold: the
operator never ends, its memory is below 500 MiB, also when it starts with all of the objects, every image of the other
tenant becomes and stays Ready, and its times do not grow.

    python -m tests.campaigns.objects [--seed 1] [--count 5000] [--megabytes 100] [--json FILE]
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import itertools
import json
import math
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import yaml

from kigi.domain.names import API_VERSION
from localcluster.controlplane import ControlPlane
from localcluster.processes import free_port
from tests.campaigns.ending import finish
from tests.campaigns.hostile_objects import GIB, Hostile, digest_of, hostile_objects

ROOT = Path(__file__).parents[2]
VICTIM, ATTACKER = "victim", "attacker"
IMAGES = 10
"""Images of the victim whose digests the attacker knows."""
READY_S = 120.0
"""Longest time until an image of the victim is Ready."""
POLL_S = 0.02
MEMORY_MIB = 500


class Api:
    """The API server over one connection of this thread, as an administrator."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        self._where = urlsplit(config["clusters"][0]["cluster"]["server"])
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in ("ca", "certificate", "key")]
            texts = (cluster["certificate-authority-data"], user["client-certificate-data"], user["client-key-data"])
            for file, text in zip(files, texts, strict=True):
                file.write_bytes(base64.b64decode(text))
            self._tls = ssl.create_default_context(cafile=files[0])
            self._tls.load_cert_chain(files[1], files[2])
        self._connection: http.client.HTTPSConnection | None = None

    def call(self, method: str, path: str, text: str | None = None) -> tuple[int, dict[str, Any]]:
        """Status code, and the object of a successful GET; 0: no answer. An idle connection may have been closed."""
        answer = self._call(method, path, text)
        return answer if answer[0] else self._call(method, path, text)

    def _call(self, method: str, path: str, text: str | None) -> tuple[int, dict[str, Any]]:
        if self._connection is None:
            host, port = self._where.hostname or "", self._where.port
            self._connection = http.client.HTTPSConnection(host, port, timeout=60, context=self._tls)
        try:
            self._connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = None
            return 0, {}
        return answer.status, json.loads(body) if method == "GET" and answer.status == 200 else {}


def path_of(plural: str, namespace: str, group: str = API_VERSION) -> str:
    """Path of a collection."""
    return f"/{'api' if group == 'v1' else 'apis'}/{group}/namespaces/{namespace}/{plural}"


class Operator:
    """A real operator process, which may be started again; the largest resident memory of all of them."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self._kubeconfig, self._log = kubeconfig, folder / "operator.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.deaths = 0
        self.peak_mib = 0.0

    def start(self) -> float:
        """Seconds until every kind has been listed."""
        port = free_port()
        env = {
            **os.environ,
            "KUBECONFIG": str(self._kubeconfig),
            "KIGI_LEADER_ELECTION": "false",
            "KIGI_HTTP_HOST": "127.0.0.1",
            "KIGI_HTTP_PORT": str(port),
        }
        started = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "kigi.main"], env=env, stderr=log)
        while not _is_synced(port) and self.look() and time.monotonic() - started < READY_S:
            time.sleep(0.1)
        return time.monotonic() - started

    def look(self) -> bool:
        """Whether it runs; takes its memory into account."""
        assert self._process is not None
        if self._process.poll() is not None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            text = Path(f"/proc/{self._process.pid}/status").read_text()
            peak = next((line for line in text.splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
            self.peak_mib = max(self.peak_mib, int(peak.split()[1]) / 1024)
        return True

    def stop(self) -> None:
        """Ends it; counts it if it had ended by itself."""
        if not self.look():
            self.deaths += 1
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)


def _is_synced(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        return b"kigi_mirror_synced 1.0" in connection.getresponse().read()
    except OSError:
        return False
    finally:
        connection.close()


@dataclass
class Result:
    """Numbers of a campaign."""

    seed: int
    accepted: int = 0
    refused: int = 0
    megabytes: float = 0.0
    cases: Counter[str] = field(default_factory=Counter)
    before_s: list[float] = field(default_factory=list)
    during_s: list[float] = field(default_factory=list)
    after_s: list[float] = field(default_factory=list)
    restart_s: float = 0.0
    operator_peak_mib: float = 0.0
    operator_ends: int = 0
    victims_not_ready: int = 0

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        times = {name: getattr(self, f"{name}_s") for name in ("before", "during", "after")}
        return {
            "campaign": "objects",
            "seed": self.seed,
            "accepted": self.accepted,
            "refused": self.refused,
            "megabytes": round(self.megabytes, 1),
            "cases": dict(sorted(self.cases.items())),
            "p50Seconds": {name: round(quantile(found, 0.5), 3) for name, found in times.items()},
            "p99Seconds": {name: round(quantile(found, 0.99), 3) for name, found in times.items()},
            "restartSeconds": round(self.restart_s, 1),
            "operatorPeakMiB": round(self.operator_peak_mib),
            "operatorEnds": self.operator_ends,
            "victimsNotReady": self.victims_not_ready,
            "holds": self.holds(),
        }

    def holds(self) -> bool:
        """What holds on a machine of any speed."""
        return not self.operator_ends and not self.victims_not_ready and self.operator_peak_mib < MEMORY_MIB


def quantile(values: list[float], part: float) -> float:
    """The smallest value that at least ``part`` of them do not exceed; 0 without values."""
    return sorted(values)[math.ceil(part * len(values)) - 1] if values else 0.0


class Victim:
    """The other tenant: publishes images, and waits for each until it is Ready."""

    def __init__(self, api: Api) -> None:
        self._api, self._numbers = api, itertools.count()
        self.names: list[str] = []

    def publish(self, digest: str = "") -> float:
        """Seconds until a new image is Ready; READY_S at most."""
        name = f"v{next(self._numbers)}"
        layer = {"digest": digest or digest_of(f"victim {name}"), "sizeBytes": 1000, "virtualSizeBytes": GIB}
        body = {"apiVersion": API_VERSION, "kind": "VMImageNode", "metadata": {"name": name}, "spec": {"layer": layer}}
        started = time.monotonic()
        code, _ = self._api.call("POST", path_of("vmimagenodes", VICTIM), json.dumps(body))
        assert code in (201, 409), code  # 409: the first of two attempts has made it
        self.names.append(name)
        while not self.is_ready(name) and time.monotonic() - started < READY_S:
            time.sleep(POLL_S)
        return time.monotonic() - started

    def is_ready(self, name: str) -> bool:
        """Whether the image's condition Ready is True."""
        _, body = self._api.call("GET", f"{path_of('vmimagenodes', VICTIM)}/{name}")
        conditions = body.get("status", {}).get("conditions") or ()
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def run(seed: int, count: int, megabytes: float, probes: int, folder: Path) -> Result:
    """One campaign: ``count`` hostile objects that are accepted, with so many megabytes at most."""
    result = Result(seed)
    with ControlPlane(folder / "plane") as plane:
        plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        for namespace in (VICTIM, ATTACKER, "kigi-system"):
            plane.kubectl("create", "namespace", namespace)
        plane.kubectl("apply", "--server-side", "-f", "-", input_text=json.dumps(_repository()))
        operator = Operator(plane.kubeconfig, folder)
        operator.start()
        try:
            victim = Victim(Api(plane.kubeconfig))
            digests = {f"v{n}": digest_of(f"victim v{n}") for n in range(IMAGES)}
            for _ in digests:
                victim.publish()
            result.before_s = [victim.publish() for _ in range(probes)]
            attack = threading.Thread(
                target=_attack, args=(Api(plane.kubeconfig), result, digests, count, megabytes), daemon=True
            )
            attack.start()
            while attack.is_alive() or len(result.during_s) < probes:
                result.during_s.append(victim.publish())
                operator.look()
            operator.stop()
            result.restart_s = operator.start()
            result.after_s = [victim.publish() for _ in range(probes)]
            result.victims_not_ready = sum(not victim.is_ready(name) for name in victim.names)
        finally:
            operator.stop()
    result.operator_peak_mib, result.operator_ends = operator.peak_mib, operator.deaths
    return result


def _attack(api: Api, result: Result, digests: dict[str, str], count: int, megabytes: float) -> None:
    """Creates objects until enough are accepted; when the bytes are used up, small ones."""
    large = hostile_objects(result.seed, digests)
    small = hostile_objects(result.seed + 1, digests, max_bytes=2000)
    for hostile in _until(lambda: result.accepted >= count, large, small, lambda: result.megabytes < megabytes):
        code, _ = api.call("POST", path_of(hostile.plural, ATTACKER, hostile.group), hostile.text)
        if code == 201:
            result.accepted += 1
            result.megabytes += len(hostile.text) / 1e6
            result.cases[hostile.case] += 1
        else:
            result.refused += 1


def _until(
    done: Callable[[], bool], first: Iterator[Hostile], then: Iterator[Hostile], is_first: Callable[[], bool]
) -> Iterator[Hostile]:
    while not done():
        yield next(first if is_first() else then)


def _repository() -> dict[str, Any]:
    spec = {
        "s3": {"endpoint": "https://127.0.0.1:1", "bucket": "none"},
        "credentials": {"readerSecretRef": {"name": "reader"}},
        "namespaceSelector": {},
        "defaultFor": "AllNamespaces",
    }
    return {"apiVersion": API_VERSION, "kind": "LayerRepository", "metadata": {"name": "default"}, "spec": spec}


def main() -> None:
    """Runs one campaign; exit code 1 if something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--probes", type=int, default=200, help="images of the other tenant before, during and after")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kigi-campaign-") as folder:
        result = run(options.seed, options.count, options.megabytes, options.probes, Path(folder))
    finish(result.summary(), result.holds(), options.json)


if __name__ == "__main__":
    main()
