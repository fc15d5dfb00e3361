"""`cryobase store …`: look into pools and feature sets, check, mend, compare, share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cryobase.pipeline import completion, tables
from cryobase.pipeline.layout import Layout

if TYPE_CHECKING:
    from cryobase.store import FeatureSet

app = typer.Typer(
    help="Look into the feature store, check it, mend it, share it.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
SetArgument = Annotated[
    str,
    typer.Argument(
        metavar="SET", help="A feature set's name or path.", autocompletion=completion.sets
    ),
]
OneOrAll = Annotated[
    str | None,
    typer.Argument(metavar="SET", help="All by default.", autocompletion=completion.sets),
]


@app.command()
def ls(json: Json = False) -> None:
    """List the feature sets of this checkout and the pools of their rows."""
    found = [*_sets(Layout.here()), *_pools(Layout.here())]
    if not (found or json):
        tables.line("no feature set and no pool here")
    tables.show(found if json else _with_sizes(found), as_json=json)


@app.command()
def show(name: SetArgument, json: Json = False) -> None:
    """Print all that is known of a feature set, as one JSON document with and without --json."""
    del json

    found = _opened(_directory(name))
    tables.print_json(
        {
            "directory": str(found.directory),
            "digest": found.digest,
            "fingerprint": found.spec.fingerprint,
            "spec": found.spec.to_json(),
            "classes": found.classes,
            "images": len(found),
            "quarantined": int(found.examples.quarantined.sum()),
            "views": found.views,
            "feature_shape": found.feature_shape,
            "shards": [
                {"name": shard.name, "rows": shard.rows, "bytes": shard.size}
                for shard in found.manifest.shards
            ],
        }
    )


@app.command()
def verify(
    name: OneOrAll = None,
    full: Annotated[bool, typer.Option("--full", help="Check every byte.")] = False,
    json: Json = False,
) -> None:
    """Check feature sets against their manifests."""
    from cryobase.store.text import counted

    checked = "every byte" if full else "structure"
    rows = []
    for directory in [_directory(name)] if name else _directories(Layout.here()):
        images = len(_opened(directory, full=full))
        rows.append({"set": directory.name, "images": images, "checked": checked})
        if not json:  # each as soon as it is checked, since every byte of many sets takes a while
            tables.line(f"{directory.name}: {counted(images, 'image')}, {checked} right")
    if json:
        tables.print_json(rows)
    elif not rows:
        tables.line("no feature set here, so nothing was checked")


@app.command()
def repair(
    name: OneOrAll = None,
) -> None:
    """Drop what is damaged in pools and feature sets, and compute exactly those rows again."""
    from cryobase.pipeline import mending

    mending.repair(Layout.here(), _directory(name) if name else None)


@app.command()
def diff(a: SetArgument, b: SetArgument, json: Json = False) -> None:
    """Say in what feature set B differs from A."""
    from cryobase.store import compare

    found = compare(_opened(_directory(a)), _opened(_directory(b)))
    counts = {
        key: len(getattr(found, key))
        for key in ("added", "removed", "replaced", "relabelled", "quarantined", "features")
    }
    if json:
        spec = {key: list(values) for key, values in found.spec.items()}
        tables.print_json(
            {"spec": spec, "classes": found.classes, **counts, "largest": found.largest}
        )
        return
    tables.show(_changes(found.spec))
    tables.show([{"what": key, "images": count} for key, count in counts.items()])


@app.command()
def why(
    name: Annotated[
        str,
        typer.Argument(metavar="SET", help="A set in params.yaml.", autocompletion=completion.sets),
    ],
    json: Json = False,
) -> None:
    """Name the part of the spec that makes a published feature set stale."""
    from cryobase.pipeline.params import load, one_or_all
    from cryobase.stages import extract

    layout = Layout.here()
    sets = load(layout.params).extract.sets
    (key,) = one_or_all(sets, name, "extract.sets")
    published = _opened(layout.features(key)).spec
    changes = published.differences(extract.spec_of(sets[key]))
    if changes or json:
        tables.show(_changes(changes, "published", "params.yaml"), as_json=json)
    else:
        tables.line(f"{key}: nothing; the published features are those that params.yaml asks for")


@app.command()
def plan(json: Json = False) -> None:
    """Say how many rows exist, how many would be computed, their bytes and the time."""
    from dataclasses import asdict

    from cryobase.pipeline.params import load
    from cryobase.stages.extract import spec_at_hand
    from cryobase.stages.extraction.plan import estimate

    layout = Layout.here()
    sets = load(layout.params).extract.sets
    plans = {
        name: estimate(
            spec_at_hand(one)[0],
            one.views,
            raw=layout.raw,
            pool=layout.pool,
            lender=layout.lender,
            published=layout.features(name),
        )
        for name, one in sets.items()
    }
    if json:
        tables.print_json([{"set": name, **asdict(one)} for name, one in plans.items()])
        return
    lines = []
    for name, one in plans.items():
        time = "?" if one.seconds is None else f"{one.seconds:.0f} s"
        rows = {"set": name, "existing": one.existing, "to compute": one.missing}
        lines.append({**rows, "bytes": tables.size(one.bytes), "time": time})
    tables.show(lines)


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: Json = False,
) -> None:
    """Remove files of the pools that no manifest names and nobody has touched for an hour."""
    from cryobase.store import Pool

    pools = Pool.all(Layout.here().pool)
    swept = [str(path) for pool in pools for path in pool.sweep(dry_run=dry_run)]
    if json:
        tables.print_json([{"path": path, "removed": not dry_run} for path in swept])
        return
    verb = "would remove" if dry_run else "removed"
    for path in swept:
        tables.line(f"{verb} {path}")


@app.command()
def export(
    name: SetArgument,
    npz: Annotated[Path | None, typer.Option(help="Write one .npz file.")] = None,
    safetensors: Annotated[Path | None, typer.Option(help="Write one .safetensors file.")] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="Write one Parquet file; needs the extra `parquet`.")
    ] = None,
    croissant: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write a folder of a Parquet file and its Croissant metadata.",
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write one .csv file.")] = None,
    projector: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write a folder for the embedding projector: `tensorboard --logdir FOLDER`.",
        ),
    ] = None,
) -> None:
    """Write a feature set in a format that other tools read."""
    from cryobase.pipeline import exchange

    asked = {
        "npz": npz,
        "safetensors": safetensors,
        "parquet": parquet,
        "croissant": croissant,
        "csv": csv,
        "projector": projector,
    }
    for path in exchange.write(Layout.here(), _opened(_directory(name)), asked):
        tables.line(str(path))


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(help="A set, or a .npz, .safetensors or Parquet file, that somebody sent."),
    ],
    name: Annotated[str | None, typer.Argument(help="Its name here.")] = None,
    foreign: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL@DIGEST",
            help="What computed the features of the file, if Cryobase did not.",
        ),
    ] = None,
    images: Annotated[
        bool,
        typer.Option("--images", help="The file's ids are those of data/raw: take labels there."),
    ] = False,
    column: Annotated[
        str, typer.Option(help="What the features are called in the file.")
    ] = "features",
    splits: Annotated[
        bool,
        typer.Option("--splits", help="Write data/splits too: as the file, or params.yaml, says."),
    ] = False,
) -> None:
    """Take in a received feature set, or features computed elsewhere, if every byte is right."""
    from cryobase.pipeline import exchange
    from cryobase.store.text import counted

    layout = Layout.here()
    of_a_set = not foreign and os.path.lexists(source) and not source.is_file()
    if source.is_dir() or of_a_set:  # a socket, say, is said to be no set
        found = exchange.take_directory(layout, source, name, foreign=foreign)
        tables.line(f"{found.directory}: {counted(len(found), 'image')}, every byte right")
        return
    found = exchange.take_file(
        layout, source, name, foreign=foreign, images=images, column=column, splits=splits
    )
    tables.line(f"{found.directory}: {counted(len(found), 'image')}, digest {found.digest[:12]}…")
    if foreign:
        entry = f"train: {{foreign: {{{found.directory.name}: {foreign}}}}}"
        tables.line(f"heads are trained on it once params.yaml has {entry}")


def _opened(directory: Path, *, full: bool = False) -> "FeatureSet":
    """A feature set; where it is damaged, the message says what mends this one."""
    from cryobase.pipeline import mending
    from cryobase.store import FeatureSet
    from cryobase.store.errors import mended_by

    with mended_by(lambda: mending.way(Layout.here(), directory)):
        return FeatureSet.open(directory, full=full)


def _directory(name: str) -> Path:
    """A set of this checkout by name, or any directory by a path with a slash.

    Raises:
        ParamsError: params.yaml has no such set, and none was published under that name.
    """
    if "/" in name:
        return Path(name)
    directory = Layout.here().features(name)
    if not os.path.lexists(directory) and name not in (known := completion.sets("")):
        from cryobase.pipeline.params import ParamsError

        raise ParamsError(f"no feature set {name!r}; known: {', '.join(known) or 'none'}")
    return directory


def _directories(layout: Layout) -> list[Path]:
    return sorted(path.parent for path in layout.root.glob("features/*/manifest-*.json"))


def _sets(layout: Layout) -> Iterator[dict[str, Any]]:

    for directory in dict.fromkeys(_directories(layout)):
        found = _opened(directory)
        yield _line(directory.name, found.spec, len(found), found.manifest)


def _pools(layout: Layout) -> Iterator[dict[str, Any]]:
    from cryobase.store import Pool

    for root, kind in ((layout.pool, "pool"), (layout.lender, "lent")):
        for pool in Pool.all(root) if root else ():
            name = f"{kind} {pool.spec.fingerprint[:12]}"
            yield _line(name, pool.spec, len(pool), pool.manifest())


def _line(name: str, spec: Any, rows: int, manifest: Any) -> dict[str, Any]:
    return {
        "name": name,
        "backbone": spec.backbone,
        "size": spec.image_size,
        "output": spec.output,
        "dtype": spec.dtype,
        "rows": rows,
        "shards": len(manifest.shards),
        "bytes": sum(shard.size for shard in manifest.shards),
    }


def _with_sizes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "bytes": tables.size(row["bytes"])} for row in rows]


def _changes(
    changes: dict[str, tuple[Any, Any]], before: str = "a", after: str = "b"
) -> list[dict[str, Any]]:
    return [{"part": key, before: was, after: now} for key, (was, now) in changes.items()]
