"""`cryobase status`: look at a checkout, change nothing."""

from typing import Annotated

import typer

from cryobase.pipeline import tables
from cryobase.pipeline.layout import Layout

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def status(json: Json = False) -> None:
    """Say what is stale and why, and what `dvc repro` would compute: rows, bytes, time."""
    from cryobase.pipeline import status as looks
    from cryobase.pipeline.params import load

    layout = Layout.here()
    found = looks.look(layout, load(layout.params))
    if json:
        tables.print_json(found.to_json())
    else:
        looks.show(found)
