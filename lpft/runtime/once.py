"""Messages that are logged once per process."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from functools import cache

log = logging.getLogger("lpft")


@cache
def log_once(level: int, text: str, *occasion: Hashable) -> None:
    """Log a message, unless it was logged before.

    Args:
        level: level of the standard library's `logging`.
        text: the message.
        occasion: the same message is logged again on another occasion, such as another modification time of a file.
    """
    log.log(level, "%s", text)
