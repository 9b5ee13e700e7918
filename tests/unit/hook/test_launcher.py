"""The sidecar ends when virt-launcher has ended without a word, and at no other time."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from kigi.hook.launcher import APPEARS_WITHIN_S, MISSES, TABLE, LauncherWatch, is_listening


def test_the_socket_is_found_while_somebody_listens_on_it(tmp_path: Path) -> None:
    def listening() -> bool:
        return is_listening(Path(TABLE).read_text(errors="replace"))

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "launcher-sock"))
        server.listen()
        assert listening()
    assert not listening()


@pytest.mark.parametrize("name", ["/run/other-launcher-sock", "/run/launcher-sock.old", "", "@launcher-socket"])
def test_another_socket_is_not_taken_for_it(name: str) -> None:
    assert not is_listening(f"Num RefCount Protocol Flags Type St Inode Path\n0: 2 0 10000 1 01 31 {name}\n")


@pytest.mark.parametrize(
    ("looks", "gone"),
    [
        pytest.param([True] * 100, False, id="it lives"),
        pytest.param([True] + [False] * (MISSES - 1), False, id="perhaps it is gone"),
        pytest.param([True] + [False] * MISSES, True, id="it is gone"),
        pytest.param(
            [True, *([False] * (MISSES - 1)), True, *([False] * (MISSES - 1))], False, id="it was only missed"
        ),
        pytest.param([False] * 42, False, id="it may still come"),
        pytest.param([False] * 43, True, id="it never came"),
    ],
)
def test_it_is_gone_when_it_was_there_and_is_no_more_or_never_came(looks: list[bool], gone: bool) -> None:
    period_s = 10.0
    watch = LauncherWatch(0.0)
    answers = [watch.is_gone(look, number * period_s) for number, look in enumerate(looks, 1)]
    assert answers[-1] is gone
    assert True not in answers[:-1]
    assert 42 * period_s == APPEARS_WITHIN_S
