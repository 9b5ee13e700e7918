"""Restarts of VMs: ends exactly the instance that the decision was based on."""

from __future__ import annotations

from kigi.adapters.kubernetes import resources
from kigi.planning.steps import RestartMachine
from kigi.runtime.ports import Ports

RESTART_RETRY_S = 10.0
"""Seconds until the restart of an instance that has not ended is requested again."""


async def restart_machine(ports: Ports, step: RestartMachine) -> None:
    """Ends the instance with that uid; its successor may already run and is left alone.

    KubeVirt's restart does not take a uid, so a read right before it checks the uid. It kills the guest, unless it is
    requested to be graceful. Where KubeVirt does not serve it, the instance is deleted by its uid.
    """
    namespace, name, vmi_uid = step.namespace, step.name, step.vmi_uid
    now = ports.clock()
    if now - ports.restarted.get(vmi_uid, float("-inf")) < RESTART_RETRY_S:
        return
    if not await _is_running(ports, namespace, name, vmi_uid):
        return
    if not await ports.kube.restart_machine(namespace, name, gracefully=step.gracefully):
        answer = await ports.kube.delete(resources.VMI, namespace, name, uid=vmi_uid)
        if answer is not None:
            ports.see(resources.VMI.kind, answer)
    for uid in [uid for uid, at in ports.restarted.items() if now - at > RESTART_RETRY_S]:
        del ports.restarted[uid]
    ports.restarted[vmi_uid] = now


async def _is_running(ports: Ports, namespace: str, name: str, vmi_uid: str) -> bool:
    """Whether the instance exists and is not ending, as the API server has it now. Updates the mirror."""
    body = await ports.kube.get(resources.VMI, namespace, name)
    if body is None or body["metadata"]["uid"] != vmi_uid:
        record = ports.mirror.vmis.get(namespace, name)
        if record is not None and record.meta.uid == vmi_uid:
            ports.see_gone(resources.VMI.kind, namespace, name, vmi_uid)
        if body is not None:
            ports.see(resources.VMI.kind, body)
        return False
    ports.see(resources.VMI.kind, body)
    return not body["metadata"].get("deletionTimestamp")
