"""`cryobase init`: a pipeline in any folder. What it does is in `cryobase.pipeline.init`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cryobase.pipeline import completion, tables

Folder = Annotated[Path, typer.Argument(metavar="[DIR]", help="The pipeline's folder.")]


def init(
    directory: Folder = Path(),
    images: Annotated[
        Path | None, typer.Option(help="A folder with one sub-folder per class, or an archive.")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="A regular expression that finds the label in a file name.")
    ] = None,
    tfds: Annotated[
        str | None, typer.Option(metavar="NAME", help="A dataset of TensorFlow Datasets.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A recipe; see `cryobase recipe ls`.",
            autocompletion=completion.recipes,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be written, as a diff.")
    ] = False,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Replace an unedited dvc.yaml of another Cryobase.")
    ] = False,
) -> None:
    """Make a pipeline of a folder: dvc.yaml, params.yaml for the images, and what they need."""
    from cryobase.pipeline.init import place
    from cryobase.pipeline.init.choice import Choice
    from cryobase.pipeline.init.plan import difference, next_step, plan

    if upgrade:
        for line in difference(directory):
            tables.line(line)
    choice = Choice(images=images, pattern=pattern, tfds=tfds, recipe=recipe)
    made = plan(directory, choice, upgrade=upgrade)
    for remark in made.remarks:
        tables.line(remark, error=True)
    if dry_run:
        for line in made.diff():
            tables.line(line)
        return
    written = made.write()
    for path in written:
        tables.line(f"wrote {place.shown(path)}")
    for name in place.ignored_by_git(made.place, made.needed):
        text = f"{name}: Git ignores it, and others need it: `git add -f {shlex.quote(name)}`"
        tables.line(text, error=True)
    tables.line(f"next: {next_step(made.place)}" if written else "nothing to do")
