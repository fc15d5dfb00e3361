"""`cryobase recipe …`: ready params files for well-known experiments."""

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cryobase.pipeline import completion, tables
from cryobase.pipeline.layout import Layout

app = typer.Typer(help="Ready params files for well-known experiments.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A recipe; see `cryobase recipe ls`.",
        autocompletion=completion.recipes,
    ),
]


@app.command()
def ls(json: Json = False) -> None:
    """List the recipes, with the figures that were published."""
    from cryobase.pipeline import recipes

    found = [recipes.read(name) for name in recipes.names()]
    if json:
        tables.print_json([{"name": recipe.name, **recipe.header} for recipe in found])
        return
    rows = []
    for recipe in found:
        figures = ", ".join(f"{key} {value}" for key, value in recipe.header["published"].items())
        rows.append({"name": recipe.name, "title": recipe.header["title"], "published": figures})
    tables.show(rows)


@app.command()
def show(
    name: Name,
    counts: Annotated[
        bool, typer.Option("--counts", help="Build its models and count parameters instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Print a recipe's params file, or how many parameters learn in each phase."""
    from cryobase.pipeline import recipes

    recipe = recipes.read(name)
    if not counts:
        if json:
            tables.print_json({"name": name, **recipe.header, "params": recipe.text})
        else:
            for one in recipe.text.splitlines():
                tables.line(one)
        return
    from cryobase.stages.tuning.counts import counts as count

    params = recipe.params()
    rows = count(params.extract.sets, params.train.heads, params.finetune.runs, recipe.classes)
    tables.show([asdict(row) for row in rows], as_json=json)


@app.command()
def use(
    name: Name,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="For a trial: few generated images, 2 epochs.")
    ] = False,
) -> None:
    """Write a recipe as params.yaml; one's own that was there is kept as params.yaml.old."""
    from cryobase.pipeline import recipes

    recipe, layout = recipes.read(name), Layout.here()
    text = recipe.text
    if smoke:
        text = recipe.smoke(f"{recipes.SMOKE_IMAGES}/{recipe.name}")
        recipes.generate_images(layout.root / recipes.SMOKE_IMAGES / recipe.name, recipe.classes)
    kept = _keep(layout.params)
    layout.params.write_text(text, encoding="utf-8")
    tables.line(f"{layout.params.name}: {recipe.header['title']}; data: {recipe.header['data']}")
    if kept:
        tables.line(f"{kept.name}: what was in {layout.params.name}")


def _keep(params: Path) -> Path | None:
    """Give params that are no unchanged recipe a name that is free; no earlier one is lost."""
    from cryobase.pipeline import recipes

    if not params.exists() or recipes.is_one(params.read_bytes()):
        return None
    old = params.with_name(f"{params.name}.old")
    names = (old.with_name(f"{old.name}-{number}") for number in itertools.count(2))
    kept = next(path for path in itertools.chain([old], names) if not path.exists())
    return params.rename(kept)
