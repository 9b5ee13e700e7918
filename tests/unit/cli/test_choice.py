"""One syntax for instances and machines in all verbs."""

from __future__ import annotations

from importlib import import_module

import pytest
from click.testing import CliRunner

from kigi.cli.choice import Choice, Chosen, make_choice
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.main import VERBS, app
from kigi.domain.instance_ranges import Selection

RANGED = ("reset", "switch", "start", "stop", "capture", "status", "why")


@pytest.mark.parametrize(
    ("words", "options", "choice"),
    [
        ((), {}, Choice()),
        (("1-2",), {}, Choice(Selection(("1", "2")))),
        (("1-2", "mail", "db"), {}, Choice(Selection(("1", "2")), ("mail", "db"))),
        ((), {"instance": "7"}, Choice(Selection(("7",)))),
        (("mail",), {"instance": "7"}, Choice(Selection(("7",)), ("mail",))),
        (("mail",), {"all_but": "3"}, Choice(Selection(("3",), is_exclusion=True), ("mail",))),
        ((), {"machines": ("mail",)}, Choice(None, ("mail",))),
        (("7", "mail"), {"machines": ("mail", "db")}, Choice(Selection(("7",)), ("mail", "db"))),
    ],
)
def test_the_first_word_names_instances_unless_an_option_does(
    words: tuple[str, ...], options: dict[str, str], choice: Choice
) -> None:
    assert make_choice(words, **options) == choice  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "options", "text"),
    [
        (("8-1",), {}, "INSTANCES: the range 8-1 ends before it begins"),
        ((), {"instance": "x y"}, "--instance: 'x y' is no instance"),
        ((), {"all_but": ""}, "--all-but: '' is no instance"),
        ((), {"instance": "1", "all_but": "2"}, "exclude each other"),
    ],
)
def test_a_wrong_value_is_named_with_its_argument(words: tuple[str, ...], options: dict[str, str], text: str) -> None:
    with pytest.raises(OptionInvalid, match=text):
        make_choice(words, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("verb", RANGED)
def test_verbs_about_instances_have_the_same_options_and_the_same_help(verb: str) -> None:
    command = import_module(VERBS[verb].module).command
    options = {option.name: option for option in command.params}
    assert {"instances", "instance", "all_but"} <= options.keys()
    usage, _, _ = CliRunner().invoke(app, [verb, "-h"]).output.partition("\n")
    assert usage.endswith(" [INSTANCES]" if verb == "why" else " [INSTANCES] [MACHINE]...")
    assert "INSTANCES: " in (command.help or "")
    assert "7, 1-8,12 or red,blue" in (command.help or "")


DESTRUCTIVE = ("reset", "switch", "stop", "delete", "release", "gc", "migrate")


@pytest.mark.parametrize("verb", DESTRUCTIVE)
def test_destructive_verbs_have_the_same_way_to_agree(verb: str) -> None:
    options = {name: option for option in import_module(VERBS[verb].module).command.params for name in option.opts}
    assert {"--yes", "-y", "--dry-run"} <= options.keys()


def test_an_instance_without_a_named_machine_is_left_out() -> None:
    body = {"spec": {"name": "7"}, "status": {"machines": [{"name": "web"}]}}
    chosen = Chosen("range", "office", None, (body,), ("7",), ("web", "db"), is_everything=False)
    assert chosen.machines_of(body) == ("web",)
    assert chosen.machines_of({"spec": {"name": "8"}}) == ("web", "db"), "it has reported nothing yet"
