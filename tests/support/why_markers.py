"""A plugin for ``pytest --collect-only``: prints ``WHY reason`` for each marker ``why`` of the collected tests."""

from __future__ import annotations

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    reasons = {reason for item in session.items for marker in item.iter_markers("why") for reason in marker.args}
    print(*(f"\nWHY {reason}" for reason in sorted(reasons)), sep="")
