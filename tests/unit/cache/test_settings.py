from __future__ import annotations

from pathlib import Path

import pytest

from kigi_cache.settings import from_environment


def test_a_pod_needs_only_the_name_of_its_node() -> None:
    settings = from_environment({"NODE_NAME": "node-a"})
    assert settings.root == Path("/var/lib/kigi")
    assert (settings.budget_bytes, settings.budget_share) == (None, 0.7)
    assert settings.csi_endpoint == "/var/lib/kubelet/plugins/disk.kigi.dev/csi.sock"
    assert (settings.http_host, settings.http_port, settings.registration_dir) == ("0.0.0.0", 9780, None)


def test_a_budget_is_bytes_or_a_quantity_or_a_share() -> None:
    def budget(**env: str) -> tuple[int | None, float]:
        settings = from_environment({"NODE_NAME": "n", **env})
        return settings.budget_bytes, settings.budget_share

    assert budget(KIGI_BUDGET_BYTES="1000")[0] == 1000
    assert budget(KIGI_BUDGET_BYTES="200Gi")[0] == 200 * 2**30
    assert budget(KIGI_BUDGET_PERCENT="25%") == (None, 0.25)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("NODE_NAME", ""),
        ("KIGI_BUDGET_BYTES", "much"),
        ("KIGI_BUDGET_PERCENT", "0"),
        ("KIGI_BUDGET_PERCENT", "101"),
        ("KIGI_BUDGET_PERCENT", "half"),
        ("KIGI_HTTP_ADDR", "9780x"),
        ("KIGI_MAX_VOLUMES", "-1"),
        ("KIGI_CONNECTIONS", "many"),
        ("KIGI_MIN_FREE", "100%"),
        ("KIGI_MIN_FREE", "some"),
        ("KIGI_SCRUB_HOURS", "-1"),
        ("KIGI_SCRUB_BYTES_PER_S", "fast"),
    ],
)
def test_what_makes_no_sense_is_named(variable: str, text: str) -> None:
    with pytest.raises(ValueError, match=variable):
        from_environment({"NODE_NAME": "n", variable: text})
