"""The capture publisher as its container runs it: a user without rights, of the node only the copies."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from kigi_cache.captures.files import PUBLISHER_GID, PUBLISHER_UID

ROOT = "/mnt"
"""Where the publisher finds the directory of copies; see KIGI_CACHE_ROOT."""
_KEPT = f"{ROOT}/.kept"
PROGRAM = (sys.executable, "-m", "kigi_cache.captures.publisher")


def as_publisher(captures: Path, *command: str) -> list[str]:
    """Command line that runs ``command`` as the publisher's user, in a mount namespace with ``captures`` below ROOT.

    It has no capability and gets none. Needs root.
    """
    prepare = [
        "umount -l -a -t nsfs || true",  # else network namespaces of other programs outlive them
        f"mount -t tmpfs -o mode=755 none {ROOT}",
        f"mkdir {ROOT}/captures && mount --bind {shlex.quote(str(captures))} {ROOT}/captures",
        *_show_python(),
    ]
    user = ["setpriv", f"--reuid={PUBLISHER_UID}", f"--regid={PUBLISHER_GID}", "--clear-groups"]
    nothing = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    script = "set -e\n" + "\n".join([*prepare, 'exec "$@"'])
    return ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *user, *nothing, *command]


def _show_python() -> Iterator[str]:
    """Commands that let every user reach the interpreter and the modules, also those below a home directory."""
    paths = {Path(path).resolve() for path in (sys.base_prefix, sys.prefix, *sys.path) if path and os.path.exists(path)}
    hidden: dict[Path, list[Path]] = {}
    for path in sorted(paths):
        closed = [above for above in path.parents if not above.stat().st_mode & stat.S_IXOTH]
        if closed:
            hidden.setdefault(closed[-1], []).append(path)
    for number, (above, below) in enumerate(hidden.items()):
        kept = f"{_KEPT}/{number}"
        yield f"mkdir -p {kept} && mount --bind {shlex.quote(str(above))} {kept}"
        yield f"mount -t tmpfs -o mode=755 none {shlex.quote(str(above))}"
        for path in below:
            source, target = shlex.quote(f"{kept}/{path.relative_to(above)}"), shlex.quote(str(path))
            if path.is_dir():
                yield f"mkdir -p {target} && mount --bind {source} {target}"
            else:
                yield f"mkdir -p $(dirname {target}) && touch {target} && mount --bind {source} {target}"
