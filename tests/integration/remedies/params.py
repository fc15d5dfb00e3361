"""Params and arguments."""

import os
import re
import shutil
from pathlib import Path

from cryobase.pipeline.params import load
from cryobase.stages.heads.config import expand
from tests.integration.remedies.situations import (
    PARAMS,
    asked,
    mended_params,
    run,
    set_param,
    situation,
)


def text_of_params(text: str) -> None:
    Path("params.yaml").write_text(text)


@situation("YAML aliases (*name) are refused; write the value out", probe="split",
           obey=mended_params)  # fmt: skip
def an_alias():
    text_of_params("download: &x {source: folder, path: images}\nsplit: *x\n")


@situation("YAML tags ({}) are refused; write the value", probe="split", obey=mended_params)
def a_tag():
    text_of_params("download: {source: folder, path: !!binary images}\n")


@situation("{}; use finite numbers, strings, lists and maps", probe="split", obey=mended_params)
def a_date():
    text_of_params("split: {seed: .nan}\n")


NEW = "run in the directory of params.yaml, or make one here with `cryobase init`"


@situation(NEW, probe="split", obey=lambda _: os.chdir(os.pardir))
def another_directory():
    os.chdir("images")


@situation(NEW, probe=lambda: load(Path.cwd() / "params.yaml"))
def a_directory_without_a_pipeline():
    shutil.rmtree(".git")
    Path("new/inner").mkdir(parents=True)
    os.chdir("new/inner")


@situation("run in {}, which has one", probe="split",
           obey=lambda said: os.chdir(re.findall("run in (.*), which", said)[0]))  # fmt: skip
def a_directory_inside_of_a_pipeline():
    Path("dvc.yaml").write_text("stages: {}\n")
    Path("photos, all/red").mkdir(parents=True)
    os.chdir("photos, all/red")


@situation("{}: {}: empty; write its keys, or leave it out", probe="split", obey=mended_params)
def an_empty_section():
    text_of_params("split:\n")


@situation(
    "{}: {}.{}: no home directory is known for {}; write the path out",
    probe="watch",
    obey=mended_params,
)
def the_home_of_nobody():
    set_param("download.path", "~nobody-of-this-name/images")


SETS = PARAMS["extract"]["sets"]


@situation(
    "{}: extract.sets has this name too; rename one of them",
    probe="split",
    obey=lambda _: set_param("train.foreign", {"dino": "dinov2@3f2a91c"}),
)
def a_foreign_set_with_the_name_of_a_set():
    set_param("train.foreign", {"small": "dinov2@3f2a91c"})


@situation(
    "{}: {} has this name too; rename one of them",
    probe="split",
    obey=lambda _: set_param("train.pairs", {"two": ["small", "other"]}),
)
def a_pair_with_the_name_of_a_foreign_set():
    set_param("extract.sets", {**SETS, "other": {**SETS["small"], "output": "max"}})
    set_param(
        "train", {"foreign": {"dino": "dinov2@3f2a91c"}, "pairs": {"dino": ["small", "other"]}}
    )


@situation(
    "{}: {}.{}: {} is there too, and one directory for both where case does not count; rename one"
    " of them",
    probe="split",
    obey=mended_params,
)
def names_that_differ_in_case():
    set_param("extract.sets", {**SETS, "Small": {**SETS["small"]}})


@situation("{}: two heads have this name; rename an entry of train.heads", probe="train",
           obey=lambda _: rename_head())  # fmt: skip
def a_grid_with_the_name_of_another_head():
    grid = {"kind": "ridge", "penalty": [1.0, 2.0]}
    set_param("train.heads", {"a": grid})
    names = sorted(heads_of_params())
    set_param("train.heads", {"a": grid, names[0]: {"kind": "ridge"}})


def heads_of_params() -> list[str]:

    return list(expand(load(Path("params.yaml")).train.heads))


def rename_head() -> None:
    set_param(
        "train.heads", {"a": {"kind": "ridge", "penalty": [1.0, 2.0]}, "b": {"kind": "ridge"}}
    )


def exported() -> None:
    code, said = run("store export small" + " --npz small.npz" * ("export" in asked))
    asked.add("export")
    if code:
        raise ValueError(said)


@situation("export: say where to, with at least one of {}",
           probe=exported, obey=lambda _: None)  # fmt: skip
def nowhere_to_export_to():
    pass


def predicted() -> None:
    Path("empty").mkdir(exist_ok=True)
    if "predict" not in asked:
        asked.add("predict")
        raise ValueError(run("predict empty")[1])
    assert "no image; name" not in run("predict images/red/0001.png --model nowhere")[1]


@situation("predict: no image; name files or directories that hold some",
           probe=predicted, obey=lambda _: None)  # fmt: skip
def nothing_to_predict():
    pass
