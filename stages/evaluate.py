"""Stage `evaluate`: score the heads of a set, choose by validation, score the chosen head on test.

A part without images has no scores, neither here nor in the files. Nothing here trains.
"""

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data.splits import Splits
from cryobase.stages.errors import ConfigError, DataError
from cryobase.stages.heads import finished, metrics, plots, standing
from cryobase.stages.heads.head import Head
from cryobase.stages.heads.metrics import Predictions
from cryobase.stages.heads.rows import READ
from cryobase.stages.heads.side_by_side import Paths, SideBySide
from cryobase.stages.heads.standing import Score
from cryobase.stages.outputs import write_json, write_table
from cryobase.store.text import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The heads that are scored, and how the best head is chosen.

    Attributes:
        final: the heads whose test score is computed: `best` (by validation), or a list of heads.
        select: the score on validation images that chooses. Equal scores are ordered by the lower
            log loss, then by name. Without validation images, training images choose, with a
            warning.
        top_k: the k of top-k accuracy, which is computed if there are more than k classes.
    """

    final: Literal["best"] | tuple[str, ...] = "best"
    select: Score = "accuracy"
    top_k: int = 5

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError("top_k: must be positive")


def run(
    config: EvaluateConfig, name: str, *, features: Paths, splits: Path, models: Path, output: Path
) -> dict[str, Any]:
    """Score every head on validation, and the final ones on test.

    Args:
        config: the settings of the section.
        name: name of the feature set or pair.
        features: directory of the set, or of several sets side by side.
        splits: directory of the splits.
        models: directory with one directory per head.
        output: directory that receives `metrics.json`, `score.json` with a few figures,
            `curves.svg`, `confusion.svg` and `heads/`. In `heads/` are `leaderboard.csv` and for
            each head `predictions.csv`, `classes.csv`, `confusion.csv` and `curves.svg`; final
            heads also have `confusion.svg` and `reliability.svg`.

    Returns:
        The content of `metrics.json`.

    Raises:
        DataError: there are no heads, heads were trained on other data, or there are neither
            validation nor training images.
        ConfigError: `final` names a head that this set does not have.
    """
    rows, split = SideBySide.open(features), Splits.open(splits)
    heads = _load(models, rows, split, name)
    final = _final(config, heads)
    judge = _judge(rows, split, heads, name)
    answers = {judge: _answer(heads, rows, rows.having(split.ids(judge)))}
    found = {
        head: {judge: metrics.scores(predictions, config.top_k)}
        for head, predictions in answers[judge].items()
    }
    ranked = standing.ranked(found, config.select)
    best = ranked[0]
    final = [best] if final is None else final
    tested = rows.having(split.ids("test"))
    if len(tested):
        answers["test"] = _answer({head: heads[head] for head in final}, rows, tested)
        for head, predictions in answers["test"].items():
            found[head]["test"] = metrics.scores(predictions, config.top_k)
    _clear(output)
    for head in heads:
        parts = {part: every[head] for part, every in answers.items() if head in every}
        _write_head(output / "heads" / head, heads[head], parts, drawn=head in final)
    training = finished.told(models)
    entries = {head: _entry(heads[head], found[head], training.get(head)) for head in ranked}
    document = {"best": best, "heads": entries}
    judged = answers.get("test", {}).get(best, answers[judge][best])
    _write_set(output, document, heads, judged, judge)
    accuracy = ", ".join(f"{part} {scores['accuracy']}" for part, scores in found[best].items())
    logger.info(
        "%s: best of %s is %s, accuracy on %s", name, counted(len(heads), "head"), best, accuracy
    )
    if not len(tested):
        logger.info("%s: no test images, so no test scores; raise split.test for some", name)
    return document


def _load(models: Path, rows: SideBySide, split: Splits, name: str) -> dict[str, Head]:
    heads = {path.name: Head.load(path) for path in finished.heads_in(models)}
    mend = f"run `cryobase train {name}`"
    if not heads:
        raise DataError(f"{models}: no heads; {mend}")
    for head, loaded in heads.items():
        if loaded.data != (rows.digest, split.digest) or loaded.classes != rows.classes:
            raise DataError(f"{models / head}: its features, splits or classes changed; {mend}")
    return heads


def _judge(rows: SideBySide, split: Splits, heads: Mapping[str, Head], name: str) -> str:
    """The part that chooses: validation, or train if there are no validation images."""
    if len(rows.having(split.ids("validation"))):
        return "validation"
    if not len(rows.having(split.ids("train"))):
        raise DataError(f"{name}: neither validation nor training images; run `cryobase split`")
    if len(heads) > 1:
        logger.warning(
            "%s: no validation images, so the best of %d heads is chosen by its answers on training"
            " images, which favours overfitting; raise split.validation, or compare by folds:"
            " run `cryobase heads evidence %s`",
            name,
            len(heads),
            name,
        )
    return "train"


def _answer(
    heads: Mapping[str, Head], rows: SideBySide, ids: NDArray[np.bytes_]
) -> dict[str, Predictions]:
    """Predictions of every head for the plain views of the given examples, in one scan."""
    logits: dict[str, list[NDArray[np.float32]]] = {name: [] for name in heads}
    positions = rows.examples.positions(ids) if len(ids) else np.empty(0, np.int64)
    for features, _ in rows.read(positions, READ):
        for name, head in heads.items():
            logits[name].append(head.logits(features))
    return {
        name: Predictions.of(
            ids,
            rows.examples.labels[positions],
            np.concatenate(parts or [np.empty((0, heads[name].outputs), np.float32)]),
            rows.classes,
        )
        for name, parts in logits.items()
    }


def _final(config: EvaluateConfig, heads: Mapping[str, Head]) -> Sequence[str] | None:
    """The heads whose test scores are computed; None means the best head."""
    if config.final == "best":
        return None
    if unknown := [head for head in config.final if head not in heads]:
        raise ConfigError(f"evaluate.final: no head {unknown[0]!r}; known: {', '.join(heads)}")
    return config.final


def _entry(head: Head, found: Mapping[str, Any], training: str | None) -> dict[str, Any]:
    history = head.history
    epochs = {
        "epochs": len(history),
        "best_epoch": history.best_epoch,
        "overfitting_from": history.overfitting_from,
    }
    told = {"training": training} if training else {}
    return {**found, **told, **(epochs if len(history) else {})}


def _clear(output: Path) -> None:
    """Remove files that an earlier run wrote about heads; these heads may no longer exist."""
    for path in sorted(output.glob(f"heads/*/{standing.PREDICTIONS}")):
        shutil.rmtree(path.parent)


def _write_head(
    directory: Path, head: Head, parts: Mapping[str, Predictions], *, drawn: bool
) -> None:
    directory.mkdir(parents=True)
    write_table(
        directory / standing.PREDICTIONS,
        ("id", "part", "label", "predicted", "probability"),
        (row for part, predictions in parts.items() for row in _prediction_rows(part, predictions)),
    )
    judged = list(parts.values())[-1]  # predictions on test images, if the head has any
    table = metrics.class_table(judged)
    write_table(directory / "classes.csv", list(table[0]), (row.values() for row in table))
    counts = metrics.confusion(judged)
    rows = ([name, *row] for name, row in zip(head.classes, counts.tolist(), strict=True))
    write_table(directory / "confusion.csv", ("true \\ predicted", *head.classes), rows)
    if drawn:
        if len(head.history):
            plots.learning_curves(directory / "curves.svg", head.history, directory.name)
        plots.confusion_matrix(directory / "confusion.svg", counts, head.classes, directory.name)
        error = metrics.calibration_error(judged)
        plots.reliability_plot(directory / "reliability.svg", metrics.reliability(judged), error)


def _prediction_rows(part: str, predictions: Predictions) -> Iterable[Sequence[Any]]:
    for example, label, guess, sure in zip(
        predictions.ids,
        predictions.labels,
        predictions.predicted,
        predictions.confidence,
        strict=True,
    ):
        classes = predictions.classes
        yield example.decode(), part, classes[label], classes[guess], f"{sure:.6f}"


def _write_set(
    output: Path,
    document: Mapping[str, Any],
    heads: Mapping[str, Head],
    judged: Predictions,
    judge: str,
) -> None:
    best = document["best"]
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / standing.METRICS, document)
    entry = document["heads"][best]
    parts = {part: entry[part] for part in (judge, "test") if part in entry}
    write_json(output / standing.SCORE, standing.score(best, parts))
    columns = list(document["heads"][best][judge])
    rows = (
        (head, *(entry[judge].get(column, "") for column in columns))
        for head, entry in document["heads"].items()
    )
    write_table(output / "heads" / "leaderboard.csv", ("head", *columns), rows)
    histories = {head: loaded.history for head, loaded in heads.items()}
    plots.all_curves(output / "curves.svg", histories, best)
    counts = metrics.confusion(judged)
    plots.confusion_matrix(output / "confusion.svg", counts, judged.classes, best)
