"""Damaged images, indices and splits, and splits that cannot be made."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import Splits
from cryobase.stages.heads.head import Head
from tests.integration.remedies.situations import (
    PARAMS,
    SITUATIONS,
    Build,
    Situation,
    alter,
    change,
    complaint,
    cut,
    directory,
    execute,
    link,
    lose,
    more_images,
    obey,
    set_param,
    set_split,
    situation,
    write_params,
    write_splits,
)

# Images -------------------------------------------------------------------------------------------

INDEX = "run `cryobase download`"
SPLITS = "run `cryobase split`"


def record(**changes: object) -> Callable[[Path], object]:
    def work(path: Path) -> None:
        document = json.loads(path.read_text()) | changes
        document.pop("record_sha256", None)
        path.write_text(json.dumps(document))

    return work


def forged(**columns: Callable[[np.ndarray], np.ndarray]) -> Build:
    """An index whose columns are others, with the checksums that belong to them."""

    def build() -> None:
        [path] = Path("data/raw").glob("index-*.npz")
        with np.load(path) as stored:
            found = {name: columns.get(name, np.copy)(stored[name]) for name in stored.files}
        buffer = io.BytesIO()
        np.savez(buffer, **found)
        path.unlink()
        path.write_bytes(buffer.getvalue())
        record(index_sha256=sha256(buffer.getvalue()).hexdigest())(Path("data/raw/dataset.json"))

    return build


def read_all() -> None:
    images = RawImages.open(Path("data/raw"))
    for position in np.flatnonzero(~images.examples.quarantined):
        images.read(int(position))


def add_situations_of_files() -> None:
    def add(text: str, mend: str, build: Build, probe: str | Build) -> None:
        SITUATIONS.append(Situation((text, mend), build, probe, obey))

    json_file, columns = "data/raw/dataset.json", "data/raw/index-*.npz"
    unusable = "{}: not an index of images ({}); {MEND}"
    for work in (alter, cut, directory):
        for probe in ("split", "extract"):
            add(unusable, INDEX, change(json_file, work), probe)
    add(unusable, INDEX, change(json_file, record(reasons=[])), "split")
    add(
        "{}: schema {}, this Cryobase reads {}; {MEND}",
        INDEX,
        change(json_file, record(schema=9)),
        "split",
    )
    add("{}: sha256 differs from {}; {MEND}", INDEX, change(columns, alter), "split")
    add("{}: {}; {mend}", INDEX, change(columns, cut), "split")
    add("{}: not a regular file; {mend}", INDEX, change(columns, directory), "split")
    add("{}: not a regular file; {mend}", INDEX, change(columns, link), "split")
    add("{}: cannot be read ({}); {mend}", INDEX, change(columns, lose), "extract")
    add(
        "{}: column {} points beyond its table of {}; {MEND}",
        INDEX,
        forged(images=lambda images: images + 999),
        "split",
    )
    add(
        "{}: column {} is {}{}; {MEND}",
        INDEX,
        forged(digest=lambda digests: digests[:, :7].copy()),
        "extract",
    )
    add(
        "{}: column {}: {}; {self._mend}",
        INDEX,
        forged(labels=lambda labels: labels.astype("f8")),
        "split",
    )
    pack, anew = "data/raw/pack-*.tar", "run `rm {} && cryobase download`"
    add("{}: {} has changed; {mend}", anew, change(pack, alter), read_all)
    add("{}: ends before byte {}; {mend}", anew, change(pack, cut), read_all)
    add("{}: not a regular file; {mend}", INDEX, change(pack, link), read_all)
    add("{}: not a regular file; {mend}", INDEX, change(pack, directory), read_all)
    add("{}: cannot be read ({}); {mend}", INDEX, change(pack, lose), read_all)
    stored = "data/splits/splits.npz"
    for text, work in (
        ("{}: {}; {mend}", cut),
        ("{}: column {}: {}; {self._mend}", alter),
        ("{}: not a regular file; {mend}", link),
        ("{}: not a regular file; {mend}", directory),
    ):
        for probe in ("train", "evaluate"):
            add(text, SPLITS, change(stored, work), probe)
    add("{}: no such file; run `cryobase split`", SPLITS, change(stored, lose), "train")
    head, mend = "{}: not a usable head ({}); {mend}", "run `cryobase train`"
    for name in ("head.json", "weights.npz", "history.csv"):
        for work in (alter, cut, lose, directory):
            if (name, work) != ("history.csv", alter):  # which a ridge head's two lines survive
                add(head, mend, change(f"models/small/weak/{name}", work), "evaluate")


add_situations_of_files()


@situation("{}: no {}; run `cryobase download`", probe="split")
def no_images():
    shutil.rmtree("data/raw")


@situation("{}: image {} has changed; {mend}", "run `rm {} && cryobase download`", probe="download")
def a_damaged_pack_of_which_little_is_needed():
    for path in sorted(Path("images").rglob("*.png"))[2:-2]:
        if int(path.stem) > 1:
            path.unlink()
    [pack] = Path("data/raw").glob("pack-*.tar")
    data = bytearray(pack.read_bytes())
    for place in range(512, len(data), 512):
        data[place + 100] ^= 1
    pack.unlink()
    pack.write_bytes(data)


def in_place() -> None:
    set_param("download.in_place", True)
    execute("cryobase download")


@situation("{}: {} has changed; {mend}", INDEX, probe=read_all)
def a_changed_image_in_place():
    in_place()
    alter(Path("images/red/0001.png"))


@situation("{}: cannot be read ({}); {mend}", INDEX, probe=read_all)
def a_lost_image_in_place():
    in_place()
    Path("images/red/0001.png").unlink()


@situation("{}: {} is no file's id; {indices.MEND}", INDEX, probe=read_all)
def an_id_that_leads_out():
    in_place()
    forged(ids=lambda ids: np.concatenate([[b"../images/" + ids[0]], ids[1:]]))()


@situation("{}: no image that can be decoded; run `cryobase download`", probe="extract")
def images_that_an_older_version_did_not_read():
    record(reasons=["", "TIFF is not read; convert to PNG"])(Path("data/raw/dataset.json"))
    forged(reason=np.ones_like)()


# Splits -------------------------------------------------------------------------------------------


@situation("{}: {} ids, parts of shape {}; {MEND}", SPLITS, probe="train")
def fewer_parts_than_ids():
    splits = Splits.open(Path("data/splits"))
    write_splits(splits.all_ids, splits.part[:0])


@situation("{}: parts beyond {}; {MEND}", SPLITS, probe="train")
def a_part_of_no_name():
    splits = Splits.open(Path("data/splits"))
    write_splits(splits.all_ids, splits.part + np.int8(7))


@situation("{}: neither validation nor training images; run `cryobase split`", probe="evaluate")
def a_split_of_other_images():
    splits = Splits.open(Path("data/splits"))
    write_splits(splits.all_ids, np.full_like(splits.part, 2))
    digest = Splits.open(Path("data/splits")).digest
    for path in Path("models/small").glob("*/head.json"):
        head = Head.load(path.parent)
        shutil.rmtree(path.parent)
        replace(head, data=(head.data[0], digest)).save(path.parent)


def one_red_image() -> None:
    for path in sorted(Path("images/red").iterdir())[1:]:
        path.unlink()
    execute("cryobase download")


ONE_IMAGE = (
    "class {} has one usable image, at least 2 are needed, one to train on and one to judge by; add"
    " images to it, remove its folder, or set {mend}, which trains on it alone"
)


@situation(ONE_IMAGE, probe="split")
def a_class_of_one_image():
    set_split(train=0.6, validation=0.2, test=0.2)()
    one_red_image()


@situation(ONE_IMAGE, probe="split")
def a_class_of_one_image_by_counts():
    set_split(by="counts", train=1, validation=1, test=1)()
    one_red_image()


@situation(ONE_IMAGE, probe="split", obey=lambda _: more_images())
def a_class_of_one_image_that_gets_more():
    set_split(train=0.6, validation=0.2, test=0.2)()
    one_red_image()


@situation(
    "class {} has no usable image; add images to it, or remove its folder",
    probe="split",
    obey=lambda _: more_images(),
)
def a_class_of_broken_images():
    for path in Path("images/red").iterdir():
        cut(path)
    execute("cryobase download")


TOO_FEW = (
    "class {} has {} usable images, split asks for {} ({}) and {} are missing; ask for fewer, add"
    " images, or set split: {by: fractions, stratify: true}"
)


@situation(TOO_FEW, probe="split")
def more_asked_for_than_there_is():
    set_split(by="counts", train=20, validation=1, test=1)()


@situation(TOO_FEW, probe="split", obey=lambda _: set_param("split.train", 8))
def more_asked_for_than_there_is_and_fewer_will_do():
    set_split(by="counts", train=20, validation=1, test=1)()


@situation("{}: no number in the file's name; set split.order: hash", probe="split")
def names_without_numbers():
    Path("images/red/0000.png").rename("images/red/rose.png")
    execute("cryobase download")
    set_split(by="counts", order="number", train=4, validation=1, test=1)()


@situation(
    "split.group_by: {} finds no group in {}; write one that finds a group in every id",
    probe="split",
    obey=lambda _: set_param("split.group_by", r"(\d+)\.png"),
)
def a_pattern_that_finds_no_group():
    set_split(train=0.6, validation=0.2, test=0.2, group_by="patient([0-9]+)")()


@situation("split.by: this source has no split of its own; set split.by: fractions", probe="split")
def no_split_of_its_own():
    set_split(by="source")()


@situation(
    "class {} is missing from train ({}); set {}, or add images of it to train", probe="split"
)
def a_class_that_no_image_trains():
    for seed in range(99):
        set_split(train=0.5, validation=0.25, test=0.25, seed=seed)()
        if seed == 0:
            for path in sorted(Path("images/red").iterdir())[2:]:
                path.unlink()
            execute("cryobase download")
        if "is missing from train" in complaint("split")[1]:
            return


@situation(
    "no validation examples; raise split.validation or add images",
    probe="split",
    obey=lambda _: write_params(PARAMS),
)
def a_share_that_reaches_no_image():
    set_split(train=0.998, validation=0.001, test=0.001)()


@situation(
    "stratify: by counts every class has its numbers; leave stratify out",
    probe="split",
    obey=lambda _: set_split(by="counts", train=4, validation=1, test=1)(),
)
def stratified_counts():
    set_split(by="counts", train=4, validation=1, test=1, stratify=True)()
