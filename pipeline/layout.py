"""Where everything lies: the one place that knows the directories of a checkout."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PER_NAME = ".cryobase-stages"  # where DVC runs the stages that are made per name: docs/adr/0017
MAX_SHOWN = 200  # characters of a path in a message


@dataclass(frozen=True)
class Layout:
    """The paths of one checkout: outputs under `root`, caches under `shared`.

    Attributes:
        pool: Where new rows go.
        lender: A pool that others own, whose rows are taken over first; None if there is none.
    """

    root: Path
    shared: Path
    pool: Path
    lender: Path | None = None

    @classmethod
    def here(cls) -> "Layout":
        """The layout of the current directory.

        DVC sets `DVC_ROOT` to the main checkout even where an experiment runs in a temporary copy,
        so all experiments find the same pool. By hand it is looked for, and then Git's root.
        Where `$CRYOBASE_POOL` may only be read, new rows go to the checkout's own pool.
        """
        root = Path.cwd()
        shared = Path(os.environ.get("DVC_ROOT") or _checkout(root)) / ".cryobase"
        own, asked = shared / "pool", os.environ.get("CRYOBASE_POOL")
        if not asked:
            return cls(root, shared, own)
        pool = _asked(asked)
        return cls(root, shared, pool) if _is_writable(pool) else cls(root, shared, own, pool)

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def source(self) -> Path:
        """What `watch` has seen of the source."""
        return self.root / "data" / "source.json"

    @property
    def names(self) -> Path:
        """The names of sets, pairs and runs, as `watch` found them in params."""
        return self.root / "data" / "names.json"

    @property
    def extractor(self) -> Path:
        """The version of the features that this Cryobase computes, as `watch` wrote it for DVC."""
        return self.root / "data" / "extractor.json"

    @property
    def raw(self) -> Path:
        return self.root / "data" / "raw"

    @property
    def splits(self) -> Path:
        return self.root / "data" / "splits"

    @property
    def head_cache(self) -> Path:
        """Finished heads by fingerprint, shared by every experiment of the checkout."""
        return self.shared / "heads"

    @property
    def epoch_cache(self) -> Path:
        """Epochs of fine-tuning runs that are under way, so that a killed one goes on."""
        return self.shared / "epochs"

    def features(self, name: str) -> Path:
        return self._below("features", name)

    def features_of(self, names: Iterable[str]) -> list[Path]:
        """Of the sets that stand side by side, as `Params.inputs` names them."""
        return [self.features(name) for name in names]

    def models(self, name: str) -> Path:
        return self._below("models", name)

    def head(self, name: str, head: str) -> Path:
        return self._below("models", name, head)

    def export(self, name: str, head: str) -> Path:
        return self._below("export", name, head)

    def results(self, name: str) -> Path:
        return self._below("results", name)

    def tuned(self, run: str) -> Path:
        return self._below("tuned", run)

    def tuned_results(self, run: str) -> Path:
        return self._below("results", "tuned", run)

    def ladder(self, name: str) -> Path:
        return self._below("ladder", name)

    @property
    def report(self) -> Path:
        return self.root / "report"

    def _below(self, *names: str) -> Path:
        """A directory of the checkout, whatever names come from params, files or a command line."""
        from cryobase.store.text import below

        try:
            return below(self.root, *names)
        except ValueError as error:
            from cryobase.pipeline.params import (
                ParamsError,  # which loads what every stage is configured by
            )

            raise ParamsError(f"{error}; name a set, head or run of params.yaml") from None


def _asked(text: str) -> Path:
    """The directory that `$CRYOBASE_POOL` names."""
    from cryobase.pipeline.params import (
        ParamsError,  # which loads what every stage is configured by
    )

    try:
        pool = Path(text).expanduser()
    except RuntimeError:
        raise ParamsError(
            f"CRYOBASE_POOL: {text}: no home directory is known; write the path out"
        ) from None
    if not _may_be_a_directory(pool):
        shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
        raise ParamsError(f"CRYOBASE_POOL: {shown}: no directory; name one, or unset the variable")
    return pool


def _may_be_a_directory(pool: Path) -> bool:
    """Whether it is one, or the user may make it, or it may not be seen."""
    try:
        there = next(path for path in (pool, *pool.absolute().parents) if os.path.lexists(path))
        if not os.path.isdir(there):
            return False
        os.lstat(pool)
    except FileNotFoundError:
        return os.access(there, os.W_OK | os.X_OK)
    except PermissionError:
        return True
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False
    return True


def _is_writable(pool: Path) -> bool:
    """Whether the user may add rows to a directory of pools, or make it."""
    try:
        there = next(path for path in (pool, *pool.parents) if path.exists())
        pools = [path for path in pool.glob("*") if path.is_dir()]
    except OSError:
        return False
    return all(os.access(path, os.W_OK | os.X_OK) for path in (there, *pools))


def dvc_root(start: Path) -> Path | None:
    """The nearest directory at or above `start` that holds `.dvc`; None if there is none."""
    return next((path for path in (start, *start.parents) if (path / ".dvc").is_dir()), None)


def git_root(start: Path) -> Path | None:
    """The nearest directory at or above `start` that holds `.git`; None if there is none."""
    return next((path for path in (start, *start.parents) if os.path.lexists(path / ".git")), None)


def _checkout(start: Path) -> Path:
    """What DVC would call `DVC_ROOT`, else the root of the Git checkout, else `start`.

    A DVC repository of a sub-folder is nearer than Git's; one around somebody's Git checkout is not
    that checkout's.
    """
    git, dvc = git_root(start), dvc_root(start)
    return dvc if dvc and (git is None or dvc.is_relative_to(git)) else git or start
