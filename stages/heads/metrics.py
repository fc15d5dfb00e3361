"""Scores of predictions, computed by scikit-learn. Nothing here reads or writes files."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.heads.head import to_probabilities

BINS = 15  # of the calibration error, as in Guo et al., 2017


@dataclass(frozen=True, eq=False)
class Predictions:
    """A head's answers for some examples.

    Attributes:
        ids: (n,) ids of the examples.
        labels: (n,) true classes, as indices into `classes`.
        probabilities: (n, classes).
        classes: names of the classes.
    """

    ids: NDArray[np.bytes_]
    labels: NDArray[np.int32]
    probabilities: NDArray[np.float64]
    classes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        ids: NDArray[np.bytes_],
        labels: NDArray[np.int32],
        logits: NDArray[np.float32],
        classes: tuple[str, ...],
    ) -> "Predictions":
        """Predictions from logits (n, classes), or (n, 1) of a sigmoid unit."""
        return cls(ids, labels, to_probabilities(logits), classes)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(n,) the most probable class."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def confidence(self) -> NDArray[np.float64]:
        """(n,) the probability of the most probable class."""
        return np.asarray(self.probabilities.max(axis=1))


def scores(predictions: Predictions, top_k: int) -> dict[str, float]:
    """Accuracy and its 95 % interval (Wilson), top-k accuracy, macro F1, log loss and ECE.

    Top-k accuracy is left out unless there are more than k classes. Macro F1 is the mean over the
    classes that occur as label or prediction. Returns an empty dict if there are no examples.
    """
    from sklearn import metrics

    if not len(predictions.labels):
        return {}

    labels, predicted = predictions.labels, predictions.predicted
    every = range(len(predictions.classes))
    values = {"accuracy": metrics.accuracy_score(labels, predicted)}
    values["accuracy_low"], values["accuracy_high"] = wilson_interval(labels == predicted)
    if len(predictions.classes) > top_k:
        values[f"top_{top_k}"] = metrics.top_k_accuracy_score(
            labels, predictions.probabilities, k=top_k, labels=every
        )
    values["f1_macro"] = metrics.f1_score(labels, predicted, average="macro")
    values["log_loss"] = metrics.log_loss(labels, predictions.probabilities, labels=every)
    values["ece"] = calibration_error(predictions)
    return {name: round(float(value), 6) for name, value in values.items()}


def wilson_interval(right: NDArray[np.bool_], share: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of an accuracy, without continuity correction.

    Wilson, Probable inference, the law of succession, and statistical inference, J. Am. Stat.
    Assoc. 22, 1927. It has a width where all answers are right, or none, and few images are enough
    (Brown, Cai and DasGupta, Interval estimation for a binomial proportion, Stat. Sci. 16, 2001).

    Args:
        right: (n,) whether each answer is right, n at least 1.
        share: of the intervals of many such samples that hold the true accuracy.

    Returns:
        The lower and the upper end, 0 to 1.
    """
    n, accuracy = len(right), float(right.mean())
    z = NormalDist().inv_cdf((1 + share) / 2)
    middle = accuracy + z**2 / (2 * n)
    half = z * math.sqrt(accuracy * (1 - accuracy) / n + z**2 / (4 * n**2))
    low, high = (max(0.0, min(1.0, end / (1 + z**2 / n))) for end in (middle - half, middle + half))
    return low, high


def class_table(predictions: Predictions) -> list[dict[str, str | int | float]]:
    """One row per class: images, precision, recall and F1 (0 where undefined)."""
    labels, predicted = predictions.labels, predictions.predicted
    right, images, guesses = (
        np.bincount(some, minlength=len(predictions.classes))
        for some in (labels[labels == predicted], labels, predicted)
    )
    columns = (
        images,
        right / np.maximum(guesses, 1),
        right / np.maximum(images, 1),
        2 * right / np.maximum(images + guesses, 1),
    )
    return [
        {
            "class": name,
            "images": int(support),
            "precision": round(float(precision), 6),
            "recall": round(float(recall), 6),
            "f1": round(float(f1), 6),
        }
        for name, support, precision, recall, f1 in zip(predictions.classes, *columns, strict=True)
    ]


def confusion(predictions: Predictions) -> NDArray[np.int64]:
    """Counts (classes, classes): rows are true, columns predicted. All zero without examples."""
    count = len(predictions.classes)
    pairs = predictions.labels.astype(np.int64) * count + predictions.predicted
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def reliability(predictions: Predictions, bins: int = BINS) -> list[dict[str, float]]:
    """Images, mean confidence and accuracy of every bin of confidence that is not empty."""
    right = predictions.predicted == predictions.labels
    places = np.minimum((predictions.confidence * bins).astype(int), bins - 1)
    return [
        {
            "images": int((places == k).sum()),
            "confidence": float(predictions.confidence[places == k].mean()),
            "accuracy": float(right[places == k].mean()),
        }
        for k in np.unique(places)
    ]


def calibration_error(predictions: Predictions, bins: int = BINS) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy over equal bins.

    Naeini et al., 2015; with 15 bins as in Guo et al., 2017.
    """
    rows = reliability(predictions, bins)
    gaps = [row["images"] * abs(row["confidence"] - row["accuracy"]) for row in rows]
    return sum(gaps) / max(1, len(predictions.labels))
