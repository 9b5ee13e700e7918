"""``--yes`` and ``--dry-run`` of verbs that destroy something, and the question that they ask otherwise."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from kigi.cli.exit_codes import NotConfirmed

if TYPE_CHECKING:
    from kigi.cli.options import Function


@dataclass(frozen=True, slots=True)
class Consent:
    """What the caller permits in advance."""

    yes: bool = False
    dry_run: bool = False

    @property
    def needs_preview(self) -> bool:
        """Whether a person must see what would happen."""
        return self.dry_run or not self.yes

    def obtain(self, question: str) -> None:
        """Returns if the caller agrees; raises NotConfirmed without a terminal, or for another answer than yes."""
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise NotConfirmed("nothing was changed: there is no terminal to ask; give --yes, or --dry-run to look")
        if not click.confirm(question, err=True):
            raise NotConfirmed("nothing was changed")


def consent_options(function: Function) -> Function:
    """Adds ``--yes`` and ``--dry-run``; the function gets one ``consent``."""

    @functools.wraps(function)
    def call(*, yes: bool, dry_run: bool, **values: object) -> None:
        function(consent=Consent(yes, dry_run), **values)

    call = click.option("--dry-run", is_flag=True, help="Show what would happen; change nothing.")(call)
    return click.option("--yes", "-y", is_flag=True, help="Do not ask; needed without a terminal.")(call)
