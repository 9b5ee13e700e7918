"""Files of one image layer in memory, and its archive: equal files give equal bytes, on any machine."""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tools.release.debian import control, open_content

_LEFT_OUT = (
    "usr/share/man/",
    "usr/share/locale/",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/bash-completion/",
)
_GZIP_LEVEL = 6


@dataclass(frozen=True, slots=True)
class Blob:
    """A gzip-compressed layer; ``diff_id`` is the digest of the tar in it."""

    data: bytes
    digest: str
    diff_id: str


class Tree:
    """Paths without a leading slash -> header and content."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[tarfile.TarInfo, bytes]] = {}

    def add_package(self, deb: Path, name: str) -> None:
        """All files of a Debian package but its documentation, and its record for scanners."""
        process = open_content(deb)
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            for member in tar:
                path = member.name.removeprefix("./").rstrip("/")
                data = tar.extractfile(member) if member.isreg() else None
                if path not in ("", ".") and not _is_left_out(path):
                    self._put(path, member, data.read() if data else b"")
        if process.wait() != 0:
            raise RuntimeError(f"{deb}: dpkg-deb cannot read it")
        self.add_file(f"var/lib/dpkg/status.d/{name}", control(deb).encode())

    def add_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """A file of root, and the directories above it."""
        info = tarfile.TarInfo(path)
        info.size, info.mode = len(data), mode
        self._put(path, info, data)

    def add_directory(self, root: Path, prefix: str) -> None:
        """Every file below ``root`` as ``prefix``/..., owned by root."""
        for path in sorted(root.rglob("*")):
            if path.is_file():
                name = f"{prefix}/{path.relative_to(root).as_posix()}"
                self.add_file(name, path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Path and content of each regular file, in order."""
        for path, (info, data) in sorted(self._entries.items()):
            if info.isreg():
                yield path, data

    def blob(self, epoch: int) -> Blob:
        """The layer, with no time after ``epoch``."""
        raw = self._tar(epoch)
        data = gzip.compress(raw, compresslevel=_GZIP_LEVEL, mtime=0)
        return Blob(data, _digest(data), _digest(raw))

    def extract(self, root: Path) -> None:
        """Write the files below ``root``, which earlier trees may have filled."""
        with tarfile.open(fileobj=io.BytesIO(self._tar(0))) as tar:
            for member in tar:
                place = root / member.name
                if not member.isdir() and place.is_symlink():
                    place.unlink()
                if not (member.isdir() and place.is_dir()):
                    tar.extract(member, root, numeric_owner=True, filter="fully_trusted")

    def _tar(self, epoch: int) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path, (entry, data) in sorted(self._entries.items()):
                info = copy.copy(entry)
                info.name, info.uname, info.gname, info.pax_headers = path, "", "", {}
                info.mtime = min(int(info.mtime) or epoch, epoch)
                tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
        return packed.getvalue()

    def _put(self, path: str, info: tarfile.TarInfo, data: bytes) -> None:
        for parent in reversed(PurePosixPath(path).parents):
            if str(parent) != "." and str(parent) not in self._entries:
                above = tarfile.TarInfo(str(parent))
                above.type, above.mode = tarfile.DIRTYPE, 0o755
                self._entries[str(parent)] = above, b""
        if not (info.isdir() and path in self._entries):
            self._entries[path] = info, data


def _is_left_out(path: str) -> bool:
    documentation = path.startswith("usr/share/doc/") and path.count("/") > 2 and not path.endswith("/copyright")
    return documentation or f"{path}/".startswith(_LEFT_OUT)


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
