"""Export of models for use elsewhere: written only after the graft check, then read back and tried.

Beside each model is a model card: what the model is, what it was made of, its scores, and how to
make it again.
"""

import contextlib
import gc
import importlib.util
import json
import logging
import os
import re
import shlex
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cryobase.stages.backbones.frameworks import load_keras
from cryobase.stages.data.raw import RawImages
from cryobase.stages.errors import ConfigError
from cryobase.stages.heads.graft import Agreement, GraftError, Samples, check_graft, graft_onto
from cryobase.stages.heads.head import Head
from cryobase.stages.heads.rows import Floats
from cryobase.stages.heads.side_by_side import Paths, SideBySide
from cryobase.stages.outputs import write_text
from cryobase.store.text import counted, visible

logger = logging.getLogger(__name__)

PROBES = 8  # random images: on each, a written file must give the same probabilities as the model
TOLERANCE = 1e-3  # of a probability


def export(
    name: str,
    *,
    head: Path,
    weights: str | Sequence[str],
    features: Paths,
    raw: Path,
    ids: Sequence[bytes],
    scores: Mapping[str, Mapping[str, float]],
    formats: Sequence[str],
    output: Path,
) -> list[Path]:
    """Graft a head onto its base, check the model on real images, write it and read it back.

    Args:
        name: `<set>/<head>`.
        head: directory of the trained head.
        weights: weights of the backbone, as in the set's params; for a pair, those of both sets.
        features: directory of the set; for a pair, both directories.
        raw: directory of the images.
        ids: ids of the images that the check runs on; they must be in the set.
        scores: scores of this head in `metrics.json`, for the card.
        formats: keys of `FORMATS`.
        output: directory that receives `model.keras`, `model.onnx` or `model.xml` with `model.bin`,
            and always `classes.json` and `README.md`.

    Returns:
        The files that were written.

    Raises:
        ConfigError: a format is unknown, or the library that writes it is not installed.
        GraftError: the model's answers differ from the head's; nothing is written.
    """
    _check(formats)
    logger.info("%s: exporting this head on its base, as %s", name, ", ".join(formats))
    loaded = Head.load(head)
    model = graft_onto(loaded, weights)

    def reference(same_head: Head, preprocessing: str | None) -> Any:
        return graft_onto(same_head, weights, preprocessing=preprocessing)

    stored = SideBySide.open(features)
    checked = stored.having(np.asarray(ids, np.bytes_))
    samples = Samples(stored, RawImages.open(raw), checked)
    agreement = check_graft(model, loaded, samples, reference)
    output.mkdir(parents=True, exist_ok=True)
    written = [_write(model, kind, output) for kind in formats]
    card, classes = output / "README.md", output / "classes.json"
    write_text(card, model_card(name, loaded, scores, agreement))
    write_text(classes, json.dumps(loaded.classes, ensure_ascii=False) + "\n")
    return [*written, card, classes]


def _check(formats: Sequence[str]) -> None:
    if unknown := [kind for kind in formats if kind not in FORMATS]:
        raise ConfigError(f"export: no format {unknown[0]!r}; known: {', '.join(FORMATS)}")
    for kind in formats:
        for library in FORMATS[kind].needs:
            if importlib.util.find_spec(library) is None:
                raise ConfigError(
                    f"export: the format {kind} needs {library};"
                    f" run `pip install 'cryobase[{kind}]'`"
                )


def _write(model: Any, kind: str, output: Path) -> Path:
    """Write one format under a temporary name, compare its answers, and rename it."""
    write, run, name, _ = FORMATS[kind]
    side = model.input_shape[1]
    random = np.random.default_rng(0)
    probes = random.uniform(0, 255, (PROBES, side, side, 3)).astype(np.float32)
    expected = np.asarray(model(probes, training=False))
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=output) as scratch:
        path = Path(scratch) / name
        write(model, path)
        difference = np.abs(run(path, probes) - expected).max()
        if not difference <= TOLERANCE:
            raise GraftError(
                f"export: the probabilities of {name} differ from the model's by"
                f" {difference:.2g}; the file is not written"
            )
        for part in sorted(Path(scratch).glob(f"{path.stem}.*")):
            os.replace(part, output / part.name)
    gap = f"differ by at most {difference:.1g}" if difference else "are the same"
    on = counted(PROBES, "random image")
    logger.info("%s: read back, its probabilities on %s %s", output / name, on, gap)
    return output / name


def _write_keras(model: Any, path: Path) -> None:
    model.save(path)


def _run_keras(path: Path, images: Floats) -> Floats:
    keras = load_keras()

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


def _write_onnx(model: Any, path: Path) -> None:
    import onnx

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # it names every node it cannot convert
    with warnings.catch_warnings(), _garbage_found_early():
        warnings.simplefilter("ignore", FutureWarning)  # of tf2onnx, which Keras adapts to numpy 2
        model.export(path, format="onnx", verbose=False)
    nodes = onnx.load(path).graph.node
    if unknown := {node.op_type for node in nodes if not onnx.defs.has(node.op_type, node.domain)}:
        raise ConfigError(
            f"onnx: tf2onnx cannot convert {', '.join(sorted(unknown))} of this base;"
            " take --format openvino"
        )


@contextlib.contextmanager
def _garbage_found_early() -> Iterator[None]:
    """Collect garbage often while tf2onnx works.

    Each of its dozens of steps leaves a copy of all weights behind, in few objects and in reference
    cycles. Python counts objects, not bytes, so it would start to collect after gigabytes.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()  # older objects are not looked at again
    gc.set_threshold(1000, 5, 1)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _run_onnx(path: Path, images: Floats) -> Floats:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [image] = session.get_inputs()
    return np.asarray(session.run(None, {image.name: images})[0])


class Format(NamedTuple):
    """How a model is written and run again, its file name, and the libraries that it needs.

    The libraries come with the extra that has the format's name.
    """

    write: Callable[[Any, Path], None]
    run: Callable[[Path, Floats], Floats]
    name: str
    needs: tuple[str, ...] = ()


FORMATS = {
    "keras": Format(_write_keras, _run_keras, "model.keras"),
    "openvino": Format(_write_openvino, _run_openvino, "model.xml", ("openvino",)),
    "onnx": Format(_write_onnx, _run_onnx, "model.onnx", ("onnx", "onnxruntime", "tf2onnx")),
}


SCORES = ("accuracy", "f1_macro", "log_loss", "ece")
MARKS = re.compile(r"[\\`*_{}\[\]()#!|~>$]|://|@")  # marks of links, emphasis, code, tables, maths


def model_card(
    name: str, head: Head, scores: Mapping[str, Mapping[str, float]], agreement: Agreement
) -> str:
    """A page of Markdown.

    Args:
        name: `<set>/<head>`.
        head: the head.
        scores: scores by part of the data, as in `metrics.json`.
        agreement: the result of the graft check.
    """
    params = "\n".join(
        f"| {key} | {plain(value)} |" for key, value in sorted(head.params.to_json().items())
    )
    size = head.specs[0].image_size
    of_set, _, of_head = name.partition("/")
    stage = "evaluate" if len(head.specs) == 1 else "evaluate_pair"
    backbones = " beside ".join(dict.fromkeys(plain(spec.backbone) for spec in head.specs))
    return f"""# {plain(name)}

A frozen {backbones} with a {head.params.kind} head for {len(head.classes)} classes.

- **Input**: float32 RGB images (n, {size}, {size}, 3), 0 to 255;
  preprocessing is inside the model.
- **Output**: {_output(head)}.
- **Classes**: {", ".join(map(plain, head.classes))}.

## Scores

{_score_table(scores)}

{_chosen(scores)}On {agreement.images} images the exported model gave
logits within {agreement.deviation:.2g} standard deviations of the head's on stored features, and
{agreement.equal_labels} equal labels.

## Made of

| digest | |
|---|---|
| feature set | {plain(head.data[0])} |
| split | {plain(head.data[-1])} |
{_fingerprints(head)}

{_specs(head)}

| head | |
|---|---|
{params}

## Make it again

In a checkout with the same `params.yaml` and data:

```
dvc repro {shlex.quote(f"{stage}@{of_set}")}
cryobase heads export {shlex.quote(of_set)} {shlex.quote(of_head)}
```
"""


def plain(value: Any) -> str:
    """A value as text for a line or cell of Markdown, with every mark of Markdown escaped."""
    return MARKS.sub(r"\\\g<0>", visible(str(value)).replace("&", "&amp;").replace("<", "&lt;"))


def _fingerprints(head: Head) -> str:
    return "\n".join(f"| feature spec | `{spec.fingerprint}` |" for spec in head.specs)


def _specs(head: Head) -> str:
    """A column per feature spec."""
    documents = [spec.to_json() for spec in head.specs]
    lines = ["| feature spec |" + " |" * len(documents), "|---" * (len(documents) + 1) + "|"]
    for key in sorted(documents[0]):
        values = " | ".join(plain(document[key]) for document in documents)
        lines.append(f"| {key} | {values} |")
    return "\n".join(lines)


def _output(head: Head) -> str:
    if head.outputs == 1:
        return f"the probability (n, 1) of {plain(head.classes[1])}"
    return f"probabilities (n, {len(head.classes)})"


def _chosen(scores: Mapping[str, Mapping[str, Any]]) -> str:
    return "The head was chosen on validation images. " if scores.get("validation") else ""


def _score_table(scores: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        f"| {part} | {' | '.join(_score(scores[part].get(score)) for score in SCORES)} |"
        for part in ("validation", "train", "test")
        if scores.get(part)
    ]
    header = [f"| | {' | '.join(SCORES)} |", "|---" * (len(SCORES) + 1) + "|"]
    return "\n".join([*header, *lines]) if lines else "None were computed."


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
