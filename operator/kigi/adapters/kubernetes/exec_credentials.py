"""Credentials from the plugin that a kubeconfig's user names (``exec``), by client-go's protocol.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from kigi.adapters.kubernetes.kubeconfig import Entry
from kigi.errors import SpecInvalid


def run_plugin(user: Entry, cluster: Entry) -> Mapping[str, Any]:
    """Runs the plugin; the ``status`` of its output, with ``token`` or ``client{Certificate,Key}Data``.

    Raises SpecInvalid.
    """
    plan = user.fields["exec"]
    command = str(plan.get("command") or "")
    if os.sep in command:
        command = str(user.folder / command)
    variables = {str(item["name"]): str(item["value"]) for item in plan.get("env") or ()}
    request = json.dumps(request_of(plan, cluster, interactive=_is_interactive(plan)))
    try:
        done = subprocess.run(
            [command, *map(str, plan.get("args") or ())],
            env={**os.environ, **variables, "KUBERNETES_EXEC_INFO": request},
            stdin=None if _is_interactive(plan) else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=True,
        )
    except FileNotFoundError as exc:
        hint = str(plan.get("installHint") or "install it, or give another --context").strip()
        raise SpecInvalid(f"kubeconfig: user {user.name!r} needs the program {command!r}: {hint}") from exc
    except (OSError, subprocess.CalledProcessError) as exc:
        raise SpecInvalid(f"kubeconfig: {command!r} gives user {user.name!r} no credentials: {exc}; log in") from exc
    return status_of(done.stdout, user.name, command)


def request_of(plan: Mapping[str, Any], cluster: Entry, *, interactive: bool) -> dict[str, Any]:
    """The ExecCredential to pass to the plugin."""
    spec: dict[str, Any] = {"interactive": interactive}
    if plan.get("provideClusterInfo"):
        ca = cluster.data("certificate-authority")
        spec["cluster"] = {
            "server": cluster.fields["server"],
            **({"certificate-authority-data": base64.b64encode(ca).decode()} if ca else {}),
            **{key: cluster.fields[key] for key in _CLUSTER_FIELDS if cluster.fields.get(key)},
        }
        for extension in cluster.fields.get("extensions") or ():
            if extension.get("name") == "client.authentication.k8s.io/exec":
                spec["cluster"]["config"] = extension.get("extension")
    return {"apiVersion": plan.get("apiVersion"), "kind": "ExecCredential", "spec": spec}


_CLUSTER_FIELDS = ("tls-server-name", "insecure-skip-tls-verify", "proxy-url")


def status_of(answer: bytes, user: str, command: str) -> Mapping[str, Any]:
    """The credentials in a plugin's output. Raises SpecInvalid if there are none."""
    try:
        status = json.loads(answer)["status"]
    except (ValueError, KeyError, TypeError) as exc:
        raise SpecInvalid(f"kubeconfig: {command!r} answers user {user!r} with no ExecCredential; log in") from exc
    if not isinstance(status, dict):
        raise SpecInvalid(f"kubeconfig: {command!r} answers user {user!r} without credentials; log in")
    return status


def _is_interactive(plan: Mapping[str, Any]) -> bool:
    return plan.get("interactiveMode") != "Never" and sys.stdin is not None and sys.stdin.isatty()
