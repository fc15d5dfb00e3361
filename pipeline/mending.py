"""`cryobase store repair`: which damage it can repair, and the message for other damage."""

import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cryobase.pipeline import tables
from cryobase.pipeline.dvc_cache import last_version
from cryobase.pipeline.layout import Layout
from cryobase.pipeline.params import ParamsError, load
from cryobase.stages import extract
from cryobase.stages.errors import StageError
from cryobase.stages.extract import ExtractConfig, SetConfig
from cryobase.store import FeatureSpec, IntegrityError, Mended, find_pools, repair_set
from cryobase.store.repair import withdraw
from cryobase.store.text import counted

AGAIN = "get it from where it came again, or remove it"


def way(layout: Layout, directory: Path) -> str:
    """The remedy for a damaged feature set. Only sets of `params.yaml` can be computed again."""
    try:
        key = _key(layout, load(layout.params).extract.sets, directory)
    except ParamsError:
        key = None
    return f"run `cryobase store repair {shlex.quote(key)}`" if key else AGAIN


def repair(layout: Layout, asked: Path | None) -> None:
    """Repair all pools, and one feature set or all feature sets.

    Raises:
        IntegrityError: a set is still damaged, because `params.yaml` does not describe it.
    """
    config = load(layout.params).extract
    dropped = set[str]()
    for pool in find_pools(layout.pool, lambda: _specs(config.sets.values())):
        for damage in pool.repair():
            dropped.add(pool.spec.fingerprint)
            tables.line(f"dropped {counted(damage.shard.rows, 'row')}: {damage.reason}")
    damaged, left = 0, []
    for directory in [asked] if asked else _directories(layout, config.sets):
        key = _key(layout, config.sets, directory)
        found = _mended(layout, directory)
        for line in found.damage:
            tables.line(f"{directory.name}: {line}")
        damaged += bool(found.damage)
        lost = key is not None and _has_lost_rows(config.sets[key], dropped)
        if found.whole and not lost:
            continue
        if not (found.damage or asked or lost):  # it was never published
            continue
        if key:
            if found.damage:
                withdraw(directory)
            _extract(layout, config, key, adopt=not found.damage)
        else:
            left.append(str(directory))
    sets = counted(damaged, "feature set")
    tables.line(f"damaged: {counted(len(dropped), 'pool')} and {sets}")
    if left:
        raise IntegrityError(f"{', '.join(left)}: damaged, and no set of {layout.params}; {AGAIN}")


def _has_lost_rows(one: SetConfig, dropped: set[str]) -> bool:
    return bool(dropped) and extract.spec_of(one).fingerprint in dropped


def _mended(layout: Layout, directory: Path) -> Mended:
    """Repair a set, or the last version of it in DVC's cache; returns the result."""
    if directory.exists() or not (layout.root / "dvc.lock").exists():
        return repair_set(layout.pool, directory)
    with last_version(layout.root, directory) as before:
        found = repair_set(layout.pool, before, output=directory)
    return found if directory.exists() else replace(found, whole=False)


def _extract(layout: Layout, config: ExtractConfig, key: str, *, adopt: bool) -> None:
    """Compute the rows that the pool lacks, and publish a set. Its sound rows are in the pool."""
    extract.run(
        config,
        key,
        raw=layout.raw,
        pool=layout.pool,
        output=layout.features(key),
        before=None if adopt else Path(os.devnull),
        lender=layout.lender,
    )


def _directories(layout: Layout, sets: Iterable[str]) -> list[Path]:
    """The feature sets of a checkout, including sets of `params.yaml` that have only a pool."""
    there = {path.parent for path in layout.root.glob("features/*/manifest-*.json")}
    return sorted(there | {layout.features(key) for key in sets})


def _key(layout: Layout, sets: Iterable[str], directory: Path) -> str | None:
    """The name under which `params.yaml` describes a feature set."""
    wanted = directory.resolve()
    return next((key for key in sets if layout.features(key).resolve() == wanted), None)


def _specs(sets: Iterable[SetConfig]) -> Iterator[FeatureSpec]:
    for one in sets:
        with suppress(StageError):  # without weights on this machine, the set has no pool either
            yield extract.spec_of(one)
