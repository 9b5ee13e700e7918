"""The page of sizes names the limits of the code and the figures of the benchmarks, and its example adds up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from kigi.api.deployment import MAX_NAMED, MAX_REPLICAS
from kigi.api.layer_repository import RepositoryLimits
from kigi.api.node_cache import MAX_LAYERS
from kigi.api.system import MAX_MACHINES_OF_STATE
from kigi_cache.settings import CacheSettings, DaemonSettings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/sizing.md").read_text()
BENCHMARKS = (ROOT / "docs/benchmarks.md").read_text()


def default(model: type[CacheSettings], name: str) -> object:
    return model.model_fields[name].default


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("| machines of a state | {} |", MAX_MACHINES_OF_STATE),
        ("| instances of a deployment | {:,} by number", MAX_REPLICAS),
        ("by number, {} by name", MAX_NAMED),
        ("| layers of a node | {:,} |", MAX_LAYERS),
        ("at most {:,} layers", MAX_LAYERS),
        ("`limits.maxDepth` of a LayerRepository, {} if omitted", RepositoryLimits().max_depth or 64),
        ("`KIGI_BUDGET_PERCENT`, {:.0f} % of", default(DaemonSettings, "budget_percent")),
    ],
)
def test_the_page_names_the_limits_of_the_code(text: str, value: object) -> None:
    assert text.format(value) in PAGE


def test_the_page_names_the_settings_of_the_manifest() -> None:
    (daemon,) = (each for each in yaml.safe_load_all((ROOT / "manifests/daemon/daemonset.yaml").read_text()) if each)
    cache, publisher = daemon["spec"]["template"]["spec"]["containers"]
    values = {each["name"]: each.get("value") for each in cache["env"]}
    assert values["KIGI_MIN_FREE"] == "12%"
    assert "12 % (`KIGI_MIN_FREE`)" in PAGE
    assert values["KIGI_BUDGET_PERCENT"] == "70"
    assert (cache["resources"]["limits"]["memory"], publisher["resources"]["limits"]["memory"]) == ("1Gi", "4Gi")
    documented = (ROOT / "docs/reference/configuration.md").read_text()
    assert "`KIGI_OVERLAY_HEADROOM` | `256Mi`" in documented
    assert "`KIGI_SCRUB_BYTES_PER_S` | `50Mi`" in documented


@pytest.mark.parametrize(
    "figure",
    ["1,329.0", "6,009.7", "7.3", "3.2", "923 MB/s", "1.000", "121 MB", "86 MB", "213 MB", "125 MB", "1.15", "0.29 s"],
)
def test_the_page_and_the_benchmarks_have_the_same_figures(figure: str) -> None:
    assert figure in PAGE
    assert figure in BENCHMARKS


def test_the_example_adds_up() -> None:
    def gigabytes(part: str) -> float:
        found = re.search(rf"^\| {part} \|.*\| ([\d.]+) GB \|$", PAGE, re.MULTILINE)
        assert found, part
        return float(found.group(1))

    layers = (1329.0 + 7.3 + 3.2) / 1000
    assert gigabytes("layers") == round(layers, 1)
    headroom = 100 * 256 * 2**20 / 1e9
    assert gigabytes("headroom") == round(headroom, 1)
    total = layers + 100 + headroom + 10
    assert f"{gigabytes('layers') + 100 + gigabytes('headroom') + 10:.1f} GB / 0.88" in PAGE
    assert gigabytes("disk") == round(total / 0.88)
    assert f"{6009.7 * 10:,.0f} MB" in PAGE
    gigabit_seconds = 1329.0e6 * 8 / 1e9
    assert round(gigabit_seconds) == 11
    flat_minutes = 6009.7e6 * 10 * 8 / 1e9 / 60
    assert round(flat_minutes) == 8
