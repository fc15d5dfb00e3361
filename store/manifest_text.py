"""A manifest as text, before anything in it is believed."""

import hashlib
import json
import re
from typing import Any

MAX_KEYS = 16
_CHECKSUM = re.compile(rb',"checksum":"([0-9a-f]{64})"')
_FILE = re.compile(rb'"name":"((?:shard|examples|canary)-[0-9a-f]{64}\.(?:h5|npy))"')


def values(data: bytes) -> int:
    """At least the number of values in a JSON text, which costs less to count than to parse."""
    return sum(map(data.count, (b"[", b"{", b",")))


def files(data: bytes) -> set[str]:
    """The files that a manifest names, without parsing it; none if its checksum is wrong."""
    found = _CHECKSUM.search(data)
    if not found:
        return set()
    unsigned = data[: found.start()] + data[found.end() :].removesuffix(b"\n")
    if hashlib.sha256(unsigned).hexdigest().encode() != found[1]:
        return set()
    return set(b"/".join(_FILE.findall(data)).decode().split("/"))


def parse(data: bytes) -> Any:
    """The value of a JSON text without floats and without keys that come twice.

    Raises:
        ValueError: it is none; the message says why.
    """
    return json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_refuse)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise ValueError(f"unexpected object of more than {MAX_KEYS} keys")
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("unexpected key that comes twice")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"unexpected number {constant[:20]}")
