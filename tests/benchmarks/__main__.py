"""`python -m tests.benchmarks [NAME...] [--json] [--save]`: our speed as ratios to other ways.

A name is a key (`read.random_vs_memmap`) or the part before its dot (`read`). Every module beside
this one that has a table `BENCHMARKS` of functions, each returning a ratio, is found.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from tests.benchmarks import tables
from tests.benchmarks.measure import NotHereError
from tests.benchmarks.tables import RESULTS

ROOT = Path(__file__).parents[2]


def chosen(names: list[str]) -> dict[str, Callable[[], float]]:
    """The benchmarks that `names` name, all if there is none; imports only their modules."""
    found: dict[str, Callable[[], float]] = {}
    wanted = {name.partition(".")[0] for name in names}
    for module in iter_modules([str(Path(__file__).parent)]):
        if module.name not in ("__main__", "measure", "tables") and (
            not names or module.name in wanted
        ):
            table = getattr(import_module(f"tests.benchmarks.{module.name}"), "BENCHMARKS", {})
            found |= {
                key: function
                for key, function in table.items()
                if not names or key in names or key.partition(".")[0] in names
            }
    return found


def machine() -> str:
    """The processor and how many of its cores are ours."""
    model = platform.processor() or platform.machine()
    if (facts := Path("/proc/cpuinfo")).exists():
        lines = [line for line in facts.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"


def commit(root: Path = ROOT) -> str:
    """The commit that is measured; `-dirty` if any file differs from it that `save` does not write.

    README.md and the documents belong to an earlier measurement, or to the one that is being saved.
    """
    written = [f":(exclude){path.relative_to(ROOT)}" for path in tables.WRITTEN]
    git = ["git", "-C", str(root)]
    describe = [*git, "describe", "--always", "--abbrev=12"]
    status = [*git, "status", "--porcelain", "--untracked-files=no", "--", ":/", *written]
    found, changed = (
        subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        for command in (describe, status)
    )
    return found + ("-dirty" if changed else "") or "unknown"


def save(ratios: dict[str, float], measured: str) -> None:
    """Put `ratios` of the commit `measured` into docs/performance.json; others there are kept."""
    kept = json.loads(RESULTS.read_text())["ratios"] if RESULTS.exists() else {}
    document = {
        "machine": machine(),
        "commit": measured,
        "ratios": dict(sorted((kept | ratios).items())),
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    tables.write()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    arguments = parser.parse_args()
    benchmarks = chosen(arguments.names)
    if not benchmarks:
        parser.error(f"no benchmark is called {' or '.join(arguments.names) or 'anything'}")
    measured, ratios = commit(), {}  # before hours in which somebody may edit or commit
    for key, function in benchmarks.items():
        try:
            ratios[key] = round(function(), 3)
            line = f"{key:44} {ratios[key]:8.2f}"
        except NotHereError as reason:
            line = f"{key:44} not here: {reason}"
        print(line, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    if arguments.json:
        print(json.dumps({"machine": machine(), "commit": measured, "ratios": ratios}))
    if arguments.save:
        save(ratios, measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
