"""``kigi`` and ``kubectl kigi``."""

from __future__ import annotations

import gc
import io
import sys

import click

from kigi.cli.exit_codes import ExitCode, code_of
from kigi.cli.lazy_group import LazyGroup, Verb
from kigi.errors import KigiError, SpecInvalid
from kigi.extras import missing_extra

VERBS = {
    "tree": Verb("kigi.cli.verbs.tree", "Show both trees with sizes, cached layers and users"),
    "status": Verb("kigi.cli.verbs.status", "Show all deployments, or one with its machines and history"),
    "history": Verb("kigi.cli.verbs.history", "Show who switched and reset what, and when"),
    "events": Verb("kigi.cli.verbs.events", "Report switches, resets, captures and readiness as CloudEvents"),
    "why": Verb("kigi.cli.verbs.why", "Explain what is not Ready, with cause and remedy"),
    "doctor": Verb("kigi.cli.verbs.doctor", "Check the cluster and the installation, with remedies"),
    "report": Verb("kigi.cli.verbs.report", "Write a support archive without secrets"),
    "plan": Verb("kigi.cli.verbs.plan", "Show what a change would move and restart; change nothing"),
    "diff": Verb("kigi.cli.verbs.diff", "Compare two states: machines that differ, and bytes"),
    "switch": Verb("kigi.cli.verbs.switch", "Put a deployment, instances or machines into another state"),
    "start": Verb("kigi.cli.verbs.start", "Start VMs on the disks that they have"),
    "stop": Verb("kigi.cli.verbs.stop", "Shut VMs down; their disks stay"),
    "reset": Verb("kigi.cli.verbs.reset", "Replace disks by fresh ones: what guests wrote is lost"),
    "capture": Verb("kigi.cli.verbs.capture", "Keep running instances as new states"),
    "console": Verb("kigi.cli.verbs.console", "Open the serial console of a machine"),
    "screenshot": Verb("kigi.cli.verbs.screenshot", "Save a picture of a machine's screen"),
    "access": Verb("kigi.cli.verbs.access", "Give a team access to its own machines, for some hours"),
    "publish": Verb("kigi.cli.verbs.publish", "Store a disk image as a layer, named by a VMImageNode"),
    "publish-tree": Verb("kigi.cli.verbs.publish_tree", "Store every image of a folder, parents first"),
    "delete": Verb("kigi.cli.verbs.delete", "Delete an image or a state that nothing uses"),
    "flatten": Verb("kigi.cli.verbs.flatten", "Make an equal image with a shorter chain"),
    "gc": Verb("kigi.cli.verbs.gc", "List or delete the layers that no tree names"),
    "enable-hook": Verb("kigi.cli.verbs.enable_hook", "Enable the feature gate that Kigi's disks need in KubeVirt"),
    "release": Verb("kigi.cli.verbs.release", "Free deleted objects that wait for an operator that is gone"),
    "repository": Verb("kigi.cli.verbs.repository", "Check the bucket of a repository"),
    "export": Verb("kigi.cli.verbs.export", "Write a state or an image with its layers into a file"),
    "import": Verb("kigi.cli.verbs.import_", "Store the layers of an export and create its objects"),
    "demo": Verb("kigi.cli.verbs.demo", "Run ten small VMs through three states, then remove them"),
    "migrate": Verb("kigi.cli.verbs.migrate", "Convert all objects from v1alpha1 to v1alpha2, or back"),
    "completion": Verb("kigi.cli.verbs.completion", "Print the completion script of a shell"),
    "version": Verb("kigi.cli.verbs.version", "Print the versions of kigi, operator and daemons"),
}

app = LazyGroup(
    VERBS,
    help="Trees of VM images and of states of whole systems.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

GC_THRESHOLD = 50_000
"""New objects between two searches for garbage: at Python's 700 they take a tenth of a short verb's time."""


def main() -> None:
    """Runs a verb; an error ends as one line on stderr, with the exit code of ``exit_codes``."""
    gc.set_threshold(GC_THRESHOLD)
    _replace_unprintable()
    try:
        sys.exit(app.main(standalone_mode=False))
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.Abort:
        sys.exit(ExitCode.INTERRUPTED)
    except (KigiError, ImportError, OSError, ValueError) as exc:
        error = explained(exc)
        if error is None:
            raise
        print(f"kigi: {error.reason}: {error}", file=sys.stderr)
        sys.exit(code_of(error))


def explained(exc: Exception) -> KigiError | None:
    """The error for a person; None for a defect, whose traceback is worth more."""
    if isinstance(exc, KigiError):
        return exc
    if isinstance(exc, ImportError):
        verb = sys.argv[1] if len(sys.argv) > 1 else ""
        return missing_extra(exc, f"kigi {verb}".strip())
    if isinstance(exc, OSError) and exc.filename is not None:
        return SpecInvalid(f"{exc.filename}: {exc.strerror}; name another path, or correct it")
    if type(exc).__name__ == "ValidationError" and type(exc).__module__.startswith("pydantic"):
        from kigi.api.problems import problems

        return SpecInvalid("; ".join(problems(exc)))  # type: ignore[arg-type]
    return None


def _replace_unprintable() -> None:
    """Prints '?' for a character that the terminal's or pipe's encoding lacks, as on Windows, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
