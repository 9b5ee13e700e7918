"""JSON of API objects whose size tenants decide: each object costs a bounded amount of memory.

A text of 1.3 MB, as the API server accepts it, can become 50 MiB of Python's objects (a list of ``{}``). So a listing
is decoded item by item, and a part of an object with more than ``MAX_VALUES`` values is dropped before the next item is
decoded: one such object never fills the memory of a process that serves all tenants. A dropped part has the key
``UNREAD``, so that no reader takes what is left of it for the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from kigi.adapters import shallow_json

MAX_VALUES = 50_000
"""Values in one part (metadata, spec, status) of an object: the longest spec that Kigi accepts has fewer."""
SMALL = 128 * 2**10
"""Characters of a text that is decoded at once: it can become few megabytes."""
UNREAD = "(more values than Kigi reads)"
_KEPT = 1000
"""Of a part with more than MAX_VALUES values: fields with at most so many stay, and so many labels and finalizers."""
_OURS = "kigi.dev/"


def loads(text: str | bytes) -> Any:
    """The value of an answer, an event or a page of a listing; ValueError for a text that is no JSON."""
    if len(text) <= SMALL:
        return shallow_json.loads(text)
    text = text.decode() if isinstance(text, bytes) else text
    if not text.lstrip().startswith("{"):
        return shallow_json.loads(text)
    answer: dict[str, Any] = {}
    pos = _skip(text, text.index("{") + 1)
    while text[pos : pos + 1] != "}":
        key, pos = _key(text, pos)
        if key == "items" and text[pos : pos + 1] == "[":
            answer[key], pos = _items(text, pos)
        else:
            answer[key], pos = (_item if key == "object" else shallow_json.decode_at)(text, pos)
        pos = _after(text, pos, "}")
    if text[pos + 1 :].strip():
        raise ValueError(f"more than one value: character {pos + 1}")
    return answer if "items" in answer or "object" in answer else bounded(answer)


def bounded(item: dict[str, Any]) -> dict[str, Any]:
    """The object without its parts that have more than MAX_VALUES values."""
    for part, value in item.items():
        if _is_large(value):
            item[part] = _metadata(value) if part == "metadata" and isinstance(value, dict) else _small_fields(value)
    return item


def is_unread(part: object) -> bool:
    """Whether the part of an object was dropped."""
    return isinstance(part, Mapping) and part.get(UNREAD) is True


def _items(text: str, begin: int) -> tuple[list[Any], int]:
    """The items of the list that begins there, each bounded before the next is decoded, and the end of the list."""
    items: list[Any] = []
    pos = _skip(text, begin + 1)
    while text[pos : pos + 1] != "]":
        item, pos = _item(text, pos)
        items.append(item)
        pos = _after(text, pos, "]")
    return items, pos + 1


def _item(text: str, begin: int) -> tuple[Any, int]:
    item, end = shallow_json.decode_at(text, begin)
    return (bounded(item) if end - begin > SMALL and isinstance(item, dict) else item), end


def _is_large(value: object, max_values: int = MAX_VALUES) -> bool:
    count, level = 1, [value]
    while level:
        found = level.pop()
        if isinstance(found, dict | list):
            count += len(found)
            if count > max_values:
                return True
            level.extend(found.values() if isinstance(found, dict) else found)
    return False


def _small_fields(part: object) -> dict[str, Any]:
    """The fields that may identify an object, and the mark."""
    fields = part.items() if isinstance(part, dict) else ()
    return {**{key: value for key, value in fields if not _is_large(value, _KEPT)}, UNREAD: True}


def _metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Scalars, Kigi's own labels, annotations and finalizers, and some of the others."""
    kept: dict[str, Any] = {key: value for key, value in metadata.items() if not isinstance(value, dict | list)}
    for key in ("labels", "annotations"):
        if isinstance(found := metadata.get(key), dict):
            kept[key] = {name: found[name] for name in sorted(found, key=lambda name: _OURS not in name)[:_KEPT]}
    if isinstance(names := metadata.get("finalizers"), list):
        kept["finalizers"] = sorted(names, key=lambda name: _OURS not in str(name))[:_KEPT]
    return kept


def _key(text: str, pos: int) -> tuple[str, int]:
    """The key at the position, and the position of its value."""
    if text[pos : pos + 1] != '"':
        raise ValueError(f"Expecting a key: character {pos}")
    key, pos = scanstring(text, pos + 1)
    pos = _skip(text, pos)
    if text[pos : pos + 1] != ":":
        raise ValueError(f"Expecting ':': character {pos}")
    return key, _skip(text, pos + 1)


def _after(text: str, pos: int, end: str) -> int:
    """Position of the next member, or of the end."""
    pos = _skip(text, pos)
    if text[pos : pos + 1] == ",":
        return _skip(text, pos + 1)
    if text[pos : pos + 1] != end:
        raise ValueError(f"Expecting ',' or {end!r}: character {pos}")
    return pos


def _skip(text: str, pos: int) -> int:
    while text[pos : pos + 1] in (" ", "\t", "\n", "\r"):
        pos += 1
    return pos
