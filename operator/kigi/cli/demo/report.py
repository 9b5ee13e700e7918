"""The report of a run: a table for the terminal, an SVG figure, and a Markdown page with both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from kigi.cli.demo.costs import Step

if TYPE_CHECKING:
    from rich.table import Table

PHASES = ("placed", "cached", "machines", "ready", "guests")
COLUMNS = ("exercise", "step", "moved", "minimum", "each VM's full image", "flat images, cached", "saved", *PHASES)
TITLE = "Data moved (MB = 10^6 bytes) and duration (s) of each step"
_COLOURS = {"full": "#c9ced6", "image cache": "#8fa3bf", "moved": "#1f7a4d"}


def mb(size_bytes: int) -> str:
    """Size in megabytes (10^6 bytes): one decimal from 0.1 MB on, three below."""
    return f"{size_bytes / 1e6:,.1f}" if size_bytes >= 1e5 or size_bytes == 0 else f"{size_bytes / 1e6:.3f}"


def rows(steps: Sequence[Step]) -> Iterator[tuple[str, ...]]:
    """The cells of each step, in the order of ``COLUMNS``."""
    for step in steps:
        times = [step.seconds.get(phase) for phase in PHASES]
        yield (
            step.variant,
            step.name,
            mb(step.moved_bytes),
            mb(step.minimum_bytes),
            mb(step.full_bytes),
            mb(step.image_cache_bytes),
            f"{step.saved:.2%}",
            *(f"{seconds:.1f}" if seconds is not None else "-" for seconds in times),
        )


def build_table(steps: Sequence[Step]) -> Table:
    """Table with one row per step."""
    from rich.table import Table

    table = Table(title=TITLE, title_justify="left")
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if number < 2 else "right")
    for cells in rows(steps):
        table.add_row(*cells)
    return table


def build_markdown(steps: Sequence[Step], title: str, figure: str) -> str:
    """Markdown page with the table and a link to the SVG file ``figure``."""
    lines = [
        f"# {title}",
        "",
        f"{TITLE}. *minimum*: the layers that the nodes lacked, each once per node.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * 2 + "---:|" * (len(COLUMNS) - 2),
        *(f"| {' | '.join(cells)} |" for cells in rows(steps)),
        "",
        f"![bytes moved in each step]({figure})",
        "",
    ]
    return "\n".join(lines)


def build_svg(steps: Sequence[Step], title: str) -> str:
    """SVG figure with three horizontal bars per step on a linear scale; every bar has at least two pixels."""
    width, left, row, top = 860, 210, 62, 56
    scale = (width - left - 130) / max(1, *(step.full_bytes for step in steps))

    def length(size_bytes: int) -> float:
        return max(2.0, scale * size_bytes)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top + row * len(steps) + 30}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="{escape(title)}">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="600" fill="#1b1f24">{escape(title)}</text>',
        '<text x="12" y="40" fill="#57606a">bytes moved, linear scale; '
        "grey: each VM's full image, blue: flat images with a cache, green: Kigi</text>",
    ]
    for number, step in enumerate(steps):
        y = top + number * row
        parts.append(f'<text x="12" y="{y + 30}" fill="#1b1f24">{escape(step.name)}</text>')
        figures = {"full": step.full_bytes, "image cache": step.image_cache_bytes, "moved": step.moved_bytes}
        for place, (name, size_bytes) in enumerate(figures.items()):
            bar = y + 6 + place * 16
            end, colour = length(size_bytes), _COLOURS[name]
            parts.append(f'<rect x="{left}" y="{bar}" width="{end:.1f}" height="12" rx="2" fill="{colour}"/>')
            at = left + end + 6
            parts.append(f'<text x="{at:.1f}" y="{bar + 10}" fill="#57606a">{mb(size_bytes)} MB</text>')
    return "\n".join([*parts, "</svg>", ""])
