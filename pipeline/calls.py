"""The stages for notebooks and scripts: what `cryobase.extract`, `train` and `predict` do.

They do what the commands of the same names do, in the current directory, with the keys of
params.yaml and no others. Each returns its result. In a DVC pipeline, `dvc status` notices the
changed outputs, and nothing is lost.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryobase.pipeline import logs, params, predictions, tables
from cryobase.pipeline.dvc_cache import last_version
from cryobase.pipeline.features import Features
from cryobase.pipeline.layout import Layout
from cryobase.pipeline.params import Params, ParamsError
from cryobase.stages.data.index import RECORD
from cryobase.stages.heads import standing
from cryobase.stages.heads.standing import HeadResult

Settings = Params | Mapping[str, Any] | str | Path | None


class Shown(ABC):
    """A result that prints as a small table, in a terminal and in a notebook."""

    @abstractmethod
    def table(self) -> list[dict[str, Any]]:
        """The rows of the table; all have the same keys."""

    def __repr__(self) -> str:
        return tables.text(self.table())

    def _repr_html_(self) -> str:
        return tables.html(self.table())


@dataclass(frozen=True, kw_only=True, repr=False)
class Extracted(Shown):
    """The result of `extract`.

    Attributes:
        name: Name of the feature set.
        directory: Directory of the feature set.
        images: Distinct images that have rows now.
        computed: Rows computed now.
        reused: Rows that were already in the pool.
        adopted: Rows taken over from an earlier version of the set, or from a pool of others.
        quarantined: Examples without rows.
    """

    name: str
    directory: Path
    images: int
    computed: int
    reused: int
    adopted: int
    quarantined: int

    def table(self) -> list[dict[str, Any]]:
        """One row."""
        return [asdict(self) | {"directory": str(self.directory)}]

    def open(self) -> Features:
        """Open the set, see `cryobase.open`."""
        return Features.open(self.directory)


@dataclass(frozen=True, kw_only=True, repr=False)
class Trained(Shown):
    """The result of `train` and `evaluate`.

    Attributes:
        name: Name of the feature set or pair.
        directory: Directory that holds one directory per head.
        best: The head that `evaluate.select` chooses.
        heads: The scores of each head, the best head first.
    """

    name: str
    directory: Path
    best: str
    heads: Mapping[str, HeadResult]

    def table(self) -> list[dict[str, Any]]:
        """A row for each head: accuracy and log loss on the part that chooses, test accuracy."""
        return [
            {
                "head": name,
                "part": standing.judging(one.parts),
                "accuracy": one.judged.get("accuracy"),
                "log_loss": one.judged.get("log_loss"),
                "test": one.parts.get("test", {}).get("accuracy"),
                "training": one.training,
            }
            for name, one in self.heads.items()
        ]


@dataclass(frozen=True, kw_only=True, repr=False)
class Predicted(Shown):
    """The answers of a model for images.

    Attributes:
        model: The model, as `--model` names it.
        rows: For each image `{"file", "classes": [{"class", "probability"}, …]}`, the most probable
            class first; or `{"file", "reason"}` if there is no answer.
    """

    model: str
    rows: list[dict[str, Any]]

    def table(self) -> list[dict[str, Any]]:
        """A row for each class of an image."""
        return [line for row in self.rows for line in predictions.lines(row)]


def extract(
    name: str | None = None, settings: Settings = None, *, look_again: bool = False
) -> Extracted:
    """Compute the features that a set lacks, and publish the set in `features/NAME`.

    Args:
        name: The set, a key of `extract.sets`; the only key if None.
        settings: Sections as in params.yaml, or the path of such a file; `params.yaml` if None.
        look_again: Bring new images of the source into `data/raw`. This is always done if
            `data/raw` has no images yet.

    Raises:
        ParamsError: settings are wrong, or have no such set.
        StageError: images or weights are missing.
        StoreError: a stored file is damaged, or the disk is full.
    """
    from cryobase.stages import download
    from cryobase.stages import extract as stage

    layout, found = Layout.here(), _params(settings)
    key = _one(found.extract.sets, name, "extract.sets")
    output = layout.features(key)
    with logs.narrated():
        if look_again or not (layout.raw / RECORD).exists():
            download.run(found.download, output=layout.raw)
        with last_version(layout.root, output) as before:
            summary = stage.run(
                found.extract,
                key,
                raw=layout.raw,
                pool=layout.pool,
                output=output,
                before=before,
                lender=layout.lender,
            )
    known = asdict(summary)
    columns = ("name", "images", "computed", "reused", "adopted", "quarantined")
    return Extracted(directory=output, **{column: known[column] for column in columns})


def train(name: str | None = None, settings: Settings = None) -> Trained:
    """Split the images, train the heads of a set that do not exist yet, and score all heads.

    Args:
        name: The set or pair; the only one if None.
        settings: Sections as in params.yaml, or the path of such a file; `params.yaml` if None.

    Raises:
        ParamsError: settings are wrong, or have no such set.
        StageError: splits, rows or classes are missing, or the weights of a head are not finite.
        StoreError: the set is missing or damaged.
    """
    from cryobase.stages import evaluate, split
    from cryobase.stages import train as stage

    layout, found = Layout.here(), _params(settings)
    key = _one(found.inputs, name, params.INPUTS)
    features = layout.features_of(found.inputs[key])
    with logs.narrated():
        if (layout.raw / RECORD).exists():
            split.run(found.split, raw=layout.raw, output=layout.splits)
        stage.run(
            found.train,
            key,
            features=features,
            splits=layout.splits,
            cache=layout.head_cache,
            output=layout.models(key),
        )
        evaluate.run(
            found.evaluate,
            key,
            features=features,
            splits=layout.splits,
            models=layout.models(key),
            output=layout.results(key),
        )
    result = standing.read(layout.results(key), f"run `cryobase evaluate {key}`")
    parts = {head: one.parts for head, one in result.heads.items()}
    ordered = standing.ranked(parts, found.evaluate.select)
    heads = {head: result.heads[head] for head in ordered}
    return Trained(name=key, directory=layout.models(key), best=result.best, heads=heads)


def predict(
    paths: str | Path | Iterable[str | Path],
    settings: Settings = None,
    *,
    model: str | Path | None = None,
    top: int = 3,
) -> Predicted:
    """Classify images by a trained head on its base, by default the best one.

    Args:
        paths: Images, or directories of images.
        settings: Sections as in params.yaml, or the path of such a file; `params.yaml` if None.
        model: `models/SET/HEAD` or `tuned/RUN`.
        top: Number of classes listed for each image.

    Raises:
        ParamsError: settings are wrong.
        DataError: there is no image file, or no head.
        MissingWeightsError: the base's weights are not available.
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    with logs.narrated():
        answers = predictions.of_head(
            Layout.here(),
            [Path(file).expanduser() for file in files],
            model=None if model is None else Path(model).expanduser(),
            top=top,
            params=_params(settings),
        )
    return Predicted(model=answers.model, rows=answers.rows)


def _params(settings: Settings) -> Params:
    if settings is None:
        return params.load(Layout.here().params)
    if isinstance(settings, str | Path):
        return params.load(Path(settings).expanduser())
    return params.of(settings)


def _one(table: Mapping[str, Any], name: str | None, key: str) -> str:
    """The given name, or the only name of a table."""
    if name is None and len(table) != 1:
        raise ParamsError(f"{key} has {len(table)} names; say which one: {', '.join(table)}")
    (found,) = params.one_or_all(table, name, key)
    return found
