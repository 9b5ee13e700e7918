"""A page's console blocks get the output of their commands, and nothing else changes."""

from __future__ import annotations

import pytest

from tools.transcript import CommandFailed, Shell, commands, rewrite

PAGE = """# Title

```sh
$ not a transcript
```

```console
$ first
old output
$ cat <<END
> two lines
> END
```

text
"""


def test_each_command_gets_its_output_and_the_rest_stays() -> None:
    ran: list[str] = []

    def run(script: str) -> str:
        ran.append(script)
        return {"first": "new output  \n", "cat <<END\ntwo lines\nEND": ""}[script]

    assert rewrite(PAGE, run) == PAGE.replace("old output", "new output")
    assert ran == ["first", "cat <<END\ntwo lines\nEND"]


def test_a_block_that_begins_with_output_is_an_error() -> None:
    with pytest.raises(ValueError, match="begins with output"):
        list(commands("output\n$ command\n"))


def test_the_shell_keeps_what_was_exported() -> None:
    shell = Shell()
    assert shell.run("export NAME=kigi") == ""
    assert shell.run('echo "$NAME"; echo error >&2') == "kigi\nerror\n"


def test_a_command_that_fails_is_named_with_its_output() -> None:
    with pytest.raises(CommandFailed, match="exit status 3: before"):
        Shell().run("echo before; exit 3")
