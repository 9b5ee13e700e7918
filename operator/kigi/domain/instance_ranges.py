"""Instances of a deployment as a person names them: ``7``, ``1-8,12``, ``red,blue``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from kigi.domain.names import INSTANCE_NAME, instance_order
from kigi.errors import DeploymentMissing, SpecInvalid

MAX_NAMED = 2000
"""Instances that a text may name: twice as many as a deployment may have."""
SHOWN = 12
"""Ranges of a list that a message shows."""
FORM = "write numbers, ranges and names with commas, such as 7 or 1-8,12 or red,blue"
_RANGE = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
_NAME = re.compile(INSTANCE_NAME)


class InstanceUnknown(DeploymentMissing):
    """An argument names an instance that the SystemDeployment does not have."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Chosen instances by name, sorted; with ``is_exclusion`` all others."""

    names: tuple[str, ...]
    is_exclusion: bool = False

    def choose(self, deployment: str, known: Collection[str]) -> tuple[str, ...]:
        """The chosen of the ``known`` instances, sorted.

        Raises InstanceUnknown if a named one is not known, or if nothing is left.
        """
        if unknown := [name for name in self.names if name not in known]:
            raise InstanceUnknown(_unknown(deployment, unknown, known))
        if not self.is_exclusion:
            return self.names
        left = tuple(sorted(set(known) - set(self.names), key=instance_order))
        if not left:
            raise InstanceUnknown(f"no instance is left: {deployment} has only {format_instances(known)}")
        return left


def parse_instances(text: str) -> tuple[str, ...]:
    """The named instances, sorted, each once; raises SpecInvalid with the wrong part and the form.

    ``01-08`` names 01, 02, ... 08.
    """
    names: set[str] = set()
    for part in text.split(","):
        names.update(_names(part.strip(), text))
        if len(names) > MAX_NAMED:
            raise SpecInvalid(f"{text!r} names more than {MAX_NAMED} instances; {FORM}")
    return tuple(sorted(names, key=instance_order))


def _names(part: str, text: str) -> Iterable[str]:
    if _NAME.fullmatch(part):
        return (part,)
    found = _RANGE.fullmatch(part)
    if found is None:
        what = f"{part!r} of {text!r}" if part != text else f"{text!r}"
        raise SpecInvalid(f"{what} is no instance; {FORM}")
    first, last = found[1], found[2]
    if int(first) > int(last):
        raise SpecInvalid(f"the range {part} ends before it begins; write {last}-{first}")
    if int(last) - int(first) >= MAX_NAMED:
        raise SpecInvalid(f"the range {part} has more than {MAX_NAMED} instances; write a shorter one")
    width = len(first) if first.startswith("0") and len(first) == len(last) else 0
    return (f"{number:0{width}d}" for number in range(int(first), int(last) + 1))


def format_instances(names: Iterable[str], shown: int = SHOWN) -> str:
    """The instances as ``parse_instances`` reads them; after ``shown`` ranges the number of the others."""
    ranges = list(_ranges(sorted(set(names), key=instance_order)))
    if len(ranges) <= shown:
        return ",".join(ranges)
    return f"{','.join(ranges[:shown])} and {len(ranges) - shown} more"


def exact_instances(names: Iterable[str]) -> str:
    """All instances as ``parse_instances`` reads them, for a command."""
    return ",".join(_ranges(sorted(set(names), key=instance_order)))


def _ranges(names: Iterable[str]) -> Iterator[str]:
    run: list[str] = []
    for name in names:
        if run and not _follows(run[-1], name):
            yield from _shorten(run)
            run = []
        run.append(name)
    yield from _shorten(run)


def _follows(before: str, name: str) -> bool:
    return all(n.isdecimal() and str(int(n)) == n for n in (before, name)) and int(name) == int(before) + 1


def _shorten(run: list[str]) -> Iterable[str]:
    return run if len(run) < 3 else (f"{run[0]}-{run[-1]}",)


def _unknown(deployment: str, unknown: Collection[str], known: Collection[str]) -> str:
    has = f"{deployment} has {format_instances(known)}" if known else f"{deployment} has no instances yet"
    if len(unknown) == 1:
        (name,) = unknown
        return f"instance {name} does not exist: {has}"
    return f"instances {format_instances(unknown)} do not exist: {has}"
