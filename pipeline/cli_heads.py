"""`cryobase heads …`: which is best, how they train together, how far to trust them, export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryobase.pipeline import completion, tables
from cryobase.pipeline.layout import Layout

if TYPE_CHECKING:
    from cryobase.pipeline.params import Params
    from cryobase.stages.heads.standing import Standing

PARTS = ("validation", "train", "test")  # whose images the model is checked on, the first with any
CHECKED = 64  # real images on which the model must give the head's stored answers

app = typer.Typer(help="Compare heads, plan their training, export the best.", no_args_is_help=True)

SetName = Annotated[
    str,
    typer.Argument(metavar="SET", help="A feature set or pair.", autocompletion=completion.inputs),
]
HeadName = Annotated[
    str | None,
    typer.Argument(
        metavar="HEAD",
        help="The best by validation by default.",
        autocompletion=completion.heads,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def ls(
    sort: Annotated[
        str | None, typer.Option(help="A score; the best comes first. By default evaluate.select.")
    ] = None,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """List the heads of all sets, ordered by a score on the validation split."""
    from cryobase.pipeline.params import ParamsError, load
    from cryobase.stages.heads import standing

    layout = Layout.here()
    params = load(layout.params)
    select = sort or params.evaluate.select
    heads = {
        (name, head): result
        for name in params.inputs
        for head, result in _standing(layout, name).heads.items()
    }
    known = list(dict.fromkeys(key for result in heads.values() for key in result.judged))
    if known and select not in known:
        raise ParamsError(f"heads ls --sort: no score {select!r}; known: {', '.join(known)}")
    ordered = sorted(heads, key=lambda pair: standing.rank(heads[pair].parts, select, *pair))
    parts = {pair: standing.judging(result.parts) for pair, result in heads.items()}
    rows = [
        {
            "set": name,
            "head": head,
            **({"part": parts[name, head]} if "train" in parts.values() else {}),
            **{score: heads[name, head].judged.get(score) for score in known},
            "test": heads[name, head].parts.get("test", {}).get("accuracy"),
        }
        for name, head in ordered
    ]
    tables.show(rows, as_json=json, as_csv=csv)


@app.command()
def best(json: Json = False) -> None:
    """Say which head of all sets is the best, how good it is, and where to look."""
    from cryobase.pipeline.params import load
    from cryobase.stages.heads import standing
    from cryobase.store.text import counted

    layout = Layout.here()
    params = load(layout.params)
    if not params.inputs:
        if json:
            tables.print_json(None)
            return
        tables.line(f"no feature set, so no head; report: {layout.report / 'index.html'}")
        return
    found = {name: _standing(layout, name) for name in params.inputs}
    parts = {(name, one.best): one.heads[one.best].parts for name, one in found.items()}
    chosen = min(parts, key=lambda pair: standing.rank(parts[pair], params.evaluate.select, *pair))
    heads = sum(len(one.heads) for one in found.values())
    name, head = chosen
    images = standing.images(layout.results(name), head)
    if json:
        quality = {"heads": heads, "scores": parts[chosen], "images": images}
        tables.print_json({"set": name, "head": head, **quality})
        return
    for part, scores in parts[chosen].items():
        interval = f"{scores.get('accuracy_low')} to {scores.get('accuracy_high')}"
        accuracy = f"accuracy {scores.get('accuracy')} on {part}, 95 % interval {interval}"
        of = f" ({counted(images[part], 'image')})" if part in images else ""
        tables.line(f"{name}/{head}: {accuracy}{of}")
    tables.line(f"the best of {counted(heads, 'head')}; run `cryobase heads ls` to see all")
    tables.line(f"models: {layout.root / 'models'}, report: {layout.report / 'index.html'}")


@app.command()
def plan(name: SetName, json: Json = False) -> None:
    """Show which heads of params.yaml share a pass over the rows of a set, and a kernel."""
    from cryobase.pipeline.params import load
    from cryobase.stages.heads.config import STEPPED, expand
    from cryobase.stages.heads.side_by_side import SideBySide
    from cryobase.stages.heads.stack import plan as reads_of

    layout = Layout.here()
    params = load(layout.params)
    heads = expand(params.train.heads)
    rows = SideBySide.open(_features(layout, params, name))
    stepped = {head: params for head, params in heads.items() if params.kind in STEPPED}
    lines = [
        {
            "pass": number,
            "views": read.views,
            "layers": " × ".join(str(outputs) for _, outputs in stack.shape.layers),
            "heads": len(stack.names),
            "names": ", ".join(stack.names),
        }
        for number, read in enumerate(
            reads_of(stepped, rows.feature_shape[0], len(rows.classes)), 1
        )
        for stack in read.stacks
    ]
    solved = [head for head in heads if head not in stepped]
    if solved:
        line = {"pass": len(lines) + 1, "views": 0, "layers": "solved", "heads": len(solved)}
        lines.append({**line, "names": ", ".join(solved)})
    tables.show(lines, as_json=json)


@app.command()
def evidence(
    name: SetName,
    folds: Annotated[int, typer.Option(min=2)] = 5,
    repeats: Annotated[int, typer.Option(min=1)] = 1,
    json: Json = False,
) -> None:
    """Fold, vary the amount of data, list doubtful labels, near-duplicates and leaks.

    The summary is one JSON document, with and without --json.
    """
    del json
    from cryobase.pipeline.params import load
    from cryobase.stages.heads.evidence import Evidence, investigate

    layout = Layout.here()
    output = layout.results(name) / "evidence"
    found = investigate(
        Evidence(folds=folds, repeats=repeats),
        features=_features(layout, load(layout.params), name),
        splits=layout.splits,
        models=layout.models(name),
        best=_standing(layout, name).best,
        output=output,
    )
    tables.print_json(found)
    tables.line(f"tables and plots: {output}", error=True)


@app.command()
def export(
    name: SetName,
    head: HeadName = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="keras, openvino or onnx; repeat for several."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Directory; export/SET/HEAD by default.")
    ] = None,
) -> None:
    """Graft a head onto its backbone, check it on real images, and write the model."""
    from cryobase.pipeline.params import ParamsError, load
    from cryobase.stages.data.splits import Splits
    from cryobase.stages.heads.export import export as write

    layout = Layout.here()
    params = load(layout.params)
    features = _features(layout, params, name)
    found = _standing(layout, name)
    chosen = head or found.best
    if chosen not in found.heads:
        known = ", ".join(found.heads)
        raise ParamsError(f"heads export: no head {chosen!r} of {name}; known: {known}")
    split = Splits.open(layout.splits)
    images = next(ids for part in PARTS if len(ids := split.ids(part)))
    sets = params.extract.sets
    for path in write(
        f"{name}/{chosen}",
        head=layout.head(name, chosen),
        weights=[sets[one].weights for one in params.inputs[name] if one in sets],
        features=features,
        raw=layout.raw,
        ids=list(images[:CHECKED]),
        scores=found.heads[chosen].parts,
        formats=formats or ["keras"],
        output=output or layout.export(name, chosen),
    ):
        tables.line(str(path))


def _features(layout: Layout, params: "Params", name: str) -> list[Path]:
    """Where the set, or the two of a pair, lie."""
    from cryobase.pipeline.params import INPUTS, one_or_all

    one_or_all(params.inputs, name, INPUTS)
    _check_begun(layout, name)
    return layout.features_of(params.inputs[name])


def _standing(layout: Layout, name: str) -> "Standing":
    from cryobase.stages.heads import standing

    _check_begun(layout, name)
    return standing.read(layout.results(name), f"run `cryobase evaluate {name}`")


def _check_begun(layout: Layout, name: str) -> None:
    """Where the pipeline has made nothing of a set yet, name the command that makes all of it.

    Raises:
        DataError: there is a pipeline, and it has not run.
    """
    from cryobase.pipeline.dvc_stage import PIPELINE
    from cryobase.stages.errors import DataError

    made = (layout.features(name), layout.models(name), layout.results(name))
    if (layout.root / PIPELINE).is_file() and not any(path.exists() for path in made):
        raise DataError(f"{name}: neither features nor heads yet; run `dvc repro`")
