from xml.etree import ElementTree

from rich.console import Console

from kigi.cli.demo.costs import Step
from kigi.cli.demo.report import build_markdown, build_svg, build_table

STEPS = [
    Step("demo", "deploy infected", 37_700_000, 37_700_000, 204_000_000, 204_000_000, {"ready": 50.0, "guests": 61.25}),
    Step("demo", "reset", 0, 0, 204_000_000, 0, {"ready": 41.0, "guests": None}),
]


def test_the_table_has_sizes_savings_and_times():
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(build_table(STEPS))
    text = console.export_text()
    assert "37.7" in text
    assert "81.52%" in text
    assert "61.2" in text
    assert "100.00%" in text


def test_the_markdown_has_a_row_for_each_step():
    page = build_markdown(STEPS, "Ten VMs", "report.svg").splitlines()
    rows = [line for line in page if line.startswith("| demo |")]
    assert len(rows) == 2
    assert {row.count("|") for row in rows} == {next(line for line in page if line.startswith("|---")).count("|")}
    assert "![bytes moved in each step](report.svg)" in page


def test_the_figure_is_xml_with_three_bars_for_each_step():
    root = ElementTree.fromstring(build_svg(STEPS, "Ten VMs <three states>"))
    bars = [each for each in root.iter() if each.tag.endswith("rect") and each.get("rx")]
    assert len(bars) == 6
    assert min(float(bar.get("width", "0")) for bar in bars) == 2.0


def test_nothing_is_saved_where_nothing_would_be_moved():
    assert Step("demo", "x", 0, 0, 0, 0).saved == 0.0
    assert "<svg" in build_svg([Step("demo", "x", 0, 0, 0, 0)], "t")
