"""The bounds of everything that a small message or a roster may hold, and the one place where MessagePack is decoded.

Each bound is wide: a sender that keeps to the protocol never meets it. It is there so that nothing that a remote sends
can take memory without end, stand in a file name or a topic, or overflow a field of a header.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from lamina.models.decoding import from_msgpack
from lamina.models.errors import DecodeError

MOST_BYTES = 16 << 20
"""Of one small message; the plan of a cohort of 100,000 devices takes a tenth of it."""

MOST_DEVICES = 1 << 18
"""In one cohort; a fold takes no more."""

MOST_LAYERS = 1 << 16
"""The header of a chunk has room for no more."""

NAME = r"\A[A-Za-z0-9_.\-]{1,64}\Z"
"""What a device, a site or a federation may be called: it stands in topics, and in the names of files."""

LAYER_NAME = r"\A[A-Za-z0-9_.\-]{1,256}\Z"
"""What a layer may be called: it stands in topics, too, and follows the modules of the user's network."""

_T = TypeVar("_T")

Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Epoch: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Bytes: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Numbers: TypeAlias = Annotated[tuple[Count, ...], Meta(max_length=MOST_LAYERS)]
"""Something of every layer: an index, a version, a check."""
Shape: TypeAlias = Annotated[tuple[Count, ...], Meta(max_length=16)]

Pairs: TypeAlias = Annotated[tuple[tuple[float, float], ...], Meta(max_length=MOST_LAYERS)]
"""Two numbers of every layer."""
Finite: TypeAlias = Annotated[float, Meta(ge=-3.4e38, le=3.4e38)]
"""A number that float32 can hold; NaN and infinity are none."""
Factors: TypeAlias = Annotated[tuple[Finite, ...], Meta(max_length=16)]
"""What some vectors are multiplied by."""
Elapsed: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]
"""Seconds."""
Mebibytes: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]

Sums: TypeAlias = Annotated[tuple[Annotated[float, Meta(ge=-1e300, le=1e300)], ...], Meta(max_length=1 << 16)]
"""Sums or counts of metrics; those of some have an element for each class."""

DeviceName: TypeAlias = Annotated[str, Meta(pattern=NAME, max_length=64)]
Name: TypeAlias = Annotated[str, Meta(max_length=64)]
Names: TypeAlias = Annotated[tuple[Name, ...], Meta(max_length=64)]
Text: TypeAlias = Annotated[str, Meta(max_length=1000)]
"""Words for a person."""
Digest: TypeAlias = Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{64})?\Z", max_length=64)]
"""SHA-256 in hex, or empty."""
Digests: TypeAlias = Annotated[tuple[Digest, ...], Meta(max_length=4096)]
"""The files of a bundle."""

OrderBytes: TypeAlias = Annotated[bytes, Meta(max_length=MOST_BYTES)]
"""A small message within another."""
Key: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""An Ed25519 public key."""
SignatureBytes: TypeAlias = Annotated[bytes, Meta(min_length=64, max_length=64)]
"""An Ed25519 signature."""
Endorsement: TypeAlias = Annotated[bytes, Meta(max_length=1 << 19)]
"""A mandate's bytes."""
Proof: TypeAlias = Annotated[bytes, Meta(max_length=32)]
"""What nobody can make who lacks a secret; only who has it can check it."""
DIGEST_BYTES = 16
"""Of a layer's value, in a signed plan."""
ValueDigests: TypeAlias = Annotated[bytes, Meta(max_length=DIGEST_BYTES * MOST_LAYERS)]
"""The digest of every layer's value, one behind the other."""

Devices: TypeAlias = Annotated[tuple[DeviceName, ...], Meta(max_length=MOST_DEVICES)]
Scalars: TypeAlias = Annotated[dict[Name, Finite], Meta(max_length=64)]
PerDevice: TypeAlias = Annotated[dict[DeviceName, _T], Meta(max_length=MOST_DEVICES)]


def unpacked(payload: bytes | memoryview, kind: type[_T]) -> _T:
    """The value of a type that MessagePack holds.

    Raises:
        DecodeError: it holds something else, is damaged or too long, is nested too deeply, or a bound is not kept.
    """
    if len(payload) > MOST_BYTES:
        raise DecodeError(f"{len(payload)} bytes, where at most {MOST_BYTES} are possible")
    try:
        return from_msgpack(payload, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(str(error)) from error
    except RecursionError as error:
        raise DecodeError("it is nested too deeply") from error
