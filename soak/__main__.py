"""``make soak``: ten VMs run undisturbed for an hour; only heartbeats may change during this time."""

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


def progress(text: str) -> None:
    """Print a line with the seconds since the start."""
    console.print(f"[dim]{time.monotonic() - _started:7.1f} s[/dim] {escape(text)}")


def main() -> int:
    """Run the soak test; the exit status is 0 without findings, 1 with findings, 2 if the VMs could not be deployed."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options.judge:
        return judge(options.judge)
    options.out.mkdir(parents=True, exist_ok=True)
    cluster = Cluster()
    cluster.up()
    target = Target(cluster.environment(), str(binary("kubectl")))
    try:
        published = guests.deploy(cluster, target)
        progress("Ready; waiting for the guests' reports")
        before = guests.reports(target, published)
    except _BROKEN as exc:
        progress(f"the VMs could not be deployed: {exc}")
        return 2
    progress(f"{len(before)} guests have reported; waiting {options.settle:.0f} s before the first sample")
    time.sleep(options.settle)
    samples, findings = observe(cluster, target, options)
    findings += checks.find(samples)
    _save(options.out, samples, findings, cluster)
    progress("requesting another report from every guest")
    findings += _guarded("guests", lambda: guests.ask_again(cluster, target, before))
    progress("deleting the deployment")
    findings += _guarded("removal", lambda: [*guests.remove(target), *guests.node_leftovers(cluster)])
    figures = _save(options.out, samples, findings, cluster)
    _show(figures, findings)
    progress(
        f"{len(findings)} findings in {figures['minutes']} minutes, {len(samples)} samples; report in {options.out}"
    )
    return 1 if findings else 0


def judge(path: Path) -> int:
    """Check the samples of an earlier run, without its guests and its removal; the exit status is 1 with findings."""
    samples = stored.load(path)
    findings = checks.find(samples)
    _show(report.build(samples, findings, {}), findings)
    progress(f"{len(findings)} findings in {checks.span_s(samples) / 60:.1f} minutes, {len(samples)} samples")
    return 1 if findings else 0


def observe(cluster: Cluster, target: Target, options: argparse.Namespace) -> tuple[list[Sample], list[Finding]]:
    """Take samples for ``options.minutes`` and write each to ``samples.jsonl`` immediately.

    An interrupt ends the sampling and is a finding.
    """
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
                _report_progress(samples)
                if due > end:
                    break
                time.sleep(max(0.0, due - time.monotonic()))
        except KeyboardInterrupt:
            findings.append(Finding("run", "samples", f"interrupted after {checks.span_s(samples):.0f} s"))
    return samples, findings


def _report_progress(samples: list[Sample]) -> None:
    """Print a line for each failure of the last sample, and one every 20 samples."""
    for failure in samples[-1].failures:
        progress(f"sample {len(samples)}: {failure}")
    if len(samples) % 20 == 1:
        found = len(checks.find(samples)) if len(samples) > 1 else 0
        progress(f"sample {len(samples)}, taken in {samples[-1].took_s} s; {found} findings so far")


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
    parser.add_argument("--minutes", type=float, default=60, help="duration of the sampling (default 60)")
    parser.add_argument("--settle", type=float, default=120, help="seconds to wait before the sampling (default 120)")
    parser.add_argument("--every", type=float, default=15, help="seconds between two samples (default 15)")
    parser.add_argument("--out", type=Path, default=Path(".out/soak"), help="folder of samples.jsonl and report.json")
    parser.add_argument(
        "--judge", type=Path, metavar="FILE", help="check this samples.jsonl of an earlier run; runs no cluster"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
