"""PNG and TIFF files that Pillow cannot write: 16 bits of colour, signed values, transparent values."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's colour type by the number of channels."""


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def save_png(path: Path, values: np.ndarray, *chunks: bytes, bits: int = 16) -> Path:
    """Save values, ``(height, width)`` or ``(height, width, channels)``, with chunks before the pixels.

    Values of fewer than 8 bits have to be packed already, a row of bytes for 8 / `bits` times as many pixels.
    """
    height, width = values.shape[:2]
    width = width * 8 // bits if bits < 8 else width
    colour = PNG_COLOURS[1 if values.ndim == 2 else values.shape[2]]
    rows = values.astype(">u2" if bits == 16 else "u1")
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def save_tiff(path: Path, values: np.ndarray, photometric: int | None = None, orientation: int = 1) -> Path:
    """Save values, ``(height, width)`` or ``(height, width, 3)`` of any type and byte order, without compression.

    Photometric 0 says that 0 is white. The horizontal resolution is a text, which it should not be.
    """
    order = ">" if values.dtype.byteorder == ">" else "<"
    channels = 1 if values.ndim == 2 else values.shape[2]
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = values.tobytes()
    photometric = photometric if photometric is not None else 1 if channels == 1 else 2
    tags = {
        256: [values.shape[1]], 257: [values.shape[0]], 258: [8 * values.dtype.itemsize] * channels, 259: [1],
        262: [photometric], 273: [0], 274: [orientation], 277: [channels], 278: [values.shape[0]], 279: [len(data)],
        339: [kind] * channels,
    }  # fmt: skip
    place = 8 + 2 + 12 * (len(tags) + 1) + 4
    tags[273] = [place + 12]
    entries, more = b"", b""
    for tag, numbers in tags.items():
        content = struct.pack(f"{order}{len(numbers)}H", *numbers)
        if len(numbers) > 2:
            more, content = more + content, struct.pack(f"{order}I", place + len(more))
        entries += struct.pack(f"{order}HHI", tag, 3, len(numbers)) + content.ljust(4, b"\0")
        if tag == 279:
            entries += struct.pack(f"{order}HHI", 282, 2, 3) + b"72\0\0"
    head = (b"MM" if order == ">" else b"II") + struct.pack(f"{order}HI", 42, 8)
    folder = struct.pack(f"{order}H", len(tags) + 1) + entries + struct.pack(f"{order}I", 0)
    path.write_bytes(head + folder + more.ljust(12, b"\0") + data)
    return path
