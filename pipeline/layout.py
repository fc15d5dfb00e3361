"""The directories of a checkout. No other module builds these paths."""

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
        pool: Directory of all pools, for new rows.
        lender: Directory of pools that others own; their rows are used first. None without one.
    """

    root: Path
    shared: Path
    pool: Path
    lender: Path | None = None

    @classmethod
    def here(cls) -> "Layout":
        """The layout of the current directory.

        DVC sets `DVC_ROOT` to the main checkout even if an experiment runs in a temporary copy, so
        all experiments use the same pool. Without DVC, the root of DVC's repository is searched,
        then that of Git. If `$CRYOBASE_POOL` may only be read, new rows go to the checkout's pool.
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
        """The file in which `watch` records the state of the source."""
        return self.root / "data" / "source.json"

    @property
    def names(self) -> Path:
        """The file in which `watch` lists the sets, pairs and runs of params."""
        return self.root / "data" / "names.json"

    @property
    def extractor(self) -> Path:
        """The file in which `watch` writes the version of the extractor, for DVC."""
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
        """Checkpoints of fine-tuning runs, from which a killed run goes on."""
        return self.shared / "epochs"

    def features(self, name: str) -> Path:
        return self._below("features", name)

    def features_of(self, names: Iterable[str]) -> list[Path]:
        """Directories of the sets that stand side by side, named as in `Params.inputs`."""
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
        """A directory inside the checkout. Names that would lead out of it are refused."""
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
    """Whether the pool is a directory, can be made, or is hidden by missing permissions."""
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
    """Whether the user may write to a directory of pools, or make it."""
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
    """The root of DVC's repository, else of the Git checkout, else `start`.

    DVC's root may be inside the Git checkout. If it is outside, it belongs to something else and is
    ignored.
    """
    git, dvc = git_root(start), dvc_root(start)
    return dvc if dvc and (git is None or dvc.is_relative_to(git)) else git or start
