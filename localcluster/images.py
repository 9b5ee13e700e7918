"""OCI images without a container runtime: layers from directories, and the archive that ``ctr images import`` reads.

A layer is an uncompressed tar, so its digest is also its diff id and unpacking costs one copy. Entries are sorted: the
same tree gives the same digest, and containerd stores a layer once for all images that contain it.
"""

import hashlib
import io
import json
import os
import stat
import struct
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

_MEDIA = "application/vnd.oci.image"
_EPOCH = 1577836800  # 2020-01-01T00:00:00Z: time of all files that have no source on disk
_CAPABILITY = "security.capability"


@dataclass(frozen=True, slots=True)
class Layer:
    """One tar on disk: ``digest`` is ``sha256:`` and 64 hex digits of the file at ``path``."""

    path: Path
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Image:
    """Equivalent of a ``docker build`` result: a name with tag, layers from the bottom up, the run configuration."""

    name: str
    layers: tuple[Layer, ...]
    entrypoint: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})


class _Hashing(io.RawIOBase):
    """A writer that hashes and counts the bytes that it forwards to ``target``."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.size_bytes += len(data)
        return self._target.write(data)


def pack(root: Path, target: Path, *, exclude: Iterable[str] = ()) -> Layer:
    """Layer of every file below ``root``, written to ``target`` (replaced only when complete).

    ``root`` may be the upper directory of an overlay mount: a removed file becomes an OCI whiteout, a replaced
    directory becomes opaque. ``exclude`` lists paths relative to ``root`` to leave out, with everything below them.
    """
    skipped = {Path(item) for item in exclude}
    part = target.with_suffix(".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    with part.open("wb") as file:
        sink = _Hashing(file)
        with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as archive:
            links: dict[tuple[int, int], str] = {}
            for path in _walk(root, skipped):
                _add(archive, path, path.relative_to(root), links)
    return _finish(sink, part, target)


def pack_files(
    files: Mapping[str, Path | str | bytes],
    target: Path,
    *,
    capabilities: Mapping[str, bytes] | None = None,
    directories: Mapping[str, int] | None = None,
) -> Layer:
    """Layer of single files: path in the image -> file on disk, text or bytes; all 0755 and owned by root.

    ``capabilities``: path -> ``security.capability`` attribute, as ``file_capability`` returns it. ``directories``:
    path -> number of the user and group that own the directory.
    """
    part = target.with_suffix(".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    with part.open("wb") as file:
        sink = _Hashing(file)
        with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as archive:
            for name, owner in sorted((directories or {}).items()):
                info = tarfile.TarInfo(name)
                info.type, info.mode, info.mtime, info.uid, info.gid = tarfile.DIRTYPE, 0o755, _EPOCH, owner, owner
                archive.addfile(info)
            for name, source in sorted(files.items()):
                info = tarfile.TarInfo(name.lstrip("/"))
                info.mode, info.mtime = 0o755, _EPOCH
                if capabilities and name in capabilities:
                    info.pax_headers = _capability_header(capabilities[name])
                if isinstance(source, Path):
                    info.size = source.stat().st_size
                    with source.open("rb") as content:
                        archive.addfile(info, content)
                else:
                    data = source.encode() if isinstance(source, str) else source
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return _finish(sink, part, target)


def file_capability(number: int) -> bytes:
    """``security.capability`` attribute that permits one capability and makes it effective.

    Source: VFS_CAP_REVISION_2 in linux/capability.h.
    """
    revision_2, effective = 0x02000000, 0x000001
    return struct.pack("<5I", revision_2 | effective, 1 << number, 0, 0, 0)


def load(target: Path) -> Layer | None:
    """The layer that ``pack`` or ``pack_files`` wrote to ``target`` earlier, or None if there is none."""
    try:
        known = json.loads(target.with_suffix(".json").read_text())
        if target.stat().st_size == known["size"]:
            return Layer(target, known["digest"], known["size"])
    except (FileNotFoundError, ValueError, KeyError):
        pass
    return None


def write_archive(images: Sequence[Image], stream: IO[bytes], present: Collection[str] = ()) -> None:
    """Write the OCI archive of all ``images`` to ``stream``; a layer of several images is written once.

    Layers with a digest in ``present`` are left out: the reader of the archive has them already.
    """
    manifests = []
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as archive:
        written: set[str] = set(present)

        def blob(data: bytes) -> dict[str, Any]:
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            _add_bytes(archive, f"blobs/sha256/{digest.removeprefix('sha256:')}", data)
            return {"digest": digest, "size": len(data)}

        _add_bytes(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        for image in images:
            for layer in image.layers:
                if layer.digest not in written:
                    written.add(layer.digest)
                    archive.add(layer.path, f"blobs/sha256/{layer.digest.removeprefix('sha256:')}")
            manifest = {
                "schemaVersion": 2,
                "mediaType": f"{_MEDIA}.manifest.v1+json",
                "config": {"mediaType": f"{_MEDIA}.config.v1+json", **blob(_json(_config(image)))},
                "layers": [
                    {"mediaType": f"{_MEDIA}.layer.v1.tar", "digest": layer.digest, "size": layer.size_bytes}
                    for layer in image.layers
                ],
            }
            manifests.append(
                {
                    "mediaType": f"{_MEDIA}.manifest.v1+json",
                    **blob(_json(manifest)),
                    "platform": {"architecture": "amd64", "os": "linux"},
                    "annotations": {"io.containerd.image.name": image.name},
                }
            )
        _add_bytes(archive, "index.json", _json({"schemaVersion": 2, "manifests": manifests}))


def _config(image: Image) -> dict[str, Any]:
    run: dict[str, Any] = {"Env": [f"{key}={value}" for key, value in sorted(image.env.items())]}
    if image.entrypoint:
        run["Entrypoint"] = list(image.entrypoint)
    if image.user:
        run["User"] = image.user
    if image.workdir:
        run["WorkingDir"] = image.workdir
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in image.layers]},
        "history": [{"created_by": "localcluster"} for _ in image.layers],
    }


def _walk(root: Path, skipped: set[Path]) -> Iterator[Path]:
    for directory, names, files in os.walk(root):
        here = Path(directory)
        names[:] = sorted(name for name in names if (here / name).relative_to(root) not in skipped)
        for name in sorted([*names, *files]):
            if (here / name).relative_to(root) not in skipped:
                yield here / name


def _add(archive: tarfile.TarFile, path: Path, name: Path, links: dict[tuple[int, int], str]) -> None:
    status = path.lstat()
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:  # overlayfs's mark of a removed file
        _add_bytes(archive, str(name.parent / f".wh.{name.name}"), b"")
        return
    if stat.S_ISSOCK(status.st_mode):
        return
    info = archive.gettarinfo(str(path), arcname=str(name))
    info.uname = info.gname = ""
    # The time is kept, in whole seconds: Python recompiles a module if the time of its source has changed.
    info.mtime = int(status.st_mtime)
    # Hard links are detected here, because tarfile would link to the path outside the archive.
    if info.isreg() or info.islnk():
        info.type, info.linkname, info.size = tarfile.REGTYPE, "", status.st_size
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and key in links:
            info.type, info.linkname, info.size = tarfile.LNKTYPE, links[key], 0
        links[key] = str(name)
    if _CAPABILITY in os.listxattr(path, follow_symlinks=False):
        value = os.getxattr(path, _CAPABILITY, follow_symlinks=False)
        info.pax_headers = _capability_header(value)
    if info.type == tarfile.REGTYPE:
        with path.open("rb") as content:
            archive.addfile(info, content)
    else:
        archive.addfile(info)
    if info.isdir() and _is_opaque(path):
        _add_bytes(archive, str(name / ".wh..wh..opq"), b"")


def _capability_header(value: bytes) -> dict[str, str]:
    return {f"SCHILY.xattr.{_CAPABILITY}": value.decode("utf-8", "surrogateescape")}


def _is_opaque(path: Path) -> bool:
    try:
        return os.getxattr(path, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o644, _EPOCH
    archive.addfile(info, io.BytesIO(data))


def _finish(sink: _Hashing, part: Path, target: Path) -> Layer:
    part.replace(target)
    layer = Layer(target, f"sha256:{sink.sha256.hexdigest()}", sink.size_bytes)
    target.with_suffix(".json").write_text(_json({"digest": layer.digest, "size": layer.size_bytes}).decode())
    return layer


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
