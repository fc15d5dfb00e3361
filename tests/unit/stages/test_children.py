"""Children start from wherever a user runs a command, whatever lies there."""

import os
import subprocess
import sys

import pytest

FOUND = {
    "pattern": (
        "from cryobase.stages.data.patterns import PatternReader\n"
        "with PatternReader('key', '(cat|dog)') as reader:\n"
        "    assert reader.read(['a dog']) == ['dog']\n"
    ),
    "decoder": (
        "from cryobase.stages.data.decoding import examine\n"
        "from cryobase.stages.data.isolation import IsolatedDecoder\n"
        "decoder = IsolatedDecoder(examine)\n"
        "assert 'empty' in decoder.examine([b''])[0][0]\n"
        "decoder.close()\n"
    ),
    "reader of HDF5": (
        "import subprocess\n"
        "from cryobase.stages.children import run_module\n"
        "child = run_module('cryobase.stages.backbones.h5reader', '1', '1',"
        " stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)\n"
        "assert b'No module' not in child.communicate()[1]\n"
    ),
}


@pytest.mark.parametrize("code", FOUND.values(), ids=FOUND)
def test_a_child_starts_in_a_directory_that_has_modules_of_the_same_names(tmp_path, code):
    """`-P` and no `PYTHONPATH`, as the command `cryobase` of an editable installation has it."""
    for name in ("stages", "store", "cryobase", "json", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')\n")
    result = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={name: text for name, text in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
