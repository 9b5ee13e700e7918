"""Verbs that read the cluster or wish something of it; their work is imported when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import click

from kigi.cli.commands import Argument, Option
from kigi.cli.options import Context, Done, Form, Kubeconfig, Namespace, access_of
from kigi.cli.output import Format


def _complete_deployments(ctx: click.Context, incomplete: str) -> list[str]:
    return _complete(ctx, "systemdeployments", incomplete)


def _complete_states(ctx: click.Context, incomplete: str) -> list[str]:
    return _complete(ctx, "systemnodes", incomplete)


def _complete(ctx: click.Context, plural: str, incomplete: str) -> list[str]:
    """Names for the shell; none rather than an error."""
    from kigi.cli.completion import names_of

    return names_of(ctx.params, plural, incomplete)


_All = Annotated[
    bool,
    Option(
        "Of all namespaces.",
        (
            "--all-namespaces",
            "-A",
        ),
    ),
]
_Deployment = Annotated[str, Argument("SystemDeployment.", complete=_complete_deployments)]
_MaybeDeployment = Annotated[
    str | None,
    Argument("SystemDeployment.", complete=_complete_deployments),
]
_Force = Annotated[bool, Option("Also a field that a pipeline or a file keeps, and may set back.")]
_Wait = Annotated[float, Option("Seconds to wait until it is Ready; 0: not at all.", ("--wait",))]


def tree(
    namespace: Namespace = None,
    all_namespaces: _All = False,
    output: Form = Format.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Both trees: images with sizes and where they are cached, states with what they add and who runs them."""
    from kigi.cli.verbs.tree import run_tree

    run_tree(access_of(kubeconfig, context, namespace, all_namespaces=all_namespaces), output)


def status(
    deployment: _MaybeDeployment = None,
    namespace: Namespace = None,
    all_namespaces: _All = False,
    output: Form = Format.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """All deployments, or one with its conditions, machines and last switches and resets."""
    from kigi.cli.verbs.status import run_status

    run_status(access_of(kubeconfig, context, namespace, all_namespaces=all_namespaces), deployment, output)


def why(
    subject: Annotated[
        str | None,
        Argument(
            "Deployment, KIND/NAME, or a reason such as NoRoom; default: everything in the namespace.",
            complete=_complete_deployments,
        ),
    ] = None,
    namespace: Namespace = None,
    output: Form = Format.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Cause and remedy of whatever is not Ready, followed to where it comes from; exit code 1 if anything is not."""
    from kigi.cli.verbs.why import run_why

    raise SystemExit(run_why(access_of(kubeconfig, context, namespace), subject, output))


def plan(
    deployment: _MaybeDeployment = None,
    file: Annotated[
        Path | None,
        Option(
            "Objects as YAML, not applied yet.",
            (
                "--file",
                "-f",
            ),
        ),
    ] = None,
    system: Annotated[
        str | None,
        Option("Plan a switch to this state.", complete=_complete_states),
    ] = None,
    namespace: Namespace = None,
    output: Form = Format.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """What a deployment, a switch or a prefetch would move and restart, and what room it leaves; changes nothing."""
    from kigi.cli.verbs.plan import run_plan

    run_plan(access_of(kubeconfig, context, namespace), deployment, file, system, output)


def diff(
    states: Annotated[str, Argument("Two states, as A..B.")],
    namespace: Namespace = None,
    output: Form = Format.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Machines that differ between two states, and the bytes from one to the other."""
    from kigi.cli.verbs.diff import run_diff

    run_diff(access_of(kubeconfig, context, namespace), states, output)


def switch(
    deployment: _Deployment,
    state: Annotated[str, Argument("SystemNode that shall run.", complete=_complete_states)],
    instance: Annotated[int | None, Option("This instance alone.")] = None,
    machine: Annotated[str | None, Option("This machine of the instance alone.")] = None,
    force: _Force = False,
    wait: _Wait = 0,
    output: Done = Format.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Put a deployment, an instance or a machine into another state."""
    from kigi.cli.spec_fields import Place, run_switch

    access = access_of(kubeconfig, context, namespace)
    run_switch(access, deployment, state, Place(instance, machine), force=force, wait_s=wait, form=output)


def reset(
    deployment: _Deployment,
    instance: Annotated[int | None, Argument("This instance alone.")] = None,
    machine: Annotated[str | None, Argument("This machine of the instance alone.")] = None,
    force: _Force = False,
    wait: _Wait = 0,
    output: Done = Format.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Throw away what guests wrote: of a deployment, an instance or a machine."""
    from kigi.cli.spec_fields import Place, run_reset

    run_reset(
        access_of(kubeconfig, context, namespace),
        deployment,
        Place(instance, machine),
        force=force,
        wait_s=wait,
        form=output,
    )


def capture(
    deployment: _Deployment,
    name: Annotated[str, Option("Name of the SystemCapture and of the new state.")],
    instance: Annotated[int, Option("Index of the instance.")] = 0,
    machine: Annotated[list[str] | None, Option("These machines alone.")] = None,
    description: Annotated[str | None, Option("Free text.")] = None,
    quiesce: Annotated[bool, Option("Ask guests with an agent to write out their file systems.")] = True,
    wait: _Wait = 0,
    output: Done = Format.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Keep a running instance as a new state; its VMs stand still for a moment and run on."""
    from kigi.cli.spec_fields import run_capture

    spec: dict[str, Any] = {"deployment": {"name": deployment}, "instance": instance}
    spec["quiesce"] = "Auto" if quiesce else "Pause"
    if machine:
        spec["machines"] = machine
    if description is not None:
        spec["description"] = description
    run_capture(access_of(kubeconfig, context, namespace), name, spec, wait_s=wait, form=output)


def console(
    deployment: _Deployment,
    machine: Annotated[str, Argument("Machine.")],
    instance: Annotated[int, Option("Index of the instance.")] = 0,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Serial console of a machine; leave with Ctrl-]."""
    from kigi.cli.verbs.console import run_console

    run_console(access_of(kubeconfig, context, namespace), deployment, machine, instance)


VERBS = (tree, status, why, plan, diff, switch, reset, capture, console)
