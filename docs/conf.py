"""How Sphinx builds the pages; `make docs` runs it with warnings as errors."""

import shutil
import sys
import tempfile
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import reference  # noqa: E402 (they lie here)
import walk  # noqa: E402

project = "Cryobase"
copyright = "The Cryobase authors"
version = release = installed("cryobase")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "Cryobase"

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 600

autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

linkcheck_anchors = False


def setup(app: Any) -> None:
    """Write the pages that the code itself tells, before Sphinx lists the pages."""
    reference.write(HERE / "reference")
    app.connect("source-read", _list_decisions)
    app.connect("source-read", _run_tutorial)


def _list_decisions(_app: Any, name: str, text: list[str]) -> None:
    """Below its table, which people read in the repository, the index of decisions names them."""
    if name == "adr/README":
        text[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"


def _run_tutorial(_app: Any, name: str, text: list[str]) -> None:
    """Have the tutorial show what its commands print, and the pictures that they draw."""
    if name != "tutorial":
        return
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "flowers"
        directory.mkdir()
        text[0] = walk.told(text[0], directory)
        pictures = HERE / "reference" / "tutorial"
        pictures.mkdir()
        for picture in (directory / "results").glob("*/*.svg"):
            shutil.copy(picture, pictures)
