"""Verbs that read the cluster or wish something of it; their work is imported when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from kigi.cli.options import Context, Done, Form, Kubeconfig, Namespace, access_of
from kigi.cli.output import Format


def _complete_deployments(ctx: typer.Context, incomplete: str) -> list[str]:
    return _complete(ctx, "systemdeployments", incomplete)


def _complete_states(ctx: typer.Context, incomplete: str) -> list[str]:
    return _complete(ctx, "systemnodes", incomplete)


def _complete(ctx: typer.Context, plural: str, incomplete: str) -> list[str]:
    """Names for the shell; none rather than an error."""
    from kigi.cli.completion import names_of

    return names_of(ctx.params, plural, incomplete)


_All = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")]
_Deployment = Annotated[str, typer.Argument(help="SystemDeployment.", autocompletion=_complete_deployments)]
_MaybeDeployment = Annotated[
    Optional[str],  # noqa: UP045
    typer.Argument(help="SystemDeployment.", autocompletion=_complete_deployments),
]
_Force = Annotated[bool, typer.Option(help="Also a field that a pipeline or a file keeps, and may set back.")]
_Wait = Annotated[float, typer.Option("--wait", help="Seconds to wait until it is Ready; 0: not at all.")]


def register(app: typer.Typer) -> None:
    """Adds the verbs to ``app``."""
    for verb in (tree, status, why, plan, diff, switch, reset, capture, console):
        app.command()(verb)


def tree(
    namespace: Namespace = None,
    all_namespaces: _All = False,
    output: Form = Format.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Both trees: images with sizes and where they are cached, states with what they add and who runs them."""
    from kigi.cli.tree import run_tree

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
    from kigi.cli.status import run_status

    run_status(access_of(kubeconfig, context, namespace, all_namespaces=all_namespaces), deployment, output)


def why(
    subject: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            help="Deployment, KIND/NAME, or a reason such as NoRoom; default: everything in the namespace.",
            autocompletion=_complete_deployments,
        ),
    ] = None,
    namespace: Namespace = None,
    output: Form = Format.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Cause and remedy of whatever is not Ready, followed to where it comes from; exit code 1 if anything is not."""
    from kigi.cli.why import run_why

    raise typer.Exit(run_why(access_of(kubeconfig, context, namespace), subject, output))


def plan(
    deployment: _MaybeDeployment = None,
    file: Annotated[Optional[Path], typer.Option("--file", "-f", help="Objects as YAML, not applied yet.")] = None,  # noqa: UP045
    system: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Plan a switch to this state.", autocompletion=_complete_states),
    ] = None,
    namespace: Namespace = None,
    output: Form = Format.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """What a deployment, a switch or a prefetch would move and restart, and what room it leaves; changes nothing."""
    from kigi.cli.plan import run_plan

    run_plan(access_of(kubeconfig, context, namespace), deployment, file, system, output)


def diff(
    states: Annotated[str, typer.Argument(help="Two states, as A..B.")],
    namespace: Namespace = None,
    output: Form = Format.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Machines that differ between two states, and the bytes from one to the other."""
    from kigi.cli.diff import run_diff

    run_diff(access_of(kubeconfig, context, namespace), states, output)


def switch(
    deployment: _Deployment,
    state: Annotated[str, typer.Argument(help="SystemNode that shall run.", autocompletion=_complete_states)],
    instance: Annotated[Optional[int], typer.Option(help="This instance alone.")] = None,  # noqa: UP045
    machine: Annotated[Optional[str], typer.Option(help="This machine of the instance alone.")] = None,  # noqa: UP045
    force: _Force = False,
    wait: _Wait = 0,
    output: Done = Format.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Put a deployment, an instance or a machine into another state."""
    from kigi.cli.acting import Place, run_switch

    access = access_of(kubeconfig, context, namespace)
    run_switch(access, deployment, state, Place(instance, machine), force=force, wait_s=wait, form=output)


def reset(
    deployment: _Deployment,
    instance: Annotated[Optional[int], typer.Argument(help="This instance alone.")] = None,  # noqa: UP045
    machine: Annotated[Optional[str], typer.Argument(help="This machine of the instance alone.")] = None,  # noqa: UP045
    force: _Force = False,
    wait: _Wait = 0,
    output: Done = Format.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Throw away what guests wrote: of a deployment, an instance or a machine."""
    from kigi.cli.acting import Place, run_reset

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
    name: Annotated[str, typer.Option(help="Name of the SystemCapture and of the new state.")],
    instance: Annotated[int, typer.Option(help="Index of the instance.")] = 0,
    machine: Annotated[Optional[list[str]], typer.Option(help="These machines alone.")] = None,  # noqa: UP045
    description: Annotated[Optional[str], typer.Option(help="Free text.")] = None,  # noqa: UP045
    quiesce: Annotated[bool, typer.Option(help="Ask guests with an agent to write out their file systems.")] = True,
    wait: _Wait = 0,
    output: Done = Format.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Keep a running instance as a new state; its VMs stand still for a moment and run on."""
    from kigi.cli.acting import run_capture

    spec: dict[str, Any] = {"deployment": {"name": deployment}, "instance": instance}
    spec["quiesce"] = "Auto" if quiesce else "Pause"
    if machine:
        spec["machines"] = machine
    if description is not None:
        spec["description"] = description
    run_capture(access_of(kubeconfig, context, namespace), name, spec, wait_s=wait, form=output)


def console(
    deployment: _Deployment,
    machine: Annotated[str, typer.Argument(help="Machine.")],
    instance: Annotated[int, typer.Option(help="Index of the instance.")] = 0,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Serial console of a machine; leave with Ctrl-]."""
    from kigi.cli.console import run_console

    run_console(access_of(kubeconfig, context, namespace), deployment, machine, instance)
