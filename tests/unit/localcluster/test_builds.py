import pytest

from localcluster.build import MODULES
from localcluster.builds import InBackground, first_programs, kubevirt_programs
from localcluster.kubevirt import RELEASES


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
