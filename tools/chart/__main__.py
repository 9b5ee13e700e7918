"""``python -m tools.chart OUT [--version V] [--image operator=NAME ...]``: the chart as a folder and as an archive."""

from __future__ import annotations

import argparse
import os
import shutil
import tomllib
from pathlib import Path

from tools.chart.build import ROOT, Release, archive, chart_files

EPOCH = 1577836800  # 2020-01-01T00:00:00Z, without SOURCE_DATE_EPOCH


def source_date() -> int:
    """Time of all files in archives, in seconds since 1970: ``$SOURCE_DATE_EPOCH`` or a constant."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or EPOCH)


def project_version() -> str:
    """Version in pyproject.toml."""
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return version


def write_chart(directory: Path, release: Release) -> Path:
    """Write ``directory/chart/kigi`` and ``directory/kigi-VERSION.tgz``; the latter's path."""
    files = chart_files(release)
    folder = directory / "chart/kigi"
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    packed = directory / f"kigi-{release.version}.tgz"
    packed.write_bytes(archive(files, source_date()))
    return packed


def own_images(version: str) -> dict[str, str]:
    """The one image that `docker build` makes, with the tag of the version; the hook has the operator's."""
    return dict.fromkeys(("operator", "daemon"), f"kigi:{version}")


def main() -> None:
    """Write the chart."""
    parser = argparse.ArgumentParser(prog="python -m tools.chart", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--version", default=project_version())
    parser.add_argument("--image", action="append", default=[], metavar="PART=NAME", help="operator, daemon or hook")
    options = parser.parse_args()
    images = dict(pair.split("=", 1) for pair in options.image)
    images = own_images(options.version) | images
    print(write_chart(options.directory, Release(options.version, images)))


if __name__ == "__main__":
    main()
