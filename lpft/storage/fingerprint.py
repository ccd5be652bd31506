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
    """Hash settings to 16 hex digits."""
    return digest(settings)[:16]
