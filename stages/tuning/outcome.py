"""The results of a tuning: scores of both saved models on the same images, tables, pictures.

Nothing here trains or changes a model.
"""

import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cryobase.stages.backbones.frameworks import load_tensorflow
from cryobase.stages.data.augment import augment
from cryobase.stages.data.pixels import load
from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import Splits
from cryobase.stages.data.stream import ImageStream, live_view
from cryobase.stages.figure import label
from cryobase.stages.heads import standing
from cryobase.stages.heads.metrics import Predictions
from cryobase.stages.outputs import write_json, write_table
from cryobase.stages.tuning import pictures, saved
from cryobase.stages.tuning.config import FinetuneRun
from cryobase.stages.tuning.course import Told
from cryobase.stages.tuning.resume import HistoryRows
from cryobase.store.epochs import shuffled

logger = logging.getLogger(__name__)

SHOWN = 30  # images in the grid of predictions; also the most in the gallery of mistakes
SHEET = 9  # views in the contact sheet, at most
NAME = 17  # characters of a class in the title of an image
COLUMNS = ("phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy")


def write(
    config: FinetuneRun,
    told: Told,
    images: RawImages,
    split: Splits,
    *,
    models: Path,
    output: Path,
) -> dict[str, Any]:
    """Reload both models, score them, and write everything.

    Args:
        config: the run.
        told: the record of the run's epochs.
        images: the images.
        split: the ids that train, validate and test.
        models: directory of the two saved models.
        output: directory that receives `metrics.json`, `score.json`, `comparison.csv`,
            `history.csv`, `curves.svg`, `predictions.svg`, `mistakes.svg` and `views.svg`.

    Returns:
        The content of `metrics.json`.
    """
    pair = {
        "start": saved.TunedModel.load(models, saved.START),
        "tuned": saved.TunedModel.load(models, saved.TUNED),
    }
    stream = ImageStream(
        images=images,
        pixels=pair["tuned"].pixels,
        batch_size=config.batch_size,
        augmentation=config.augmentation,
        seed=config.seed,
    )
    found = {part: saved.answers(pair, stream, split.ids(part)) for part in _parts(config, split)}
    scores: dict[str, Any] = {name: {} for name in pair}
    for part, answers in found.items():
        for name, each in saved.scores_of(answers).items():
            scores[name][part] = each
    document = scores | _summary(told)
    output.mkdir(parents=True, exist_ok=True)
    _write_tables(output, scores, told)
    _draw(
        output,
        config=config,
        told=told,
        stream=stream,
        split=split,
        predictions=next(iter(found.values()))["tuned"],
    )
    write_json(output / standing.METRICS, document)
    write_json(output / standing.SCORE, standing.score(saved.TUNED, scores["tuned"]))
    return document


def _parts(config: FinetuneRun, split: Splits) -> list[str]:
    """The parts to score: those that have images; train only if no other part has images."""
    parts = ["validation", *(["test"] if config.final else [])]
    return [part for part in parts if len(split.ids(part))] or ["train"]


def _between(told: Told) -> dict[str, Any]:
    """Validation scores after each phase except the last."""
    return {
        f"phase_{number}": {"validation": scores} if scores else {}
        for number, scores in enumerate(told.between, start=1)
    }


def _summary(told: Told) -> dict[str, Any]:
    trunks = {"trunk": {f"phase_{number}": one for number, one in told.trunks.items()}}
    return {
        **_between(told),
        **(trunks if told.trunks else {}),
        "epochs": len(told.rows) - 1,
        "kept_epoch": told.kept[-1],
        "overfitting_from": told.overfitting_from,
    }


def _write_tables(output: Path, scores: Mapping[str, Any], told: Told) -> None:
    ordered = {"start": scores["start"], **_between(told), "tuned": scores["tuned"]}
    table = [
        {"model": model, "part": part, **values}
        for model, parts in ordered.items()
        for part, values in parts.items()
    ]
    write_table(output / "comparison.csv", list(table[0]), (row.values() for row in table))
    history = ([_text(row[name]) for name in COLUMNS] for row in told.rows)
    write_table(output / "history.csv", COLUMNS, history)


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.9g}"


def _draw(
    output: Path,
    *,
    config: FinetuneRun,
    told: Told,
    stream: ImageStream,
    split: Splits,
    predictions: Predictions,
) -> None:
    pictures.curves(
        output / "curves.svg",
        told.rows,
        phase_starts=told.starts,
        kept=told.kept[-1],
        overfitting_from=told.overfitting_from,
        smoothing=config.smoothing,
    )
    chosen = shuffled(np.arange(len(predictions.ids)), config.seed, 0)[:SHOWN]
    _grid(output / "predictions.svg", stream, predictions, chosen)
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    worst = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:SHOWN]
    _grid(output / "mistakes.svg", stream, predictions, worst)
    _contact_sheet(output / "views.svg", config, stream, split)


def _contact_sheet(path: Path, config: FinetuneRun, stream: ImageStream, split: Splits) -> None:
    """Draw views of one training image, as the first epochs see them or as they are stored."""
    images = stream.images
    position = int(images.examples.positions(split.ids("train")[:1])[0])
    plain = load(images.read(position), stream.pixels)
    views, titles = [plain], ["no augmentation"]
    if config.augmentation:
        count = min(config.views or SHEET, SHEET)
        titles = [f"{'view' if config.views else 'epoch'} {k}" for k in range(1, count + 1)]
        digest = images.examples.digests[position].tobytes()
        views = [
            augment(
                plain, config.augmentation, digest, k if config.views else live_view(config.seed, k)
            )
            for k in range(1, count + 1)
        ]
    pictures.grid(path, views, titles, ["black"] * len(views), columns=min(3, len(views)))


def _grid(path: Path, stream: ImageStream, predictions: Predictions, chosen: Any) -> None:
    """Draw images titled with the prediction: blue if right; else red, with the true class."""
    shown = [image for batch, _ in stream.plain.batches(predictions.ids[chosen]) for image in batch]
    titles, colors = [], []
    for position in chosen:
        named = predictions.classes[int(predictions.predicted[position])]
        true = predictions.classes[int(predictions.labels[position])]
        right = named == true
        title = f"{label(named, NAME)}, {predictions.confidence[position]:.0%}"
        titles.append(title if right else f"{title}\ntrue: {label(true, NAME)}")
        colors.append(pictures.BLUE if right else pictures.RED)
    pictures.grid(path, shown, titles, colors, empty="no mistakes")


TOP = 3
IMAGENET_COLUMNS = ("id", "rank", "label", "probability")


def write_imagenet(config: FinetuneRun, images: RawImages, split: Splits, output: Path) -> None:
    """Write `imagenet.csv` if the run has `imagenet_labels`, see `FinetuneRun`.

    Raises:
        MissingWeightsError: the weights of the base's original classifier are not available.
    """
    if not config.imagenet_labels or config.base is None:
        return
    from cryobase.stages.backbones.labels import pixel_spec, top_labels

    examples = images.examples
    positions = np.asarray(examples.positions(split.ids("train")))
    firsts = np.unique(examples.labels[positions], return_index=True)[1]  # one of each class
    shown = positions[firsts[: config.imagenet_labels]]
    pixels = pixel_spec(config.base.backbone)
    labels = top_labels(
        config.base.backbone,
        np.stack([load(images.read(int(position)), pixels) for position in shown]),
        top=TOP,
        weights="none" if config.base.weights == "none" else "imagenet",
    )
    rows = []
    for position, guesses in zip(shown, labels, strict=True):
        name = examples.ids[position].decode()
        likeliest = ", ".join(f"{guess.name} {guess.probability:.3f}" for guess in guesses)
        logger.info("%s: most probable classes of ImageNet: %s", name, likeliest)
        for rank, guess in enumerate(guesses, start=1):
            rows.append((name, rank, guess.name, f"{guess.probability:.6f}"))
    write_table(output / "imagenet.csv", IMAGENET_COLUMNS, rows)


CURVES = {"train": "", "validation": "val_"}  # directory -> prefix of the history's columns


def write_curves(rows: HistoryRows, directory: Path) -> None:
    """Write loss and accuracy by epoch as event files in `train` and `validation`.

    `tf.summary.scalar` and Keras' callback need TensorBoard to be installed. `tf.summary.write`,
    which both call, does not: it belongs to TensorFlow.
    """
    tf = load_tensorflow()

    # TensorBoard would draw the old and the new run as one curve
    shutil.rmtree(directory, ignore_errors=True)
    for name, prefix in CURVES.items():
        writer = tf.summary.create_file_writer(str(directory / name))
        with writer.as_default():
            for row in rows:
                for curve in ("loss", "accuracy"):
                    _scalar(curve, row[prefix + curve], int(row["epoch"]))
        writer.close()


def _scalar(curve: str, value: float, epoch: int) -> None:
    tf = load_tensorflow()

    scalars: Any = tf.compat.v1.SummaryMetadata()
    scalars.plugin_data.plugin_name = "scalars"
    if math.isfinite(value):
        tf.summary.write(curve, tf.constant(value, tf.float32), step=epoch, metadata=scalars)
