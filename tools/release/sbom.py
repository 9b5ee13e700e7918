"""The bill of materials: every Python and Debian package of the images, as CycloneDX."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from tools.release.debian import Package, read_lock
from tools.release.extra import ROOT
from tools.release.images import LOCKS

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^ ;\\]+)")
_NAMESPACE = uuid.UUID("6f1f3c1e-4d0e-5c55-9f52-0b8f8a1d9a57")
_IMAGES = {"base": "operator daemon hook", "qemu": "daemon"}


def pins(lock: Path) -> dict[str, str]:
    """Package -> version of a lock file."""
    matches = (_PIN.match(line) for line in lock.read_text().splitlines())
    return {match[1]: match[2] for match in matches if match}


def bill(version: str, wheel_sha256: str, epoch: int) -> str:
    """JSON of the bill. Raises ValueError if it does not satisfy the schema of CycloneDX 1.6."""
    bom = Bom(serial_number=uuid.uuid5(_NAMESPACE, f"{version} {wheel_sha256}"))
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    kigi = _python("kigi", version, "operator daemon hook")
    kigi.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=wheel_sha256))
    bom.metadata.component = kigi
    dependencies = [*_python_packages(), *(_debian(package) for package in read_lock())]
    for each in dependencies:
        bom.components.add(each)
    bom.register_dependency(kigi, dependencies)
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"the bill of materials does not satisfy its schema: {problem}")
    return text + "\n"


def _python_packages() -> Iterable[Component]:
    images: dict[tuple[str, str], list[str]] = {}
    for image, lock in LOCKS.items():
        for pin in pins(ROOT / lock).items():
            images.setdefault(pin, []).append(image)
    for (name, version), names in sorted(images.items()):
        yield _python(name, version, " ".join(names))


def _python(name: str, version: str, images: str) -> Component:
    purl = PackageURL("pypi", None, name, version)
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=str(purl),
        purl=purl,
        properties=[Property(name="kigi:images", value=images)],
    )


def _debian(package: Package) -> Component:
    purl = PackageURL("deb", "debian", package.name, package.version, {"arch": package.architecture})
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=str(purl),
        purl=purl,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)],
        properties=[Property(name="kigi:images", value=_IMAGES[package.part])],
    )
