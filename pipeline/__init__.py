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
        _origins = [_found.origin, *(_found.submodule_search_locations or ())] if _found else []
        _origin = next(filter(None, _origins), "nowhere")
        sys.exit(
            f"cryobase: `{_name}` is {_origin}, which stands before Cryobase's own in PYTHONPATH;"
            " rename it, or take its directory out of PYTHONPATH"
        )
