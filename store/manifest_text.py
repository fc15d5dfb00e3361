"""What a manifest names, before it is parsed."""

import hashlib
import re

_CHECKSUM = re.compile(rb',"checksum":"([0-9a-f]{64})"')
_FILE = re.compile(rb'"name":"((?:shard|examples|canary)-[0-9a-f]{64}\.(?:h5|npy))"')


def files(data: bytes) -> set[str]:
    """The files that a manifest names, without parsing it; none if its checksum is wrong."""
    found = _CHECKSUM.search(data)
    if not found:
        return set()
    unsigned = data[: found.start()] + data[found.end() :].removesuffix(b"\n")
    if hashlib.sha256(unsigned).hexdigest().encode() != found[1]:
        return set()
    return set(b"/".join(_FILE.findall(data)).decode().split("/"))
