"""Folders and archives that are not as they should be."""

import gzip
import lzma
import os
import re
import shutil
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.images import picture, write_folder
from tests.integration.remedies.situations import (
    PARAMS,
    SITUATIONS,
    Build,
    Obey,
    Situation,
    cut,
    execute,
    mended_params,
    more_images,
    set_param,
    situation,
    write_params,
)
from tests.integration.remedies.source import COMMAND

# Sources ------------------------------------------------------------------------------------------


def back(_: str = "") -> None:
    Path("away").rename("images")


GONE = "{}: no such folder; put images there or set download.path"


@situation(GONE, probe="download", obey=back)
def no_folder():
    Path("images").rename("away")


@situation(GONE, probe="download", obey=lambda _: set_param("download.path", "away"))
def a_folder_that_has_another_name():
    Path("images").rename("away")


NOT_HERE = "{}: no such file or folder; put the images there or set download.path{}"


@situation(NOT_HERE, probe="watch", obey=back)
def nothing_to_watch():
    Path("images").rename("away")


@situation(NOT_HERE, probe="watch", obey=lambda _: set_param("download.path", "away"))
def nothing_to_watch_under_this_name():
    Path("images").rename("away")


@situation(
    "{}: no class sub-folders with images{}; put them into <class>/, or set download.pattern where"
    " the file names hold the labels",
    probe="download",
    obey=lambda _: set_param("download.pattern", "^[a-z]+"),
)
def images_without_folders():
    for path in sorted(Path("images").rglob("*.png")):
        path.rename(f"images/{path.parent.name}-{path.name}")
    for name in ("blue", "green", "red"):
        Path(f"images/{name}").rmdir()


UNLABELLED = (
    "download.pattern: {} finds no label in any of the {} file names in {}; write one that does, or"
    " none where the sub-folders are the labels"
)


@situation(UNLABELLED, probe="download", obey=lambda _: set_param("download.pattern", None))
def a_pattern_that_finds_no_label():
    set_param("download.pattern", "label-(.*)")


@situation(
    "{}: {} takes too long on names such as {}; write it without repeats inside of repeats",
    probe="download",
    obey=lambda _: set_param("download.pattern", "^(a+)"),
    slow=True,
)
def a_pattern_that_takes_for_ever():
    for name in ("blue", "red"):
        Path(f"images/{name}/0000.png").rename(f"images/{name}/{'a' * 60}.png")
    set_param("download.pattern", "^(a+)+$")


EMPTY = "{}: no images{}; put some there or set download.path"


@situation(EMPTY, probe="download", obey=lambda _: set_param("download.path", "images"))
def a_folder_of_texts():
    Path("texts/red").mkdir(parents=True)
    Path("texts/red/notes.txt").write_text("no image")
    set_param("download.path", "texts")


@situation(EMPTY, probe="download", obey=lambda _: write_folder(Path("texts"), 2))
def a_folder_that_gets_images():
    a_folder_of_texts()


@situation(
    "{}: none of {} files is an image; the first is {}: {}; put images there or set download.path",
    probe="download",
    obey=lambda _: more_images(),
)
def broken_images_alone():
    for path in Path("images").rglob("*.png"):
        path.write_bytes(b"\x89PNG")


@situation(
    "all images are of one class, {}, in its folders {}: if these are the classes, {mend}",
    "set download.path to {}",
    probe="download",
    obey=lambda said: set_param("download.path", re.findall(r"download.path to (\S+)", said)[0]),
)
def a_wrapping_folder():
    Path("images").rename("inner")
    Path("images/flowers").mkdir(parents=True)
    for path in Path("inner").iterdir():
        path.rename(f"images/flowers/{path.name}")
    execute("cryobase download")


def archive(name: str = "images.tar") -> Path:
    with tarfile.open(name, "w") as file:
        file.add("images", "images")
    write_params(PARAMS | {"download": {"source": "archive", "path": name}})
    return Path(name)


UNPINNED = "{}: download.sha256 is missing; if you trust it, set download.sha256: {}"


@situation(UNPINNED, probe="download")
def an_archive_without_a_pin():
    archive()


PINNED = (
    "{}: sha256 {}, download.sha256 says {}; fetch the right file or, if you trust this one, pin"
    " its value"
)


@situation(
    PINNED,
    probe="download",
    obey=lambda said: set_param("download.sha256", re.findall(r"sha256 ([0-9a-f]{64})", said)[0]),
)
def an_archive_of_another_pin():
    archive()
    set_param("download.sha256", "0" * 64)


UNPACK = "unpack it with {} and use {}"


def packed(program: str, name: str, text: str) -> None:
    """An archive that a program makes, and that is only read once the message's command ran."""

    def unpacked(said: str) -> None:
        before = set(Path().iterdir())
        shutil.rmtree("images")
        [command] = COMMAND.findall(said)
        execute(command)
        [found] = {*Path().iterdir()} - before or {Path("images")}
        write_params(PARAMS | {"download": {"source": "folder", "path": str(found)}})

    def build() -> None:
        archive()
        if not shutil.which(program):
            pytest.skip(f"needs {program}")
        with Path(name).open("wb") as file:
            subprocess.run([program, "-c", "images.tar"], stdout=file, check=True)
        pin = sha256(Path(name).read_bytes()).hexdigest()
        source = {"source": "archive", "path": name, "sha256": pin}
        write_params(PARAMS | {"download": source})

    SITUATIONS.append(Situation((UNPACK, text), build, "download", unpacked))


for form in (
    ("xz", "images of me.tar.xz", "`tar -xJf {}`"),
    ("bzip2", "images.tar.bz2", "`tar -xjf {}`"),
    ("zstd", "images.tar.zst", "`tar --zstd -xf {}`"),
    ("lzip", "images.tar.lz", "`tar --lzip -xf {}`"),
    ("lz4", "images.tar.lz4", "`lz4 -dc {} | tar -x`"),
    ("lzop", "images.tar.lzo", "`tar --lzop -xf {}`"),
    ("lzma", "images.tar.lzma", "`tar --lzma -xf {}`"),
    ("compress", "images.tar.Z", "`tar -xZf {}`"),
):
    packed(*form)


def pin(name: str) -> None:
    digest = sha256(Path(name).read_bytes()).hexdigest()
    write_params(PARAMS | {"download": {"source": "archive", "path": name, "sha256": digest}})


def joined(said: str) -> None:
    [command] = COMMAND.findall(said)
    execute(command)
    pin(re.findall(r"set download.path to (.*)$", said)[0])


@situation("run `{}` and set download.path to {}", probe="download", obey=joined)
def a_split_zip():
    if not shutil.which("zip"):
        pytest.skip("needs zip")
    for number in range(3):
        path = Path(f"images/red/noise{number}.png")
        path.write_bytes(path.with_name("0000.png").read_bytes() + os.urandom(90_000))
    subprocess.run(["zip", "-qr", "-s", "128k", "my images.zip", "images"], check=True)
    assert Path("my images.z01").exists()
    pin("my images.zip")


def unpacked_twice(said: str) -> None:
    commands = {command.split()[0]: command for command in COMMAND.findall(said)}
    shutil.rmtree("images")
    execute(commands["gunzip"])
    execute(commands["tar"])
    write_params(PARAMS)


@situation(
    "gzip, and in it what is {}, after `gunzip -c {} > {}`", probe="download", obey=unpacked_twice
)
def an_archive_packed_twice():
    data = archive().read_bytes()
    Path("images.xz.gz").write_bytes(gzip.compress(lzma.compress(data), mtime=0))
    pin("images.xz.gz")


# Doubts and quarantine: what download warns of ----------------------------------------------------


@situation(
    "no usable image of {}: add some, or leave the class out",
    probe="download",
    obey=lambda _: more_images(),
)
def a_class_without_usable_images():
    for path in Path("images/red").iterdir():
        path.write_bytes(b"\x89PNG")


def into_parts() -> None:
    for part in ("train", "test"):
        write_folder(Path("parts", part), 4, first=4 * (part == "test"))
    set_param("download.path", "parts")


@situation(
    "no image of {} is in train, only in validation or test: nothing can learn it; put some into"
    " train, or leave the class out",
    probe="download",
    obey=lambda _: write_folder(Path("parts/train"), 2, first=20),
)
def a_class_that_is_in_test_alone():
    into_parts()
    shutil.rmtree("parts/train/red")


@situation(
    "classes {} differ only in {}: if they are the same, give them one name; they are not merged",
    probe="download",
    obey=lambda _: shutil.rmtree("images/Red"),
)
def a_class_in_capitals():
    write_folder(Path("images"), 2, first=20, classes=("Red",))


@situation(
    "{} became a class: a split of your own is train/<class>/… beside test/<class>/… or"
    " validation/<class>/…; rename the folders, or go on if these are classes",
    probe="download",
    obey=lambda _: Path("images/test").rename("images/rest"),
)
def a_class_called_test():
    Path("images/red").rename("images/test")


@situation(
    "move them up, so that they are train/{}/… and test/{}/…",
    "all images are of one class, {}, in its folders {}: if these are the classes, {mend}",
    probe="download",
    obey=lambda _: unwrap("train", "test"),
)
def wrapped_parts():
    into_parts()
    for part in ("train", "test"):
        Path("parts", part).rename("inner")
        Path("parts", part, "flowers").parent.mkdir()
        Path("inner").rename(f"parts/{part}/flowers")


def unwrap(*parts: str) -> None:
    for part in parts:
        for path in Path("parts", part, "flowers").iterdir():
            path.rename(path.parents[1] / path.name)
        Path("parts", part, "flowers").rmdir()


def unpacked_by_hand(said: str) -> None:
    [folder] = re.findall(r"download.path to its (\S+)", said)
    with tarfile.open("images.tar") as file:
        file.extractall("by-hand", filter="data")
    [found] = Path("by-hand").rglob(folder)
    write_params(PARAMS | {"download": {"source": "folder", "path": str(found)}})


@situation(
    "unpack the archive, and set download.source to folder and download.path to its {}",
    probe="download",
    obey=unpacked_by_hand,
)
def an_archive_of_classes_one_folder_too_deep():
    Path("images").rename("inner")
    Path("images/all/flowers").mkdir(parents=True)
    Path("images/other").mkdir()
    Path("images/other/broken.png").write_bytes(b"\x89PNG")
    for path in Path("inner").iterdir():
        path.rename(f"images/all/flowers/{path.name}")
    archive()
    pin("images.tar")


@situation(
    "equal bytes under different labels: %s times, listed in %s; keep one of each:",
    probe="download",
    obey=lambda _: Path("images/blue/copy.png").unlink(),
)
def an_image_of_two_labels():
    shutil.copy("images/red/0001.png", "images/blue/copy.png")


def quarantined(text: str, name: str, data: bytes, obey: Obey) -> None:
    """An image that is put into quarantine with what to do."""

    def build() -> None:
        Path(f"images/red/{name}").write_bytes(data)

    SITUATIONS.append(Situation((text,), build, "download", obey))


def converted(_: str) -> None:
    """What a picture editor does: a PNG in the place of the file."""
    for path in Path("images/red").iterdir():
        if not path.stem.isdigit():
            path.unlink()
            shutil.copy("images/blue/0001.png", path.with_suffix(".png"))
            alter_pixels(path.with_suffix(".png"))


def alter_pixels(path: Path) -> None:
    cv2.imwrite(str(path), picture(2, 99))


for _form in (
    ("{} is not read; convert to PNG or JPEG", "a.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40)),
    ("{} is not read; convert to PNG or JPEG", "a.psd", b"8BPS\0\1" + bytes(40)),
    ("begins with zero bytes: lost on a disk or half copied; restore it", "a.jpg", bytes(99)),
    (
        "a raw photograph ({}) is not read; develop it to JPEG or PNG",
        "a.raf",
        b"FUJIFILMCCD-RAW",
    ),
    (
        "a video ({}), not an image; take frames out of it",
        "a.avi",
        b"RIFF\0\0\0\0AVI LIST",
    ),
):
    quarantined(*_form, converted)


@situation("nearly black, as 14 of 16 bits or fewer are used; multiply the values to fill 16",
           probe="download", obey=lambda _: dark(16))  # fmt: skip
def a_dark_image():
    dark(1)


def dark(factor: int) -> None:
    pixels = picture(2, 99).astype("u2") * 8 * factor
    cv2.imwrite("images/red/dark.png", pixels)


@situation("{}x{} pixels; at most {} and {} a side are decoded: scale it down", probe="download",
           obey=converted)  # fmt: skip
def a_huge_image():
    cv2.imwrite("images/red/huge.png", np.zeros((1, 70_000), np.uint8))


@situation("{}: an id of {} bytes, at most {} are kept; shorten the file's path", probe="download",
           obey=lambda _: shutil.rmtree(f"images/red/{'a' * 200}"))  # fmt: skip
def a_path_that_is_too_long():
    place = Path("images/red", *["a" * 200] * 12)
    place.mkdir(parents=True)
    shutil.copy("images/red/0001.png", place / "b.png")


@situation("{}: more than {} folders deep; move the images up", probe="download",
           obey=lambda _: shutil.rmtree("images/red/a"))  # fmt: skip
def folders_in_folders():
    Path("images/red", *["a"] * 300).mkdir(parents=True)


# Archives that are not as they should be ----------------------------------------------------------


def another_archive(_: str) -> None:
    archive()
    pin("images.tar")


def member(name: str, **fields: Any) -> Build:
    def build() -> None:
        archive()
        with tarfile.open("images.tar", "a") as file:
            found = tarfile.TarInfo(name)
            for key, value in fields.items():
                setattr(found, key, value)
            file.addfile(found)
        pin("images.tar")

    return build


for _text, _build in (
    (
        "{}: member {} is a link or device, not a file; get another archive",
        member("images/red/l.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    ),
    ("{}: member {} leads out; get another archive", member("../l.png")),
    ("{}: member {} has an unusable name; get another archive", member("images/" + "a" * 300)),
    (
        "{}: member {} collides with another one that differs at most in case or accents; get"
        " another archive",
        member("images/red/0001.PNG"),
    ),
):
    SITUATIONS.append(Situation((_text,), _build, "download", another_archive))


@situation("{}: damaged archive ({}); fetch it again", probe="download", obey=another_archive)
def a_damaged_archive():
    archive()
    cut(Path("images.tar"))
    pin("images.tar")


@situation("get the archive itself", probe="download", obey=another_archive)
def a_page_to_log_in():
    archive()
    Path("images.tar").write_text("<!DOCTYPE html>")
    pin("images.tar")


@situation("unpack it by hand and use {}", probe="download", obey=mended_params)
def something_else():
    Path("images.tar").write_bytes(b"\7" * 1000)
    pin("images.tar")


@situation("{} is encrypted; decrypt the archive, and pin the new sha256", probe="download",
           obey=another_archive)  # fmt: skip
def an_encrypted_zip():
    if not shutil.which("zip"):
        pytest.skip("needs zip")
    subprocess.run(["zip", "-qr", "-P", "secret", "images.zip", "images"], check=True)
    pin("images.zip")
