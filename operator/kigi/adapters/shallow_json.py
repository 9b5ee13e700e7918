"""JSON of an API server, whose objects may be nested deeper than Python can follow.

The API server accepts 10,000 levels below a field with free content, and any user who may write such an object would
otherwise stop every listing and watch that contains it. Values below ``MAX_LEVELS`` are replaced by a text; no object
that Kigi uses is nested so deeply. The depth is measured without recursion: some decoders follow more levels than the
code that reads their values.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_LEVELS = 100
CUT = '"(nested too deeply)"'
_TEXT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')
_OTHER = re.compile(r"[^\[\]{}]+")
_ONE_KIND = str.maketrans("[]", "{}")
_DECODER = json.JSONDecoder()


def loads(text: str | bytes) -> Any:
    """The value, without anything below ``MAX_LEVELS``; ValueError for a text that is no JSON."""
    text = text.decode() if isinstance(text, bytes) else text
    return json.loads(cut(text) if is_deep(text) else text)


def decode_at(text: str, begin: int) -> tuple[Any, int]:
    """The value that begins there, without anything below ``MAX_LEVELS``, and its end."""
    try:
        value, end = _DECODER.raw_decode(text, begin)
    except RecursionError:
        end = _end_of(text, begin)
    else:
        if not is_deep(text[begin:end]):
            return value, end
    return json.loads(cut(text[begin:end])), end


def is_deep(text: str, max_levels: int = MAX_LEVELS) -> bool:
    """Whether a list or object is at a level below ``max_levels``. O(length), without recursion."""
    if text.count("{") + text.count("[") <= max_levels:
        return False
    rest = _OTHER.sub("", _TEXT.sub("", text)).translate(_ONE_KIND)
    for _ in range(max_levels):
        if not rest:
            return False
        rest = rest.replace("{}", "")  # the innermost level
    return bool(rest)


def cut(text: str, max_levels: int = MAX_LEVELS) -> str:
    """The JSON with ``CUT`` for each list and object at a deeper level. O(length), without recursion.

    >>> cut('[{"a": [1], "b": 2}, 3]', max_levels=2)
    '[{"a": "(nested too deeply)", "b": 2}, 3]'
    """
    kept: list[str] = []
    level = begin = 0
    for token in _TOKEN.finditer(text):
        match token.group()[0]:
            case "[" | "{":
                level += 1
                if level == max_levels + 1:
                    kept += [text[begin : token.start()], CUT]
            case "]" | "}":
                if level == max_levels + 1:
                    begin = token.end()
                level -= 1
    return "".join([*kept, text[begin:]])


def _end_of(text: str, begin: int) -> int:
    level = 0
    for token in _TOKEN.finditer(text, begin):
        level += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group()[0], 0)
        if level == 0:
            return token.end()
    raise ValueError(f"a list or object that begins at character {begin} has no end")
