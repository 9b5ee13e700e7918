from __future__ import annotations

import pytest

from kigi.domain.usage import User
from kigi.planning.in_use import plan_in_use

A_USER = (User("SystemNode", "s"),)


@pytest.mark.parametrize(
    ("users", "deleting", "has_finalizer", "wanted"),
    [
        pytest.param(A_USER, False, False, True, id="used: put on"),
        pytest.param(A_USER, False, True, None, id="used and marked"),
        pytest.param(A_USER, True, True, None, id="deleted and used: waits"),
        pytest.param(A_USER, True, False, None, id="deleted before it was marked: too late"),
        pytest.param((), True, True, False, id="deleted, and the last user is gone"),
        pytest.param((), False, True, False, id="not used any more"),
        pytest.param((), False, False, None, id="never used"),
    ],
)
def test_a_node_is_kept_while_it_is_used(
    users: tuple[User, ...], deleting: bool, has_finalizer: bool, wanted: bool | None
) -> None:
    assert plan_in_use(users=users, deleting=deleting, has_finalizer=has_finalizer) is wanted
