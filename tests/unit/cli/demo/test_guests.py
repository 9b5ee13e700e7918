from typing import Any

from kigi.cli.demo.guests import CREATED_BY, pods_of, report_in, running_vmis
from kigi.domain.names import LABEL_INSTANCE, LABEL_MACHINE


def vmi(uid: str, phase: str = "Running", **meta: Any) -> dict[str, Any]:
    labels = {LABEL_INSTANCE: "1", LABEL_MACHINE: "mail1"}
    return {"metadata": {"uid": uid, "labels": labels, **meta}, "status": {"phase": phase}}


def pod(name: str, uid: str | None, phase: str = "Running", **meta: Any) -> dict[str, Any]:
    labels = {CREATED_BY: uid} if uid else {}
    return {"metadata": {"name": name, "labels": labels, **meta}, "status": {"phase": phase}}


def test_the_newest_report_counts():
    reports = [f"KIGI-GUEST machine=mail1 state=infected boot={boot}\r\n" for boot in (1, 2)]
    log = f"SeaBIOS\r\n{''.join(reports)}"
    assert report_in(log) == {"machine": "mail1", "state": "infected", "boot": "2"}
    assert report_in("SeaBIOS\nKIGI-GUEST ") is None


def test_only_running_vms_count():
    found = running_vmis(
        [vmi("a"), vmi("b", "Scheduling"), vmi("c", deletionTimestamp="now"), {"metadata": {"uid": "d"}}]
    )
    assert found == {"a": ("1", "mail1")}


def test_a_pod_belongs_to_the_vmi_that_created_it():
    pods = [pod("p", "a"), pod("old", "b", deletionTimestamp="now"), pod("ended", "c", "Succeeded"), pod("x", None)]
    assert pods_of(pods) == {"a": "p"}
