"""Noisy guests on the local cluster: they write at full speed until the node's disk is full, again and again.

The node's /var/lib/kigi is a small file system of its own for that time. A guest of the tiny exercise, whose disk is
larger than this file system, writes to all of it. A quiet guest beside it writes and syncs a line every second.
What must hold: the quiet guest is not disturbed (same run, never paused, no write takes longer than 5 s); the
NodeCache's condition DiskFilling names the offender within 30 s after the free space is below KIGI_MIN_FREE; the
operator pauses the offender, and its status has a message. Then it is reset, and begins again.

    python -m tests.campaigns.guests --cluster [--minutes 30] [--json FILE]

Without a cluster: tests/integration/test_noisy_guest.py.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.serial import NoAnswer, Terminal, terminal
from demo.targets import SYSTEM_NAMESPACE
from kigi.domain.layers import layer_file_name, object_key
from kigi.domain.names import API_VERSION
from localcluster.cluster import BUCKET, Cluster
from scenario import kubernetes
from tests.campaigns.ending import finish
from tests.campaigns.objects import quantile
from tests.e2e.exercise import Exercise, eventually, tiny_exercise

GIB = 2**30
CACHE_BYTES, DISK_BYTES = 4 * GIB, 8 * GIB
"""File system of the node's cache, and virtual disk of the noisy guest."""
MIN_FREE_BYTES = GIB
"""KIGI_MIN_FREE, as ``demo.targets.install_kigi`` sets it."""
NAMESPACE, NOISY, QUIET = "noise", "mail1", "desktop1"
NAMED_S, STALL_S = 30.0, 5.0
CYCLE_S = 420.0
"""Longest time from the begin of the noise until the offender is paused, on emulated processors."""


@dataclass
class Result:
    """Numbers and faults of a campaign."""

    minutes: float = 0.0
    rounds: int = 0
    named_s: list[float] = field(default_factory=list)
    """From too little free space to the condition that names the offender."""
    paused_s: list[float] = field(default_factory=list)
    """From too little free space to the pause."""
    messages: list[str] = field(default_factory=list)
    lowest_free_bytes: int = CACHE_BYTES
    writes_s: list[float] = field(default_factory=list)
    """Of the quiet guest, from command to answer."""
    lost_consoles: int = 0
    faults: list[str] = field(default_factory=list)

    def holds(self) -> bool:
        """Whether all that must hold does."""
        slow = max(self.named_s, default=NAMED_S + 1) > NAMED_S or max(self.writes_s, default=STALL_S + 1) > STALL_S
        return not self.faults and not slow and self.rounds > 0

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "campaign": "guests",
            "minutes": round(self.minutes, 1),
            "rounds": self.rounds,
            "namedWithinSeconds": [round(each, 1) for each in self.named_s],
            "pausedWithinSeconds": [round(each, 1) for each in self.paused_s],
            "lowestFreeMiB": self.lowest_free_bytes // 2**20,
            "quietWrites": len(self.writes_s),
            "quietWriteP50Seconds": round(quantile(self.writes_s, 0.5), 2),
            "quietWriteMaxSeconds": round(max(self.writes_s, default=0.0), 2),
            "consolesReopened": self.lost_consoles,
            "messages": self.messages[:3],
            "faults": self.faults,
            "holds": self.holds(),
        }


@contextlib.contextmanager
def small_cache(cluster: Cluster) -> Iterator[None]:
    """The first node's /var/lib/kigi is an ext4 of CACHE_BYTES; its own content is covered meanwhile."""
    node = cluster.nodes()[0]
    image = node.directory / "noise.ext4"
    with image.open("wb") as file:
        file.truncate(CACHE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True, capture_output=True)
    node.enter("mount", "-o", "loop", str(image), "/var/lib/kigi")
    try:
        yield
    finally:
        node.enter("umount", "-l", "/var/lib/kigi")
        cluster.kubectl("-n", SYSTEM_NAMESPACE, "rollout", "restart", "daemonset/kigi-node-cache")
        image.unlink()


def publish_noisy(exercise: Exercise, folder: Path) -> None:
    """A child of the noisy machine's image whose disk is larger than the node's file system, and a state with it."""
    state = exercise.target.get("systemnode", "infected", "-n", NAMESPACE)
    machine = next(each for each in state["spec"]["machines"] if each["name"] == NOISY)
    parent = machine["rootDisk"]["imageRef"]["name"]
    image = exercise.target.get("vmimagenode", parent, "-n", NAMESPACE)
    backing = layer_file_name(image["spec"]["layer"]["digest"])
    layer = folder / "noisy.qcow2"
    create = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-u",
        "-b",
        backing,
        "-F",
        "qcow2",
        str(layer),
        str(DISK_BYTES),
    ]
    subprocess.run(create, check=True, capture_output=True)
    digest = "sha256:" + hashlib.sha256(layer.read_bytes()).hexdigest()
    stored = exercise.cluster.s3().data / BUCKET / object_key(digest)  # type: ignore[arg-type]
    stored.parent.mkdir(parents=True, exist_ok=True)
    stored.write_bytes(layer.read_bytes())
    own = {"digest": digest, "sizeBytes": layer.stat().st_size, "virtualSizeBytes": DISK_BYTES}
    metadata = {"name": "noisy", "namespace": NAMESPACE}
    machines = [{"name": NOISY, "rootDisk": {"imageRef": {"name": "noisy"}}}]
    for kind, spec in (
        ("VMImageNode", {"layer": own, "parentRef": {"name": parent}}),
        ("SystemNode", {"parentRef": {"name": "infected"}, "machines": machines}),
    ):
        exercise.target.apply({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec})


class Quiet(threading.Thread):
    """The quiet guest: writes and syncs a line every second, over one console."""

    def __init__(self, exercise: Exercise, result: Result) -> None:
        super().__init__(daemon=True)
        self._exercise, self._result = exercise, result
        self._numbers = itertools.count(1)
        self.stopping = threading.Event()

    def run(self) -> None:
        """Until ``stopping`` is set. A console that ends is opened again; an unanswered write is a fault."""
        exercise = self._exercise
        program = str(exercise.cluster.release.command("virtctl"))
        command = [program, "console", "-n", NAMESPACE, exercise.vm(QUIET)]
        environment = {**os.environ, **exercise.target.environment}
        while not self.stopping.is_set():
            with contextlib.suppress(NoAnswer), terminal(command, environment) as console:
                console.receive("KIGI-GUEST", time.monotonic() + 60)  # connected: what is sent before is lost
                while not self.stopping.is_set() and not console.ended and self._write(console):
                    self.stopping.wait(1)
            self._result.lost_consoles += 1

    def _write(self, console: Terminal) -> bool:
        number, started = next(self._numbers), time.monotonic()
        console.send(f"write {number}\n".encode(), started + 60)
        if f"KIGI-WROTE {number}" not in console.receive(f"KIGI-WROTE {number}", started + 60):
            if not console.ended and not self.stopping.is_set():
                self._result.faults.append(f"the quiet guest did not write line {number} within 60 s")
            return False
        self._result.writes_s.append(time.monotonic() - started)
        return True


class Noise:
    """Rounds of noise, each until the offender is paused."""

    def __init__(self, exercise: Exercise, result: Result) -> None:
        self._exercise, self._result = exercise, result
        self._quiet_uid = exercise.vmi_uid(QUIET)

    def run(self, minutes: float) -> None:
        """For so long, and at least once."""
        started = time.monotonic()
        while not self._result.rounds or time.monotonic() - started < 60 * minutes:
            self._round()
            self._result.rounds += 1
            self._result.minutes = (time.monotonic() - started) / 60
            before = self._exercise.vmi_uid(NOISY)
            self._exercise.reset(NOISY)
            self._exercise.next_run(NOISY, before, 600)
            self._exercise.wait_ready()

    def _round(self) -> None:
        exercise, result = self._exercise, self._result
        exercise.send(NOISY, "noise", "KIGI-NOISE begun")
        short_at = named_at = 0.0
        deadline = time.monotonic() + CYCLE_S
        while (now := time.monotonic()) < deadline:
            free = int(exercise.node("stat -f -c '%a %S' /var/lib/kigi | { read a s; echo $((a * s)); }"))
            result.lowest_free_bytes = min(result.lowest_free_bytes, free)
            short_at = short_at or (now if free < MIN_FREE_BYTES else 0.0)
            self._check_quiet()
            if short_at and not named_at and NOISY in self._condition():
                named_at = now
                result.named_s.append(now - short_at)
            machine = exercise.machine(NOISY)
            if machine["state"] == "Paused":
                result.paused_s.append(now - (short_at or now))
                result.messages.append(f"{self._condition()} | {machine.get('message', '')}")
                if not named_at:
                    eventually(lambda: NOISY in self._condition(), "DiskFilling names the offender", NAMED_S)
                    result.named_s.append(time.monotonic() - (short_at or now))
                if "disk" not in machine.get("message", ""):
                    result.faults.append(f"the paused machine has the message {machine.get('message')!r}")
                return
            time.sleep(1)
        result.faults.append(f"round {result.rounds}: the offender was not paused within {CYCLE_S:.0f} s")

    def _condition(self) -> str:
        """Message of the condition DiskFilling while it is True."""
        (cache,) = self._exercise.target.get("nodecaches")["items"]
        found = [each for each in cache["status"].get("conditions", []) if each["type"] == "DiskFilling"]
        return next((str(each["message"]) for each in found if each["status"] == "True"), "")

    def _check_quiet(self) -> None:
        vmi = self._exercise.instance(QUIET)
        paused = [each for each in vmi["status"].get("conditions", []) if each["type"] == "Paused"]
        if vmi["metadata"]["uid"] != self._quiet_uid or any(each["status"] == "True" for each in paused):
            self._result.faults.append("the quiet guest was restarted or paused")
            self._quiet_uid = vmi["metadata"]["uid"]


def run(minutes: float, folder: Path) -> Result:
    """One campaign on the running local cluster."""
    result, cluster = Result(), Cluster()
    with small_cache(cluster), tiny_exercise(cluster, NAMESPACE) as exercise:
        publish_noisy(exercise, folder)
        exercise.target.apply(
            kubernetes.system_instance(
                "1", exercise.deployment, NAMESPACE, machines=kubernetes.machines_on((NOISY, QUIET))
            ),
            kubernetes.system_deployment(exercise.deployment, "noisy", NAMESPACE, powerState="Off"),
        )
        exercise.wait_ready()
        quiet = Quiet(exercise, result)
        quiet.start()
        try:
            Noise(exercise, result).run(minutes)
        finally:
            quiet.stopping.set()
            quiet.join(90)
    return result


def main() -> None:
    """Runs one campaign; exit code 1 if something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", action="store_true", required=True, help="on the running local cluster")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kigi-campaign-") as folder:
        result = run(options.minutes, Path(folder))
    finish(result.summary(), result.holds(), options.json)


if __name__ == "__main__":
    main()
