"""Work in threads, results in order, and never more than a few results in memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    ahead: int = 4,
    stop: Callable[[], None] | None = None,
) -> Generator[Result, None, None]:
    """Like `map`, in `workers` threads, at most `ahead` untaken results per thread.

    However it ends, `stop` is called before threads are waited for, and should set them free.
    """
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= workers * ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        if stop:
            stop()
        pool.shutdown(cancel_futures=True)
