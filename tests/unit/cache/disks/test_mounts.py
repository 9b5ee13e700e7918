from __future__ import annotations

import pytest

from kigi.errors import MountFailed
from kigi_cache.disks.mounts import parse_mountinfo, source_of, unmount

TABLE = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 8:2 / /var rw,relatime shared:2 - xfs /dev/sdb rw,attr2
31 30 8:2 /lib/kigi/volumes/a.r1 /var/lib/kubelet/pods/1/mount rw,nosuid,nodev,noexec shared:2 - xfs /dev/sdb rw
32 31 8:2 /lib/kigi/volumes/a.r1/chain /var/lib/kubelet/pods/1/mount/chain ro,nosuid master:3 - xfs x rw
40 22 0:50 /host\040dir /mnt/a\134b rw - tmpfs tmpfs rw
41 22 8:2 /lib /srv/cache rw - xfs /dev/sdb rw
"""


def test_fields_are_read_and_unescaped() -> None:
    mounts = parse_mountinfo(TABLE)
    assert [m.point for m in mounts][-2:] == ["/mnt/a\\b", "/srv/cache"]
    assert mounts[4].root == "/host dir"
    assert mounts[3].options == {"ro", "nosuid"}
    assert mounts[0].device == "8:1"


@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        ("/etc", ("8:1", "/etc")),
        ("/", ("8:1", "/")),
        ("/var", ("8:2", "/")),
        ("/var/lib/kigi/volumes/a.r1", ("8:2", "/lib/kigi/volumes/a.r1")),
        ("/variable", ("8:1", "/variable")),
        ("/srv/cache/kigi/volumes/a.r1", ("8:2", "/lib/kigi/volumes/a.r1")),
        ("/srv/cache", ("8:2", "/lib")),
    ],
)
def test_a_directory_is_named_by_the_mount_that_shows_it(directory: str, expected: tuple[str, str]) -> None:
    assert source_of(parse_mountinfo(TABLE), directory) == expected


def test_of_two_mounts_at_one_point_the_later_is_seen() -> None:
    table = TABLE + "50 22 9:9 /other /srv/cache rw - xfs /dev/sdc rw\n"
    assert source_of(parse_mountinfo(table), "/srv/cache/x") == ("9:9", "/other/x")


def test_a_refusal_names_the_place_and_the_cause() -> None:
    with pytest.raises(MountFailed, match="/nowhere: No such file"):
        unmount("/nowhere")
