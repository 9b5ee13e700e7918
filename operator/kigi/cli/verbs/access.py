"""``kigi access``: a kubeconfig for a team that expires."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import SERVICE_ACCOUNT
from kigi.cli.choice import Choice, Chosen, find_chosen, instance_options
from kigi.cli.cluster import Access, list_objects, open_cluster
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.identity import caller_name
from kigi.cli.options import PATH, cluster_options, listing_option, optional_deployment_argument
from kigi.cli.output import Format, Rows, print_data, print_message, table
from kigi.cli.team_access import (
    account_name,
    build_kubeconfig,
    give_access,
    is_access,
    parse_lifetime,
    revoke_access,
)
from kigi.domain.names import ANNOTATION_ACCESS_BY, ANNOTATION_ACCESS_EXPIRES, LABEL_DEPLOYMENT, LABEL_INSTANCE

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kigi.adapters.kubernetes.session import KubeSession

COLUMNS = ("deployment", "instance", "account", "expires", "givenBy", "file", "revoked")


@click.command("access")
@optional_deployment_argument
@instance_options
@click.option("--for", "lifetime", default="8h", show_default=True, help="Lifetime: 30m, 8h, 2d; at least 10m.")
@click.option("--to", type=PATH, help="File for the kubeconfig; for several instances a folder.")
@click.option("--server", help="URL of the API server in the kubeconfig; default: that of your kubeconfig.")
@click.option("--list", "is_list", is_flag=True, help="Show who has access, and until when.")
@click.option("--revoke", is_flag=True, help="End the access of these instances' teams.")
@listing_option
@cluster_options()
def command(
    access: Access,
    deployment: str | None,
    choice: Choice,
    lifetime: str,
    to: Path | None,
    server: str | None,
    is_list: bool,
    revoke: bool,
    form: Format,
) -> None:
    """Give a team access to its own machines, for some hours.

    Makes an account that may see and reset its instance and open consoles and screens of its machines, and nothing
    else; prints a kubeconfig with a token of it.

    \b
    DEPLOYMENT: SystemDeployment; optional with --list.
    INSTANCES: such as 7, 1-8,12 or red,blue.
    """
    seconds = parse_lifetime(lifetime)
    with open_cluster(access) as kube:
        namespace = access.default_namespace()
        if is_list or revoke:
            found = [one for one in list_objects(kube, SERVICE_ACCOUNT, namespace) if is_access(one, deployment)]
            _print(_ended(kube, namespace, deployment, found, choice) if revoke else list(map(entry_of, found)), form)
            return
        if deployment is None or choice.selection is None:
            raise OptionInvalid("name a deployment and its instances, such as: kigi access office 7")
        chosen = find_chosen(kube, namespace, deployment, choice)
        if len(chosen.instances) > 1 and to is None:
            raise OptionInvalid("--to: name a folder, which gets a kubeconfig for each instance")
        _give(kube, access, chosen, seconds, to, server, form)


def _give(
    kube: KubeSession, access: Access, chosen: Chosen, seconds: int, to: Path | None, server: str | None, form: Format
) -> None:
    import yaml

    endpoint = access.endpoint()
    endpoint = replace(endpoint, server=server.rstrip("/")) if server is not None else endpoint
    user = caller_name(kube)
    done: list[dict[str, Any]] = []
    for body in chosen.instances:
        instance = str(body["spec"]["name"])
        token, expires = give_access(kube, chosen.namespace, chosen.deployment, body, user, seconds)
        account = account_name(chosen.deployment, instance)
        text = yaml.safe_dump(build_kubeconfig(endpoint, chosen.namespace, account, token), sort_keys=False)
        file = _file(to, account, is_folder=len(chosen.instances) > 1)
        if file is not None:
            write_private(file, text)
        elif form is Format.TABLE:
            print(text, end="")
        where = f": {file}" if file is not None else ""
        print_message(
            f"instance {instance} until {expires}{where}; kigi access {chosen.deployment} {instance} --revoke"
        )
        entry = {"deployment": chosen.deployment, "instance": instance, "account": account, "expires": expires}
        kubeconfig = {} if file is not None else {"kubeconfig": text}
        done.append({**entry, "givenBy": user, "file": str(file) if file is not None else None, **kubeconfig})
    if form is not Format.TABLE:
        _print(done, form)


def _file(to: Path | None, account: str, *, is_folder: bool) -> Path | None:
    return to / f"{account}.kubeconfig" if to is not None and (is_folder or to.is_dir()) else to


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner may read, also if it existed with other rights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _ended(
    kube: KubeSession, namespace: str, deployment: str | None, found: list[dict[str, Any]], choice: Choice
) -> list[dict[str, Any]]:
    """Revokes the chosen of the accounts, also of instances that are gone."""
    if deployment is None:
        raise OptionInvalid("--revoke: name a deployment, and its instances unless all are meant")
    known = {str(one["metadata"]["labels"][LABEL_INSTANCE]): one for one in found}
    names = choice.selection.choose(f"access to {deployment}", known) if choice.selection is not None else list(known)
    revoke_access(kube, namespace, [known[name] for name in names])
    return [{**entry_of(known[name]), "revoked": True} for name in names]


def entry_of(account: Mapping[str, Any]) -> dict[str, Any]:
    """An account as the verb prints it."""
    meta = account["metadata"]
    labels, annotations = meta["labels"], meta.get("annotations") or {}
    return {
        "deployment": labels.get(LABEL_DEPLOYMENT),
        "instance": labels.get(LABEL_INSTANCE),
        "account": meta["name"],
        "expires": annotations.get(ANNOTATION_ACCESS_EXPIRES) or None,
        "givenBy": annotations.get(ANNOTATION_ACCESS_BY),
    }


def _print(entries: list[dict[str, Any]], form: Format) -> None:
    print_data(
        entries,
        lambda: _render(entries),
        form,
        rows=lambda: Rows(COLUMNS, entries),
        names=lambda: [f"serviceaccount/{entry['account']}" for entry in entries],
    )


def _render(entries: list[dict[str, Any]]) -> RenderableType:
    if not entries:
        return "no team has access"
    columns = ("DEPLOYMENT", "INSTANCE#", "UNTIL", "GIVEN BY", "ACCOUNT", "")
    return table(
        columns,
        (
            (
                e["deployment"],
                e["instance"],
                e["expires"],
                e["givenBy"],
                e["account"],
                "revoked" if e.get("revoked") else "",
            )
            for e in entries
        ),
    )
