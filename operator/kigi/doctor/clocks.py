"""Clocks: of nodes, operator, S3 servers and the caller, each against the API server's."""

from __future__ import annotations

from collections.abc import Iterator

from kigi.adapters.kubernetes.resources import LEASE
from kigi.doctor.facts import Facts
from kigi.doctor.findings import Diagnosis
from kigi.doctor.leases import ahead_s
from kigi.domain.heartbeat import node_of_lease

SKEW_WARNING_S = 30.0
"""Times in statuses, events and logs then mislead; the API server's times have whole seconds."""
SKEW_ERROR_S = 300.0
"""A third of what S3 servers tolerate (15 minutes): a drifting clock soon ends every fetch and upload."""
REMEDY = "let it synchronize its clock: timedatectl status, chronyc tracking"


def check_clocks(facts: Facts) -> Iterator[Diagnosis]:
    """One finding for each clock that is wrong, or one ok for all."""
    compared = 0
    found = list(_skews(facts))
    for name, seconds in found:
        compared += 1
        if abs(seconds) >= SKEW_WARNING_S:
            side = "ahead of" if seconds > 0 else "behind"
            text = f"its clock is {abs(seconds):.0f} s {side} the API server's; S3 servers refuse 15 minutes"
            yield Diagnosis("clocks", "error" if abs(seconds) >= SKEW_ERROR_S else "warning", name, text, REMEDY)
    if compared and all(abs(seconds) < SKEW_WARNING_S for _, seconds in found):
        yield Diagnosis("clocks", "ok", "clocks", f"{compared} clocks differ by less than {SKEW_WARNING_S:.0f} s")
    if facts.of(LEASE).unread and facts.is_installed:
        yield Diagnosis("clocks", "not checked", "Nodes", facts.of(LEASE).unread)


def _skews(facts: Facts) -> Iterator[tuple[str, float]]:
    """Each clock, and the seconds that it is ahead of the API server's."""
    server = facts.server_ahead_s
    if server is not None:
        yield "this machine", -server
    for lease in facts.of(LEASE).items:
        ahead, node = ahead_s(lease), node_of_lease(lease)
        if ahead is not None and node is not None:
            yield f"Node/{node}", ahead
        elif ahead is not None and lease["metadata"]["name"] == "kigi-operator":
            yield f"operator {lease['spec'].get('holderIdentity') or ''}".strip(), ahead
    for name, answer in sorted(facts.repositories.items()):
        if answer.ahead_s is not None and server is not None:
            yield f"S3 server of LayerRepository/{name}", answer.ahead_s - server
