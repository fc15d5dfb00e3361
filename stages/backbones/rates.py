"""How fast a spec's rows were computed here last time, for estimates."""

import json
import os
from pathlib import Path

FILE = "rates.json"


def remember(pool: Path, fingerprint: str, rows: int, seconds: float) -> None:
    """Keep the rows per second of a run, start-up included, if the pool can be written."""
    rates = _read(pool) | {fingerprint: round(rows / max(seconds, 1e-3), 3)}
    partial = pool / f".{FILE}.{os.getpid()}"
    try:
        partial.write_text(json.dumps(rates, sort_keys=True), encoding="utf-8")
        partial.replace(pool / FILE)
    except OSError:
        partial.unlink(missing_ok=True)


def seconds(pool: Path, fingerprint: str, rows: int) -> float | None:
    """An estimate for some rows; None where none of the spec was ever computed here."""
    rate = _read(pool).get(fingerprint)
    return rows / rate if rate else None


def _read(pool: Path) -> dict[str, float]:
    try:
        found = json.loads((pool / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
