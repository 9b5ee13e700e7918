"""Rights: of the caller, and of Kigi's service accounts."""

from __future__ import annotations

from collections.abc import Iterator

from kigi.doctor.facts import Facts, RightsAnswer
from kigi.doctor.findings import Diagnosis
from kigi.doctor.rights import Right

SHOWN = 4


def check_accounts(facts: Facts) -> Iterator[Diagnosis]:
    """Whether operator and daemons have every right of manifests/rbac."""
    if not facts.is_installed:
        return
    for account, answer in facts.accounts.items():
        name = f"ServiceAccount/{account}"
        if answer.unread:
            yield Diagnosis("rights of Kigi", "not checked", name, answer.unread)
        elif missing := _missing(answer):
            text = f"it may not: {_shown(missing)}"
            remedy = "kubectl apply --server-side -k manifests/rbac: roles and bindings of this version"
            yield Diagnosis("rights of Kigi", "error", name, text, remedy)
        else:
            yield Diagnosis("rights of Kigi", "ok", name, f"it has {len(answer.allowed)} rights")


def check_caller(facts: Facts) -> Iterator[Diagnosis]:
    """Whether the caller may install Kigi, or use it once it is installed."""
    answer = facts.caller
    if answer.unread:
        yield Diagnosis("your rights", "not checked", "you", answer.unread)
    elif not (missing := _missing(answer)):
        done = "use" if facts.is_installed else "install"
        yield Diagnosis("your rights", "ok", "you", f"you may {done} Kigi")
    elif facts.is_installed:
        text = f"you may not: {_shown(missing)}"
        remedy = "ask for the ClusterRole kigi-edit (or kigi-view, which only reads), bound in your namespace"
        yield Diagnosis("your rights", "warning", "you", text, remedy)
    else:
        text = f"you cannot install Kigi; you may not: {_shown(missing)}"
        yield Diagnosis("your rights", "error", "you", text, "ask an administrator of the cluster to install it")


def _missing(answer: RightsAnswer) -> list[Right]:
    return [right for right, allowed in answer.allowed.items() if not allowed]


def _shown(missing: list[Right]) -> str:
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    return ", ".join(map(str, missing[:SHOWN])) + more
