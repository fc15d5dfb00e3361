"""Measuring two ways of doing the same thing, in turn, so that both meet the same machine."""

import time
from collections.abc import Callable
from statistics import median

ROUNDS = 7


class NotHereError(Exception):
    """A benchmark needs something that is not installed; the message says what."""


def speed_ratio(
    ours: Callable[[], object], peer: Callable[[], object], rounds: int = ROUNDS
) -> float:
    """How many times faster `ours` is than `peer`: the median over rounds of both run in turn."""
    ours(), peer()  # warm caches, compiled code and pages are the same for both
    ratios = []
    for _ in range(rounds):
        times = []
        for run in (ours, peer):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        ratios.append(times[1] / times[0])
    return median(ratios)
