import threading
from pathlib import Path

import pytest

from localcluster.build import MODULES, BuildFailed
from localcluster.builds import InBackground, ProgramBuilds, first_programs, kubevirt_programs
from localcluster.kubevirt import RELEASES
from tests.support.cluster import eventually


def test_an_error_of_a_background_task_is_raised_where_its_result_is_needed():
    done = list[int]()
    InBackground(lambda: done.append(1)).result()
    assert done == [1]

    def fail() -> None:
        raise RuntimeError("no mirror")

    with pytest.raises(RuntimeError, match="no mirror"):
        InBackground(fail).result()


@pytest.mark.parametrize("release", RELEASES.values(), ids=RELEASES)
def test_the_cluster_builds_the_programs_of_its_images(release):
    named = {*first_programs(), *kubevirt_programs(release)}
    modules = [{name for name, _ in module.programs} for module in MODULES]
    built = {name for programs in modules if programs & named for name in programs}
    needed = {*release.deployments, *release.launcher, "virt-handler", "virt-chroot", "sidecars"}
    assert {f"{name}{release.suffix}" for name in needed} <= built
    assert {"etcd", "kube-apiserver", "kubelet", "kubectl", "containerd", "runc", "bridge", "versitygw"} <= built


def test_programs_are_built_two_at_a_time_in_their_order_and_an_error_belongs_to_its_program():
    begun, go_on = list[str](), {name: threading.Event() for name in "abcd"}

    def build(name: str) -> Path:
        begun.append(name)
        assert go_on[name].wait(10)
        if name == "b":
            raise BuildFailed("b does not compile")
        return Path(name)

    builds = ProgramBuilds("abcd", build)
    eventually(lambda: sorted(begun) == ["a", "b"])
    go_on["b"].set()
    eventually(lambda: sorted(begun) == ["a", "b", "c"])
    for event in go_on.values():
        event.set()
    builds.wait("acd")
    with pytest.raises(BuildFailed, match="b does not compile"):
        builds.wait("ab")
    assert begun[3:] == ["d"]


@pytest.mark.parametrize("release", RELEASES.values(), ids=RELEASES)
def test_kubevirts_two_large_modules_share_what_they_compile(release):
    """A build with other settings would compile Kubernetes' packages a second time: three minutes on two cores."""
    api, handler = (
        module for module in MODULES if {name for name, _ in module.programs} & set(kubevirt_programs(release)[:2])
    )
    assert (api.cgo, api.tags, api.folder) == (handler.cgo, handler.tags, handler.folder)
