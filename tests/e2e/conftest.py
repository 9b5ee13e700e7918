"""The local cluster for the tests of this tier: started once for all tests, and kept if it ran before."""

import os
from collections.abc import Iterator

import pytest

from localcluster.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The whole cluster with KubeVirt and `kigi:dev`. Needs root; the first start builds programs for half an hour."""
    if os.geteuid() != 0:
        pytest.skip("the local cluster needs root")
    one = Cluster()
    was_up = one.status()["healthy"]
    one.up()
    yield one
    if not was_up:
        assert one.down() == []


FIRST = "test_install_page.py"
"""It installs Kigi on a cluster without it, and leaves none; other files use one that stays."""
LAST = ("test_endurance.py", "test_two_nodes.py", "test_teardown.py", "test_upgrade.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order: ``FIRST``; tests marked ``first``, which start a long-running VM; other files; then those of ``LAST``."""

    def place(item: pytest.Item) -> int:
        if item.path.name == FIRST:
            return -2
        if item.get_closest_marker("first"):
            return -1
        return LAST.index(item.path.name) + 1 if item.path.name in LAST else 0

    items.sort(key=place)
