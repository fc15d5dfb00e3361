"""`cryobase status` and `cryobase doctor`: look at a checkout, change nothing."""

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


def doctor(json: Json = False) -> None:
    """Look for what is wrong around a checkout, and say what fixes it; exit code 6 if anything is.

    Packages, settings, weights, pool, DVC, links, free space and the names of your images.
    """
    from dataclasses import asdict

    from cryobase.pipeline import doctor as looks
    from cryobase.pipeline.exits import UNWELL

    found = looks.examine()
    if json:
        tables.print_json([asdict(one) for one in found])
    else:
        looks.show(found)
    if any(one.state == "wrong" for one in found):
        raise typer.Exit(UNWELL)
