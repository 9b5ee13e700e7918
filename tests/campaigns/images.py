"""Hostile images: mutated qcow2 files are published, captured, flattened and imported.

All mutations pass the checks in this process (header, source, tables, form). A sample of them, as real files, takes the
whole way with qemu-img, under strace. What must hold: each ends in success or a KigiError with a printable message,
within bounded time and memory; no file but the expected ones is opened, and no connection made; what is written is at
most 1.1 times the estimate; a refused capture is tried three times at most.

    python -m tests.campaigns.images --seed 1 --count 10000000 --files 6000 > images.json

On a machine that others use, ``--first`` and ``--seconds`` run the mutations in several parts.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from kigi.domain.layers import Chain, layer_file_name
from kigi.domain.qcow2 import HEADER_BYTES, check_layer, check_overlay, parse_header
from kigi.errors import KigiError, LayerRefused
from kigi.publishing.layer_writer import is_canonical
from kigi.publishing.overlay_tables import check_tables
from kigi.publishing.source import inspect
from kigi_cache.disks.overlay_files import backing_name
from tests.support.chains import run
from tests.support.fast_files import fast_directory
from tests.support.image_mutations import CANARY, Base, Mutator, hostile_names
from tests.support.layers import VIRTUAL_BYTES, make_chain

CPU_S = 10
"""Longest time of the processor for all checks of one mutation."""
MEMORY_BYTES = 2**30
"""What the checks may allocate, beside the interpreter."""
IMAGE = "image.qcow2"
CHUNK = 20_000
KEPT = 20
"""Failures that the result lists."""


def bases(directory: Path) -> tuple[list[Base], Chain]:
    """Sound files of several forms, and the chain that they are based on; its files are in ``directory``."""
    chain = make_chain(directory, 2, 3 * 65536)
    raw = directory / "guest.raw"
    raw.write_bytes(random.Random(0).randbytes(200_000).ljust(2**20, b"\0"))
    writes = [f"write -P {n + 1} {offset} 64k" for n, offset in enumerate((0, 2**20, 5 * 2**20, 33 * 2**20))]
    arguments = [part for text in [*writes, "write -z 9M 128k"] for part in ("-c", text)]

    def made(name: str, *options: str) -> Base:
        path = directory / f"{name}.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), str(VIRTUAL_BYTES))
        run("qemu-io", "-f", "qcow2", *arguments, image_without_backing(path))
        return Base.of(name, path.read_bytes())

    def on(name: str) -> tuple[str, ...]:
        return ("-u", "-b", name, "-F", "qcow2")

    top = chain[-1].digest
    found = [
        made("overlay", *on(backing_name(top))),
        made("layer", *on(layer_file_name(top))),
        made("root"),
        made("small", "-o", "cluster_size=4096"),
        made("old", "-o", "compat=0.10"),
        Base.of("canonical", (directory / layer_file_name(top)).read_bytes()),
    ]
    packed = directory / "packed.qcow2"
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(raw), str(packed))
    return [*found, Base.of("packed", packed.read_bytes())], chain


def image_without_backing(path: Path) -> str:
    return f'json:{{"driver": "qcow2", "file": {{"driver": "file", "filename": "{path}"}}, "backing": null}}'


def surroundings(folder: Path) -> None:
    """What hostile names lead to: beside an image, and in the folder above."""
    (folder / "x").mkdir(parents=True)
    if not (folder.parent / f"{CANARY}.qcow2").exists():
        (folder.parent / f"{CANARY}.qcow2").write_bytes(b"QFI\xfb")
    (folder / f"{CANARY}-link").symlink_to(folder.parent / f"{CANARY}.qcow2")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")


def message_fault(error: KigiError) -> str:
    """Why an error's text cannot be shown; empty if it can."""
    text = str(error)
    if not text or len(text) > 20_000:
        return f"a message of {len(text)} characters"
    return "" if text.replace("\n", "").isprintable() else f"an unprintable message: {text[:200]!r}"


class Checks:
    """The checks of one process, on one file that is changed in place."""

    def __init__(self, directory: Path, base: Base, chain: Chain) -> None:
        self.folder = directory / f"{base.name}-{os.getpid()}"
        surroundings(self.folder)
        self.path = self.folder / IMAGE
        self.path.write_bytes(base.data)
        self.descriptor = os.open(self.path, os.O_RDWR)
        self.base = base
        self.mutator = Mutator(base, hostile_names(str(directory), IMAGE))
        self.parent = chain[-1]
        self.ends: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest_s = 0.0
        self.checks: list[tuple[str, Callable[[bytes], object]]] = [
            ("source", lambda head: inspect(self.path)),
            ("form", self._form),
            ("layer", self._layer),
            ("overlay", self._overlay),
            ("tables", lambda head: self._tables()),
        ]

    def _layer(self, head: bytes) -> None:
        size = os.fstat(self.descriptor).st_size
        parent = self.parent
        check_layer(head, digest=parent.digest, parent=parent.digest, virtual_size_bytes=VIRTUAL_BYTES, size_bytes=size)

    def _overlay(self, head: bytes) -> None:
        size = os.fstat(self.descriptor).st_size
        name = backing_name(self.parent.digest)
        check_overlay(head, backing_name=name, virtual_size_bytes=VIRTUAL_BYTES, size_bytes=size)

    def _tables(self) -> None:
        named = check_tables(self.path)
        size = os.fstat(self.descriptor).st_size
        if named > size + 65535:
            raise AssertionError(f"tables that name {named} bytes of {size} were accepted")

    def _form(self, head: bytes) -> None:
        """As for publishing: only of a file whose header was accepted."""
        is_canonical(self.path, parse_header(head).virtual_size_bytes)

    def run(self, seed: int, number: int) -> None:
        made = self.mutator.make(seed, number)
        made.apply(self.descriptor)
        began = time.process_time()
        try:
            signal.setitimer(signal.ITIMER_PROF, CPU_S)
            head = os.pread(self.descriptor, HEADER_BYTES, 0)
            for name, check in self._chosen(head, number // 8):
                self._one(name, check, head, number, made.kinds)
        except BaseException as exc:
            self._fail(number, made.kinds, "read", repr(exc))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            made.undo(self.descriptor, self.base)
        self.slowest_s = max(self.slowest_s, time.process_time() - began)
        self.kinds.update(made.kinds)

    def _chosen(self, head: bytes, turn: int) -> list[tuple[str, Callable[[bytes], object]]]:
        """Most mutations are refused by their header, with which each check begins: then one is enough."""
        if not _is_accepted(head):
            return [self.checks[turn % len(self.checks)]]
        return [self.checks[turn % 2], *self.checks[2:]]

    def _one(self, name: str, check: Callable[[bytes], object], head: bytes, number: int, kinds: list[str]) -> None:
        try:
            check(head)
            self.ends[f"{name}: accepted"] += 1
        except KigiError as exc:
            self.ends[f"{name}: {exc.reason}"] += 1
            fault = message_fault(exc)
            if fault:
                self._fail(number, kinds, name, fault)
        except Exception as exc:
            self._fail(number, kinds, name, f"{type(exc).__name__}: {exc}")
        if OPENED:
            self._fail(number, kinds, name, f"opened {OPENED.pop()}")
            OPENED.clear()

    def _fail(self, number: int, kinds: list[str], name: str, what: str) -> None:
        self.failures.append(f"{self.base.name} {number} {','.join(kinds)}: {name}: {what[:300]}")


def _is_accepted(head: bytes) -> bool:
    try:
        parse_header(head)
    except LayerRefused:
        return False
    return True


OPENED: list[str] = []
"""Files outside of the mutated one's folder that this process has opened."""


class TooSlow(BaseException):
    """The checks of one mutation took too long."""


ALLOWED: list[str] = []
"""The folder, with a slash, in which this process may open files; empty while it may open all."""


def watch() -> None:
    """Bound this process: memory, time, and the files that it opens. There is no way back, and it is called once."""

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and ALLOWED and isinstance(arguments[0], str) and not _is_expected(arguments[0], ALLOWED[0]):
            OPENED.append(arguments[0])

    def late(*_: object) -> None:
        raise TooSlow(f"more than {CPU_S} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, resource.RLIM_INFINITY))
    signal.signal(signal.SIGPROF, late)
    sys.addaudithook(audit)


def _is_expected(path: str, folder: str) -> bool:
    real = os.path.realpath(path)
    if real.startswith((sys.prefix, sys.base_prefix, str(Path.cwd()))):  # a module that is imported late
        return True
    return real.startswith(folder) and real != f"{folder}{CANARY}.qcow2"


def check_many(seed: int, first: int, count: int, directory: str, made: tuple[list[Base], Chain]) -> dict[str, Any]:
    """Run in a process of its own: mutations ``first`` to ``first + count - 1``."""
    with tempfile.TemporaryDirectory(dir=directory, prefix="checks-") as name:
        kept, chain = made
        checks = [Checks(Path(name), base, chain) for base in kept]
        ALLOWED[:] = [name + "/"]
        for number in range(first, first + count):
            checks[number % len(checks)].run(seed, number)
        ALLOWED.clear()
        for each in checks:
            os.close(each.descriptor)
    return {
        "ends": sum((each.ends for each in checks), Counter()),
        "kinds": sum((each.kinds for each in checks), Counter()),
        "failures": [text for each in checks for text in each.failures],
        "slowest_s": max(each.slowest_s for each in checks),
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def in_process(
    seed: int, numbers: range, directory: Path, made: tuple[list[Base], Chain], workers: int, seconds: float
) -> dict[str, Any]:
    """Part 1: all mutations through the checks; those with the first numbers, if there is not enough time."""
    began = time.monotonic()
    ends: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    failures: list[str] = []
    slowest, rss, done = 0.0, 0, 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=watch) as pool:
        for size, part in _parts(pool, seed, numbers, directory, made, workers, began + seconds):
            done += size
            ends += part["ends"]
            kinds += part["kinds"]
            failures += part["failures"]
            slowest, rss = max(slowest, part["slowest_s"]), max(rss, part["rss_mib"])
    return {
        "first": numbers.start,
        "mutations": done,
        "kinds": dict(sorted(kinds.items())),
        "ends": dict(sorted(ends.items())),
        "failed": len(failures),
        "failures": failures[:KEPT],
        "slowest_cpu_s": round(slowest, 3),
        "max_rss_mib": rss,
        "seconds": round(time.monotonic() - began, 1),
    }


def _parts(
    pool: ProcessPoolExecutor,
    seed: int,
    numbers: range,
    directory: Path,
    made: tuple[list[Base], Chain],
    workers: int,
    deadline: float,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Results in turn; no part begins after the deadline."""
    chunk = min(CHUNK, -(-len(numbers) // workers))
    waiting = []
    for first in numbers[::chunk]:
        if time.monotonic() > deadline:
            break
        size = min(chunk, numbers.stop - first)
        waiting.append((size, pool.submit(check_many, seed, first, size, str(directory), made)))
        if len(waiting) > workers:
            size, oldest = waiting.pop(0)
            yield size, oldest.result()
    for size, each in waiting:
        yield size, each.result()


def with_files(seed: int, count: int, directory: Path) -> dict[str, Any]:
    """Part 2: a sample as real files, in a process under strace."""
    began = time.monotonic()
    (directory / f"{CANARY}.qcow2").write_bytes(b"QFI\xfb")
    trace, result = directory / "trace", directory / "result.json"
    watched = ["strace", "-f", "-qq", "--seccomp-bpf", "-s", "4096", "-o", str(trace)]
    watched += ["-e", "trace=open,openat,openat2,creat,connect"]
    case = [sys.executable, "-m", "tests.campaigns.image_files", str(seed), str(count), str(directory), str(result)]
    subprocess.run([*watched, *case], check=True, stdout=sys.stderr, timeout=7200)
    found: dict[str, Any] = json.loads(result.read_text())
    opened = foreign_opens(trace, directory)
    found |= {"opens": opened[0], "foreign_opens": opened[1][:KEPT], "seconds": round(time.monotonic() - began, 1)}
    found["failed"] += len(opened[1])
    return found


def foreign_opens(trace: Path, directory: Path) -> tuple[int, list[str]]:
    """Number of traced calls, and those that reached what no case may open."""
    allowed = (
        *(
            "/usr/",
            "/lib",
            "/etc/ld.so",
            "/etc/locale",
            "/proc/self/",
            "/proc/meminfo",
            "/proc/filesystems",
            "/proc/stat",
        ),
        *("/sys/devices/system/", "/sys/fs/cgroup", "/dev/null", "/dev/urandom", "/tmp/tmp", "/etc/nsswitch"),
        *("/etc/mime.types", "/etc/ssl/", "/etc/localtime", "/proc/sys/", "/etc/passwd", "/dev/shm/"),
        *(str(Path.cwd()), sys.prefix, sys.base_prefix, str(directory)),
    )
    count, foreign = 0, set[str]()
    with trace.open(errors="replace") as lines:
        for line in lines:
            call, _, rest = line.partition("(")
            if "connect" in call and "AF_UNIX" not in rest:
                foreign.add(line.strip()[:300])
            if '"' not in rest or "connect" in call:
                continue
            count += 1
            name = rest.split('"')[1]
            is_known = not name.startswith("/") or name.startswith(allowed)
            if not is_known or (CANARY in name and " = -1 " not in rest):
                foreign.add(line.strip()[:300])
    return count, sorted(foreign)


def campaign(
    seed: int, count: int, files: int, *, workers: int = 2, first: int = 0, seconds: float = float("inf")
) -> dict[str, Any]:
    """Both parts; the result as JSON's types. ``first`` is the number of the first mutation, ``seconds`` of part 1."""
    with (
        tempfile.TemporaryDirectory(prefix="kigi-images-") as name,
        tempfile.TemporaryDirectory(prefix="kigi-images-", dir=fast_directory()) as fast,
    ):
        directory = Path(name)
        (directory / "bases").mkdir()
        result: dict[str, Any] = {"campaign": "images", "seed": seed}
        made = bases(directory / "bases")
        result["checks"] = in_process(seed, range(first, first + count), Path(fast), made, workers, seconds)
        result["files"] = with_files(seed, files, directory)
    result["holds"] = not result["checks"]["failed"] and not result["files"]["failed"]
    return result


def main() -> int:
    """Print the result; 1 if something does not hold."""
    parser = argparse.ArgumentParser(description="Mutated qcow2 files against publish, capture, flatten and import")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--files", type=int, default=6_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    result = campaign(
        arguments.seed,
        arguments.count,
        arguments.files,
        workers=arguments.workers,
        first=arguments.first,
        seconds=arguments.seconds,
    )
    json.dump(result, sys.stdout, indent=1)
    print()
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
