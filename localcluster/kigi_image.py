"""Kigi's own image, built with the steps of the Dockerfile but without a container runtime."""

from pathlib import Path

from localcluster import rootfs
from localcluster.images import Image

REPOSITORY = Path(__file__).resolve().parent.parent
NAME = "docker.io/library/kigi:dev"  # the full name to which the kubelet expands `kigi:dev`
_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "operator", "node-cache-daemon")
_ENV = {
    "PATH": "/opt/kigi/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONUNBUFFERED": "1",
}


def build_kigi_image(cache: Path) -> Image:
    """Build the image ``kigi:dev``, or take it from the cache.

    One layer has Debian packages and locked dependencies and depends on requirements.lock and image/. Another layer has
    Kigi's source, so that a rebuild after a change of the source takes seconds.
    """
    image = REPOSITORY / "image"
    lock = REPOSITORY / "requirements.lock"
    recipe = b"".join((image / name).read_bytes() for name in ("install.sh", "build.lock"))
    below = rootfs.extend(
        cache, rootfs.base(cache), "kigi-dependencies",
        "mkdir -p /tmp/kigi && cd /run/kigi-build/repository && cp -r requirements.lock image /tmp/kigi/\n"
        "sh /run/kigi-build/repository/image/install.sh dependencies /tmp/kigi",
        binds={"repository": REPOSITORY}, salt=(recipe, lock.read_bytes()),
    )  # fmt: skip
    sources = _digest_of_sources()
    copy = " ".join(f"/run/kigi-build/repository/{name}" for name in _SOURCES)
    root = rootfs.extend(
        cache, below, "kigi-source",
        f"mkdir -p /tmp/kigi && cp -r {copy} /tmp/kigi/\n"
        "sh /run/kigi-build/repository/image/install.sh kigi /tmp/kigi",
        binds={"repository": REPOSITORY}, salt=(sources,),
    )  # fmt: skip
    kept = {path.name for path in root.directories}
    for step in ("kigi-source-", "kigi-dependencies-"):  # old ones add up to gigabytes within a day of work
        rootfs.forget(cache, step, kept)
    return Image(NAME, root.layers, env=_ENV)


def _digest_of_sources() -> bytes:
    parts: list[str | bytes] = []
    for name in _SOURCES:
        path = REPOSITORY / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                parts += [str(file.relative_to(REPOSITORY)), file.read_bytes()]
    return rootfs.key(*parts).encode()
