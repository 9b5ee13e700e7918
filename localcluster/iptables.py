"""kube-proxy's chains on this machine, which stay when its process ends."""

from __future__ import annotations

import shutil

from localcluster.bounded import QUICK_S, run
from localcluster.build import binary

_FAMILIES = ("iptables", "ip6tables")
_SHARED = "KUBE-FIREWALL"
"""kube-proxy makes this chain and leaves it at its end, because the kubelet of other clusters uses it, too."""


def chains() -> list[str]:
    """Names of the chains; none if iptables is not installed."""
    found: list[str] = []
    for family in _FAMILIES:
        if shutil.which(f"{family}-save") is not None:
            listing = run([f"{family}-save"], timeout_s=QUICK_S, check=False).stdout
            found += [line.split()[0][1:] for line in listing.splitlines() if line.startswith(":KUBE-")]
    return found


def remove_chains() -> None:
    """Removes the chains and the rules that lead to them."""
    if not chains():
        return
    run([binary("kube-proxy"), "--cleanup"], timeout_s=QUICK_S, check=False)
    removals = (("-D", "INPUT", "-j", _SHARED), ("-D", "OUTPUT", "-j", _SHARED), ("-F", _SHARED), ("-X", _SHARED))
    for family in _FAMILIES:
        for arguments in removals:
            run([family, *arguments], timeout_s=QUICK_S, check=False)
