"""The name under which the API server knows the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kigi.adapters.kubernetes.resources import SELF_REVIEW

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession


def caller_name(kube: KubeSession) -> str:
    """User name of the caller, which a request must carry."""
    body = {"apiVersion": SELF_REVIEW.api_version, "kind": SELF_REVIEW.kind, "metadata": {}}
    answer = kube.create(SELF_REVIEW, body)
    return str(answer["status"]["userInfo"]["username"])
