"""`cryobase doctor`: what is wrong around a checkout, each finding with the command that fixes it.

Owns the order of the checks and what counts as wrong. Only looks: nothing of a checkout is written,
nothing fetched, and nothing loaded that computes. What the stages refuse is asked of the stages,
and told in their own words.
"""

import errno
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from cryobase.pipeline import status, tables
from cryobase.pipeline.dvc_stage import PIPELINE, RELINK, leads_to_cache
from cryobase.pipeline.init import stages_file
from cryobase.pipeline.init.choice import Choice
from cryobase.pipeline.init.place import around, ignored_by_git
from cryobase.pipeline.init.plan import plan
from cryobase.pipeline.init.stages_file import State
from cryobase.pipeline.layout import Layout, dvc_root, git_root
from cryobase.pipeline.logs import PACKAGE
from cryobase.pipeline.params import Params, ParamsError, load
from cryobase.stages import watch
from cryobase.stages.backbones import frameworks
from cryobase.stages.backbones.kept import kept
from cryobase.stages.errors import ConfigError, DataError, StageError
from cryobase.stages.extract import spec_at_hand
from cryobase.store import Pool
from cryobase.store.errors import StoreError
from cryobase.store.text import counted, visible

Grade = Literal["fine", "note", "wrong"]
LISTED = 5  # findings of one kind
ROOM = 1_000_000_000  # bytes that a run may need beside its rows


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        state: `wrong` stops something or will; a `note` stops nothing.
        what: the fact.
        fix: what to do, with the command in backticks; empty where nothing is to be done.
    """

    check: str
    state: Grade
    what: str
    fix: str = ""


def examine() -> list[Finding]:
    """All findings, in the order of the checks."""
    found = [*_packages(), *_ambient(), *_cache()]
    try:
        layout = Layout.here()
    except ParamsError as error:
        return [*found, _complaint("pool", error)]
    found += [*_pool(layout), *_pipeline(layout), *_dvc(layout)]
    try:
        params = load(layout.params)
    except ParamsError as error:
        return [*found, _complaint("params", error)]
    checks: tuple[Callable[[Layout, Params], Iterator[Finding]], ...]
    checks = (_weights, _source, _features, _room)
    return found + [one for check in checks for one in check(layout, params)]


def show(findings: list[Finding]) -> None:
    """Print the findings, each fix on a line of its own."""
    for one in findings:
        tables.line(f"{one.state:5}  {one.check:8}  {one.what}", mark=one.state)
        if one.fix:
            tables.line(f"{'':17}{one.fix}")


def _complaint(check: str, error: Exception, state: Grade = "wrong") -> Finding:
    """An error in its own words, which end with what to do."""
    what, _, fix = " ".join(str(error).split()).partition("; ")
    return Finding(check, state, what, fix)


def _packages() -> Iterator[Finding]:
    """The installed libraries against what this Cryobase is made for."""
    wrong = False
    for text in metadata.requires(PACKAGE) or ():
        needed = Requirement(text)
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        command = shlex.quote(f"{needed.name}{needed.specifier}")
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            wrong = True
            yield Finding(
                "packages",
                "wrong",
                f"{needed.name} is not installed",
                f"run `pip install {command}`",
            )
            continue
        if not needed.specifier.contains(version, prereleases=True):
            wrong = True
            yield Finding(
                "packages",
                "wrong",
                f"{needed.name} {version} is installed, {needed.specifier} is needed",
                f"run `pip install {command}`",
            )
    if not wrong:
        versions = {
            name: metadata.version(name) for name in (PACKAGE, "tensorflow", "keras", "dvc")
        }
        what = ", ".join(f"{name} {version}" for name, version in versions.items())
        yield Finding("packages", "fine", what)


def _ambient() -> Iterator[Finding]:
    """Settings of the user's that Keras and others would take, and that reach no value here."""
    if names := frameworks.ignored():
        what = f"ignored, because they could change values: {', '.join(names)}"
        yield Finding(
            "settings", "note", what, f"run `unset {' '.join(names)}` to see this no more"
        )
    if changed := frameworks.settings_of_user():
        what = ", ".join(f"{key} {value!r:.40}" for key, value in changed.items())
        path = frameworks.keras_home() / frameworks.SETTINGS_FILE
        yield Finding("settings", "note", f"{path}: not read, so that it changes no value: {what}")


def _cache() -> Iterator[Finding]:
    try:
        directory = kept("weights")
    except ConfigError as error:
        yield _complaint("cache", error)
    else:
        yield Finding("cache", "fine", str(directory.parent))


def _pool(layout: Layout) -> Iterator[Finding]:
    if layout.lender is not None:
        what = f"{layout.lender}: may only be read; new rows go to {layout.pool}"
        yield Finding("pool", "note", what)
    there = next(path for path in (layout.pool, *layout.pool.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        what = f"{there}: belongs to user {there.stat().st_uid}, and may not be written"
        yield Finding("pool", "wrong", what, "set CRYOBASE_POOL to a directory of your own")
        return
    try:
        pools = Pool.all(layout.pool)
        rows = sum(map(len, pools))
    except StoreError as error:
        yield _complaint("pool", error)
        return
    free = tables.size(shutil.disk_usage(there).free)
    yield Finding("pool", "fine", f"{layout.pool}: {counted(rows, 'row')}, {free} free")
    if layout.pool.exists() and not _can_link(layout.pool, layout.root):
        what = f"{layout.pool} and {layout.root} share no hard links, so rows take room twice"
        yield Finding("pool", "note", what)


def _can_link(first: Path, second: Path) -> bool:
    """Whether hard links lead from one directory to another: they are on one disk."""
    return first.stat().st_dev == second.stat().st_dev


def _pipeline(layout: Layout) -> Iterator[Finding]:
    """The files that `cryobase init` writes, where it would write them."""
    path = layout.root / PIPELINE
    try:
        changes = plan(layout.root, Choice()).changes()
    except (ParamsError, StageError, StoreError) as error:
        if stages_file.state(path) in (State.OLDER, State.EDITED, State.NEWER):
            yield _complaint("pipeline", error, "note")
        return
    if changes:
        names = ", ".join(os.path.relpath(change.path, layout.root) for change in changes)
        what = f"{names}: not there, or without lines that the pipeline needs"
        state: Grade = "wrong" if path.is_file() else "note"
        yield Finding("pipeline", state, what, "run `cryobase init`")


def _dvc(layout: Layout) -> Iterator[Finding]:
    if not (layout.root / PIPELINE).is_file():
        yield Finding("dvc", "note", f"no {PIPELINE} here: DVC runs nothing, commands do")
        return
    root = dvc_root(layout.root)
    if root is None:
        yield Finding("dvc", "wrong", f"{layout.root}: no DVC repository", _made(layout.root))
        return
    try:
        config = _config(root)
    except OSError as error:
        yield Finding("dvc", "wrong", f"{root / '.dvc/config'}: cannot be read ({error})")
        return
    if fix := _to_see_git(layout.root, config):
        what = "core.no_scm is on, though Git is here: no experiments, and Git ignores no output"
        yield Finding("dvc", "wrong", what, fix)
    kinds = config["cache"].get("type") or []
    if "symlink" in kinds or any(map(leads_to_cache, layout.root.glob("features/*"))):
        what = "DVC puts symbolic links, which are refused as features"
        yield Finding("dvc", "wrong", what, RELINK)
    elif kinds != ["hardlink", "copy"]:
        what = (
            f"cache.type is {','.join(kinds) or 'not set'}: a second copy of each file may be kept"
        )
        fix = "run `dvc config cache.type hardlink,copy`, which makes tracked files read-only"
        yield Finding("dvc", "note", what, fix)
    else:
        yield Finding("dvc", "fine", f"{root}, cache.type hardlink,copy")
    if not config["core"].get("autostage") and (root / ".git").exists():
        what = "core.autostage is off: what DVC writes is added to Git by hand"
        yield Finding("dvc", "note", what, "run `dvc config core.autostage true`")


def _made(root: Path) -> str:
    """What makes a DVC repository of a folder."""
    git = git_root(root)
    if git == root:
        return "run `dvc init`"
    return "run `dvc init --subdir`" if git else "run `dvc init --no-scm`"


def _to_see_git(root: Path, config: Any) -> str:
    """What has DVC use the Git repository around a folder; empty where it does, or need not."""
    git = git_root(root)
    if git is None or not config["core"].get("no_scm"):
        return ""
    if ignored_by_git(around(root), [root / PIPELINE]):  # a folder that Git is to know nothing of
        return ""
    if config.load_one("local").get("core", {}).get("no_scm"):  # it hides the one of the repository
        return "run `dvc config --local core.no_scm false`"
    return "run `dvc config core.no_scm false`"


def _config(root: Path) -> Any:
    """DVC's settings as it sees them.

    Raises:
        OSError: they cannot be read.
    """
    from dvc.config import Config, ConfigError  # a third of a second

    try:
        return Config(str(root / ".dvc"))
    except (ConfigError, RuntimeError) as error:
        raise OSError(errno.EINVAL, " ".join(str(error).split())) from None


def _weights(_: Layout, params: Params) -> Iterator[Finding]:
    for name, one in params.extract.sets.items():
        try:
            here = spec_at_hand(one)[1]
        except StageError as error:
            yield _complaint("weights", error)
            continue
        where = "here" if here else "made once" if one.weights == "none" else "fetched once"
        state: Grade = "fine" if here else "note"
        yield Finding("weights", state, f"{name}: {one.backbone}, {one.weights}: {where}")


def _source(_: Layout, params: Params) -> Iterator[Finding]:
    config = params.download
    try:
        seen = watch.look(config)
    except DataError as error:
        yield _complaint("source", error)
        return
    if not seen.files:
        yield Finding("source", "fine", f"{config.source}: no files of your own")
        return
    yield Finding(
        "source",
        "fine",
        f"{config.path}: {counted(seen.files, 'file')}, {tables.size(seen.bytes)}",
    )
    root = Path(config.path).expanduser()
    listed = list(watch.entries(os.fsencode(root))) if root.is_dir() else []
    broken = [name for name, entry in listed if stat.S_ISLNK(entry.st_mode)]
    if broken:
        first = visible(os.fsdecode(broken[0]))
        what = f"{counted(len(broken), 'broken link')}, the first is {first}; left out"
        yield Finding("source", "note", what, _without_links(root))
    odd = [name for name, _ in listed if not _is_utf8(name)]
    for name in odd[:LISTED]:
        what = f"{visible(os.fsdecode(name))}: its name is not UTF-8, which DVC and others stop at"
        yield Finding("source", "note", what, _renamed(os.fsencode(root), name))
    if len(odd) > LISTED:
        yield Finding("source", "note", f"{len(odd) - LISTED:,} more names that are not UTF-8")


def _without_links(root: Path) -> str:
    where = _quoted(os.fsencode(root if root.is_absolute() else f"./{root}"))
    return f"run `find -H {where} -type l ! -exec test -e {{}} \\; -exec rm {{}} +`"


def _renamed(root: bytes, name: bytes) -> str:
    """A command that gives one file a name in UTF-8, read as Latin-1."""
    folder, _, last = name.rpartition(b"/")
    before = os.path.join(root if os.path.isabs(root) else b"./" + root, folder)
    if not _is_utf8(before):
        return "rename the folders above it first"
    after = last.decode("latin-1").encode()
    old, new = (_quoted(os.path.join(before, one)) for one in (last, after))
    return f"run `mv -n {old} {new}`"


def _quoted(path: bytes) -> str:
    """A path as a word for any shell; one that no text in backticks can hold, byte by byte."""
    if _is_utf8(path) and b"`" not in path:
        return shlex.quote(path.decode())
    octal = "".join(f"\\{byte:03o}" for byte in path)
    return f"\"$(printf '{octal}')\""


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _features(layout: Layout, params: Params) -> Iterator[Finding]:
    """Published sets that cannot be opened."""
    for name in params.extract.sets:
        try:
            status.published(layout.features(name))
        except StoreError as error:
            yield _complaint("features", error)


def _room(layout: Layout, params: Params) -> Iterator[Finding]:
    """The free space against the rows that are to be computed."""
    due = [one for one in status.sets(layout, params) if one.state != "done" and one.missing != 0]
    needed = sum(one.bytes or 0 for one in due)
    unknown = [one.set for one in due if one.bytes is None]
    there = next(path for path in (layout.pool, *layout.pool.parents) if path.exists())
    free = shutil.disk_usage(there).free
    what = f"{tables.size(free)} free"
    if needed or not unknown:
        what += f", {tables.size(needed)} of rows to compute"
    if unknown:
        names = f"{', '.join(unknown[:LISTED])}{', …' if len(unknown) > LISTED else ''}"
        what += f"; what the rows of {names} take is not known yet"
    if free < needed:
        yield Finding(
            "room", "wrong", what, "make room, take fewer views, a pooled output or float16"
        )
    else:
        yield Finding("room", "fine" if free > needed + ROOM else "note", what)
