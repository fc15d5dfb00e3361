"""Encoding pixels as PNG, with the same bytes on every machine."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

STORED_BYTES = 0xFFFF  # of one deflate block
COLOR_TYPES = {1: 0, 3: 2, 4: 6}  # channels to PNG's color type


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 or uint16 (height, width, 1 | 3 | 4) as PNG (ISO 15948).

    The pixels are not compressed: versions of zlib compress differently, but equal pixels must have
    equal digests everywhere.

    Raises:
        ValueError: the dtype or the number of channels is another.
    """
    height, width, channels = pixels.shape
    if channels not in COLOR_TYPES or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"cannot store {pixels.dtype}{pixels.shape} as PNG")
    depth = 8 * pixels.dtype.itemsize
    rows = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder(">"))
    lines = np.zeros((height, 1 + rows[0].nbytes), dtype=np.uint8)  # filter 0, then the row
    lines[:, 1:] = rows.view(np.uint8).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, depth, COLOR_TYPES[channels], 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", _stored(lines.tobytes()))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _stored(data: bytes) -> bytes:
    """A zlib stream (RFC 1950) of stored deflate blocks (RFC 1951, 3.2.4)."""
    blocks = [b"\x78\x01"]
    for start in range(0, len(data), STORED_BYTES):
        block = data[start : start + STORED_BYTES]
        last = start + STORED_BYTES >= len(data)
        blocks += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    return b"".join(blocks) + struct.pack(">I", zlib.adler32(data))
