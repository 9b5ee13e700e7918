"""``kigi demo``: the ten-VM exercise on this cluster, from publishing to clean-up, with a report."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from kigi.cli.cluster import Access
from kigi.cli.exit_codes import ExitCode, OptionInvalid, code_of
from kigi.cli.options import MAX_WAIT_S, PATH, cluster_options, number_of_seconds, output_option, repository_options
from kigi.cli.output import Format, print_data, print_message
from kigi.cli.repositories import RepositoryChoice
from kigi.errors import KigiError

if TYPE_CHECKING:
    from kigi.cli.demo.checks import Request
    from kigi.cli.demo.run import Result


STEPS = 5
"""Of a whole run, as ``kigi.cli.demo.steps`` has them."""


@dataclass(frozen=True, slots=True)
class Options:
    """Arguments and options as click passes them."""

    access: Access
    repository: RepositoryChoice
    keep: bool
    clean: bool
    steps: int
    guests: bool
    label: tuple[str, ...]
    timeout_s: float
    out: Path | None
    form: Format


@click.command("demo")
@click.option("--keep", is_flag=True, help="Leave everything running; --clean removes it later.")
@click.option("--clean", is_flag=True, help="Only remove what earlier calls have left.")
@click.option(
    "--steps",
    type=click.IntRange(1, STEPS),
    default=STEPS,
    show_default=True,
    help="Number of steps; 1 only deploys the first state, so that with --keep ten VMs run.",
)
@click.option("--guests/--no-guests", default=True, help="Wait until each guest has reported on its serial console.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="Label of the demo's namespace; may be repeated.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1, max=MAX_WAIT_S),
    default=1800.0,
    callback=lambda ctx, param, value: number_of_seconds(value),
    show_default=True,
    help="Seconds that one step may take.",
)
@click.option("--out", type=PATH, help="Folder for report.json, report.md and report.svg.")
@repository_options()
@output_option
@cluster_options(namespace=False)
def command(**values: Any) -> None:
    """Run ten small VMs through three states, then remove them.

    Publishes 44 MB of generated layers, deploys a state, switches twice, resets, adds an instance, shows what each step
    moved, and removes everything again, also after Ctrl-C. It uses a namespace of its own, kigi-demo-NAME. The guests
    are programs of 304 bytes that boot in a second, also under emulation.
    """
    options = Options(**values)
    with _interruptible():
        code = _clean(options) if options.clean else _run(options)
    if code:
        raise SystemExit(code)


def _run(options: Options) -> ExitCode:
    from kigi.cli.demo.checks import Site, check
    from kigi.cli.demo.objects import new_run
    from kigi.cli.demo.run import Result

    request = _request(options, new_run())
    print_message("checking the cluster and the repository")
    result = Result(request.run, Site("", 0))
    try:
        result.site = check(request)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    code = _run_and_remove(options, request, result)
    if options.out is not None:
        from kigi.cli.demo.run import write_report

        write_report(result, options.out)
    _print(result, options.form)
    return code


def _run_and_remove(options: Options, request: Request, result: Result) -> ExitCode:
    from kigi.cli.demo.display import shown
    from kigi.cli.demo.run import all_phases, carry_out, remove

    code = ExitCode.DONE
    try:
        with shown(all_phases(options.steps, removes=not options.keep)) as display:
            try:
                carry_out(request, result, display, options.steps, options.timeout_s)
            except KeyboardInterrupt:
                result.error, code = "interrupted", ExitCode.INTERRUPTED
                print_message("interrupted; removing what was made. Ctrl-C again leaves it")
            except KigiError as exc:
                result.error, code = f"{exc.reason}: {exc}", code_of(exc)
                print_message(f"the demo failed: {result.error}", "red")
            if options.keep:
                result.kept = True
            elif result.error is None:
                with display.phase("clean up"):
                    result.left = remove(request, lambda text: display.show(0.0, text))
                result.seconds.update(display.seconds)
            else:
                result.left = remove(request)
    except KeyboardInterrupt:
        result.error, code = "interrupted while it cleaned up", ExitCode.INTERRUPTED
        result.left = [f"Namespace kigi-demo-{request.run}, or layers of the run"]
    for line in result.left:
        print_message(f"left: {line}", "red")
    if result.left:
        print_message("'kigi demo --clean' removes what is left")
    return code or (ExitCode.ERROR if result.left else ExitCode.DONE)


def _clean(options: Options) -> ExitCode:
    from kigi.cli.demo.run import earlier_runs, remove

    code = ExitCode.DONE
    for run in earlier_runs(_request(options, "none")):
        left = remove(_request(options, run))
        print_message(f"kigi-demo-{run}: {'left: ' + '; '.join(left) if left else 'removed'}")
        code = code or (ExitCode.ERROR if left else ExitCode.DONE)
    return code


def _request(options: Options, run: str) -> Request:
    from kigi.cli.demo.checks import Request
    from kigi.cli.demo.objects import namespace_name

    labels = dict(_label(text) for text in options.label)
    access = replace(options.access, namespace=namespace_name(run))
    return Request(run, labels, options.repository, access, options.guests)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise OptionInvalid(f"--label: {text!r} is no label; write KEY=VALUE")
    return key, value


def _print(result: Result, form: Format) -> None:
    from kigi.cli.demo.report import build_table

    if form is not Format.TABLE or result.steps:
        print_data(result.to_json(), lambda: build_table(result.steps), form)
    if result.kept:
        namespace = f"kigi-demo-{result.run}"
        print_message(f"kept in namespace {namespace}: kigi status exercise -n {namespace}; kigi tree -n {namespace}")
        print_message("'kigi demo --clean' removes it")


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM acts as Ctrl-C while the context lasts."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
