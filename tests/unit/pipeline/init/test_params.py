"""What `init` proposes for a folder of images, and that it reads back as it was written."""

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from cryobase.pipeline import bounded_yaml, recipes
from cryobase.pipeline.cli import app
from cryobase.pipeline.init import images, settings
from cryobase.pipeline.params import STAGES, ParamsError, load
from cryobase.stages.errors import DataError
from cryobase.store.errors import IntegrityError
from tests.images import write_folder
from tests.unit.pipeline.init.calls import HOSTILE, ROOT, contents, obey, run


@pytest.mark.parametrize("given", [("--tfds", "a", "--recipe", "b"), ("--pattern", "^(cat|dog)")])
def test_options_that_contradict_each_other_are_refused(git, given):
    before = contents(git)
    with pytest.raises(ParamsError, match=r"^init: "):
        run(*given)
    assert contents(git) == before


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_is_what_recipe_use_writes(git, name):
    run("--recipe", name)
    written = (git / "params.yaml").read_bytes()
    (git / "params.yaml").unlink()
    assert CliRunner().invoke(app, ["recipe", "use", name]).exit_code == 0
    assert (git / "params.yaml").read_bytes() == written


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("outside", [True, False])
def test_a_hostile_path_comes_back_from_the_params_as_it_was(git, name, outside):
    folder = (git.parent if outside else git) / name
    write_folder(folder, 2, classes=("a", "b", name))
    run("pipeline", "--images", str(folder))
    params = git / "pipeline" / "params.yaml"
    expected = str(folder) if outside else f"../{name}"
    assert load(params, *STAGES).download.path == expected
    assert bounded_yaml.read(params)["download"]["path"] == expected
    assert YAML().load(params)["download"]["path"] == expected  # as DVC reads it
    assert (params.parent / expected).is_dir()


def test_a_path_that_would_be_a_home_is_written_out(git):
    write_folder(git / "~root", 2)
    run("--images", "~root")
    assert load(git / "params.yaml").download.path == str(git / "~root")


def test_a_path_that_is_no_utf8_is_refused(git):
    name = os.fsdecode(b"photos\xff")
    write_folder(git / "ok", 2).rename(git / name)
    before = contents(git)
    with pytest.raises(ParamsError, match="not UTF-8"):
        run("--images", name)
    assert contents(git) == before


@pytest.mark.parametrize(
    ("name", "pattern"), [("cat.1.png", r"^(cat|dog)\."), ("a: #1.png", "^(.): #")]
)
def test_a_pattern_is_used_and_written(git, name, pattern):
    source = write_folder(git / "new", 2) / "red" / "0000.png"
    flat = git / "flat"
    flat.mkdir()
    for letter, other in ((name[0], name), ("d", name.replace("cat", "dog").replace("a:", "d:"))):
        (flat / other).write_bytes(source.read_bytes() + letter.encode())
    run("--images", "flat", "--pattern", pattern)
    assert load(git / "params.yaml").download.pattern == pattern


def test_an_archive_is_pinned(git):
    subprocess.run(["tar", "-czf", "photos.tar.gz", "photos"], check=True)
    run("--images", "photos.tar.gz")
    download = load(git / "params.yaml", *STAGES).download
    digest = subprocess.run(
        ["sha256sum", "photos.tar.gz"], capture_output=True, text=True, check=True
    )
    assert (download.source, download.path) == ("archive", "photos.tar.gz")
    assert download.sha256 == digest.stdout.split()[0]


def found(counts: dict[str, int], *parts: str, sides: tuple[int, ...] = (300,)) -> images.Found:
    return images.Found(counts=counts, parts=frozenset(parts), sides=sides, beside="")


def params_of(tmp_path: Path, holds: images.Found):
    (tmp_path / "params.yaml").write_text(settings.for_folder("photos", None, holds))
    (tmp_path / "dvc.yaml").touch()
    return load(tmp_path / "params.yaml", *STAGES)


@pytest.mark.parametrize(
    ("counts", "parts", "expected"),
    [
        ({"a": 40, "b": 900}, (), ("auto", 0.6, True)),
        ({"a": 60, "b": 100}, (), ("auto", 0.6, False)),
        ({"a": 49, "b": 9000}, (), ("auto", 0.8, True)),
        ({"a": 5000, "b": 9000}, (), ("auto", 0.8, False)),
        ({"a": 5000, "b": 9000}, ("train",), ("auto", 0.8, False)),
        ({"a": 10, "b": 10}, ("train", "validation", "test"), ("source", 0.8, False)),
        ({"a": 10, "b": 10}, ("train", "test"), ("source", 0.8, True)),
        ({"a": 100, "b": 100}, ("train", "test"), ("source", 0.8, False)),
        ({"a": 100, "b": 100}, ("train", "validation"), ("source", 0.8, False)),
    ],
)
def test_the_split_is_the_one_that_the_folder_implies(tmp_path, counts, parts, expected):
    split = params_of(tmp_path, found(counts, *parts)).split
    assert (split.by, split.train, split.stratify) == expected


@pytest.mark.parametrize(
    ("sides", "count", "size"),
    [((), 100, 160), ((28,), 100, 96), ((95,), 100, 96), ((130, 150, 500), 100, 128),
     ((400,), 100, 224), ((400,), 20_000, 224), ((400,), 20_001, 160), ((96,), 20_001, 96)],
)  # fmt: skip
def test_the_image_size_fits_the_images(tmp_path, sides, count, size):
    sets = params_of(tmp_path, found({"a": count - 1, "b": 1}, sides=sides)).extract.sets
    [one] = sets.values()
    assert one.image_size == size
    assert list(sets) == [f"lite0-{size}"]


def test_the_base_is_one_whose_weights_are_here_or_small(tmp_path, monkeypatch):
    monkeypatch.setattr(settings.util, "find_spec", lambda _: None)
    [(name, one)] = params_of(tmp_path, found({"a": 9, "b": 9})).extract.sets.items()
    assert (name, one.backbone, one.weights) == ("mobilenetv2-224", "mobilenetv2", "imagenet")
    assert settings.EXAMPLE_SET not in (tmp_path / "params.yaml").read_text()


def test_the_other_sections_are_those_of_this_repository(tmp_path):
    own, made = load(ROOT / "params.yaml"), params_of(tmp_path, found({"a": 9, "b": 9}))
    for section in ("train", "evaluate", "finetune", "report"):
        assert getattr(made, section) == getattr(own, section)


def test_comments_name_classes_and_what_is_left_out(git):
    (git / "photos" / "LICENSE").write_text("free")
    (git / "photos" / "red" / "notes.txt").write_text("of these")
    (git / "photos" / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (git / "photos" / "blue" / "0000.png").unlink()
    run("--images", "photos")
    text = (git / "params.yaml").read_text()
    assert "# 12 images of 3 classes: red 5, green 4, blue 3\n" in text
    assert "LICENSE" in text
    assert "notes.txt" in text
    assert "48 pixels or more" in text


def test_without_an_option_the_only_folder_of_images_is_taken(git):
    (git / "src" / "a").mkdir(parents=True)
    (git / "src" / "b").mkdir()
    for name in ("a/main.ts", "b/main.ts"):
        (git / "src" / name).write_text("export {}\n")
    (git / ".cache").mkdir()
    write_folder(git / ".cache", 2)
    for place in (git, git / "photos"):
        (place / "loop").symlink_to("loop")
    run()
    assert load(git / "params.yaml").download.path == "photos"


def test_without_an_option_one_of_several_folders_must_be_chosen(git):
    write_folder(git / "scans" / "train", 2)
    with pytest.raises(ParamsError, match="photos, scans; choose one") as refusal:
        run()
    obey(refusal.value)
    assert load(git / "params.yaml").download.path == "photos"


def test_where_there_are_no_images_it_is_the_trial_on_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "a trial on handwritten digits" in run()
    assert (tmp_path / "params.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_images_outside_the_repository_are_named_by_their_whole_path(git):
    (git / "photos").rename(git.parent / "photos")
    run("--images", "../photos")
    assert load(git / "params.yaml").download.path == str(git.parent / "photos")


def test_a_folder_around_the_classes_is_seen_through(git):
    (git / "photos").rename(git / "inner")
    (git / "photos").mkdir()
    (git / "inner").rename(git / "photos" / "inner")
    with pytest.raises(DataError, match="one class only, 'inner'") as refusal:
        run("--images", "photos")
    obey(refusal.value)
    assert load(git / "params.yaml").download.path == "photos/inner"


@pytest.mark.parametrize("path", ["nowhere", "photos/red/nothing.zip"])
def test_images_that_are_not_there_are_an_error_before_anything_is_written(git, path):
    before = contents(git)
    with pytest.raises(ParamsError, match="no such folder or archive"):
        run("--images", path)
    assert contents(git) == before


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (None, "an image"),
        (b"# Photographs\n" * 100, "neither a folder nor an archive"),
        (b"", "neither a folder nor an archive"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "a 7z archive"),
        (gzip.compress(b"a text" * 100), "neither a folder nor an archive"),
    ],
)
def test_a_file_that_download_does_not_unpack_is_no_images(git, content, kind):
    data = next(git.glob("photos/blue/*")).read_bytes() if content is None else content
    (git / "photos.zip").write_bytes(data)
    before = contents(git)
    with pytest.raises(ParamsError, match=f"photos.zip: {kind}; --images takes a folder"):
        run("--images", "photos.zip")
    assert contents(git) == before
    run("--images", "photos")
    assert load(git / "params.yaml", *STAGES).download.path == "photos"


@pytest.mark.parametrize("beside", [(), ("notes.txt", "labels.csv", ".DS_Store", "Thumbs.db")])
def test_the_trial_is_not_put_among_images_without_class_folders(git, beside):
    flat = git / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(git.glob("photos/*/*"))[:5]):
        path.rename(flat / f"{('cat', 'dog')[number % 2]}.{number}{path.suffix}")
    for name in beside:
        (flat / name).write_text("text")
    before = contents(git)
    with pytest.raises(ParamsError, match=r"flat: images lie here .* --images, .*--pattern"):
        run("flat")
    assert contents(git) == before
    run("beside", "--images", "flat", "--pattern", r"^(cat|dog)\.")
    assert load(git / "beside/params.yaml", *STAGES).download.path == "../flat"


def test_a_picture_or_two_beside_a_program_do_not_stop_the_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images_of = sorted(write_folder(tmp_path / "inner" / "photos", 2).glob("*/*"))
    for name, path in zip(("logo", "screen"), images_of, strict=False):
        (tmp_path / f"{name}{path.suffix}").write_bytes(path.read_bytes())
    shutil.rmtree(tmp_path / "inner")
    for name in ("main.py", "README.md", "setup.py"):
        (tmp_path / name).write_text("text")
    assert "a trial on handwritten digits" in run()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("path", ["/dev/zero", "pipe"])
def test_what_is_no_file_is_no_archive(git, path):
    os.mkfifo("pipe")
    before = contents(git)
    with pytest.raises(IntegrityError, match="not a regular file"):
        run("--images", path)
    assert contents(git) == before


def test_an_image_that_is_no_file_is_not_waited_for(git):
    os.mkfifo(git / "photos" / "blue" / "0000.jpg")
    run("--images", "photos")
    assert load(git / "params.yaml", *STAGES).download.path == "photos"
