"""What a change costs: new images their own rows, anything else nothing, not even TensorFlow."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from cryobase.stages.data.splits import Splits
from cryobase.store import FeatureSet
from tests.images import write_folder
from tests.scale import rounds

pytestmark = pytest.mark.e2e

CLASSES = ("blue", "green")
IMAGES = rounds(20_000)
SCRIPT = """
import contextlib, sys
from cryobase.pipeline.cli import main
for command in ("download", "split", "extract"):
    sys.argv = ["cryobase", command]
    with contextlib.suppress(SystemExit):
        main()
print("loaded", *sys.modules)
"""


@dataclass
class Checkout:
    """A directory with images and params, in which the commands run."""

    root: Path

    def run(self) -> tuple[int, int, set[str]]:
        """Download, split, extract; rows computed and reused, and which modules were loaded."""
        environment = {key: value for key, value in os.environ.items() if key != "CRYOBASE_POOL"}
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=self.root,
            env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        )
        found = re.search(r"([\d,]+) rows? computed, ([\d,]+) reused", result.stderr)
        assert found, result.stderr
        computed, reused = (int(count.replace(",", "")) for count in found.groups())
        return computed, reused, set(result.stdout.split("loaded")[1].split())

    def params(self, seed: int) -> None:
        one = {"backbone": "efficientnet_lite0", "weights": "none", "image_size": 32}
        params = {
            "download": {"source": "folder", "path": "images"},
            "split": {"train": 0.6, "validation": 0.2, "test": 0.2, "seed": seed},
            "extract": {"sets": {"small": one}},
        }
        YAML().dump(params, self.root / "params.yaml")

    def features(self) -> FeatureSet:
        return FeatureSet.open(self.root / "features/small")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Checkout:
    """All rows of `IMAGES` images are computed."""
    made = Checkout(tmp_path_factory.mktemp("checkout"))
    (made.root / ".git").mkdir()
    made.params(seed=0)
    write_folder(made.root / "images", IMAGES // 2, classes=CLASSES)
    assert made.run()[:2] == (IMAGES, 0)
    return made


def assert_nothing_computed(checkout: Checkout) -> None:
    images = len(checkout.features())
    computed, reused, modules = checkout.run()
    assert (computed, reused) == (0, images)
    assert not {name.split(".")[0] for name in modules} & {"tensorflow", "keras", "openvino"}


def test_nothing_new_loads_no_tensorflow(checkout):
    before = checkout.features().digest
    assert_nothing_computed(checkout)
    assert checkout.features().digest == before


def test_relabelling_everything_computes_nothing(checkout):
    images = checkout.root / "images"
    before = checkout.features()
    (images / "blue").rename(images / "other")
    (images / "green").rename(images / "blue")
    (images / "other").rename(images / "green")
    assert_nothing_computed(checkout)
    labels = [
        dict(zip(found.examples.digests.view("S32").ravel(), found.examples.labels, strict=True))
        for found in (before, checkout.features())
    ]
    assert all(labels[0][digest] != label for digest, label in labels[1].items())


def test_renaming_everything_computes_nothing(checkout):
    before = checkout.features().ids
    for path in sorted((checkout.root / "images").glob("*/*")):
        path.rename(path.with_name(f"renamed-{path.name}"))
    assert_nothing_computed(checkout)
    assert not set(before) & set(checkout.features().ids)


def test_splitting_anew_computes_nothing(checkout):
    before = Splits.open(checkout.root / "data/splits").digest
    checkout.params(seed=1)
    (checkout.root / "data/splits/splits.npz").unlink()  # else a published split is kept
    assert_nothing_computed(checkout)
    assert Splits.open(checkout.root / "data/splits").digest != before


def test_one_percent_of_new_images_is_one_percent_of_the_rows(checkout):
    old = checkout.features()
    write_folder(checkout.root / "images", IMAGES // 200, first=IMAGES, classes=CLASSES)
    computed, reused, _ = checkout.run()
    assert (computed, reused) == (IMAGES // 100, IMAGES)
    new = checkout.features()
    assert np.array_equal(new.rows(old.ids), old.rows())  # none of the old ones was touched
