"""Files of a release, read by other code than that which makes them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from localcluster.build import binary
from localcluster.processes import free_port, is_listening
from tests.support.cluster import eventually
from tools.chart.__main__ import project_version
from tools.release.debian import ARCHITECTURES
from tools.release.images import TARGETS

VERSION = project_version()
IMAGES = {name: f"kigi-{name}-{VERSION}.oci.tar" for name in TARGETS}
FILES = {
    *IMAGES.values(),
    f"kigi-{VERSION}-py3-none-any.whl",
    f"kigi-{VERSION}.tgz",
    f"kigi-{VERSION}.cdx.json",
    "install.yaml",
    "RELEASE_NOTES.md",
    "SHA256SUMS",
}


class Archive:
    """An OCI archive; every blob that is read has its digest."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as tar:
            self.files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]

    def blob(self, descriptor: dict[str, Any]) -> bytes:
        """Content of a blob."""
        data = self.files[place(descriptor)]
        assert descriptor["digest"] == "sha256:" + hashlib.sha256(data).hexdigest()
        assert descriptor["size"] == len(data)
        return data

    def descriptor(self) -> dict[str, Any]:
        """The one image for all architectures."""
        (found,) = json.loads(self.files["index.json"])["manifests"]
        return dict(found)

    def index(self) -> dict[str, Any]:
        """The manifests of all architectures."""
        index: dict[str, Any] = json.loads(self.blob(self.descriptor()))
        return index

    def image(self, architecture: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Manifest and configuration."""
        (found,) = (each for each in self.index()["manifests"] if each["platform"]["architecture"] == architecture)
        manifest = json.loads(self.blob(found))
        return manifest, json.loads(self.blob(manifest["config"]))

    def unpack(self, architecture: str, root: Path) -> Path:
        """Write the files of all layers below ``root``."""
        for layer in self.image(architecture)[0]["layers"]:
            with tarfile.open(fileobj=io.BytesIO(self.blob(layer))) as tar:
                tar.extractall(root, numeric_owner=True, filter="fully_trusted")
        return root


def place(descriptor: dict[str, Any]) -> str:
    """Path of a blob in an archive."""
    return "blobs/sha256/" + str(descriptor["digest"]).removeprefix("sha256:")


def archive(dist: Path, name: str) -> Archive:
    """The archive of a target."""
    return Archive(dist / IMAGES[name])


def check_files(dist: Path) -> None:
    """The directory has all files of a release, no other, and their checksums."""
    assert {path.name for path in dist.iterdir() if path.is_file()} == FILES
    check = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=dist, capture_output=True, text=True, timeout=300
    )
    assert check.returncode == 0, check.stdout
    assert check.stdout.count(": OK") == len(FILES) - 1


def check_image(found: Archive, name: str, epoch: int, created: str) -> None:
    """The archive has what the specification asks for, and no blob that nothing names."""
    assert json.loads(found.files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    used = {"oci-layout", "index.json", place(found.descriptor())}
    for descriptor in found.index()["manifests"]:
        architecture = descriptor["platform"]["architecture"]
        manifest, config = found.image(architecture)
        assert (config["architecture"], config["os"], config["created"]) == (architecture, "linux", created)
        assert config["config"]["User"] == "65532:65532"
        assert config["config"]["Entrypoint"] == [TARGETS[name].entrypoint]
        labels = {key.rpartition(".")[2]: value for key, value in config["config"]["Labels"].items()}
        assert labels.keys() >= {"version", "revision", "licenses", "title", "description"}
        assert labels["version"] == VERSION
        for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
            raw = gzip.decompress(found.blob(layer))
            assert diff_id == "sha256:" + hashlib.sha256(raw).hexdigest()
            with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
                assert all(member.mtime <= epoch for member in tar)
        used |= {place(each) for each in (descriptor, manifest["config"], *manifest["layers"])}
    assert [each["platform"]["architecture"] for each in found.index()["manifests"]] == list(ARCHITECTURES)
    assert used == found.files.keys()


def push_and_validate(dist: Path, folder: Path) -> dict[str, str]:
    """Push each image to a registry on loopback by another implementation; target -> what ``crane push`` printed."""
    port, store = free_port(), folder / "registry"
    store.mkdir()
    process = subprocess.Popen(
        [binary("crane"), "registry", "serve", "--address", f"127.0.0.1:{port}", "--disk", str(store)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: is_listening("127.0.0.1", port), what="the registry listens")
        pushed = {}
        for name, file in IMAGES.items():
            with tarfile.open(dist / file) as tar:
                tar.extractall(folder / name, filter="data")
            image = f"127.0.0.1:{port}/kigi-{name}:{VERSION}"
            pushed[name] = crane("push", str(folder / name), image)
            assert "PASS" in crane("validate", "--remote", image)
        return pushed
    finally:
        process.terminate()
        process.wait(30)


def crane(*arguments: str) -> str:
    """Both outputs of crane."""
    done = subprocess.run(
        [binary("crane"), "--insecure", *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr
