from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from kigi.domain import names
from kigi.hook.domain import open_as_qcow2
from kigi.hook.monitor import SOCKET, VALUE, add_monitor
from tests.support.domains import domain, our_disk

QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
OWN = b'\n\t<qemu:commandline>\n\t\t<qemu:arg value="type=&quot;raw&quot;"></qemu:arg>\n\t</qemu:commandline>'


def arguments(document: bytes) -> list[str | None]:
    """QEMU's arguments as libvirt finds them: those in all elements of its namespace, in their order."""
    found = ET.fromstring(document).findall(f"{QEMU}commandline/{QEMU}arg")
    return [argument.get("value") for argument in found]


def without_arguments() -> bytes:
    document = domain(our_disk())
    assert OWN in document
    return document.replace(OWN, b"")


def test_the_monitor_follows_the_arguments_that_the_domain_has() -> None:
    document = domain(our_disk())
    changed = add_monitor(document)
    assert arguments(changed) == ['type="raw"', "-qmp", VALUE]
    assert len(ET.fromstring(changed).findall(f"{QEMU}commandline")) == 1


def test_a_domain_without_arguments_gets_the_element() -> None:
    changed = add_monitor(without_arguments())
    assert arguments(changed) == ["-qmp", VALUE]


def test_a_domain_that_does_not_declare_the_namespace_gets_the_declaration_too() -> None:
    document = without_arguments().replace(b' xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0"', b"")
    assert b"xmlns:qemu" not in document
    assert arguments(add_monitor(document)) == ["-qmp", VALUE]


@pytest.mark.parametrize("document", [domain(our_disk()), without_arguments()], ids=["with arguments", "without"])
def test_nothing_else_of_the_domain_changes(document: bytes) -> None:
    changed = add_monitor(document)
    at = next(i for i, (a, b) in enumerate(zip(document, changed, strict=False)) if a != b)
    tail = len(changed) - len(document)
    # The first different byte may be one behind the insertion, as both texts begin with "<".
    assert any(document == changed[:i] + changed[i + tail :] for i in range(max(0, at - 8), at + 1))


def test_a_second_definition_of_the_same_domain_changes_nothing() -> None:
    once = add_monitor(open_as_qcow2(without_arguments())[0])
    assert add_monitor(open_as_qcow2(once)[0]) == once


@pytest.mark.parametrize(
    "decoy",
    [
        f"<!-- <qemu:commandline><qemu:arg value='{VALUE}'/></qemu:commandline> -->",
        f"<metadata><qemu:commandline><qemu:arg value='{VALUE}'></qemu:arg></qemu:commandline></metadata>",
        f"<description>{VALUE}</description>",
    ],
)
def test_text_that_resembles_the_monitor_is_none(decoy: str) -> None:
    changed = add_monitor(domain(our_disk(), extra=decoy))
    assert arguments(changed)[-2:] == ["-qmp", VALUE]
    assert decoy.encode() in changed


@pytest.mark.parametrize("document", [b"", b"<domain", b"<domain/>", b"<domain><qemu:commandline/></domain>"])
def test_a_domain_of_another_form_stays_as_it_is(document: bytes) -> None:
    assert add_monitor(document) == document


def test_hook_and_daemon_name_the_same_socket() -> None:
    assert names.MONITOR_VALUE == VALUE
    assert SOCKET.endswith(f"/kubevirt-{names.MONITOR_DIRECTORY}/{names.MONITOR_SOCKET}")
