"""Parts of a release that need no build."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

from localcluster.rootfs import Mirrors
from tools.release.__main__ import OtherFiles, clear
from tools.release.debian import ARCHITECTURES, SETS, UNUSED, Package, PackageUnavailable, fetch, read_lock
from tools.release.extra import requirements
from tools.release.images import LOCKS
from tools.release.notes import ChangesMissing, changes
from tools.release.sbom import pins
from tools.release.tree import Tree

ROOT = Path(__file__).parents[4]
EPOCH = 1_700_000_000


def test_notes_are_the_part_of_the_version() -> None:
    text = "# Changelog\n\n## 0.2.0 (unreleased)\n\nnew\n\n### A\n\n- a\n\n## 0.1.0\n\nold\n"
    assert changes(text, "0.2.0") == "new\n\n### A\n\n- a\n"
    assert changes(text, "0.1.0") == "old\n"
    for missing in ("0.3.0", "0.2"):
        with pytest.raises(ChangesMissing, match="has no part '## "):
            changes(text, missing)


def test_the_change_log_has_a_part_about_the_present_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert changes((ROOT / "CHANGELOG.md").read_text(), version)


def test_every_debian_package_is_pinned_for_both_architectures() -> None:
    packages = read_lock()
    for architecture in ARCHITECTURES:
        names = {(each.part, each.name) for each in packages if each.architecture == architecture}
        assert {(part, name) for part, asked in SETS.items() for name in asked} <= names
    versions: dict[str, set[str]] = {}
    for each in packages:
        assert re.fullmatch("[0-9a-f]{64}", each.sha256)
        assert each.name not in UNUSED
        versions.setdefault(each.name, set()).add(each.version.split("+b")[0])
    assert not {name: found for name, found in versions.items() if len(found) > 1}, "run `make image-lock`"


@pytest.mark.parametrize("lock", LOCKS.values())
def test_images_have_the_versions_that_are_tested(lock: str) -> None:
    assert pins(ROOT / lock).items() <= pins(ROOT / "requirements.lock").items(), "run `make lock`"


def test_the_hooks_packages_are_those_of_its_extra() -> None:
    asked = {re.split("[>=]", each)[0] for each in requirements("hook")}
    assert asked <= pins(ROOT / "image/hook.lock").keys()
    assert "pydantic" not in pins(ROOT / "image/hook.lock")


def test_a_package_with_another_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/x_1_all.deb").write_bytes(b"other")
    mirror = Mirrors(tmp_path.as_uri(), tmp_path.as_uri())
    package = Package("base", "amd64", "debian", "pool/x_1_all.deb", 5, "0" * 64)
    with pytest.raises(PackageUnavailable, match=r"has the SHA-256 [0-9a-f]{64}, and image/debian\.lock has 0000"):
        fetch(package, tmp_path / "cache", mirror)
    absent = Package("base", "amd64", "debian", "pool/y_1_all.deb", 5, "0" * 64)
    with pytest.raises(PackageUnavailable, match=r"y_1_all\.deb.*make image-lock"):
        fetch(absent, tmp_path / "cache", mirror)
    assert not list((tmp_path / "cache").glob("*.deb"))


def test_a_layer_depends_on_its_files_alone(tmp_path: Path) -> None:
    first, second = Tree(), Tree()
    for tree, order in ((first, "ab"), (second, "ba")):
        for name in order:
            tree.add_file(f"usr/{name}", name.encode(), 0o755)
    assert first.blob(EPOCH) == second.blob(EPOCH)
    second.add_file("usr/a", b"a", 0o644)
    assert first.blob(EPOCH).diff_id != second.blob(EPOCH).diff_id
    with tarfile.open(fileobj=io.BytesIO(first.blob(EPOCH).data)) as tar:
        found = [(each.name, each.mode, each.uid, each.mtime) for each in tar]
    assert found == [("usr", 0o755, 0, EPOCH), ("usr/a", 0o755, 0, EPOCH), ("usr/b", 0o755, 0, EPOCH)]


def test_a_package_keeps_the_times_of_its_files(tmp_path: Path) -> None:
    """Also after it was unpacked for the compiler, which only the tree of this machine's architecture is."""
    source = tmp_path / "source"
    (source / "DEBIAN").mkdir(parents=True)
    (source / "DEBIAN/control").write_text("Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\n")
    (source / "file").write_text("x")
    os.utime(source / "file", (EPOCH - 5, EPOCH - 5))
    deb = tmp_path / "x.deb"
    subprocess.run(["dpkg-deb", "--build", str(source), str(deb)], check=True, capture_output=True, timeout=60)
    tree = Tree()
    tree.add_package(deb, "x")
    before = tree.blob(EPOCH)
    (tmp_path / "root").mkdir()
    tree.extract(tmp_path / "root")
    assert (tmp_path / "root/file").read_text() == "x"
    assert tree.blob(EPOCH) == before
    with tarfile.open(fileobj=io.BytesIO(before.data)) as tar:
        assert tar.getmember("file").mtime == EPOCH - 5


def test_a_file_of_a_later_layer_does_not_write_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").symlink_to(outside)
    tree = Tree()
    tree.add_file("file", b"new")
    tree.extract(root)
    assert outside.read_text() == "kept"
    assert (root / "file").read_text() == "new"


def test_the_workflow_pins_every_action_and_grants_no_more_than_it_uses() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text()
    workflow = yaml.safe_load(text)
    uses = re.findall(r"uses: (\S+)(.*)", text)
    assert uses
    for action, comment in uses:
        assert re.fullmatch(r"[^@]+@[0-9a-f]{40}", action), action
        assert re.search(r"# v[0-9.]+$", comment), f"{action}: name its version"
    assert workflow["permissions"] == {}
    assert workflow["jobs"]["build"]["permissions"] == {"contents": "read"}, "what runs the tests signs nothing"
    assert re.search("@sha256:[0-9a-f]{64}$", workflow["jobs"]["build"]["container"]["image"])
    publish = workflow["jobs"]["publish"]
    assert set(publish["permissions"]) == {"contents", "packages", "id-token", "attestations"}
    assert publish["needs"] == "build"
    run = "\n".join(step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"])
    assert "${{" not in run, "an expression in a script is a way to inject commands"
    steps = ("make test\n", "make release", "make test-release", "crane push", "helm push", "cosign sign ", "sign-blob")
    places = [run.index(step) for step in steps]
    assert places == sorted(places)


def test_a_directory_with_other_files_is_left_as_it_is(tmp_path: Path) -> None:
    for name in ("kigi-0.0.9.tgz", "install.yaml", "SHA256SUMS.sigstore.json"):
        (tmp_path / name).write_text("of an earlier release")
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(OtherFiles, match=r"letter\.txt: no file of a release"):
        clear(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    (tmp_path / "letter.txt").unlink()
    clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_dockerfile_has_a_target_for_each_image_and_a_pinned_base() -> None:
    text = (ROOT / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)
    assert {name for _, name in stages} >= {"operator", "daemon", "hook", "all"}
    assert stages[-1][1] == "all", "without --target, one image has all programs"
    known = {"scratch", *(name for _, name in stages)}
    for base, name in stages:
        assert base in known or re.search("@sha256:[0-9a-f]{64}$", base), name
    assert text.count("USER 65532:65532") == 4
