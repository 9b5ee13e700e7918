"""Limits of a namespace: what is new is refused above them, and what raises nothing never is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kigi.api.quota import QuotaHard, QuotaUsed
from kigi.domain.layers import Digest, Layer
from kigi.errors import QuotaExceeded
from kigi.planning.disk_quota import within_quota
from kigi.planning.placement import Choice
from kigi.planning.prefetches import plan_prefetch
from kigi.planning.quotas import Account, Allowance, Limit, NewDisks, exceeded, total
from tests.support.worlds import GIB
from tests.unit.planning.test_prefetches import node, view_of

BASE, TOP = (Layer(Digest("sha256:" + text * 64), size, GIB) for text, size in (("a", 100), ("b", 10)))
TEAM = ("office", "1", "mail")


def allowance(used: dict[str, int] | None = None, *, shared: bool = False, others: int = 0, **hard: int) -> Allowance:
    limit = Limit("lab", hard, QuotaUsed(**dict.fromkeys(hard, others)), shared)
    return Allowance("class-a", QuotaUsed(**(used or {})), limits=(limit,))


def disks(*layers: Layer, node: str = "n1", slots: frozenset[tuple[str, str, str]] = frozenset({TEAM})) -> NewDisks:
    return NewDisks({node: layers}, slots)


def refused(account: Account, new: NewDisks) -> str:
    with pytest.raises(QuotaExceeded) as caught:
        account.take_disks(new)
    return str(caught.value)


def test_a_limit_is_reached_and_not_exceeded() -> None:
    account = Account(allowance(wanted_bytes=110, machines=1))
    account.take_disks(disks(BASE, TOP))
    message = refused(account, disks(replace(TOP, digest=Digest("sha256:" + "c" * 64)), slots=frozenset()))
    assert "SystemQuota lab: namespace class-a uses 110 B of wantedBytes, this needs 10 B more" in message
    assert "the limit is 110 B" in message
    assert "machines" in refused(account, disks(BASE, TOP, slots=frozenset({("office", "2", "mail")})))


def test_a_layer_counts_once_on_each_node() -> None:
    account = Account(allowance(wanted_bytes=220))
    account.take_disks(disks(BASE, TOP, BASE))
    account.take_disks(disks(BASE, TOP, slots=frozenset({("office", "2", "mail")})))
    account.take_disks(disks(BASE, TOP, node="n2"))
    refused(account, disks(TOP, node="n3"))


def test_a_reset_on_the_same_layers_is_allowed_above_every_limit() -> None:
    """A lowered limit stops no team that works."""
    full = replace(
        allowance({"wanted_bytes": 110, "machines": 5, "instances": 5}, wanted_bytes=0, machines=0, instances=0),
        wanted={"n1": {BASE.digest, TOP.digest}},
        slots={TEAM},
        instances={TEAM[:2]},
    )
    Account(full).take_disks(disks(BASE, TOP))
    refused(Account(full), disks(BASE, TOP, node="n2"))


def test_instances_and_machines_that_exist_count_once() -> None:
    known = replace(allowance({"instances": 1, "machines": 1}, instances=1), slots={TEAM}, instances={TEAM[:2]})
    Account(known).take_disks(disks(slots=frozenset({("office", "1", "web")})))
    assert "instances" in refused(Account(known), disks(slots=frozenset({("office", "2", "web")})))


def test_guests_that_have_written_too_much_get_no_new_disks_and_can_be_reset() -> None:
    below, full = (replace(allowance({"overlay_bytes": n}, overlay_bytes=GIB), namespace="lab") for n in (GIB - 1, GIB))
    Account(below).take_disks(disks(TOP))
    message = refused(Account(full), disks(TOP))
    assert "SystemQuota lab: the guests of namespace lab have written 1.0 GiB, and the limit of overlayBytes" in message
    assert "reset machines that have written much" in message
    Account(full).take_prefetch(100, pinned=False)
    Account(replace(full, slots={TEAM}, instances={TEAM[:2]})).take_disks(disks(TOP))  # the remedy that it names


def test_a_refused_taking_counts_nothing() -> None:
    account = Account(allowance(wanted_bytes=50, machines=9))
    refused(account, disks(BASE))
    account.take_disks(disks(TOP))


def test_every_quota_must_be_met() -> None:
    both = replace(allowance(machines=5), limits=(Limit("wide", {"machines": 5}), Limit("narrow", {"machines": 0})))
    assert "SystemQuota narrow" in refused(Account(both), disks())


def test_a_shared_limit_counts_the_others_and_names_none_of_them() -> None:
    message = refused(Account(allowance(machines=10, shared=True, others=10)), disks())
    assert (
        "uses 0 of machines, this needs 1 more, and the limit is 10, which it shares with other namespaces" in message
    )


def test_layers_are_pinned_only_where_a_quota_says_so() -> None:
    with pytest.raises(QuotaExceeded, match="may pin no layers: no SystemQuota gives it pinnedBytes"):
        Account(Allowance("class-a")).take_prefetch(1, pinned=True)
    Account(Allowance("class-a")).take_prefetch(1, pinned=False)
    Account(allowance(pinned_bytes=1)).take_prefetch(1, pinned=True)
    with pytest.raises(QuotaExceeded, match="pinnedBytes"):
        Account(allowance(pinned_bytes=1)).take_prefetch(2, pinned=True)


def test_amounts_add_up_and_those_above_a_limit_are_named() -> None:
    used = total([QuotaUsed(machines=2, wanted_bytes=5), QuotaUsed(machines=1)])
    assert (used.machines, used.wanted_bytes, used.instances) == (3, 5, 0)
    assert exceeded(used, {"machines": 2, "wanted_bytes": 5}) == ["machines"]


@pytest.mark.parametrize(
    ("value", "limit"), [("2Ti", 2 * 2**40), ("1.5Gi", 1610612736), (7, 7), ("0", 0), ("1k", 1000)]
)
def test_a_limit_is_a_quantity(value: Any, limit: int) -> None:
    assert QuotaHard.model_validate({"pinnedBytes": value}).limits() == {"pinned_bytes": limit}


# Plans.


class Target:
    """What ``within_quota`` reads of a machine's target."""

    def __init__(self, instance: str, machine: str) -> None:
        self.instance, self.slot, self.chains = instance, (instance, machine), ((BASE, TOP),)


def allowed(limit: Allowance, *targets: Target) -> tuple[list[tuple[str, str]], QuotaExceeded | None]:
    choices = {target.slot: Choice("n1", "") for target in targets}
    found, error = within_quota(limit, "office", targets, choices)  # type: ignore[arg-type]
    return list(found), error


def test_an_instance_gets_all_of_its_disks_or_none() -> None:
    wanted = [Target(instance, machine) for instance in ("1", "2", "3") for machine in ("mail", "web")]
    found, error = allowed(allowance(machines=5), *wanted)
    assert found == [("1", "mail"), ("1", "web"), ("2", "mail"), ("2", "web")]
    assert isinstance(error, QuotaExceeded)
    assert allowed(allowance(machines=6), *wanted) == ([target.slot for target in wanted], None)


def test_a_later_instance_that_fits_is_not_stopped_by_an_earlier_one() -> None:
    wanted = [Target("1", "mail"), Target("1", "web"), Target("2", "mail")]
    found, error = allowed(allowance(machines=1), *wanted)
    assert found == [("2", "mail")]
    assert error is not None


def test_without_limits_nothing_is_counted() -> None:
    assert allowed(Allowance("class-a"), Target("1", "mail")) == ([("1", "mail")], None)


def test_a_prefetch_gets_the_nodes_that_fit_and_keeps_those_that_it_has() -> None:
    view = view_of(node("n1"), node("n2"), node("n3"))
    size_bytes = 130
    limited = replace(view, allowance=allowance(prefetched_bytes=2 * size_bytes))
    plan = plan_prefetch(limited)
    assert (sorted(plan.orders.hold), plan.orders.pinned) == (["n1", "n2"], frozenset())
    assert isinstance(plan.error, QuotaExceeded)
    lowered = replace(limited, orders=plan.orders, allowance=allowance(prefetched_bytes=0))
    assert sorted(plan_prefetch(lowered).orders.hold) == ["n1", "n2"]


def test_a_prefetch_that_may_not_pin_orders_nothing_new_and_loses_its_pins() -> None:
    view = view_of(node("n1"), retention="Pinned")
    assert plan_prefetch(replace(view, allowance=Allowance("class-a"))).orders.hold == frozenset()
    permitted = plan_prefetch(replace(view, allowance=allowance(pinned_bytes=130)))
    assert (permitted.orders.hold, permitted.orders.pinned, permitted.error) == ({"n1"}, {"n1"}, None)
    withdrawn = plan_prefetch(replace(view, orders=permitted.orders, allowance=Allowance("class-a")))
    assert (withdrawn.orders.hold, withdrawn.orders.pinned) == ({"n1"}, frozenset())
    assert [step.orders for step in withdrawn.steps] == [withdrawn.orders], "the node is told"
