"""Feature sets, heads, results and weights."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryobase.pipeline.layout import Layout
from cryobase.pipeline.params import load
from cryobase.stages import extract as extract_stage
from cryobase.stages.backbones import kept
from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import Splits
from cryobase.stages.extraction.engines import check_features
from cryobase.stages.heads.graft import weights_of
from cryobase.stages.heads.head import Head
from cryobase.stages.tuning.starts import check_stored
from cryobase.store import FeatureSpec, Pool
from tests.images import write_folder
from tests.integration.remedies.situations import (
    PARAMS,
    SITUATIONS,
    Situation,
    alter,
    asked,
    change,
    cut,
    execute,
    more_images,
    obey,
    run,
    set_param,
    set_split,
    situation,
    write_params,
    write_splits,
)
from tests.integration.store_checkout import pool_of

# Features -----------------------------------------------------------------------------------------


@situation("{}: no manifest, so no pool or feature set; run `cryobase extract` or `dvc pull`",
           probe="train")  # fmt: skip
def no_feature_set():
    shutil.rmtree("features/small")


def publish() -> None:
    images = RawImages.open(Path("data/raw")).examples
    pool_of(Path(), "pool").publish(Path("published"), images)


@situation(
    "{} of {} rows are not in the pool, the first for digest {}, view {}; run `cryobase extract`",
    probe=publish,
)
def a_pool_that_lacks_rows():
    os.environ["CRYOBASE_POOL"] = "pool"  # which the fixture takes away again
    shutil.rmtree(".cryobase/pool")
    shutil.rmtree("features/small")


@situation("{}: other images or labels than {}; run `cryobase extract`", probe="train both")
def a_pair_of_which_one_is_older():
    sets = PARAMS["extract"]["sets"]
    other = {"extract": {"sets": {**sets, "second": {**sets["small"], "output": "max"}}}}
    pairs = {"train": PARAMS["train"] | {"pairs": {"both": ["small", "second"]}}}
    write_params(PARAMS | other | pairs)
    execute("cryobase extract second")
    more_images()
    execute("cryobase extract small && cryobase split")


def named_otherwise() -> None:
    name = "other" if "name" in asked else "small"
    asked.add("name")
    code, said = run(f"store import sent {name}")
    if code:
        raise ValueError(said)


@situation(
    "{}: has a manifest already; choose another name",
    probe=named_otherwise,
    obey=lambda _: None,
)
def a_set_of_the_same_name():
    shutil.copytree("features/small", "sent")


AGAIN = "get it from where it came again"
LEFT = "{}: damaged, and no set of {}; {AGAIN}"


def damaged_set_of_somebody() -> None:
    shutil.copytree("features/small", "sent")
    shutil.rmtree(".cryobase/pool")
    shutil.rmtree("features/small")
    [shard] = Path("sent").glob("shard-*")
    alter(shard)


def sent_again(_: str) -> None:
    execute("cryobase extract")
    shutil.rmtree("sent")
    shutil.copytree("features/small", "sent")


@situation("{}; {self.mend}", AGAIN, probe="store import sent here", obey=sent_again)
def a_damaged_set_that_was_sent():
    damaged_set_of_somebody()


@situation(LEFT, f"{AGAIN}, or remove it", probe="store repair ./sent", obey=sent_again)
def a_damaged_set_that_nobody_can_compute():
    damaged_set_of_somebody()


@situation("run `cryobase store repair {}`", "{}; {self.mend}", probe="store verify small --full")
def a_damaged_set():
    change("features/small/shard-*", alter)()


@situation("run `cryobase store repair`", "{}; {self.mend}", probe="store gc")
def a_damaged_pool():
    change(".cryobase/pool/*/manifest-*", cut)()


# Heads and results --------------------------------------------------------------------------------

TRAIN_SET, EVALUATE_SET = "run `cryobase train {}`", "run `cryobase evaluate {}`"


@situation("{}: no heads; {mend}", TRAIN_SET, probe="evaluate")
def no_heads():
    shutil.rmtree("models/small")


CHANGED = "{}: its features, splits or classes changed; {mend}"


@situation(CHANGED, TRAIN_SET, probe="evaluate")
def another_split():
    set_split(train=0.5, validation=0.25, test=0.25, seed=7)()
    execute("cryobase split")


@situation(CHANGED, TRAIN_SET, probe="evaluate")
def other_features():
    more_images()
    execute("cryobase extract")


@situation("train: no training image of {}; run `cryobase split`", probe="train")
def a_new_class():
    shutil.copytree("images/red", "images/rose")
    for path in Path("images/rose").iterdir():
        shutil.copy(path, path.with_name(f"new-{path.name}"))
        path.unlink()
    write_folder(Path("images"), 10, first=50, classes=("pink",))
    execute("cryobase download && cryobase extract")


def back_with_others(said: str) -> None:
    for name in ("blue", "green"):
        Path(f"away-{name}").rename(f"images/{name}")
    obey(said)


OF_DIFFERENT_IMAGES = (
    "{}: {}; features and splits are of different images: run `cryobase extract && cryobase split`"
)


@situation(OF_DIFFERENT_IMAGES, probe="train")
def features_of_fewer_images():
    more_images()
    execute("cryobase split")


@situation(OF_DIFFERENT_IMAGES, probe="train")
def a_split_of_images_that_are_gone():
    for path in sorted(Path("images").rglob("*.png"))[::2]:
        path.unlink()
    execute("cryobase download && cryobase extract")


@situation(
    "train: fewer than two classes; add images of another, then run `cryobase download && cryobase"
    " split && cryobase extract`",
    probe="train",
    obey=back_with_others,
)
def one_class_alone():
    for name in ("blue", "green"):
        Path(f"images/{name}").rename(f"away-{name}")
    execute("cryobase download && cryobase extract")
    ids = RawImages.open(Path("data/raw")).examples.ids
    write_splits(ids, np.arange(len(ids), dtype="i1") % 3)


@situation("{}: views: {}, but the set stores {}; raise extract.sets.NAME.views", probe="train",
           obey=lambda said: raise_views(), slow=True)  # fmt: skip
def more_views_than_stored():
    set_param("train.heads.weak", {"kind": "linear", "views": 2, "epochs": 1})


def raise_views() -> None:
    set_param("extract.sets.small.augmentation", {"horizontal_flip": True})
    set_param("extract.sets.small.views", 2)
    execute("cryobase extract")


def weights(change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = Path("models/small/weak")
    head = Head.load(path)
    shutil.rmtree(path)
    replace(head, layers=tuple((change(kernel), bias) for kernel, bias in head.layers)).save(path)


@situation("head: answers that are not finite; run `cryobase train`", probe="evaluate")
def weights_beyond_all_measure():
    weights(lambda kernel: np.full_like(kernel, 3e38))


@situation("{}: not what train writes ({}); run `cryobase train`", probe="evaluate")
def a_damaged_note_on_training():
    Path("models/small/training.json").write_text("{")


METRICS = Path("results/small/metrics.json")
for _probe in ("report", "heads ls", "heads best", "heads export small", "predict images"):
    for _text, _content in (
        ("{}: not what Cryobase writes ({}); {mend}", "{"),
        ("{}: not what Cryobase writes ({}); {mend}", '{"best": "weak", "heads": {"weak": 3}}'),
    ):
        SITUATIONS.append(
            Situation(
                (_text, EVALUATE_SET),
                lambda content=_content: METRICS.write_text(content),
                # what follows needs a backbone: that the file is read again is enough
                _probe if _probe in ("report", "heads ls", "heads best") else "heads ls",
                obey,
            )
        )


@situation("{}: no such file; {mend}", EVALUATE_SET, probe="heads ls")
def no_results_of_a_set():
    METRICS.unlink()


@situation("report: no results; run `cryobase evaluate`", probe="report")
def no_results():
    shutil.rmtree("results")


@situation(
    "%s: no test images, so no test scores; raise split.test for some",
    probe="evaluate",
    obey=lambda _: resplit(),
)
def no_test_images():
    set_split(train=0.8, validation=0.2, test=0, stratify=True)()
    execute("cryobase split && cryobase train")


def resplit() -> None:
    write_params(PARAMS)
    execute("cryobase split && cryobase train")


BY_TRAINING = (
    "%s: no validation images, so the best of %d heads is chosen by its answers on training images,"
    " which favours overfitting; raise split.validation, or compare by folds: run `cryobase heads"
    " evidence %s`"
)


def by_folds(said: str) -> None:
    obey(said)
    resplit()


@situation(BY_TRAINING, probe="evaluate", obey=by_folds)
def no_validation_images():
    set_split(train=0.8, validation=0, test=0.2, stratify=True)()
    execute("cryobase split && cryobase train && cryobase evaluate")


@situation(
    "%s: no validation images, so no head stops early, and each keeps its last epoch's weights;"
    " raise split.validation",
    probe="train",
    obey=lambda _: resplit(),
)
def no_head_stops_early():
    set_split(train=0.8, validation=0, test=0.2, stratify=True)()
    execute("cryobase split")


def best_head() -> None:
    """Says it, and once the command was tried nothing more."""
    if "heads" not in asked:
        asked.add("heads")
        raise ValueError(run("heads best")[1])


@situation("the best of {}; run `cryobase heads ls` to see all", probe=best_head)
def many_heads():
    pass


@situation(
    "{} --dvc: for the stages of dvc.yaml alone, and DVC_STAGE is {}; by hand run `cryobase {}`",
    probe=lambda: by_hand("extract"),
)
def not_under_dvc():
    pass


def by_hand(command: str) -> None:
    if command not in asked:
        asked.add(command)
        raise ValueError(run(f"{command} --dvc")[1])


# What fine-tuning and exporting refuse before they load a backbone --------------------------------


def needed_weights() -> None:
    head = Head.load(Path("models/small/weak"))
    weights_of(head.spec, ["own.weights.h5"])


@situation(
    "the weights of {} with SHA-256 {}… are needed; found: {}; bring them, or run `cryobase extract"
    " && cryobase train`",
    probe=needed_weights,
)
def other_weights():
    Path("own.weights.h5").write_bytes(b"others")


def classes_fit() -> None:
    images = RawImages.open(Path("data/raw"))
    head = Path("models/small/weak")
    if Head.load(head).classes != images.examples.classes:
        check_stored(head, "", Path("features/small"), images, images.examples.ids)


@situation(
    "the images have the classes {}, the head {} has {}; run `cryobase extract {} && cryobase split"
    " && cryobase train {}`",
    probe=classes_fit,
)
def a_class_that_the_head_does_not_know():
    write_folder(Path("images"), 10, first=50, classes=("pink",))
    execute("cryobase download")


def trains() -> None:
    from cryobase.stages import finetune

    place = Layout.here()
    if not len(Splits.open(place.splits).ids("train")):
        run_ = finetune.FinetuneRun(start="fresh") if False else None
        finetune.run(run_, raw=place.raw, splits=place.splits, output=Path("o"), results=Path("r"))  # type: ignore[arg-type]


@situation("{}: no train images; raise split.train, then run `cryobase split`", probe=trains)
def nothing_to_train_on():
    splits = Splits.open(Path("data/splits"))
    write_splits(splits.all_ids, np.ones_like(splits.part))


def climbs() -> None:
    from cryobase.stages import ladder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "load_keras", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        try:
            said = run("ladder small")[1]
        except KeyboardInterrupt:
            return
    if "validation" in said:
        raise ValueError(said)


@situation(
    "{}: no validation images; {mend}",
    "raise split.validation, then run `cryobase split`",
    probe=climbs,
    obey=lambda said: (write_params(PARAMS), obey(said)),
)
def a_ladder_without_a_judge():
    set_split(train=0.8, validation=0, test=0.2, stratify=True)()
    execute("cryobase split")


# Weights and engines ------------------------------------------------------------------------------

NO_WEIGHTS = "{}: no such weights file for {}; put one there, or set weights to imagenet or none"


def spec() -> None:
    spec_now()


def spec_now() -> FeatureSpec:
    return extract_stage.spec_of(load(Path("params.yaml")).extract.sets["small"])


@situation(NO_WEIGHTS, probe=spec, obey=lambda _: Path("away").rename("own.weights.h5"))
def no_weights():
    Path("own.weights.h5").rename("away")


@situation(
    "{}: {} bytes, no base has over {}; give the base's weights alone",
    probe=spec,
    obey=lambda _: os.truncate("own.weights.h5", 7),
)
def weights_of_terabytes():
    os.truncate("own.weights.h5", 1 << 42)


DRIFTED = (
    "run with the libraries and the engine that computed those, or, if the new features are right,"
    " raise EXTRACTOR_VERSION in stages/backbones/table.py and run `cryobase extract`"
)


def drift() -> None:
    pool = Pool(Path(".cryobase/pool"), spec_now())
    found = pool.canary()
    if found is not None:
        check_features(found + 1, found, "features")


def raise_version(said: str) -> None:
    extract_stage.EXTRACTOR_VERSION += 1  # which the fixture takes back
    obey(said)
    assert len({path.name for path in Path(".cryobase/pool").iterdir() if path.is_dir()}) == 2


@situation(
    DRIFTED,
    "{}: the canary images' features differ by {} standard deviations from those {}, at most {} is"
    " allowed; {mend}",
    probe=drift,
    obey=raise_version,
)
def libraries_that_compute_otherwise():
    pool_of(Path()).record_canary(np.arange(32, dtype="f4").reshape(4, 8))


ROOM = (
    "{}: the missing rows need {} bytes, {} {}; take fewer views, a pooled output or float16, or"
    " {MEND}"
)


def scheduler() -> None:
    from cryobase.stages.extraction.cluster import check_address

    one = load(Path("params.yaml")).extract
    check_address(one.scheduler_address, insecure=one.insecure)


# This machine -------------------------------------------------------------------------------------

ANYBODY = (
    "{}: anybody may write there, what is kept there is not to be trusted; run `chmod o-w {}`, or"
    " {MEND}"
)
OF_ONE_S_OWN = "set CRYOBASE_CACHE to a directory of your own"


@situation(
    "{}: a scheduler on another machine without TLS; start it with TLS (tls://…), or allow it with"
    " extract.insecure: true",
    probe=scheduler,
    obey=lambda _: set_param("extract.insecure", True),
)
def a_scheduler_elsewhere():
    set_param("extract.scheduler_address", "tcp://10.0.0.1:8786")


def own_cache(_: str) -> None:
    os.environ["CRYOBASE_CACHE"] = "my own"


@situation(
    "{}: no place for the cache ({}); {MEND}",
    OF_ONE_S_OWN,
    probe=lambda: kept.kept("weights"),
    obey=own_cache,
)
def a_home_that_is_no_directory():
    os.environ["CRYOBASE_CACHE"] = "/dev/null/cache"


@situation(
    "no home directory is known for the cache; {MEND}",
    OF_ONE_S_OWN,
    probe=lambda: kept.kept("weights"),
    obey=own_cache,
)
def a_user_without_a_home():
    os.environ["CRYOBASE_CACHE"] = "~nobody-of-this-name"


@situation(
    "CRYOBASE_POOL: {}: no home directory is known; write the path out",
    probe="store ls",
    obey=lambda _: os.environ.update(CRYOBASE_POOL="pool"),
)
def a_pool_in_the_home_of_nobody():
    os.environ["CRYOBASE_POOL"] = "~nobody-of-this-name/pool"


@situation(
    "CRYOBASE_POOL: {}: no directory; name one, or unset the variable",
    probe="store ls",
    obey=lambda _: os.environ.pop("CRYOBASE_POOL"),
)
def a_pool_that_is_a_file():
    os.environ["CRYOBASE_POOL"] = "params.yaml"


@situation(
    "set CRYOBASE_POOL to a directory that you may write to",
    probe="extract",
    obey=lambda _: os.environ.update(CRYOBASE_POOL="pool"),
)
def a_file_where_the_pool_of_the_checkout_is_to_be():
    shutil.rmtree(".cryobase/pool")
    Path(".cryobase/pool").touch()


@situation(ANYBODY, OF_ONE_S_OWN, probe=lambda: kept.kept("weights"))
def a_cache_that_anybody_may_fill():
    os.environ["CRYOBASE_CACHE"] = "a cache"
    Path("a cache").mkdir()
    Path("a cache").chmod(0o777)


@situation(
    ANYBODY,
    OF_ONE_S_OWN,
    probe=lambda: kept.kept("weights"),
    obey=own_cache,
)
def a_cache_that_is_left_for_another():
    a_cache_that_anybody_may_fill()
