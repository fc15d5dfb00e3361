"""Models for use elsewhere, written only after the graft check, and read back before they count."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.raw import RawImages
from stages.errors import ConfigError
from stages.heads.card import model_card
from stages.heads.graft import graft_onto
from stages.heads.graftcheck import GraftError, Samples, check_graft
from stages.heads.head import Head
from stages.heads.rows import Floats
from store import FeatureSet

logger = logging.getLogger(__name__)

PROBES = 8  # random images on which a written file must give the model's probabilities
TOLERANCE = 1e-3  # of a probability


def export(
    name: str,
    *,
    head: Path,
    weights: str,
    features: Path,
    raw: Path,
    ids: Sequence[bytes],
    scores: Mapping[str, Mapping[str, float]],
    formats: Sequence[str],
    output: Path,
) -> list[Path]:
    """Graft, check on real images, write, read back.

    Args:
        name: `<set>/<head>`.
        head: directory of the trained head.
        weights: of the backbone, as in the set's params.
        features: directory of the set.
        raw: directory of the images.
        ids: of the images that the check runs on; they must be in the set.
        scores: of this head in `metrics.json`, for the card.
        formats: keys of `FORMATS`.
        output: gets `model.keras`, `model.xml` with `model.bin`, `classes.json` and `README.md`.

    Returns:
        What was written.

    Raises:
        ConfigError: no such format.
        GraftError: the model does not do what the head was trained for; nothing is written.
    """
    if unknown := [one for one in formats if one not in FORMATS]:
        raise ConfigError(f"export: no format {unknown[0]!r}; known: {', '.join(FORMATS)}")
    loaded = Head.load(head)
    model = graft_onto(loaded, weights)

    def reference(one: Head, preprocessing: str | None) -> Any:
        return graft_onto(one, weights, preprocessing=preprocessing)

    samples = Samples(FeatureSet.open(features), RawImages.open(raw), np.asarray(ids, np.bytes_))
    agreement = check_graft(model, loaded, samples, reference)
    output.mkdir(parents=True, exist_ok=True)
    written = [_write(model, one, output) for one in formats]
    card, classes = output / "README.md", output / "classes.json"
    card.write_text(model_card(name, loaded, scores, agreement), encoding="utf-8")
    classes.write_text(json.dumps(loaded.classes, ensure_ascii=False) + "\n", encoding="utf-8")
    return [*written, card, classes]


def _write(model: Any, kind: str, output: Path) -> Path:
    """Write one format beside its place, try it out, and put it there."""
    write, run, name = FORMATS[kind]
    side = model.input_shape[1]
    random = np.random.default_rng(0)
    probes = random.uniform(0, 255, (PROBES, side, side, 3)).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=output) as scratch:
        path = Path(scratch) / name
        write(model, path)
        difference = np.abs(run(path, probes) - np.asarray(model(probes, training=False))).max()
        if not difference <= TOLERANCE:
            raise GraftError(f"export: {name} errs by {difference:.2g}; not written")
        for part in sorted(Path(scratch).glob(f"{path.stem}.*")):
            os.replace(part, output / part.name)
    logger.info("%s: as the model to %.1g", output / name, difference)
    return output / name


def _write_keras(model: Any, path: Path) -> None:
    model.save(path)


def _run_keras(path: Path, images: Floats) -> Floats:
    import keras

    return np.asarray(keras.models.load_model(path, safe_mode=True)(images, training=False))


def _write_openvino(model: Any, path: Path) -> None:
    import openvino

    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        model.export(f"{scratch}/saved", verbose=False)
        converted = openvino.Core().read_model(f"{scratch}/saved")
        openvino.save_model(converted, path, compress_to_fp16=False)


def _run_openvino(path: Path, images: Floats) -> Floats:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled(images)[0])


Write = Callable[[Any, Path], None]
Run = Callable[[Path, Floats], Floats]
FORMATS: dict[str, tuple[Write, Run, str]] = {
    "keras": (_write_keras, _run_keras, "model.keras"),
    "openvino": (_write_openvino, _run_openvino, "model.xml"),
}
