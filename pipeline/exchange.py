"""`cryobase store export` and `import`: choose the file, the format, and the splits that go along.

The formats themselves are in `stages/exchange` and the store.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.pipeline.layout import Layout
from cryobase.pipeline.params import NAME, NAMES_ARE, TAKEN, ParamsError, load
from cryobase.stages import split
from cryobase.stages.data.splits import FILE, PARTS, UNUSED, Splits
from cryobase.stages.exchange.croissant import export_croissant
from cryobase.stages.exchange.parquet import export_parquet
from cryobase.stages.exchange.taken import Taken, take_in
from cryobase.store import (
    FeatureSet,
    export_csv,
    export_npz,
    export_projector,
    export_safetensors,
    import_set,
)
from cryobase.store.errors import ConflictError
from cryobase.store.text import visible


def write(layout: Layout, features: FeatureSet, asked: Mapping[str, Path | None]) -> list[Path]:
    """Write a set in every format that has a path; returns the paths that were written.

    Raises:
        ParamsError: no format has a path.
    """
    paths = {kind: path for kind, path in asked.items() if path is not None}
    if not paths:
        options = ", ".join(f"--{kind}" for kind in asked)
        raise ParamsError(f"export: say where to, with at least one of {options}")
    parts = parts_of(layout, features) if paths.keys() - {"csv", "projector"} else None
    more: dict[str, NDArray[Any]] = {}
    if parts is not None:
        texts = np.array([*(part.encode() for part in PARTS), b"-"])
        more["split"] = texts[parts[~features.examples.quarantined]]
    for kind, path in paths.items():
        if kind == "npz":
            export_npz(features, path, more)
        elif kind == "safetensors":
            export_safetensors(features, path, more)
        elif kind == "parquet":
            export_parquet(features, path, parts)
        elif kind == "croissant":
            export_croissant(features, path, features.directory.absolute().name, parts)
        elif kind == "csv":
            export_csv(features, path)
        else:
            export_projector(features, path)
    return list(paths.values())


def parts_of(layout: Layout, features: FeatureSet) -> NDArray[np.int8] | None:
    """The part of every example in this checkout's splits; None if these have other images."""
    if not (layout.splits / FILE).exists():
        return None
    parts = Splits.open(layout.splits).along(features.examples)
    return parts if np.any(parts != UNUSED) else None


def take_directory(
    layout: Layout, source: Path, name: str | None, *, foreign: str | None
) -> FeatureSet:
    """Import the directory of a set that somebody sent.

    Raises:
        ParamsError: `foreign` is given, which is only for files.
    """
    if foreign:
        raise ParamsError("import: --foreign is for files; a set says itself what computed it")
    return import_set(source, layout.features(name or source.resolve().name))


def take_file(
    layout: Layout,
    source: Path,
    name: str | None,
    *,
    foreign: str | None,
    images: bool,
    column: str,
    splits: bool,
) -> FeatureSet:
    """Make a set from a file that somebody sent; with `splits`, also write `data/splits`.

    Raises:
        ParamsError: a name or option does not fit.
        ConflictError: there are splits already.
    """
    key = name or source.stem
    if not NAME.fullmatch(key) or key in TAKEN:
        raise ParamsError(f"import: {visible(key)[:80]}: not a usable name; {NAMES_ARE}")
    if images and not foreign:
        raise ParamsError("import: --images goes with --foreign")
    if splits and (layout.splits / FILE).exists():
        raise ConflictError(f"{layout.splits}: there are splits already; leave --splits out")
    raw = layout.raw if images else None
    taken = take_in(source, layout.features(key), origin=foreign, column=column, raw=raw)
    if splits:
        _write_splits(layout, taken)
    return taken.features


def _write_splits(layout: Layout, taken: Taken) -> None:
    """Write the split of the file, completed and checked by the section `split` of params."""
    examples = taken.features.examples
    own = taken.parts if taken.parts is not None else np.full(len(examples), UNUSED, np.int8)
    config = load(layout.params).split if layout.params.exists() else split.SplitConfig()
    split.divide(config, split.Divided(examples, own), layout.splits)
