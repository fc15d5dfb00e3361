"""Ready params files for well-known experiments; the comment at the top of each is its header."""

import copy
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cryobase.pipeline.params import Params, ParamsError, load

SMOKE_IMAGES = "smoke-images"
SMOKE_EPOCHS = 2
SMOKE_COUNTS = {"train": 6, "validation": 3, "test": 3}  # images per class


@dataclass(frozen=True)
class Recipe:
    """A recipe as it lies in the package.

    Attributes:
        name: of its file.
        header: title, source, data, classes, published (figure by name) and what else it says.
        text: the whole file, a valid `params.yaml`.
    """

    name: str
    header: Mapping[str, Any]
    text: str

    @property
    def classes(self) -> list[str]:
        """Names of the classes, for which parameters are counted."""
        classes: list[str] = self.header["classes"]
        return classes

    def params(self) -> Params:
        """The checked params."""
        with resources.as_file(_directory() / f"{self.name}.yaml") as path:
            return load(path)

    def smoke(self, images: str, epochs: int = SMOKE_EPOCHS) -> str:
        """The same params for a trial: few images in a folder, seeded weights, few epochs.

        Architecture, image size, batch size and rates stay as they are.
        """
        yaml = YAML()
        document = yaml.load(self.text)
        document["download"] = {"source": "folder", "path": images}
        document["split"] = {"by": "counts", **SMOKE_COUNTS}
        for chosen in document["extract"]["sets"].values():
            chosen["weights"] = "none"
        for head in document["train"]["heads"].values():
            head["epochs"] = epochs
        for run in document["finetune"]["runs"].values():
            if "base" in run:
                run["base"]["weights"] = "none"
            for phase in (run, *run.get("then", ())):
                phase["epochs"] = epochs
        text = io.StringIO()
        yaml.dump(copy.deepcopy(document), text)
        return text.getvalue()


def names() -> list[str]:
    """All recipes."""
    files = (entry.name for entry in _directory().iterdir())
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def read(name: str) -> Recipe:
    """One recipe.

    Raises:
        ParamsError: there is none of that name.
    """
    if name not in names():
        raise ParamsError(f"recipe: no {name!r}; known: {', '.join(names())}")
    text = (_directory() / f"{name}.yaml").read_text(encoding="utf-8")
    return Recipe(name, _header(text), text)


def is_one(data: bytes) -> bool:
    """Whether a params file is what `recipe use` writes, with `--smoke` or without."""
    found = (read(name) for name in names())
    return any(
        data in (one.text.encode(), one.smoke(f"{SMOKE_IMAGES}/{one.name}").encode())
        for one in found
    )


def generate_images(directory: Path, classes: list[str]) -> None:
    """A few striped images per class, for `Recipe.smoke`."""
    from cryobase.stages.data.generated import write_folder

    write_folder(directory, classes, sum(SMOKE_COUNTS.values()))


def _header(text: str) -> dict[str, Any]:
    """The leading comment lines, which are YAML themselves."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# "))
    header: dict[str, Any] = YAML(typ="safe", pure=True).load("\n".join(lines))
    return header


def _directory() -> Any:
    return resources.files("cryobase.pipeline.recipes")
