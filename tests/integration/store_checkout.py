"""A small checkout whose features are a formula of the images' digests: no Keras is needed."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from cryobase.pipeline.cli import app
from cryobase.pipeline.exits import exit_code
from cryobase.stages import download, extract
from cryobase.stages.data.raw import RawImages
from cryobase.stages.extraction.passes import Computed
from cryobase.store import Pool
from tests.images import write_folder

WIDTH = 8
SET = {"backbone": "efficientnet_lite0", "weights": "own.weights.h5", "image_size": 32}


def features_of(digests: np.ndarray) -> np.ndarray:
    return digests[:, :WIDTH].astype("f4") / 256


def make(root: Path) -> Path:
    """30 images, params, a pool and a published set `small` in an empty directory."""
    (root / ".git").mkdir()
    write_folder(root / "images", 10)
    (root / "own.weights.h5").write_bytes(b"weights")
    source = {"source": "folder", "path": str(root / "images")}
    YAML().dump({"download": source, "extract": {"sets": {"small": SET}}}, root / "params.yaml")
    download.run(download.DownloadConfig(**source), output=root / "data/raw")
    images = RawImages.open(root / "data/raw").examples
    pool = pool_of(root)
    with pool.writer() as writer:
        writer.append(features_of(images.digests), images.digests, np.zeros(len(images), "u2"))
    pool.publish(root / "features/small", images)
    return root


def make_and_run(root: Path, params: dict[str, Any], *commands: str) -> Path:
    """A checkout with these params in which commands ran. Nothing loads TensorFlow for features."""
    make(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract, "_computed", compute)
        patch.chdir(root)
        YAML().dump(params, root / "params.yaml")
        for command in commands:
            code, said = cryobase(command)
            assert code == 0, said
    return root


def work_in_copy(made: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy a checkout to break it, and run commands there without the user's pool and cache."""
    shutil.copytree(made, root, dirs_exist_ok=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("CRYOBASE_CACHE", str(root / "cache"))
    for name in ("CRYOBASE_POOL", "DVC_ROOT", "DVC_STAGE"):
        monkeypatch.setenv(name, "")  # so that it is taken back, whatever a test does
        monkeypatch.delenv(name)


def pool_of(root: Path, where: str = ".cryobase/pool") -> Pool:
    one = extract.SetConfig(**SET | {"weights": str(root / "own.weights.h5")})
    return Pool(root / where, extract.spec_of(one))


def compute(config, targets, images, weights) -> Computed:
    """What `cryobase.stages.extract` has an engine for."""
    computed = Computed()
    for pool, views in targets:
        with pool.writer() as writer:
            digests, numbers = pool.missing(images.raw.digests(images.positions), views)
            writer.append(features_of(digests), digests, numbers)
        computed.rows[pool.spec.fingerprint] += len(digests)
    return computed


def cryobase(*arguments: str) -> tuple[int, str]:
    """Run a command here: its exit code, and what it says; of an error the one line."""
    result = CliRunner().invoke(app, list(arguments))
    error = result.exception
    if error is None or isinstance(error, SystemExit):
        return result.exit_code, result.stdout
    return exit_code(error), str(error)
