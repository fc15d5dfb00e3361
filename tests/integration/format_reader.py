"""Read a Cryobase feature set with numpy and h5py alone (docs/format.md)."""

import json
from pathlib import Path

import h5py
import numpy as np


def read_feature_set(directory, view=0):
    """Return ids, (n, ...) features, labels and class names of the examples that have features."""
    directory = Path(directory)
    newest = max(directory.glob("manifest-*.json"), key=lambda path: int(path.stem[9:]))
    manifest = json.loads(newest.read_text())
    if manifest["format"] != "cryobase-features" or manifest["schema"] != 1:
        raise ValueError(f"{newest}: not a feature set of schema 1")

    rows = {}
    features = []
    for shard in manifest["shards"]:
        with h5py.File(directory / shard["name"], "r") as file:
            digests, views = file["digest"][:], file["view"][:]
            for digest, its_view in zip(digests, views, strict=True):
                rows[digest.tobytes(), int(its_view)] = len(rows)
            features.append(file["features"][:])
    features = np.concatenate(features)

    published = manifest["published"]
    with h5py.File(directory / published["examples"]["name"], "r") as file:
        usable = file["quarantined"][:] == 0
        ids, labels = file["id"][:][usable], file["label"][:][usable]
        digests = file["digest"][:][usable]
    positions = [rows[digest.tobytes(), view] for digest in digests]
    return ids, features[positions], labels, published["classes"]
