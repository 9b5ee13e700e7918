"""``kigi screenshot``: a picture of a machine's screen, over the subresource ``vnc/screenshot`` of KubeVirt."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import click

from kigi.cli.choice import one_instance, one_instance_option
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.options import PATH, cluster_options, deployment_argument, result_option
from kigi.cli.output import Format, print_message, print_result
from kigi.domain.names import machine_name
from kigi.errors import DeploymentMissing, Forbidden, NotFound, SpecInvalid

PNG = b"\x89PNG\r\n\x1a\n"


@click.command("screenshot")
@deployment_argument
@click.argument("machine")
@one_instance_option
@click.option("--to", type=PATH, help="File for the picture, a PNG; default: the VM's name with .png.")
@result_option
@cluster_options()
def command(access: Access, deployment: str, machine: str, instance: str | None, to: Path | None, form: Format) -> None:
    """Save a picture of a machine's screen.

    \b
    DEPLOYMENT: SystemDeployment.
    MACHINE: machine of its state.
    """
    name = machine_name(deployment, one_instance(access, deployment, instance), machine)
    namespace = access.default_namespace()
    file = to if to is not None else Path(f"{name}.png")
    with open_cluster(access) as kube:
        place = f"{quote(namespace, safe='')}/virtualmachineinstances/{quote(name, safe='', errors='replace')}"
        path = f"/apis/subresources.kubevirt.io/v1/namespaces/{place}/vnc/screenshot"
        try:
            picture = kube.read_bytes(path, "image/png")
        except NotFound as exc:
            raise DeploymentMissing(f"VM {namespace}/{name} does not run; see kigi status") from exc
        except Forbidden as exc:
            raise Forbidden(
                f"VM {namespace}/{name}: you may not see its screen; you need the right to get "
                "virtualmachineinstances/vnc/screenshot of subresources.kubevirt.io, as kigi-instructor gives"
            ) from exc
    if not picture.startswith(PNG):
        raise SpecInvalid(f"VM {namespace}/{name}: the answer is no picture; has the VM a graphics device?")
    file.write_bytes(picture)
    print_message(f"{file}: {len(picture)} bytes")
    data = {"kind": "VirtualMachineInstance", "namespace": namespace, "name": name}
    print_result({**data, "file": str(file), "sizeBytes": len(picture)}, form)
