"""``kigi`` and ``kubectl kigi``."""

from __future__ import annotations

import gc
import sys

import click

from kigi.cli.lazy_group import LazyGroup, Verb
from kigi.errors import KigiError

VERBS = {
    "tree": Verb("kigi.cli.verbs.tree", "Show both trees with sizes, cached layers and users"),
    "status": Verb("kigi.cli.verbs.status", "Show all deployments, or one with its machines and history"),
    "why": Verb("kigi.cli.verbs.why", "Explain what is not Ready, with cause and remedy"),
    "plan": Verb("kigi.cli.verbs.plan", "Show what a change would move and restart; change nothing"),
    "diff": Verb("kigi.cli.verbs.diff", "Compare two states: machines that differ, and bytes"),
    "switch": Verb("kigi.cli.verbs.switch", "Put a deployment, an instance or a machine into another state"),
    "reset": Verb("kigi.cli.verbs.reset", "Replace disks by fresh ones: what guests wrote is lost"),
    "capture": Verb("kigi.cli.verbs.capture", "Keep a running instance as a new state"),
    "console": Verb("kigi.cli.verbs.console", "Open the serial console of a machine"),
    "publish": Verb("kigi.cli.verbs.publish", "Store a disk image as a layer, named by a VMImageNode"),
    "publish-tree": Verb("kigi.cli.verbs.publish_tree", "Store every image of a folder, parents first"),
    "delete": Verb("kigi.cli.verbs.delete", "Delete an image or a state that nothing uses"),
    "flatten": Verb("kigi.cli.verbs.flatten", "Make an equal image with a shorter chain"),
    "gc": Verb("kigi.cli.verbs.gc", "List or delete the layers that no tree names"),
    "repository": Verb("kigi.cli.verbs.repository", "Check the bucket of a repository"),
    "export": Verb("kigi.cli.verbs.export", "Write a state or an image with its layers into a file"),
    "import": Verb("kigi.cli.verbs.import_", "Store the layers of an export and create its objects"),
    "migrate": Verb("kigi.cli.verbs.migrate", "Convert the cluster's objects from v1alpha1 to v1alpha2"),
    "completion": Verb("kigi.cli.verbs.completion", "Print the completion script of a shell"),
    "version": Verb("kigi.cli.verbs.version", "Print the version"),
}

app = LazyGroup(
    VERBS,
    help="Trees of VM images and of states of whole systems.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
click.version_option(package_name="kigi", message="%(version)s")(app)

GC_THRESHOLD = 50_000
"""New objects between two searches for garbage: at Python's 700 they take a tenth of a short verb's time."""


def main() -> None:
    """Runs a verb; a KigiError ends as one line on stderr and exit code 1."""
    gc.set_threshold(GC_THRESHOLD)
    try:
        app()
    except KigiError as exc:
        print(f"kigi: {exc.reason}: {exc}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
