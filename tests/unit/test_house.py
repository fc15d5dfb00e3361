"""The design's rules on who may import whom, and how long a module may be."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    path for name in ("store", "stages", "pipeline") for path in (ROOT / name).rglob("*.py")
)
NAMES = {  # of modules, as they are imported
    ".".join(("cryobase", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in MODULES
}
NEVER = {
    "store": {"cryobase.stages", "cryobase.pipeline", "tensorflow", "keras", "dvc", "PIL", "cv2"},
    "stages": {"cryobase.pipeline", "dvc"},
    "pipeline": {"tensorflow", "keras", "h5py"},
}
HOMES = {  # a library -> the only modules that import it
    "h5py": {
        "store/columns.py",
        "stages/backbones/h5reader.py",  # in a child alone
        "stages/backbones/foreign.py",
    },
    "dask": {"store/reader.py", "stages/extraction/cluster.py"},
    "distributed": {"stages/extraction/cluster.py"},
    "keras": {"stages/backbones/frameworks.py"},  # which pins all that changes values
    "tensorflow": {"stages/backbones/frameworks.py"},
    "keras_hub": {"stages/backbones/hub.py"},
    "pillow_heif": {"stages/data/decoding.py"},
    "openvino": {"stages/extraction/openvino_engine.py", "stages/heads/export.py"},
    "tensorflow_datasets": {"stages/sources/tfds.py"},
    "tqdm": {"stages/progress.py"},
    "pyarrow": {"stages/exchange/parquet_reader.py"},  # in a child; for writing, by `load_arrow`
}


def imports(path: Path) -> Iterator[str]:
    """The full names of the modules that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            own = [name for name in members if name in NAMES]
            yield from own if len(own) == len(members) else [node.module, *own]


def top(name: str) -> str:
    """`stages` of `cryobase.stages.split`; else what a name begins with."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "cryobase" and parts[1:] else parts[0]


def test_the_package_is_imported_by_one_name():
    """`import store` would find it too in this directory, as a second copy."""
    for path in (*MODULES, *(ROOT / "tests").rglob("*.py")):
        assert not {"store", "stages", "pipeline"} & {top(name) for name in imports(path)}, path


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_from_pipeline_to_stages_to_store(path):
    place = path.relative_to(ROOT)
    names = {top(name) for name in imports(path)}
    assert not names & NEVER[place.parts[0]]
    for library, homes in HOMES.items():
        assert library not in names or str(place) in homes
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that all reach each other, or the one that reaches itself."""
    reached = {name: set(graph[name]) for name in graph}
    for middle in graph:
        for name in graph:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    groups = {
        tuple(sorted(other for other in graph if name in reached[other] and other in reached[name]))
        for name in graph
    }
    return [list(group) for group in sorted(groups) if group]


def test_no_module_imports_what_imports_it():
    """An import within a function, or for a type alone, counts: it is a knot all the same."""
    assert circles({name: NAMES.keys() & imports(path) for name, path in NAMES.items()}) == []


def folder(name: str) -> str:
    """`stages/data` of a module in it, or of that package; "" of what lies in no folder there."""
    parts = NAMES[name].relative_to(ROOT).parts
    return "/".join(parts[:2]) if parts[0] == "stages" and parts[2:] else ""


def test_no_folder_of_stages_imports_what_imports_it():
    graph: dict[str, set[str]] = {}
    for name, path in NAMES.items():
        others = {folder(other) for other in NAMES.keys() & imports(path)}
        graph.setdefault(folder(name), set()).update(others - {folder(name)})
    del graph[""]  # the stages, which import all of them, and what all of them import
    assert circles({name: others - {""} for name, others in graph.items()}) == []
    assert "stages/backbones" in graph["stages/extraction"]


def test_a_circle_is_seen():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e"}}
    assert circles(graph) == [["b", "c"], ["e"]]


def test_a_stage_takes_hostile_variables_away_before_any_library_reads_them():
    """Importing `stages` does it, so it holds for every module and for libraries yet to come."""
    code = (
        "import os, sys, cryobase.stages;"
        "assert not {'TF_ENABLE_ONEDNN_OPTS', 'OPENCV_IPP'} & set(os.environ);"
        "assert not {'numpy', 'cv2', 'tensorflow', 'openvino'} & set(sys.modules)"
    )
    hostile = {"TF_ENABLE_ONEDNN_OPTS": "0", "OPENCV_IPP": "disabled"}
    subprocess.run([sys.executable, "-c", code], env=os.environ | hostile, check=True)


SPEAKERS = {"pipeline/tables.py", "pipeline/logs.py"}
JSON_READERS = {
    "store/text.py",  # the one for what was received
    "stages/backbones/labels.py",  # a file of this package
    "stages/data/isolation.py",  # between a process and its child
    "stages/data/patterns.py",
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_one_place_speaks_to_the_terminal_one_reads_json_and_one_draws(path):
    place, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    if place.startswith("pipeline/") and place not in SPEAKERS:
        assert not re.search(r"typer\.echo|\bprint\(|sys\.(stdout|stderr)", text)
    if place not in JSON_READERS:
        assert not re.search(r"json\.loads?\(", text)
    if place != "stages/figure.py":
        assert not re.search(r"savefig|import matplotlib|from matplotlib", text)
    if place != "store/text.py":
        assert "csv.writer" not in text
