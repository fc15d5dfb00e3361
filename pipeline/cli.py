"""The command line. Stages are imported inside commands, so `--help` loads no TensorFlow."""

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from cryobase.pipeline import (
    cli_heads,
    cli_init,
    cli_recipe,
    cli_status,
    cli_store,
    completion,
    logs,
    tables,
)
from cryobase.pipeline.layout import Layout
from cryobase.stages.backbones import frameworks

LONGEST = 900  # characters of an error

app = typer.Typer(
    name="cryobase",
    help="Freeze the base once, reuse its features everywhere.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(cli_store.app, name="store")
app.add_typer(cli_heads.app, name="heads")
app.add_typer(cli_recipe.app, name="recipe")
app.command()(cli_init.init)
app.command()(cli_status.status)
app.command()(cli_status.doctor)

SetName = Annotated[
    str | None,
    typer.Argument(help="A feature set; all of them by default.", autocompletion=completion.sets),
]
SchedulerAddress = Annotated[str | None, typer.Option(help="A Dask cluster that runs already.")]
SchedulerFile = Annotated[str | None, typer.Option(help="The file that its scheduler wrote.")]
InputName = Annotated[
    str | None,
    typer.Argument(
        metavar="SET",
        help="A feature set or pair; all by default.",
        autocompletion=completion.inputs,
    ),
]


OfDvc = Annotated[
    bool, typer.Option("--dvc", help="Take the name from DVC, as the stages of dvc.yaml do.")
]


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        tables.line(version("cryobase"))
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what is wrong.")] = False,
    debug: Annotated[bool, typer.Option(help="Show the trace of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Say which one.")
    ] = False,
) -> None:
    """Freeze the base once, reuse its features everywhere."""
    logs.configure(quiet=quiet, debug=debug)


@app.command()
def watch() -> None:
    """Note the source's files, the names in params.yaml and the extractor's version for DVC."""
    from cryobase.pipeline.dvc_stage import was_run
    from cryobase.pipeline.params import STAGES, load
    from cryobase.stages import watch as stage

    layout = Layout.here()
    params = load(layout.params, *STAGES)
    names = {"inputs": list(params.inputs), "runs": list(params.finetune.runs)}
    layout.source.unlink(missing_ok=True)
    try:
        stage.run(
            params.download,
            names=names,
            source=layout.source,
            listed=layout.names,
            extractor=layout.extractor,
        )
    except stage.NoSourceError as error:
        if not ("DVC_STAGE" in os.environ and was_run(layout.root, "watch")):
            raise
        # DVC says that the file is missing, and with --allow-missing goes on with what it knows.
        mend = "or run `dvc repro --allow-missing` to go on without it"
        tables.line(f"cryobase: {error}; {mend}", error=True)


@app.command()
def download() -> None:
    """Bring the images of the source into data/raw."""
    from cryobase.pipeline.params import load
    from cryobase.stages import download as stage
    from cryobase.stages import watch

    layout = Layout.here()
    config, seen = load(layout.params, "download").download, watch.last_look(layout.source)
    files = seen.files if seen and config.source == "folder" else None
    stage.run(config, output=layout.raw, expected=files)


@app.command()
def split() -> None:
    """Assign every image to train, validation or test."""
    from cryobase.pipeline.params import load
    from cryobase.stages import split as stage

    layout = Layout.here()
    stage.run(load(layout.params, "split").split, raw=layout.raw, output=layout.splits)


@app.command()
def extract(
    name: SetName = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Dask workers to start; 0 is this process.")
    ] = None,
    scheduler_address: SchedulerAddress = None,
    scheduler_file: SchedulerFile = None,
    dvc: OfDvc = False,
) -> None:
    """Compute the features that the pool lacks and publish a feature set."""
    from dataclasses import replace

    from cryobase.pipeline.dvc_cache import last_version
    from cryobase.pipeline.params import load, one_or_all
    from cryobase.stages import extract as stage

    name, layout = _named("extract", name, dvc)
    given = {
        "workers": workers,
        "scheduler_address": scheduler_address,
        "scheduler_file": scheduler_file,
    }
    asked: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    config = replace(load(layout.params).extract, **asked)
    for key in one_or_all(config.sets, name, "extract.sets"):
        output = layout.features(key)
        with last_version(layout.root, output) as before:
            stage.run(
                config,
                key,
                raw=layout.raw,
                pool=layout.pool,
                output=output,
                before=before,
                lender=layout.lender,
            )


@app.command()
def train(
    name: InputName = None,
    scheduler_address: SchedulerAddress = None,
    scheduler_file: SchedulerFile = None,
    dvc: OfDvc = False,
) -> None:
    """Train all heads of a feature set in one scan of its rows; on a cluster, `ridge` alone."""
    from cryobase.pipeline.params import INPUTS, load, one_or_all
    from cryobase.stages import train as stage

    name, layout = _named("train", name, dvc)
    params = load(layout.params, "train")
    insecure = params.extract.insecure
    with _executor(scheduler_address, scheduler_file, insecure=insecure) as executor:
        for key in one_or_all(params.inputs, name, INPUTS):
            stage.run(
                params.train,
                key,
                features=layout.features_of(params.inputs[key]),
                splits=layout.splits,
                cache=layout.head_cache,
                output=layout.models(key),
                executor=executor,
            )


@contextmanager
def _executor(address: str | None, file: str | None, *, insecure: bool) -> Iterator[Any]:
    """An executor of the cluster that was named, or none."""
    if not address and not file:
        yield None
        return
    from cryobase.stages.extraction.cluster import Cluster, connect

    named = Cluster(scheduler_address=address or "", scheduler_file=file or "", insecure=insecure)
    with connect(named) as client:
        yield client.get_executor()


@app.command()
def evaluate(name: InputName = None, dvc: OfDvc = False) -> None:
    """Score the heads of a feature set and draw their curves."""
    from cryobase.pipeline.params import INPUTS, load, one_or_all
    from cryobase.stages import evaluate as stage

    name, layout = _named("evaluate", name, dvc)
    params = load(layout.params, "evaluate")
    for key in one_or_all(params.inputs, name, INPUTS):
        stage.run(
            params.evaluate,
            key,
            features=layout.features_of(params.inputs[key]),
            splits=layout.splits,
            models=layout.models(key),
            output=layout.results(key),
        )


@app.command()
def finetune(
    name: Annotated[
        str | None,
        typer.Argument(help="A run; all of them by default.", autocompletion=completion.runs),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say where the base can be cut, and what it costs.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    dvc: OfDvc = False,
) -> None:
    """Train end to end: a head grafted onto its backbone, or a new network."""
    if json and not plan:
        raise typer.BadParameter("--json goes with --plan")
    from cryobase.pipeline.params import load, one_or_all
    from cryobase.stages import finetune as stage

    name, layout = _named("finetune", name, dvc)
    params = load(layout.params)
    places: list[dict[str, Any]] = []
    for key in one_or_all(params.finetune.runs, name, "finetune.runs"):
        run = params.finetune.runs[key]
        one = params.extract.sets.get(run.set)  # none for a run that starts from no head
        start: dict[str, Any] = {
            "weights": one.weights if one else None,
            "head": layout.head(run.set, run.head) if one else None,
        }
        if plan:
            found = stage.plan(run, raw=layout.raw, splits=layout.splits, **start)
            places += [{"run": key, **place} for place in found]
            continue
        stage.run(
            run,
            **start,
            raw=layout.raw,
            splits=layout.splits,
            output=layout.tuned(key),
            results=layout.tuned_results(key),
            features=layout.features(run.set) if one else None,
            cache=layout.epoch_cache,
            pool=layout.pool,
        )
    if plan:
        tables.show(places, as_json=json)


@app.command()
def report() -> None:
    """Write the summary page, with tables and plots of all results."""
    from cryobase.pipeline.params import load
    from cryobase.stages import report as stage

    layout = Layout.here()
    params = load(layout.params, "report")
    stage.run(
        params.report,
        sets={key: layout.results(key) for key in params.inputs},
        runs={key: layout.tuned_results(key) for key in params.finetune.runs},
        ladders={key: layout.ladder(key) for key in params.extract.sets},
        select=params.evaluate.select,
        output=layout.report,
    )
    for what, path in (("report", layout.report / "index.html"), ("heads", layout.root / "models")):
        tables.line(f"{what}: {path.relative_to(layout.root)}")


@app.command()
def predict(
    paths: Annotated[list[Path] | None, typer.Argument(help="Images or directories.")] = None,
    file: Annotated[list[Path] | None, typer.Option("-f", "--file", help="An image.")] = None,
    directory: Annotated[
        list[Path] | None, typer.Option("-d", "--directory", help="A directory of images.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="models/SET/HEAD or tuned/RUN; the best head by default.",
            autocompletion=completion.models,
        ),
    ] = None,
    imagenet: Annotated[
        str | None,
        typer.Option(
            metavar="BACKBONE",
            help="Show the base's own ImageNet labels instead.",
            autocompletion=completion.backbones,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Classify images with a trained head grafted onto its backbone."""
    from cryobase.pipeline import predictions

    asked = [*(paths or []), *(file or []), *(directory or [])]
    if imagenet:
        answers = predictions.of_backbone(imagenet, asked, top=top)
    else:
        answers = predictions.of_head(Layout.here(), asked, model=model, top=top)
    predictions.show(answers, as_json=json, as_csv=csv)


@app.command()
def ladder(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SET",
            help="The set whose base is climbed with.",
            autocompletion=completion.sets,
        ),
    ],
    train_images: Annotated[int, typer.Option(min=0, help="Training images; 0 is all.")] = 0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare training from nothing, frozen features, stored views and fine-tuning."""
    from dataclasses import asdict

    from cryobase.pipeline.params import load, one_or_all
    from cryobase.stages import ladder as stage

    layout = Layout.here()
    sets = load(layout.params).extract.sets
    (key,) = one_or_all(sets, name, "extract.sets")
    output = layout.ladder(key)
    rungs = stage.run(
        stage.LadderConfig(base=sets[key], train=train_images, seed=seed),
        raw=layout.raw,
        splits=layout.splits,
        work=layout.shared / "ladder",
        output=output,
    )
    tables.show([asdict(rung) for rung in rungs], as_json=json)
    tables.line(f"picture: {output / 'ladder.svg'}", error=True)


def _named(command: str, name: str | None, dvc: bool) -> tuple[str | None, Layout]:
    """The name that a command works on, and the layout: by DVC's stage, or as they were given."""
    if not dvc:
        return name, Layout.here()
    from cryobase.pipeline.dvc_stage import name_from_dvc

    if name is not None:
        raise typer.BadParameter("a name or --dvc, not both")
    return name_from_dvc(command), Layout.here()


def main() -> NoReturn:
    """The `cryobase` command: run it, tell errors in one line, and exit with their code."""
    signal.signal(signal.SIGTERM, _terminate)
    if "error" in os.environ.get("PYTHONWARNINGS", ""):  # a library's warning would end the run
        del os.environ["PYTHONWARNINGS"]
        warnings.simplefilter("ignore")
    frameworks.import_lean()
    try:
        app()
    except Exception as error:  # noqa: BLE001 the one place that catches
        from cryobase.pipeline.dvc_stage import mend_of_links
        from cryobase.pipeline.exits import exit_code

        if logs.debugging():
            traceback.print_exception(error)
        text = _one_line(error)
        tables.line(f"cryobase: {text}{mend_of_links(text)}", error=True, mark="cryobase:")
        sys.exit(exit_code(error))
    sys.exit(0)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    """Unwind on SIGTERM as on Ctrl-C, so that locks and temporary files go."""
    raise SystemExit(128 + signal.SIGTERM)


def _one_line(error: Exception) -> str:
    """What an error says, in one line; of a long one, which quotes a name or file, both ends."""
    text = " ".join(str(error).split())
    if type(error).__module__.split(".")[0] != logs.PACKAGE:
        text = f"{type(error).__name__}: {text}"
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} … {text[-half:]}"


if __name__ == "__main__":
    main()
