"""Files of a folder or archive that are left out because they are not images: rules and counts.

A file is left out by its name only if images never have such names. A file with the name of an
image, or with the first bytes of one, is read as an image; if it is not one, it gets a reason in
quarantine.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator

from cryobase.stages.data import headers

LISTED = 100_000  # rows of the table; further files are only counted

HIDDEN_FILE, HIDDEN_FOLDER = "hidden file", "hidden folder"
SYSTEM_FILE, SYSTEM_FOLDER = "system file", "system folder"
FOLDER_LINK, BROKEN_LINK = "link to a folder", "broken link"
LICENCE = "licence or read-me"
NO_LABEL = "no label"
NO_CLASS = "outside class folders"
NO_PART = "beside train and test"
MAY_BE_IMAGES = frozenset({FOLDER_LINK, BROKEN_LINK, NO_LABEL, NO_CLASS, NO_PART, HIDDEN_FOLDER})

OF_FOLDERS = frozenset({HIDDEN_FOLDER, SYSTEM_FOLDER, FOLDER_LINK})
BEGINNING = 64  # first bytes of a file, which show whether it is an image

# Names that images never have; compared in lower case.
SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"))
SYSTEM_FOLDERS = frozenset((
    "__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot",
    "$recycle.bin", "recycler", "system volume information", "lost+found", "lost.dir",
))  # fmt: skip
SYSTEM_ENDS = (":zone.identifier", ":encryptable")  # Windows' metadata of a file, copied as files
SYSTEM_DOTS = (".ds_store", "._", ".appledouble", ".thumbnails", ".trash", ".fseventsd",
               ".spotlight-", ".apdisk", ".directory", ".picasa", ".nfs")  # fmt: skip

KINDS = {
    extension: kind
    for kind, extensions in {
        "text": ".txt .md .rst .html .htm .rtf .log .tex .bib .nfo",
        "document": ".pdf .doc .docx .odt .ppt .pptx .xls .xlsx .ods .url .lnk .webloc",
        "table or record": ".csv .tsv .json .jsonl .ndjson .xml .yaml .yml .toml .ini .cfg .aae"
        " .xmp .names .lst",
        "data file": ".db .sqlite .mat .npy .npz .pkl .pickle .pt .pth .h5 .hdf5 .parquet .arrow"
        " .feather .tfrecord .ckpt .onnx",
        "program": ".py .pyc .ipynb .sh .bat .ps1 .js .css .r .m",
        "checksum or pointer": ".dvc .sha256 .sha1 .md5 .crc .sfv .sig .asc",
    }.items()
    for extension in extensions.split()
}
# Extensions of pictures, also of formats that are not read: those get a reason in quarantine.
PICTURES = (
    "jpg jpeg jpe jfif jif mpo png apng gif bmp dib webp tif tiff avif avifs heic heif heics hif"
    " jxl jp2 j2k jpx jpf j2c svg svgz psd psb xcf ai eps ico icns tga pcx ppm pgm pbm pnm pfm"
    " qoi exr hdr dds dng cr2 cr3 crw nef nrw arw sr2 srf orf rw2 raf pef srw x3f 3fr raw dcm"
    " dicom nii fits fit fts svs ndpi mp4 m4v mov avi mkv webm mpg mpeg wmv flv mts m2ts 3gp"
)
PICTURE_EXTENSIONS = frozenset(f".{name}" for name in PICTURES.split())
LICENCES = re.compile(r"(?i)(un)?(licen[cs]e|copying|copyright|notice|readme|credits|attribution)")


def of_folder(name: str) -> str:
    """Why a folder is left out with its content, or ""."""
    lower = name.lower()
    if lower in SYSTEM_FOLDERS or lower.startswith(SYSTEM_DOTS):
        return SYSTEM_FOLDER
    return HIDDEN_FOLDER if name.startswith(".") else ""


def is_picture(name: str) -> bool:
    """Whether a file has the extension of a picture, also of a format that is not read."""
    return os.path.splitext(name.lower())[1] in PICTURE_EXTENSIONS


def of_file(name: str, beginning: Callable[[], bytes]) -> str:
    """Why a file is left out, or "" if it is to be read as an image.

    Args:
        name: the last part of the file's path.
        beginning: returns the file's first bytes; called only if the name does not decide.
    """
    lower = name.lower()
    if lower in SYSTEM_FILES or lower.startswith(SYSTEM_DOTS) or lower.endswith(SYSTEM_ENDS):
        return SYSTEM_FILE
    if name.startswith("."):
        return HIDDEN_FILE
    kind = KINDS.get(os.path.splitext(lower)[1])
    if kind is None and (is_picture(name) or not LICENCES.match(name)):
        return ""
    if headers.format_of(beginning()):
        return ""
    return LICENCE if LICENCES.match(name) else str(kind)


class Tally:
    """Counts paths by reason, with an example of each reason, and lists paths up to a limit.

    Paths are relative to the source. A folder that is left out counts once; its path has a slash.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.files_above_folders = 0  # number of files minus number of folders
        self._first: dict[str, str] = {}
        self._rows: list[tuple[str, str]] = []
        self._folders: set[str] = set()

    def add(self, path: str, reason: str) -> None:
        self.counts[reason] += 1
        self._first.setdefault(reason, path)
        if len(self._rows) < LISTED:
            self._rows.append((path, reason))

    def add_once(self, path: str, reason: str) -> None:
        """Like `add`, but a folder is counted once, although many members of an archive name it."""
        if path not in self._folders:
            self._folders.update([path] if path.endswith("/") else ())
            self.add(path, reason)

    def strip(self, prefix: str) -> None:
        """Remove a prefix from all paths: the folder that wraps an archive's content."""
        self._rows = [(path.removeprefix(prefix), reason) for path, reason in self._rows]
        self._first = {key: path.removeprefix(prefix) for key, path in self._first.items()}

    def rows(self) -> Iterator[tuple[str, str]]:
        """(path, reason), ordered by path. A last row gives the number of paths not listed."""
        yield from sorted(self._rows)
        if more := self.counts.total() - len(self._rows):
            yield "", f"{more:,} more, counted in the log"

    def __str__(self) -> str:
        """All reasons in one line, each with its count and an example; "" if nothing was added."""
        return "; ".join(
            f"{reason}: {count:,} ({self._first[reason]}{', …' if count > 1 else ''})"
            for reason, count in self.counts.most_common()
        )
