"""Where the images of a new pipeline come from, and the params that follow.

Owns the way from the options of `init` to the text of a `params.yaml`. Must not write it.
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from cryobase.pipeline import recipes
from cryobase.pipeline.init import images, place, settings
from cryobase.pipeline.init.place import Place
from cryobase.pipeline.params import ParamsError
from cryobase.stages.errors import DataError
from cryobase.stages.sources import formats
from cryobase.stages.sources.folder import beginning
from cryobase.stages.sources.formats import UnsupportedArchiveError
from cryobase.stages.sources.unpack import check_kind
from cryobase.store.files import digest_of, open_regular
from cryobase.store.text import visible

TRIAL = (
    "no folder of images here, so this is a trial on handwritten digits, which `pip install"
    " 'cryobase[sample]'` brings; for your own give --images"
)
TAKEN = (
    "--images takes a folder with one sub-folder per class, or a .tar, .tar.gz or .zip file of such"
    " a folder; where the file names hold the labels, give --pattern too"
)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Where the images come from, as the command line has it; at most one of the first three.

    Attributes:
        images: A folder or archive.
        tfds: A dataset of TensorFlow Datasets.
        recipe: The name of a recipe.
        pattern: As `download.pattern`, with `images` alone.
    """

    images: Path | None = None
    tfds: str | None = None
    recipe: str | None = None
    pattern: str | None = None

    @property
    def arguments(self) -> list[str]:
        """The same as arguments of the command line."""
        given = {key: value for key, value in vars(self).items() if value is not None}
        pairs = ((f"--{key}", str(value)) for key, value in given.items())
        return [part for pair in pairs for part in pair]

    def check(self) -> None:
        """Raises ParamsError where they contradict each other."""
        if sum(value is not None for value in (self.images, self.tfds, self.recipe)) > 1:
            raise ParamsError("init: give one of --images, --tfds and --recipe")
        if self.pattern is not None and self.images is None:
            raise ParamsError("init: --pattern reads file names of --images; give both")


def new_params(where: Place, choice: Choice) -> tuple[str, list[str]]:
    """The text of `params.yaml`, and remarks."""
    if choice.recipe is not None:
        recipe = recipes.read(choice.recipe)
        return recipe.text, [f"{recipe.header['title']}; data: {recipe.header['data']}"]
    if choice.tfds is not None:
        return settings.for_tfds(choice.tfds), [f"images: {choice.tfds} of TensorFlow Datasets"]
    if choice.images is not None:
        return _of_images(where, choice.images, choice.pattern)
    folders = images.folders_in(where.root)
    if len(folders) > 1:
        names = ", ".join(visible(path.name) for path in folders[:5])
        first = shlex.join((*where.arguments, "--images", place.shown(folders[0])))
        raise ParamsError(
            f"several folders hold images: {names}; choose one, `cryobase init {first}`"
        )
    if folders:
        return _of_images(where, folders[0], None)
    if images.holds_images(where.root):
        place.refuse_images(where, where.root)
    if images.are_flat_in(where.root):
        raise ParamsError(
            f"{where.root}: images lie here without class folders, and the pipeline's folders would"
            " lie among them; name a new folder for the pipeline, give this one as --images, and"
            " with --pattern how the file names hold the labels; or put each class into a"
            " sub-folder"
        )
    return settings.default(), [TRIAL]


def _of_images(where: Place, path: Path, pattern: str | None) -> tuple[str, list[str]]:
    """Params for a folder or archive."""
    real = _real(path)
    place.refuse_images(where, real)
    name = _name_in(where, real)
    if not real.exists():
        raise ParamsError(f"{path}: no such folder or archive; name the one with the images")
    if not real.is_dir():
        descriptor = open_regular(real, follow=True)
        try:
            _check_archive(path, real)
            sha256 = digest_of(descriptor)
        finally:
            os.close(descriptor)
        return settings.for_archive(name, pattern, sha256), [f"images: {path}, an archive"]
    holds = images.look(real, pattern)
    if len(holds.counts) < 2:
        raise DataError(_one_class(path, holds))
    beside = f"; left out: {holds.beside}" if holds.beside else ""
    return settings.for_folder(name, pattern, holds), [f"{path}: {settings.summary(holds)}{beside}"]


def _check_archive(path: Path, real: Path) -> None:
    """Refuse a file that `download` would not unpack.

    Raises:
        ParamsError: it is no archive, or one of another kind.
        DataError: it is a damaged one.
    """
    try:
        check_kind(real.resolve())
    except UnsupportedArchiveError:
        kind = formats.kind_of(beginning(real)) or "neither a folder nor an archive"
        raise ParamsError(f"{path}: {kind}; {TAKEN}") from None


def _real(path: Path) -> Path:
    """The absolute path; a last part that is a link stays one."""
    if path.name in ("", ".."):
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent), path.name)


def _name_in(where: Place, path: Path) -> str:
    """A path as params have it: relative within the repository, else absolute."""
    inside = path.is_relative_to(where.repository)
    name = os.path.relpath(path, where.root) if inside else str(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ParamsError(
            f"{path}: a name that is not UTF-8, which no params file holds; rename it"
        ) from None
    return str(path) if name.startswith("~") else name


def _one_class(path: Path, holds: images.Found) -> str:
    """That a classifier needs two classes, and the folder that has them, if there is one."""
    name = next(iter(holds.counts))
    said = f"{path}: one class only, {visible(name)!r}; a classifier needs two"
    inner = path / name
    if not images.holds_images(inner):
        return said
    return f"{said}; see `cryobase init --images {shlex.quote(place.shown(inner))}`"
