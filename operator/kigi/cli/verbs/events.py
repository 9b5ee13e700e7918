"""``kigi events``: CloudEvents of a namespace, on the standard output or to a webhook."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kigi.cli.cloud_events import WATCHED, Observer
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.live import follow_all
from kigi.cli.options import PATH, cluster_options, optional_deployment_argument
from kigi.cli.output import print_message


@click.command("events")
@optional_deployment_argument
@click.option("--webhook", help="URL that gets each event in a POST; default: one line of JSON on the standard output.")
@click.option("--token-file", type=PATH, help="File with a bearer token for the webhook.")
@cluster_options()
def command(access: Access, deployment: str | None, webhook: str | None, token_file: Path | None) -> None:
    """Report switches, resets, captures and readiness as CloudEvents.

    Runs until Ctrl-C. What happened before the start is not reported.

    \b
    DEPLOYMENT: SystemDeployment; default: all of the namespace.
    """
    from kigi.cli.webhook import Webhook

    if token_file is not None and webhook is None:
        raise OptionInvalid("--token-file: it is for --webhook, which is not given")
    token = token_file.read_text(encoding="utf-8").strip() if token_file is not None else None
    if token is not None and not (token.isascii() and token.isprintable()):
        raise OptionInvalid(f"--token-file {token_file}: the file has more than one line of printable ASCII")
    target = Webhook(webhook, token) if webhook is not None else None
    observer = Observer(deployment)
    for event in follow_all(lambda: open_cluster(access), WATCHED, access.default_namespace()):
        for made in observer.take(event) if event is not None else ():
            if target is None:
                print(json.dumps(made), flush=True)
            elif cause := target.send(made):
                print_message(f"{made['type']} {made['subject']} at {made['time']} was not delivered: {cause}")
