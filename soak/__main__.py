"""``make soak``: ten VMs run undisturbed for an hour, and nothing but heartbeats may change."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from demo.targets import DemoFailed, Target
from kigi.errors import KigiError
from localcluster.build import binary
from localcluster.cluster import Cluster, ClusterError
from scenario.packages import BuildFailed
from soak import checks, guests, report, stored
from soak.model import Finding, Sample
from soak.sampling import Sampler

console = Console(width=None if sys.stdout.isatty() else 190)
_started = time.monotonic()
_BROKEN = (DemoFailed, KigiError, ClusterError, BuildFailed, RuntimeError, OSError, subprocess.SubprocessError)


def say(text: str) -> None:
    """One line with the seconds since the start."""
    console.print(f"[dim]{time.monotonic() - _started:7.1f} s[/dim] {escape(text)}")


def main() -> int:
    """Exit status 0 if nothing but heartbeats changed, 1 if something did, 2 if the VMs could not be deployed."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options.judge:
        return judge(options.judge)
    options.out.mkdir(parents=True, exist_ok=True)
    cluster = Cluster()
    cluster.up()
    target = Target(cluster.environment(), str(binary("kubectl")))
    try:
        chapter = guests.deploy(cluster, target)
        say("Ready; waiting for the guests' reports")
        before = guests.reports(target, chapter)
    except _BROKEN as exc:
        say(f"not deployed: {exc}")
        return 2
    say(f"{len(before)} guests have reported; settling for {options.settle:.0f} s")
    time.sleep(options.settle)
    samples, findings = observe(cluster, target, options)
    findings += checks.find(samples)
    _save(options.out, samples, findings, cluster)
    say("asking every guest again")
    findings += _guarded("guests", lambda: guests.ask_again(cluster, target, before))
    say("deleting the deployment")
    findings += _guarded("removal", lambda: [*guests.remove(target), *guests.node_leftovers(cluster)])
    figures = _save(options.out, samples, findings, cluster)
    _show(figures, findings)
    say(f"{len(findings)} findings in {figures['minutes']} minutes, {len(samples)} samples; report in {options.out}")
    return 1 if findings else 0


def judge(path: Path) -> int:
    """Decide on samples that were taken before; guests and removal are not among them. Exit status 1 with findings."""
    samples = stored.load(path)
    findings = checks.find(samples)
    _show(report.build(samples, findings, {}), findings)
    say(f"{len(findings)} findings in {checks.span_s(samples) / 60:.1f} minutes, {len(samples)} samples")
    return 1 if findings else 0


def observe(cluster: Cluster, target: Target, options: argparse.Namespace) -> tuple[list[Sample], list[Finding]]:
    """Samples of the given minutes, each written to ``samples.jsonl`` at once. An interrupt ends them: a finding."""
    sampler = Sampler(cluster, target)
    samples: list[Sample] = []
    findings: list[Finding] = []
    end = time.monotonic() + 60 * options.minutes
    with (options.out / "samples.jsonl").open("w") as file:
        try:
            while True:
                due = time.monotonic() + options.every
                samples.append(sampler.take())
                file.write(stored.line(samples[-1]))
                file.flush()
                _progress(samples)
                if due > end:
                    break
                time.sleep(max(0.0, due - time.monotonic()))
        except KeyboardInterrupt:
            findings.append(Finding("run", "samples", f"interrupted after {checks.span_s(samples):.0f} s"))
    return samples, findings


def _progress(samples: list[Sample]) -> None:
    """A line for each failure, and one every 20 samples."""
    for failure in samples[-1].failures:
        say(f"sample {len(samples)}: {failure}")
    if len(samples) % 20 == 1:
        found = len(checks.find(samples)) if len(samples) > 1 else 0
        say(f"sample {len(samples)}, taken in {samples[-1].took_s} s; {found} findings so far")


def _show(figures: dict[str, Any], findings: list[Finding]) -> None:
    for table in report.tables(figures):
        console.print(table)
    for line in report.lines(findings):
        console.print(f"[red]finding[/red] {escape(line)}")


def _guarded(check: str, read: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return read()
    except _BROKEN as exc:
        return [Finding(check, "all", f"{type(exc).__name__}: {exc}")]


def _save(out: Path, samples: list[Sample], findings: list[Finding], cluster: Cluster) -> dict[str, Any]:
    figures = report.build(samples, findings, {"kubevirt": cluster.release.version})
    (out / "report.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="time under observation (default 60)")
    parser.add_argument("--settle", type=float, default=120, help="seconds before it (default 120)")
    parser.add_argument("--every", type=float, default=15, help="seconds between two samples (default 15)")
    parser.add_argument("--out", type=Path, default=Path(".out/soak"), help="folder of samples.jsonl and report.json")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="decide again on this samples.jsonl; run nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
