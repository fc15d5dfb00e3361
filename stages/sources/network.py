"""Time limits for downloads by a library that sets none, so that they fail within a minute."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import requests
import urllib3
from requests.adapters import HTTPAdapter

CONNECT, SILENCE = 10.0, 20.0  # time limits in seconds; each is tried twice
RETRIES = urllib3.Retry(
    total=4, connect=1, read=1, backoff_factor=1, status_forcelist=(500, 502, 503, 504)
)
MAY_PASS = re.compile(r"HTTP code: (407|408|425|429|5\d\d)|libcurl code|Could not resolve host")
OUTAGES = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.RetryError,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
    TimeoutError,
    socket.gaierror,
)
_send = HTTPAdapter.send


@contextmanager
def bounded() -> Iterator[None]:
    """Give every request of `requests` few retries, and a time limit if it has none.

    TensorFlow Datasets sets no time limit and ten retries, and has no setting for them. After a
    failure its threads still process their queue when Python exits. Their requests then fail at
    once.
    """
    over, theirs = threading.Event(), WeakSet[threading.Thread]()

    def send(adapter: Any, request: Any, **options: Any) -> Any:
        thread = threading.current_thread()
        if over.is_set():
            if thread in theirs:
                raise requests.ConnectionError("given up")
        elif thread is not threading.main_thread():
            theirs.add(thread)
        adapter.max_retries = RETRIES
        options["timeout"] = options.get("timeout") or (CONNECT, SILENCE)
        return _send(adapter, request, **options)

    HTTPAdapter.send = send
    try:
        yield
    except BaseException:
        over.set()
        raise
    HTTPAdapter.send = _send


def is_outage(error: BaseException) -> bool:
    """Whether an error, or its cause, is a failure of the network or of a server."""
    seen: list[BaseException] = []
    while error not in seen:
        if isinstance(error, OUTAGES) or MAY_PASS.search(str(error)):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__ or error
    return False
