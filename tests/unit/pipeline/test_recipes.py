"""Every recipe is a valid params file whose models are those that its source describes.

The parameter counts are derived here from the published descriptions, layer by layer.
"""

import dataclasses
import itertools
import json

import pytest
from typer.testing import CliRunner

from cryobase.pipeline import cli_recipe, recipes
from cryobase.pipeline.params import ParamsError, load
from cryobase.stages.finetune import FinetuneRun

NAMES = recipes.names()
HUB = [
    name for name in NAMES if name.startswith("keras-book-xception") and "applications" not in name
]


def conv(size: int, inputs: int, outputs: int, *, bias: bool = True) -> int:
    return size * size * inputs * outputs + (outputs if bias else 0)


def dense(*widths: int) -> int:
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


def convolutions(channels: int, *filters: int) -> int:
    """3x3 convolutions with biases, one after the other."""
    widths = [channels, *filters]
    return sum(conv(3, a, b) for a, b in itertools.pairwise(widths))


# Simonyan and Zisserman, 2015, table 1, column D
VGG16_BELOW = convolutions(3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512)
VGG16_BLOCK5 = convolutions(512, 512, 512, 512)
VGG16 = VGG16_BELOW + VGG16_BLOCK5
VGG16_HEAD = dense(4 * 4 * 512, 256, 1)


def bottleneck(inputs: int, outputs: int, expansion: int) -> dict[str, tuple[int, int]]:
    """Kernels and BatchNormalization channels of one block, by layer."""
    hidden = inputs * expansion
    layers = {"expand": (inputs * hidden, 0), "expand_BN": (0, hidden)} if expansion > 1 else {}
    return {
        **layers,
        "depthwise": (9 * hidden, 0),
        "depthwise_BN": (0, hidden),
        "project": (hidden * outputs, 0),
        "project_BN": (0, outputs),
    }


def mobilenetv2() -> dict[str, tuple[int, int]]:
    """Sandler and others, 2018, table 2: kernel parameters and normalised channels by layer."""
    layers = {"Conv1": (27 * 32, 0), "bn_Conv1": (0, 32)}
    inputs, number = 32, 0
    for expansion, outputs, repeats in (
        (1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)
    ):  # fmt: skip
        for _ in range(repeats):
            for layer, sizes in bottleneck(inputs, outputs, expansion).items():
                layers[f"block_{number}_{layer}"] = sizes
            inputs, number = outputs, number + 1
    return {**layers, "Conv_1": (320 * 1280, 0), "Conv_1_bn": (0, 1280)}


def learning(layers: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """Parameters and tensors that learn, gamma and beta of BatchNormalization among them."""
    parameters = sum(kernel + 2 * channels for kernel, channels in layers.values())
    return parameters, sum(2 if channels else 1 for _, channels in layers.values())


def total(layers: dict[str, tuple[int, int]]) -> int:
    return sum(kernel + 4 * channels for kernel, channels in layers.values())


def after(layers: dict[str, tuple[int, int]], first: str) -> dict[str, tuple[int, int]]:
    names = list(layers)
    return {name: layers[name] for name in names[names.index(first) :]}


MOBILENETV2 = mobilenetv2()


def xception() -> tuple[int, int, int]:
    """Chollet, 2017, figure 5: kernels, their number of tensors, normalised channels."""
    kernels, tensors, channels = 27 * 32 + 9 * 32 * 64, 2, 32 + 64
    separable = []
    for inputs, outputs in ((64, 128), (128, 256), (256, 728)):
        separable += [(inputs, outputs), (outputs, outputs)]
        kernels, tensors, channels = kernels + inputs * outputs, tensors + 1, channels + outputs
    separable += [(728, 728)] * 3 * 8
    separable += [(728, 728), (728, 1024), (1024, 1536), (1536, 2048)]
    kernels, tensors, channels = kernels + 728 * 1024, tensors + 1, channels + 1024
    for inputs, outputs in separable:
        kernels += 9 * inputs + inputs * outputs
        tensors, channels = tensors + 2, channels + outputs
    return kernels, tensors, channels


X_KERNELS, X_TENSORS, X_CHANNELS = xception()
XCEPTION = X_KERNELS + 4 * X_CHANNELS
X_HEAD = dense(2048, 256, 1)

DIGITS = convolutions(1, 64, 128, 256) + dense(256, 10)
BOOK = convolutions(3, 32, 64, 128, 256, 512) + dense(512, 1)
FIVE_BLOCKS = convolutions(3, 32, 64, 128, 128, 256) + dense(2 * 2 * 256, 512, 1)

FLOWERS = total(MOBILENETV2) + dense(1280, 5)
LAST_FOUR = learning(after(MOBILENETV2, "Conv_1"))
CATS_DOGS = total(MOBILENETV2) + dense(1280, 1)
FROM_100 = learning(after(MOBILENETV2, "block_11_expand_BN"))

# what, phase: total, trainable, trainable tensors
XCEPTION_COUNTS = {
    "features": {
        ("xception-180", 0): (XCEPTION, 0, 0),
        ("xception-180/dense", 1): (X_HEAD, X_HEAD, 4),
    },
    "augmented": {("augmented", 1): (XCEPTION + X_HEAD, X_HEAD, 4)},
    "finetune": {
        ("finetune", 1): (XCEPTION + X_HEAD, X_HEAD, 4),
        ("finetune", 2): (XCEPTION + X_HEAD, X_KERNELS + X_HEAD, X_TENSORS + 4),
    },
}
EXPECTED = {
    "vgg16-dogs-vs-cats": {
        ("vgg16-150", 0): (VGG16, 0, 0),
        ("vgg16-150/dense", 1): (VGG16_HEAD, VGG16_HEAD, 4),
    },
    "vgg16-dogs-vs-cats-augmented": {("augmented", 1): (VGG16 + VGG16_HEAD, VGG16_HEAD, 4)},
    "vgg16-dogs-vs-cats-finetune": {
        ("finetune", 1): (VGG16 + VGG16_HEAD, VGG16_HEAD, 4),
        ("finetune", 2): (VGG16 + VGG16_HEAD, VGG16_BLOCK5 + VGG16_HEAD, 6 + 4),
    },
    "mobilenetv2-flowers": {
        ("frozen", 1): (FLOWERS, dense(1280, 5), 2),
        ("augmented", 1): (FLOWERS, dense(1280, 5), 2),
        ("last-four", 1): (FLOWERS, LAST_FOUR[0] + dense(1280, 5), LAST_FOUR[1] + 2),
        ("last-four-slower", 1): (FLOWERS, LAST_FOUR[0] + dense(1280, 5), LAST_FOUR[1] + 2),
    },
    "scratch-cats-dogs": {("scratch", 1): (FIVE_BLOCKS, FIVE_BLOCKS, 14)},
    "mobilenetv2-tfds-cats-vs-dogs": {
        ("finetune", 1): (CATS_DOGS, dense(1280, 1), 2),
        ("finetune", 2): (CATS_DOGS, FROM_100[0] + dense(1280, 1), FROM_100[1] + 2),
    },
    "keras-book-mnist": {(run, 1): (DIGITS, DIGITS, 8) for run in ("pooled", "unpooled")},
    "keras-book-mnist-sample": {(run, 1): (DIGITS, DIGITS, 8) for run in ("pooled", "unpooled")},
    "keras-book-scratch": {("scratch", 1): (BOOK, BOOK, 12)},
    "keras-book-scratch-augmented": {("augmented", 1): (BOOK, BOOK, 12)},
    **{f"keras-book-xception-{kind}": rows for kind, rows in XCEPTION_COUNTS.items()},
    **{f"keras-book-xception-{kind}-applications": rows for kind, rows in XCEPTION_COUNTS.items()},
}  # fmt: skip


def test_every_recipe_has_expected_counts():
    assert set(EXPECTED) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_the_parameters_that_its_description_implies(name):
    from cryobase.stages.tuning.counts import counts

    if name in HUB:
        pytest.importorskip("keras_hub", reason="the extra keras-hub is not installed")
    recipe = recipes.read(name)
    params = recipe.params()
    found = counts(params.extract.sets, params.train.heads, params.finetune.runs, recipe.classes)
    rows = {(row.what, row.phase): row for row in found}
    assert {key: (row.total, row.trainable, row.tensors) for key, row in rows.items()} == EXPECTED[
        name
    ]
    assert all(row.frozen == row.total - row.trainable for row in rows.values())


def test_published_totals():
    """Of papers and of Keras' own documentation."""
    assert VGG16 == 14_714_688
    assert total(MOBILENETV2) == 2_257_984
    assert XCEPTION == 20_861_480


@pytest.mark.parametrize(
    ("backbone", "smallest"), [("resnet50", 23_587_712), ("inceptionv3", 21_802_784)]
)
def test_the_flowers_recipe_takes_other_bases(backbone, smallest):
    """Totals of keras.applications without top; the head grows with the width."""
    from cryobase.stages.tuning.counts import counts

    recipe = recipes.read("mobilenetv2-flowers")
    run = recipe.params().finetune.runs["frozen"]
    assert backbone in recipe.header["choices"]["base.backbone"]
    changed = dataclasses.replace(run, base=dataclasses.replace(run.base, backbone=backbone))
    (row,) = counts({}, {}, {"run": changed}, recipe.classes)
    assert (row.total, row.trainable) == (smallest + dense(2048, 5), dense(2048, 5))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_is(name):
    recipe = recipes.read(name)
    assert {"title", "source", "data", "classes", "published"} <= set(recipe.header)
    assert all(isinstance(figure, float | int) for figure in recipe.header["published"].values())
    assert len(recipe.classes) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_a_smoke_run_changes_data_weights_and_epochs_alone(name, tmp_path):
    recipe = recipes.read(name)
    whole = recipe.params()
    path = tmp_path / "params.yaml"
    path.write_text(recipe.smoke("images"))
    small = load(path)
    assert small.finetune.runs.keys() == whole.finetune.runs.keys()
    for key, run in small.finetune.runs.items():
        assert restored(run, whole.finetune.runs[key]) == whole.finetune.runs[key]
        assert all(phase.epochs == recipes.SMOKE_EPOCHS for phase in run.phases)
    for key, chosen in small.extract.sets.items():
        assert dataclasses.replace(chosen, weights="imagenet") == whole.extract.sets[key]
    for key, head in small.train.heads.items():
        assert (
            dataclasses.replace(head, epochs=whole.train.heads[key].epochs)
            == whole.train.heads[key]
        )


def restored(run: FinetuneRun, whole: FinetuneRun) -> FinetuneRun:
    """A smoke run with the weights and epochs of the whole one."""
    then = tuple(
        dataclasses.replace(small, epochs=large.epochs)
        for small, large in zip(run.then, whole.then, strict=True)
    )
    base = run.base and dataclasses.replace(run.base, weights="imagenet")
    return dataclasses.replace(run, epochs=whole.epochs, then=then, base=base)


def called(*arguments: str) -> str:
    result = CliRunner().invoke(cli_recipe.app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_ls_and_show():
    table = called("ls")
    assert all(name in table for name in NAMES)
    document = json.loads(called("ls", "--json"))
    assert [entry["name"] for entry in document] == NAMES
    assert called("show", NAMES[0]) == recipes.read(NAMES[0]).text
    (row,) = json.loads(called("show", "keras-book-scratch", "--counts", "--json"))
    assert row == {
        "what": "scratch", "phase": 1, "total": BOOK, "trainable": BOOK, "frozen": 0, "tensors": 12
    }  # fmt: skip


def test_use_writes_the_params_and_keeps_the_old_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("mine: true\n")
    called("use", "scratch-cats-dogs")
    assert (tmp_path / "params.yaml").read_text() == recipes.read("scratch-cats-dogs").text
    assert (tmp_path / "params.yaml.old").read_text() == "mine: true\n"
    called("use", "scratch-cats-dogs", "--smoke")
    assert load(tmp_path / "params.yaml").finetune.runs["scratch"].epochs == recipes.SMOKE_EPOCHS
    images = tmp_path / recipes.SMOKE_IMAGES / "scratch-cats-dogs"
    assert len(list((images / "cat").iterdir())) == 12


def test_one_recipe_after_another_leaves_no_trace_in_the_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("mine: 1\n")
    called("use", "scratch-cats-dogs", "--smoke")
    called("use", "mobilenetv2-flowers", "--smoke")
    params = load(tmp_path / "params.yaml")
    classes = {path.name for path in (tmp_path / params.download.path).iterdir()}
    assert classes == set(recipes.read("mobilenetv2-flowers").classes)
    (tmp_path / "params.yaml").write_text("mine: 2\n")
    called("use", "scratch-cats-dogs")
    called("use", "scratch-cats-dogs")
    kept = {path.name: path.read_text() for path in tmp_path.glob("params.yaml.old*")}
    assert kept == {"params.yaml.old": "mine: 1\n", "params.yaml.old-2": "mine: 2\n"}


def test_an_unknown_recipe_is_an_error_that_lists_the_others():
    with pytest.raises(ParamsError, match="vgg16-dogs-vs-cats"):
        recipes.read("vgg17")
