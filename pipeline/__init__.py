"""The command line and params."""

import sys
from importlib.util import find_spec
from pathlib import Path

for _name in ("stages", "store"):
    _found = find_spec(_name)
    if (
        _found is None
        or _found.origin is None
        or (Path(_found.origin).parent.parent != Path(__file__).parent.parent)
    ):
        _origin = (_found and _found.origin) or "nothing"
        sys.exit(
            f"cryobase: `{_name}` is {_origin}, which stands before Cryobase's own in PYTHONPATH;"
            " rename it, or take its directory out of PYTHONPATH"
        )
