"""A chunk that was changed and sealed again, as a malicious sender could."""

from __future__ import annotations

import struct

import google_crc32c


def sealed_again(payload: bytes, offset: int, new: bytes) -> bytes:
    """The payload with bytes replaced, and a CRC to match: what a malicious sender could send."""
    rest = payload[8:offset] + new + payload[offset + len(new) :]
    return payload[:4] + struct.pack("<I", google_crc32c.value(rest)) + rest
