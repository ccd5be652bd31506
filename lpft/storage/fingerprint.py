"""Hashes of settings and results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest(content: Mapping[str, Any]) -> str:
    """Hash JSON-serializable content to 64 hex digits; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Hash settings to 16 hex digits: the same for settings that were written as JSON and read again.

    >>> fingerprint({10: "a", 9: "b"}) == fingerprint({"10": "a", "9": "b"})
    True
    """
    return digest(json.loads(json.dumps(settings)))[:16]
