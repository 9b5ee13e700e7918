"""All checks of ``kigi doctor``. Each is a pure function of the facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kigi.doctor.clocks import check_clocks
from kigi.doctor.cluster import check_feature_gate, check_kubernetes, check_kubevirt
from kigi.doctor.definitions import check_definitions
from kigi.doctor.facts import Facts
from kigi.doctor.findings import Diagnosis, in_order
from kigi.doctor.images import check_hook_image, check_hook_setting
from kigi.doctor.nodes import check_driver, check_nodes
from kigi.doctor.permissions import check_accounts, check_caller
from kigi.doctor.policies import check_policies
from kigi.doctor.quotas import check_quotas
from kigi.doctor.repositories import check_repositories
from kigi.doctor.workloads import (
    check_installation,
    check_leader,
    check_namespace,
    check_operator,
    check_own_images,
    check_pods,
    check_versions,
)

Check = Callable[[Facts], Iterator[Diagnosis]]
BEFORE: tuple[Check, ...] = (check_kubernetes, check_kubevirt, check_feature_gate, check_caller, check_installation)
"""Checks that need no installation."""
AFTER: tuple[Check, ...] = (
    check_definitions,
    check_policies,
    check_accounts,
    check_namespace,
    check_operator,
    check_leader,
    check_versions,
    check_own_images,
    check_pods,
    check_driver,
    check_nodes,
    check_clocks,
    check_repositories,
    check_hook_image,
    check_hook_setting,
    check_quotas,
)


def examine(facts: Facts) -> list[Diagnosis]:
    """Findings of all checks that suit, the most urgent first."""
    checks = (*BEFORE, *AFTER) if facts.is_installed else (*BEFORE, check_clocks)
    return in_order([finding for check in checks for finding in check(facts)])
