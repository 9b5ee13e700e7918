"""kube-proxy's chains on this machine, which stay when its process ends."""

from __future__ import annotations

import shutil

from localcluster.bounded import QUICK_S, run
from localcluster.build import binary


def chains() -> list[str]:
    """Names of the chains; none if iptables is not installed."""
    if shutil.which("iptables-save") is None:
        return []
    listing = run(["iptables-save"], timeout_s=QUICK_S, check=False).stdout
    return [line.split()[0].removeprefix(":") for line in listing.splitlines() if line.startswith(":KUBE-")]


def remove_chains() -> None:
    """Removes the chains and the rules that lead to them."""
    if chains():
        run([binary("kube-proxy"), "--cleanup"], timeout_s=QUICK_S, check=False)
