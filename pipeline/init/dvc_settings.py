"""DVC around a pipeline: made where there is none, its cache set where nobody has used it yet.

Owns what `init` does to `.dvc`. A DVC repository that is in use keeps its settings: with hard links
DVC makes files read-only, which is not ours to decide for other people's files.
"""

import logging
import re
import shlex
from pathlib import Path

from cryobase.pipeline.init.changes import Change, read
from cryobase.pipeline.init.place import Place
from cryobase.pipeline.params import ParamsError

CACHE = '[cache]\n    type = "hardlink,copy"\n'
SECTION = re.compile(r"^\s*\[(.+)\]", re.MULTILINE)


def arguments(place: Place) -> tuple[str, ...]:
    """The arguments of `dvc` that make a repository; empty where there is one."""
    if place.dvc:
        return ()
    if place.git is None:
        return ("init", "--no-scm")
    return ("init",) if place.git == place.root else ("init", "--subdir")


def make(place: Place) -> None:
    """Make the DVC repository, as `dvc init` does; it adds its files to Git's index.

    Raises:
        ParamsError: DVC refuses.
    """
    from dvc.exceptions import DvcException  # a second
    from dvc.repo import Repo

    asked, log = arguments(place), logging.getLogger("dvc")
    level = log.level
    log.setLevel(logging.WARNING)  # it would greet on stdout
    options = {option[2:].replace("-", "_"): True for option in asked[1:]}
    try:
        Repo.init(str(place.root), **options).close()
    except (DvcException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ParamsError(f"{place.root}: {shlex.join(('dvc', *asked))}: {reason}") from None
    finally:
        log.setLevel(level)


def cache_settings(place: Place) -> Change | None:
    """One copy of each file for cache and folder, in a repository that nobody has used yet."""
    path = place.shared / ".dvc" / "config"
    text = read(path)
    if place.dvc and (set(SECTION.findall(text or "")) - {"core"} or _is_used(place.dvc)):
        return None
    return Change(path, text, (text or "") + CACHE) if CACHE not in (text or "") else None


def _is_used(root: Path) -> bool:
    """Whether a DVC repository has outputs, here or on the machine of a colleague."""
    names = [path.name for path in root.iterdir()]
    tracked = [name for name in names if name.endswith(".dvc") and name != ".dvc"]
    return bool({"dvc.lock", "dvc.yaml"} & {*names} or tracked or _has_cache(root))


def _has_cache(root: Path) -> bool:
    return (root / ".dvc" / "cache" / "files").exists()


def remark(place: Place) -> str:
    """What a person should know of DVC's settings here; "" for nothing."""
    if asked := arguments(place):
        return f"makes a DVC repository, as {shlex.join(('dvc', *asked))} does"
    from dvc.config import Config, ConfigError  # a third of a second

    try:
        kinds = Config(str(place.shared / ".dvc"))["cache"].get("type") or []
    except (ConfigError, OSError, RuntimeError):  # for `dvc` to say
        return ""
    if "symlink" in kinds:
        return (
            "DVC makes symbolic links here, which are refused as features; run `dvc config --local"
            " cache.type hardlink,copy`"
        )
    if kinds or cache_settings(place):
        return ""
    return (
        "DVC may keep a second copy of each file here; `dvc config cache.type hardlink,copy` keeps"
        " one, and makes files that DVC tracks read-only"
    )
