"""What is no image in a folder or archive: by which rule it is left out, how many, and which.

A file is left out by its name alone only where no image is called so. Whatever has the name of an
image, or begins like one, is tried as an image, and has a reason in quarantine if it is none.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator

from cryobase.stages.data import headers

LISTED = 100_000  # rows of the table; what is beyond is counted

HIDDEN_FILE, HIDDEN_FOLDER = "hidden file", "hidden folder"
SYSTEM_FILE, SYSTEM_FOLDER = "system file", "system folder"
FOLDER_LINK, BROKEN_LINK = "link to a folder", "broken link"
LICENCE = "licence or read-me"
NO_LABEL = "no label"
NO_CLASS = "outside class folders"
NO_PART = "beside train and test"
MAY_BE_IMAGES = frozenset({FOLDER_LINK, BROKEN_LINK, NO_LABEL, NO_CLASS, NO_PART, HIDDEN_FOLDER})

OF_FOLDERS = frozenset({HIDDEN_FOLDER, SYSTEM_FOLDER, FOLDER_LINK})
BEGINNING = 64  # bytes of a file that tell whether it is an image

# Names that no image has; compared in lower case.
SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"))
SYSTEM_FOLDERS = frozenset((
    "__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot",
    "$recycle.bin", "recycler", "system volume information", "lost+found", "lost.dir",
))  # fmt: skip
SYSTEM_ENDS = (":zone.identifier", ":encryptable")  # Windows' notes on a file, copied as one
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
# Names of pictures, read here or not: quarantine has a better reason for those that are not.
PICTURES = (
    "jpg jpeg jpe jfif jif mpo png apng gif bmp dib webp tif tiff avif avifs heic heif heics hif"
    " jxl jp2 j2k jpx jpf j2c svg svgz psd psb xcf ai eps ico icns tga pcx ppm pgm pbm pnm pfm"
    " qoi exr hdr dds dng cr2 cr3 crw nef nrw arw sr2 srf orf rw2 raf pef srw x3f 3fr raw dcm"
    " dicom nii fits fit fts svs ndpi mp4 m4v mov avi mkv webm mpg mpeg wmv flv mts m2ts 3gp"
)
PICTURE_EXTENSIONS = frozenset(f".{name}" for name in PICTURES.split())
LICENCES = re.compile(r"(?i)(un)?(licen[cs]e|copying|copyright|notice|readme|credits|attribution)")


def of_folder(name: str) -> str:
    """Why a folder is left out with all that it holds, or ""."""
    lower = name.lower()
    if lower in SYSTEM_FOLDERS or lower.startswith(SYSTEM_DOTS):
        return SYSTEM_FOLDER
    return HIDDEN_FOLDER if name.startswith(".") else ""


def is_picture(name: str) -> bool:
    """Whether a file has the name of a picture, of a format that is read or not."""
    return os.path.splitext(name.lower())[1] in PICTURE_EXTENSIONS


def of_file(name: str, beginning: Callable[[], bytes]) -> str:
    """Why a file is left out, or "" where it is to be tried as an image.

    Args:
        name: the last part of its path.
        beginning: gives its first bytes; asked only where the name does not decide.
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
    """Paths counted by reason, with an example of each, and listed up to a limit.

    Paths are relative to the source; a folder left out as a whole is one of them, with a slash.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.files_above_folders = 0  # files that were seen, less the folders
        self._first: dict[str, str] = {}
        self._rows: list[tuple[str, str]] = []
        self._folders: set[str] = set()

    def add(self, path: str, reason: str) -> None:
        self.counts[reason] += 1
        self._first.setdefault(reason, path)
        if len(self._rows) < LISTED:
            self._rows.append((path, reason))

    def add_once(self, path: str, reason: str) -> None:
        """As `add`; an archive has a folder's name in every member, which is counted once."""
        if path not in self._folders:
            self._folders.update([path] if path.endswith("/") else ())
            self.add(path, reason)

    def strip(self, prefix: str) -> None:
        """Make paths relative to a folder that wraps everything."""
        self._rows = [(path.removeprefix(prefix), reason) for path, reason in self._rows]
        self._first = {key: path.removeprefix(prefix) for key, path in self._first.items()}

    def rows(self) -> Iterator[tuple[str, str]]:
        """By path; the last one says how many are not listed."""
        yield from sorted(self._rows)
        if more := self.counts.total() - len(self._rows):
            yield "", f"{more:,} more, counted in the log"

    def __str__(self) -> str:
        """All reasons in one line, each with its count and an example; "" for nothing."""
        return "; ".join(
            f"{reason}: {count:,} ({self._first[reason]}{', …' if count > 1 else ''})"
            for reason, count in self.counts.most_common()
        )
