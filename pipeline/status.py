"""`cryobase status`: what is stale and why, and what `dvc repro` would compute.

Only looks: nothing is computed, downloaded, made or removed, and neither Keras nor TensorFlow is
loaded. What DVC says comes from `dvc_status`.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cryobase.pipeline import dvc_stage, dvc_status, tables
from cryobase.pipeline.dvc_status import StageStatus
from cryobase.pipeline.layout import Layout
from cryobase.pipeline.params import Params
from cryobase.stages import watch
from cryobase.stages.backbones.table import EXTRACTOR_VERSION
from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import Splits
from cryobase.stages.errors import DataError, StageError
from cryobase.stages.extract import UNKNOWN, SetConfig, spec_at_hand
from cryobase.stages.extraction.plan import Estimate, estimate
from cryobase.stages.heads import finished
from cryobase.stages.heads.config import HeadParams, expand
from cryobase.stages.heads.side_by_side import SideBySide
from cryobase.store import Examples, FeatureSet
from cryobase.store.errors import StoreError
from cryobase.store.manifest import versions
from cryobase.store.text import counted, read_json

NOTHING_YET = "nothing is published"
NOT_LOOKED_AT = "it was not looked at yet"
MAX_BYTES = 1 << 16
WITHOUT_IMAGES = (
    "images: data/raw is not here; `dvc repro --allow-missing` or"
    " `dvc exp run --pull --allow-missing` goes on without it"
)
SHOWN = 40  # lines of a table; JSON has all


@dataclass(frozen=True)
class SourceStatus:
    """The source against what `watch` saw when it last ran.

    Attributes:
        state: `done`, `stale` or `missing`.
        why: in what it differs, or why it cannot be seen.
        files: that are there now; None where that is not known.
        more: files that are there now, less those that were.
    """

    state: str
    why: str
    files: int | None = None
    more: int | None = None


@dataclass(frozen=True, kw_only=True)
class SetStatus:
    """One feature set of params.

    Attributes:
        set: its name.
        state: `done`, `stale` or `missing`.
        why: what makes it so.
        existing: rows that the pool has, or that are taken over; None without data/raw.
        missing: rows to compute.
        bytes: that they take, None where nothing tells how wide a row is.
        seconds: that they take, None where no row of the spec was ever computed here.
        weights: `here`, `to fetch` (or to make) or `missing`.
    """

    set: str
    state: str
    why: str
    existing: int | None = None
    missing: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    weights: str = "here"


@dataclass(frozen=True)
class HeadStatus:
    """One head of params on one set or pair.

    Attributes:
        set: the set or pair.
        head: its name.
        state: `done`, `stale` or `missing`.
        why: what makes it so.
        to_train: whether it has to be trained; else a finished one is linked.
    """

    set: str
    head: str
    state: str
    why: str
    to_train: bool


@dataclass(frozen=True)
class Status:
    """All that is known.

    Attributes:
        dvc: why there are no stages, or empty.
        images_away: whether `data/raw` is not here, though DVC has it and a set needs it no more;
            so it is with a colleague who pulled features and splits.
    """

    source: SourceStatus
    sets: list[SetStatus]
    heads: list[HeadStatus]
    stages: list[StageStatus] = field(default_factory=list)
    dvc: str = ""
    images_away: bool = False

    def to_json(self) -> dict[str, Any]:
        """The document of `status --json`."""
        return {**asdict(self), "total": self.total()}

    def total(self) -> dict[str, Any]:
        """Rows, bytes and seconds of all sets, None where one of them is not known; heads."""
        due = [one for one in self.sets if one.state != "done" and one.missing != 0]
        return {
            "rows": _sum([one.missing for one in due]),
            "bytes": _sum([one.bytes for one in due]),
            "seconds": _sum([one.seconds for one in due]),
            "heads": sum(one.to_train for one in self.heads),
        }


def look(layout: Layout, params: Params) -> Status:
    """What is stale, and why."""
    source = _source(layout, params)
    there = sets(layout, params)
    heads = list(_heads(layout, params, {one.set: one for one in there}))
    away = (
        any(one.state == "done" for one in there)
        and not layout.raw.exists()
        and dvc_stage.was_run(layout.root, "download")
    )
    found = Status(source, there, heads, images_away=away)
    if not dvc_status.in_repository(layout.root):
        return replace(found, dvc="no dvc.yaml of a DVC repository here")
    try:
        asked = dvc_status.ask(layout.root)
    except dvc_status.NoAnswerError as error:
        return replace(found, dvc=str(error))
    known = dict(_unseen(layout, params, source))
    return replace(found, stages=dvc_status.stages(params, asked, known))


def sets(layout: Layout, params: Params) -> list[SetStatus]:
    """The feature sets of params, each against what is published, pooled and downloaded."""
    raw, why = _raw(layout)
    return [_set(layout, name, one, raw, why) for name, one in params.extract.sets.items()]


def show(status: Status) -> None:
    """Print what is not done, and how much is."""
    source = status.source
    if source.state != "done":
        tables.line(f"source: {source.state}, {source.why}")
    tables.show([_set_line(one) for one in status.sets])
    for table in (status.heads, status.stages):
        due = [asdict(one) for one in table if one.state not in ("done", "always")]
        tables.show([_without_flag(one) for one in due[:SHOWN]])
        if len(due) > SHOWN:
            tables.line(f"… and {len(due) - SHOWN:,} more")
    if status.images_away:
        tables.line(WITHOUT_IMAGES)
    done = sum(one.state == "done" for one in status.heads)
    first = _comes_first(status) if done else ""
    extra = f"; labels or splits may change when `{first}` runs" if first else ""
    tables.line(f"heads: {done:,} of {len(status.heads):,} done{extra}")
    if status.dvc:
        tables.line(f"stages: not known ({status.dvc})")
    tables.line(_outlook(status))


def _outlook(status: Status) -> str:
    total, more, first = status.total(), status.source.more, _comes_first(status)
    if total["rows"] is None:
        until = f"until `{first}` has run" if first else "yet"
        return f"what would be computed is not known {until}"
    extra = f"; the rest is not known until `{first}` has run" if first else ""
    if more and more > 0:
        extra = f"; rows of {counted(more, 'new file')} come on top"
    parts = []
    if total["rows"]:
        seconds = total["seconds"]
        time = "time not known yet" if seconds is None else tables.duration(seconds)
        parts.append(f"{counted(total['rows'], 'row')}, {tables.size(total['bytes'])}, {time}")
    if total["heads"]:
        parts.append(counted(total["heads"], "head"))
    if not parts:
        return f"nothing would be computed{extra and ' for the images at hand'}{extra}"
    return f"would be computed: {' and '.join(parts)}{extra}"


def _comes_first(status: Status) -> str:
    """The stage that has to run before it is known what is due; empty if there is none.

    A new split computes no row, so it matters only where heads are done.
    """
    stale = {
        one.stage
        for one in status.stages
        if one.state == "stale" and not (status.images_away and _is_only_away(one))
    }
    if status.source.state == "stale" and not (status.images_away and status.source.more is None):
        stale.add("download")
    if "split" in stale and any(one.state == "done" for one in status.heads):
        return "split"
    return "download" if "download" in stale else ""


def _is_only_away(stage: StageStatus) -> bool:
    """Whether nothing of a stage changed but that files are not here, which DVC may be allowed."""
    reasons = [why for why in stage.why.split("; ") if why != f"source: {NOT_LOOKED_AT}"]
    return all(why.endswith((": deleted", ": not in cache")) for why in reasons)


def _set_line(one: SetStatus) -> dict[str, Any]:
    return {
        "set": one.set,
        "state": one.state,
        "rows": "?" if one.existing is None else one.existing,
        "to compute": "?" if one.missing is None else one.missing,
        "bytes": tables.size(one.bytes),
        "time": "?" if one.seconds is None else tables.duration(one.seconds),
        "weights": one.weights,
        "why": one.why,
    }


def _without_flag(one: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key != "to_train"}


def _sum(values: "list[Any]") -> Any:
    return None if None in values else sum(values)


def _source(layout: Layout, params: Params) -> SourceStatus:
    before = watch.last_look(layout.source)
    try:
        now = watch.look(params.download)
    except DataError as error:
        return SourceStatus("missing", str(error))
    if before is None:
        return SourceStatus("stale", NOT_LOOKED_AT, now.files)
    if before == now:
        return SourceStatus("done", "", now.files, 0)
    more = now.files - before.files
    why = (
        f"{counted(abs(more), 'file')} {'more' if more > 0 else 'less'}"
        if more
        else "files changed"
    )
    return SourceStatus("stale", why, now.files, more)


def _unseen(layout: Layout, params: Params, source: SourceStatus) -> Iterator[tuple[str, str]]:
    """What DVC learns once `watch` has run."""
    if source.state == "stale":
        yield "download", f"source: {source.why}"
    if _written(layout.extractor) not in (None, {"extractor_version": EXTRACTOR_VERSION}):
        for name in params.extract.sets:
            yield f"extract@{name}", "another Cryobase is installed"
    names = {"inputs": list(params.inputs), "runs": list(params.finetune.runs)}
    if _written(layout.names) not in (None, names):
        yield "report", "names of sets and runs changed"


def _written(path: Path) -> Any:
    try:
        return read_json(path, MAX_BYTES)
    except (StoreError, ValueError):
        return None


def _raw(layout: Layout) -> tuple[RawImages | None, str]:
    """The images, or why there are none; a colleague who pulled features alone needs none."""
    if not layout.raw.exists():
        return None, ""
    try:
        return RawImages.open(layout.raw), ""
    except StageError as error:
        return None, str(error)


def _set(layout: Layout, name: str, one: SetConfig, raw: RawImages | None, why: str) -> SetStatus:
    last, reasons = None, []
    try:
        last = published(layout.features(name))
        reasons += [] if last else [NOTHING_YET]
    except StoreError as error:
        reasons.append(str(error))
    state = "missing" if reasons == [NOTHING_YET] else "stale"
    try:
        spec, here = spec_at_hand(one, last.spec.weights_sha256 if last else UNKNOWN)
    except StageError as error:
        reasons.append(str(error))
        return SetStatus(set=name, state=state, why="; ".join(reasons), weights="missing")
    if last:
        differences = last.spec.differences(spec)
        reasons += [f"{part}: {was} → {now}" for part, (was, now) in differences.items()]
        if last.views != one.views:
            reasons.append(f"views: {last.views} → {one.views}")
        if raw is not None and not _same_images(last.examples, raw.examples):
            reasons.append("images or labels changed")
    due: dict[str, Any] = {}
    if raw is None:
        reasons += [why] if why else [] if last else ["no images yet"]
    else:
        try:
            found: Estimate = estimate(
                spec,
                one.views,
                raw=layout.raw,
                pool=layout.pool,
                lender=layout.lender,
                published=layout.features(name),
            )
            due = asdict(found)
        except StoreError as error:
            reasons.append(str(error))
    return SetStatus(
        set=name,
        state=state if reasons else "done",
        why="; ".join(reasons),
        weights="here" if here else "to fetch",
        **due,
    )


def published(directory: Path) -> FeatureSet | None:
    """A published set; None where nothing was published yet.

    Raises:
        StoreError: it is damaged.
    """
    return FeatureSet.open(directory) if versions(directory) else None


def _same_images(published: Examples, raw: Examples) -> bool:
    """Whether ids, images, labels and classes are equal; quarantine grows where rows failed."""
    first, second = (
        replace(one, quarantined=np.zeros(len(one), np.bool_)).digest for one in (published, raw)
    )
    return first == second


def _heads(layout: Layout, params: Params, sets: dict[str, SetStatus]) -> Iterator[HeadStatus]:
    wanted = expand(params.train.heads)
    for name, parts in params.inputs.items():
        changing = [part for part in parts if part in sets and sets[part].state != "done"]
        try:
            rows = SideBySide.open(layout.features_of(parts))
            data = (rows.digest, Splits.open(layout.splits).digest)
        except (StoreError, StageError) as error:
            why = f"after extract of {', '.join(changing)}" if changing else str(error)
            for head in wanted:
                yield HeadStatus(name, head, _is_there(layout.head(name, head)), why, to_train=True)
            continue
        for head, one in wanted.items():
            directory = layout.head(name, head)
            if changing:
                why = f"features of {', '.join(changing)} change"
                yield HeadStatus(name, head, _is_there(directory), why, to_train=True)
            else:
                yield _head(layout, (name, head), one, rows, data)
        for directory in finished.heads_in(layout.models(name)):
            if directory.name not in wanted:
                why = "params.yaml does not have it"
                yield HeadStatus(name, directory.name, "stale", why, to_train=False)


def _is_there(directory: Path) -> str:
    return "stale" if directory.is_dir() else "missing"


def _head(
    layout: Layout,
    names: tuple[str, str],
    params: HeadParams,
    rows: SideBySide,
    data: tuple[str, str],
) -> HeadStatus:
    directory = layout.head(*names)
    reasons = ["never trained"]
    if directory.is_dir():
        try:
            reasons = finished.differences(directory, params, data)
        except DataError as error:
            reasons = [str(error)]
    if not reasons:
        return HeadStatus(*names, "done", "", to_train=False)
    kept = finished.has(layout.head_cache, params.fingerprint(*data), rows)
    why = "; ".join([*reasons, *(["a finished one is kept"] if kept else [])])
    return HeadStatus(*names, _is_there(directory), why, to_train=not kept)
