"""Attacks on received heads, metrics and reports, each by name: what is sent, what is run with it.

They write into a workspace that `workspace` has made, where everything but them is sound.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cryobase.stages.heads.head import Head
from tests.hostile_texts import TEXTS
from tests.images import picture
from tests.integration.attacks import Attack, Command, add_row
from tests.unit.stages.heads.sets import SPEC
from tests.unit.stages.heads.test_head import make_head

PARAMS = """
download: {source: folder, path: images}
extract: {sets: {small: {backbone: mobilenetv2, weights: none, image_size: 32, output: avg}}}
train: {heads: {linear: {kind: linear}}}
"""
PREDICT = ("predict", "--model", "models/small/linear", "image.png")
CHOOSE = ("predict", "image.png")
LIST = ("heads", "ls")
EXPORT = ("heads", "export", "small")
REPORT = ("report",)
DATA = 3
REMOVED = object()


def sent(write: Callable[[Path], None], command: Command, code: int = DATA) -> Attack:
    """What is written into a workspace, the command that meets it, and how that must end."""

    def attack(root: Path) -> Command:
        write(root)
        return command

    return Attack(attack, code)


def workspace(root: Path, weights_sha256: str) -> Path:
    """A head on the features of MobileNetV2 with some weights, its metrics, and an image."""
    spec = dataclasses.replace(
        SPEC,
        backbone="mobilenetv2",
        preprocessing="symmetric",
        weights_sha256=weights_sha256,
    )
    made = make_head(kind="linear", shape=(1280,))
    head = dataclasses.replace(made, specs=(spec,), mean=None, scale=None)
    (root / "images").mkdir(parents=True)
    (root / "params.yaml").write_text(PARAMS)
    cv2.imwrite(str(root / "image.png"), picture(0, 0))
    head.save(root / "models/small/linear")
    metrics(root, {"best": "linear", "heads": {"linear": {"validation": SCORES}}})
    return root


SCORES = {"accuracy": 0.5, "f1_macro": 0.5, "log_loss": 0.7, "ece": 0.1}


def metrics(root: Path, document: Any) -> None:
    """The `metrics.json` of the set, as JSON or as it is."""
    path = root / "results/small/metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())


def of_heads(**heads: Any) -> Callable[[Path], None]:
    """Metrics with these heads beside the sound one, which is the best."""
    sound = {"linear": {"validation": SCORES}}
    return lambda root: metrics(root, {"best": "linear", "heads": {**heads, **sound}})


def best(name: str) -> Callable[[Path], None]:
    """Metrics whose best head has a name."""
    document = {"best": name, "heads": {name: {"validation": SCORES}}}
    return lambda root: metrics(root, document)


def replaced(name: str, data: bytes) -> Callable[[Path], None]:
    """The head's directory with another file of that name."""

    def write(root: Path) -> None:
        path = root / "models/small/linear" / name
        path.unlink()
        path.write_bytes(data)

    return write


def card(**values: Any) -> Callable[[Path], None]:
    """A head whose head.json has other values; `REMOVED` takes the key out."""

    def write(root: Path) -> None:
        path = root / "models/small/linear/head.json"
        document = json.loads(path.read_text()) | values
        document = {key: value for key, value in document.items() if value is not REMOVED}
        replaced("head.json", json.dumps(document).encode())(root)

    return write


def text_of_card(change: Callable[[str], str]) -> Callable[[Path], None]:
    """A head whose head.json is another text."""

    def write(root: Path) -> None:
        text = (root / "models/small/linear/head.json").read_text()
        replaced("head.json", change(text).encode())(root)

    return write


def params(**values: Any) -> Callable[[Path], None]:
    """A head with other params."""

    def write(root: Path) -> None:
        document = json.loads((root / "models/small/linear/head.json").read_text())["params"]
        card(params=document | values)(root)

    return write


def weights(**arrays: Any) -> Callable[[Path], None]:
    """A head with other arrays, and the checksum of them."""

    def write(root: Path) -> None:
        directory = root / "models/small/linear"
        found = Head.load(directory)
        kernel, bias = found.layers[0]
        members = {"kernel0": kernel, "bias0": bias} | arrays
        path = directory / "weights.npz"
        path.unlink()
        np.savez(path, **members)
        card(weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())(root)

    return write


def fifo(name: str) -> Callable[[Path], None]:
    """A FIFO, whose reader waits for ever, in place of a file."""

    def write(root: Path) -> None:
        (root / name).unlink()
        os.mkfifo(root / name)

    return write


def sparse(name: str, size: int = 1 << 34) -> Callable[[Path], None]:
    """A file of 16 GB that takes no space."""

    def write(root: Path) -> None:
        (root / name).unlink()
        with (root / name).open("wb") as file:
            file.truncate(size)

    return write


HISTORY = b"epoch,loss,accuracy,val_loss,val_accuracy\n"
FULL, OUT = np.full((1280,), 1, np.float32), np.zeros((1280,), np.float32)
HEAD = "models/small/linear/"

SENT = {
    "a scale of zero": sent(weights(mean=OUT, scale=OUT), PREDICT),
    "a scale below zero": sent(weights(mean=OUT, scale=-FULL), PREDICT),
    "a scale that is NaN": sent(weights(mean=OUT, scale=FULL * np.nan), PREDICT),
    "a scale next to zero": sent(
        weights(mean=-FULL, scale=np.full((1280,), 1e-45, np.float32)), PREDICT
    ),
    "a mean without a scale": sent(weights(mean=OUT, extra=OUT), PREDICT),
    "kernels that overflow": sent(
        weights(kernel0=np.full((1280, 3), 3e38, np.float32) * np.array([1, -1, 1], "f4")), PREDICT
    ),
    "a key twice": sent(
        text_of_card(lambda text: text.replace("{", '{"classes": ["x", "y", "z"],', 1)), PREDICT
    ),
    "equal classes": sent(card(classes=["a", "a", "b"]), PREDICT),
    "a class without a name": sent(card(classes=["a", "", "b"]), PREDICT),
    "classes that are numbers": sent(card(classes=[1, 2, 3]), PREDICT),
    "classes in a text": sent(card(classes="abc"), PREDICT),
    "one class": sent(card(classes=["a"]), PREDICT),
    "half a character": sent(card(classes=["\ud83d", "b", "c"]), PREDICT),
    "no classes": sent(card(classes=REMOVED), PREDICT),
    "an unknown key": sent(card(call="os.system"), PREDICT),
    "NaN": sent(text_of_card(lambda text: text.replace('"epochs": 1', '"epochs": NaN')), PREDICT),
    "infinity by exponent": sent(
        text_of_card(lambda text: text.replace('"epochs": 1', '"epochs": 1e400')), PREDICT
    ),
    "an integer of 10,000 digits": sent(
        text_of_card(lambda text: text.replace('"epochs": 1', '"epochs": 1' + "0" * 9999)), PREDICT
    ),
    "epochs that nobody trained": sent(card(epochs=10**15), PREDICT),
    "true for a number": sent(card(epochs=True), PREDICT),
    "depth": sent(replaced("head.json", b'{"format":' + b"[" * 100_000), PREDICT),
    "a million values": sent(replaced("head.json", b"[" + b"0," * 1_000_000 + b"0]"), PREDICT),
    "UTF-16": sent(text_of_card(lambda text: text.encode("utf-16").decode("latin-1")), PREDICT),
    "a byte that is no UTF-8": sent(replaced("head.json", b'{"\xff": 1}'), PREDICT),
    "a shape of 10^18 values": sent(card(shapes=[[10**9, 10**9]]), PREDICT),
    "a shape below zero": sent(card(shapes=[[-1280]]), PREDICT),
    "a shape of a hundred sides": sent(card(shapes=[[1] * 100]), PREDICT),
    "a hundred specs": sent(card(specs=[{}] * 100), PREDICT),
    "a spec that is a list": sent(card(specs=[[]]), PREDICT),
    "data that are lists": sent(card(data=[[], []]), PREDICT),
    "a digest of a megabyte": sent(card(data=["a" * (1 << 20)]), PREDICT),
    "another kind": sent(params(kind="__class__"), PREDICT),
    "units that are not there": sent(params(kind="mlp", units=[1 << 40]), PREDICT),
    "another activation": sent(params(activation="exec"), PREDICT),
    "a text for a rate": sent(params(learning_rate="1"), PREDICT),
    "a sigmoid for three": sent(params(output="sigmoid"), PREDICT),
    "params in a list": sent(card(params=[]), PREDICT),
    "an unknown param": sent(params(pickle="x"), PREDICT),
    "a field beyond csv's limit": sent(
        replaced("history.csv", HISTORY + b"1," + b"9" * 200_000 + b",0,0,0\n"), PREDICT
    ),
    "a million epochs": sent(
        replaced("history.csv", HISTORY + b"".join(b"%d,1,1,1,1\n" % k for k in range(1, 10**6))),
        PREDICT,
    ),
    "a loss beyond float32": sent(replaced("history.csv", HISTORY + b"1,1e39,0,0,0\n"), PREDICT),
    "a loss that is a formula": sent(replaced("history.csv", HISTORY + b"1,=1+1,0,0,0\n"), PREDICT),
    "other columns": sent(replaced("history.csv", b"epoch,loss\n1,1\n"), PREDICT),
    "epochs out of order": sent(replaced("history.csv", HISTORY + b"2,1,1,1,1\n"), PREDICT),
    "NUL in the history": sent(replaced("history.csv", HISTORY + b"1,\0,0,0,0\n"), PREDICT),
    "a card that is a FIFO": sent(fifo(HEAD + "head.json"), PREDICT),
    "a history that is a FIFO": sent(fifo(HEAD + "history.csv"), PREDICT),
    "a card of 16 GB": sent(sparse(HEAD + "head.json"), PREDICT),
    "a history of 16 GB": sent(sparse(HEAD + "history.csv"), PREDICT),
    "metrics that are a FIFO": sent(fifo("results/small/metrics.json"), LIST),
    "metrics of 16 GB": sent(sparse("results/small/metrics.json"), CHOOSE),
    "metrics that are a list": sent(lambda root: metrics(root, []), LIST),
    "metrics without heads": sent(lambda root: metrics(root, {"best": "linear"}), REPORT),
    "a best that is no head": sent(
        lambda root: metrics(root, {"best": "x", "heads": {"linear": {}}}), EXPORT
    ),
    "a best that is a path": sent(best("../../../outside"), EXPORT),
    "a best that is absolute": sent(best("/tmp"), CHOOSE),
    "a best that clears the screen": sent(best(TEXTS["clear screen"]), LIST),
    "a best that turns text around": sent(best(TEXTS["right-to-left override"]), REPORT),
    "a best of ten kilobytes": sent(best("a" * 10_000), LIST),
    "scores that are texts": sent(of_heads(x={"validation": {"accuracy": "<script>"}}), REPORT),
    "scores that are NaN": sent(
        lambda root: metrics(root, b'{"best":"a","heads":{"a":{"validation":{"accuracy":NaN}}}}'),
        LIST,
    ),
    "a training that is a list": sent(of_heads(x={"training": []}), REPORT),
    "metrics in another encoding": sent(
        lambda root: metrics(root, '{"best": "a"}'.encode("utf-16")), LIST
    ),
    "a head by a path": sent(lambda _: None, (*EXPORT, "../../x"), 2),
    "a head that is not there": sent(lambda _: None, (*EXPORT, "nowhere"), 2),
    "a set by a path": sent(lambda _: None, ("heads", "export", "../x"), 2),
    "a score that is not there": sent(lambda _: None, (*LIST, "--sort", "\x1b[2J"), 2),
}

SHOWN = {  # texts that are allowed as classes: the model answers, and nothing but text comes out
    f"a class called {name}": sent(card(classes=[text, "dog", "emu"]), (*PREDICT, *how), 0)
    for name, text in TEXTS.items()
    if text and name != "half of a character"
    for how in ((), ("--csv",), ("--json",))
    if not how or name in ("clear screen", "formula", "right-to-left override", "carriage return")
}

COMPUTED = ("a scale next to zero", "kernels that overflow")  # which are seen in the answers


def _add() -> None:
    for name, one in SENT.items():

        def write(root: Path, one: Attack = one) -> Any:
            workspace(root, "0" * 64)
            return one.write(root)

        if name not in COMPUTED:
            add_row(f"heads and metrics: {name}", write, one.code)


_add()
