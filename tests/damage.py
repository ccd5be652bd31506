"""What can happen to a file."""

from __future__ import annotations


def flipped(content: bytes, position: int, mask: int = 0x10) -> bytes:
    """Return the content with a bit of one byte flipped."""
    return content[:position] + bytes([content[position] ^ mask]) + content[position + 1 :]
