"""A map in threads that returns results in order and holds only a few of them in memory."""

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
    """Like `map`, but in threads.

    Args:
        function: Called for each item, in a thread.
        items: The items; read in the caller's thread.
        workers: The number of threads.
        ahead: How many results per thread may wait to be used.
        stop: Called at the end, also after an error, before the threads are joined. It should
            unblock threads that wait for something.
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
