"""Keys of an S3 user, as a Secret in Kigi's namespace has them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

Keys = Mapping[str, str]
"""``access_key_id``, ``secret_access_key`` and perhaps ``session_token``, or nothing."""


def keys_of_secret(body: Mapping[str, Any] | None) -> Keys:
    """The keys; nothing if there is no Secret, or if it lacks one of the two that are needed."""
    data = (body or {}).get("data") or {}
    try:
        texts = {key: base64.b64decode(data.get(key) or "", validate=True).decode().strip() for key in data}
    except (binascii.Error, UnicodeDecodeError):
        return {}
    if not (texts.get("accessKeyId") and texts.get("secretAccessKey")):
        return {}
    token = {"session_token": texts["sessionToken"]} if texts.get("sessionToken") else {}
    return {"access_key_id": texts["accessKeyId"], "secret_access_key": texts["secretAccessKey"], **token}
