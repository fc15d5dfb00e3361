"""Stage: score the heads of a set, choose by validation, score the chosen one on the test split."""

import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.data.splits import Splits
from stages.errors import ConfigError, DataError
from stages.heads import finished, metrics, plots
from stages.heads.answers import answer
from stages.heads.head import CARD, Head
from stages.heads.metrics import Predictions
from stages.heads.side_by_side import Paths, SideBySide
from stages.outputs import write_table, write_text

logger = logging.getLogger(__name__)

Score = Literal["accuracy", "f1_macro", "log_loss"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is scored, and how the best head is chosen.

    Attributes:
        final: whose test score is computed: `best` (by validation), or a list of heads.
        select: the validation score that chooses; ties go to the lower log loss, then to the name.
        top_k: how many guesses count for top-k accuracy, where there are more classes.
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
        config: what to score.
        name: of the feature set or pair.
        features: directory of the set, or of several side by side.
        splits: directory of the splits.
        models: directory with a directory per head.
        output: gets `metrics.json`, `curves.svg`, `confusion.svg` and `heads/`: `leaderboard.csv`
            and for each head `predictions.csv`, `classes.csv`, `confusion.csv`, `curves.svg` and,
            where it is a final one, `confusion.svg` and `reliability.svg`.

    Returns:
        What `metrics.json` says.

    Raises:
        DataError: no heads, heads of other data, or nothing to choose by.
        ConfigError: `final` names no head of this set.
    """
    rows, split = SideBySide.open(features), Splits.open(splits)
    heads = _load(models, rows, split, name)
    validation = answer(heads, rows, rows.having(split.ids("validation")))
    found = {head: {"validation": _scores(validation[head], config)} for head in heads}
    ranked = _rank(found, config)
    best = ranked[0]
    final = _final(config, best, heads)
    test = answer({head: heads[head] for head in final}, rows, rows.having(split.ids("test")))
    for head, predictions in test.items():
        found[head]["test"] = _scores(predictions, config)
    _clear(output)
    for head in heads:
        parts = {"validation": validation[head]} | ({"test": test[head]} if head in test else {})
        _write_head(output / "heads" / head, heads[head], parts, head)
    training = finished.told(models)
    entries = {head: _entry(heads[head], found[head], training.get(head)) for head in ranked}
    document = {"best": best, "heads": entries}
    _write_set(output, document, heads, best, test.get(best, validation[best]))
    told = ", ".join(f"{part} {scores.get('accuracy')}" for part, scores in found[best].items())
    logger.info("%s: best of %d heads is %s, accuracy on %s", name, len(heads), best, told)
    return document


def _load(models: Path, rows: SideBySide, split: Splits, name: str) -> dict[str, Head]:
    heads = {path.parent.name: Head.load(path.parent) for path in sorted(models.glob(f"*/{CARD}"))}
    mend = f"run: cryobase train {name}"
    if not heads:
        raise DataError(f"{models}: no heads; {mend}")
    for head, loaded in heads.items():
        if loaded.data != (rows.digest, split.digest) or loaded.classes != rows.classes:
            raise DataError(f"{models / head}: its features, splits or classes changed; {mend}")
    return heads


def _scores(predictions: Predictions, config: EvaluateConfig) -> dict[str, float]:
    return metrics.scores(predictions, config.top_k) if len(predictions.labels) else {}


def _rank(
    found: Mapping[str, Mapping[str, Mapping[str, float]]], config: EvaluateConfig
) -> list[str]:
    """The heads by validation, best first; a single one needs no validation images."""
    if len(found) == 1:
        return list(found)
    if not all(parts["validation"] for parts in found.values()):
        raise DataError("evaluate: no validation images to choose by; raise split.validation")

    def rank(head: str) -> tuple[float, float, str]:
        scores = found[head]["validation"]
        sign = 1 if config.select == "log_loss" else -1
        return sign * scores[config.select], scores["log_loss"], head

    return sorted(found, key=rank)


def _final(config: EvaluateConfig, best: str, heads: Mapping[str, Head]) -> Sequence[str]:
    if config.final == "best":
        return [best]
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
    """Remove what an earlier run wrote of heads that may be gone."""
    for path in sorted(output.glob("heads/*/predictions.csv")):
        shutil.rmtree(path.parent)


def _write_head(directory: Path, head: Head, parts: Mapping[str, Predictions], title: str) -> None:
    directory.mkdir(parents=True)
    write_table(
        directory / "predictions.csv",
        ("id", "part", "label", "predicted", "probability"),
        (row for part, predictions in parts.items() for row in _prediction_rows(part, predictions)),
    )
    judged = parts.get("test", parts["validation"])
    table = metrics.class_table(judged)
    write_table(directory / "classes.csv", list(table[0]), (row.values() for row in table))
    counts = metrics.confusion(judged)
    rows = ([name, *row] for name, row in zip(head.classes, counts.tolist(), strict=True))
    write_table(directory / "confusion.csv", ("true \\ predicted", *head.classes), rows)
    if "test" in parts:
        if len(head.history):
            plots.learning_curves(directory / "curves.svg", head.history, title)
        plots.confusion_matrix(directory / "confusion.svg", counts, head.classes, title)
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
    best: str,
    judged: Predictions,
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2) + "\n"
    write_text(output / "metrics.json", text)
    columns = list(next(iter(document["heads"].values()))["validation"])
    rows = (
        (head, *(entry["validation"].get(column, "") for column in columns))
        for head, entry in document["heads"].items()
    )
    write_table(output / "heads" / "leaderboard.csv", ("head", *columns), rows)
    histories = {head: loaded.history for head, loaded in heads.items()}
    plots.all_curves(output / "curves.svg", histories, best)
    counts = metrics.confusion(judged)
    plots.confusion_matrix(output / "confusion.svg", counts, judged.classes, best)
