"""The limits of a namespace that no SystemQuota selects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.api.quota import QuotaUsed
from kigi.domain.layers import Digest, Layer
from kigi.errors import QuotaExceeded
from kigi.planning.default_quota import MOST_OF_MEDIAN, PERCENT, NodeSpace, default_limit
from kigi.planning.quotas import Account, Allowance, NewDisks
from tests.support.worlds import GIB

NODE = NodeSpace(budget_bytes=1000, disk_bytes=1400)


def test_limits_are_shares_of_what_all_nodes_have() -> None:
    limit = default_limit([NODE] * 4)
    assert limit is not None
    assert limit.hard == {"wanted_bytes": 3000, "prefetched_bytes": 2000, "overlay_bytes": 4200}


def test_there_is_none_before_a_node_has_reported() -> None:
    assert default_limit([]) is None
    assert default_limit([NodeSpace(0, 0), NodeSpace(0, 5), NodeSpace(-(10**18), 7)]) is None
    assert default_limit([NodeSpace(0, 0), NODE]) == default_limit([NODE])


def test_a_stolen_node_that_reports_a_huge_disk_raises_no_limit_much() -> None:
    honest, lied = default_limit([NODE] * 4), default_limit([NODE] * 3 + [NodeSpace(2**62, 2**62)])
    assert honest is not None
    assert lied is not None
    assert all(lied.hard[name] <= 2 * honest.hard[name] for name in PERCENT)
    two = default_limit([NODE, NodeSpace(2**62, 2**62)])
    assert two is not None
    assert two.hard["wanted_bytes"] == (1 + MOST_OF_MEDIAN) * 1000 * PERCENT["wanted_bytes"] // 100


@given(st.lists(st.builds(NodeSpace, st.integers(1, 2**50), st.integers(1, 2**50)), min_size=1, max_size=20))
def test_a_share_is_left_to_other_namespaces(nodes: list[NodeSpace]) -> None:
    limit = default_limit(nodes)
    assert limit is not None
    assert all(0 < percent < 100 for percent in PERCENT.values())
    assert limit.hard["wanted_bytes"] <= sum(node.budget_bytes for node in nodes) * 0.75
    assert limit.hard["overlay_bytes"] <= sum(node.disk_bytes for node in nodes) * 0.75


@pytest.mark.parametrize(
    ("used", "size_bytes", "name"), [({}, 800, "wantedBytes"), ({"overlay_bytes": 1050}, 1, "overlayBytes")]
)
def test_the_message_says_that_there_is_no_quota_and_who_makes_one(
    used: dict[str, int], size_bytes: int, name: str
) -> None:
    limit = default_limit([NODE])
    assert limit is not None
    account = Account(Allowance("team-a", QuotaUsed(**used), limits=(limit,)))
    layer = Layer(Digest("sha256:" + "a" * 64), size_bytes, GIB)
    with pytest.raises(QuotaExceeded) as caught:
        account.take_disks(NewDisks({"n1": [layer]}, {("office", "1", "mail")}))
    message = str(caught.value)
    assert message.startswith("default limits: ")
    assert all(words in message for words in (name, "namespace team-a", "no SystemQuota selects the namespace"))
    assert message.endswith("or ask an administrator for a SystemQuota that selects the namespace")
