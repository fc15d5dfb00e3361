"""Fetching one large file over HTTP: streamed to disk, resumed, and checked by its SHA-256."""

import hashlib
import json
import logging
import os
import re
import shutil
import threading
import time
import urllib.parse
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3

from cryobase.stages.errors import DataError, NetworkError
from cryobase.stages.progress import BYTES, Progress
from cryobase.store.errors import StoreError
from cryobase.store.text import read_json

log = logging.getLogger(__name__)

BLOCK = 1 << 20
MAX_BYTES = 1 << 40
ATTEMPTS = 5  # failed attempts in a row, each with less than PROGRESS
PROGRESS = 1 << 20  # bytes
MAX_REDIRECTS = 10
CONTENT_RANGE = re.compile(r"\Abytes ([0-9]{1,18})-[0-9]{1,18}/(?:[0-9]{1,18}|\*)\Z")
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP errors that may be temporary
PROXY_WANTS_PASSWORD = 407


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Time limits, in seconds."""

    silence: float = 10.0  # without a byte
    crawl: float = 20.0  # with fewer than CRAWL bytes per second
    pause: float = 1.0  # before the second attempt; doubled for each further attempt
    outage: float = 45.0  # without a new byte, over all attempts


CRAWL = 1024
PATIENT = Patience()


class _TransferError(Exception):
    """An attempt failed; another one may succeed."""


def fetch(url: str, sha256: str | None, directory: Path, patience: Patience = PATIENT) -> Path:
    """Fetch `url` into `directory`. Continue where an interrupted run stopped.

    Raises:
        NetworkError: the network or the server fails.
        DataError: the server does not have the file, or its SHA-256 is not `sha256`. If `sha256` is
            None, the message has the value to pin, and the file stays for the next run.
    """
    check_url(url)
    directory.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(url, directory, patience)
    resumed = transfer.complete()
    actual = _sha256(transfer.path)
    if sha256 is not None and actual != sha256 and resumed:
        log.warning("%s: changed since the transfer began; fetching it again", url)
        transfer.forget()
        transfer.complete()
        actual = _sha256(transfer.path)
    if sha256 is not None and actual != sha256:
        transfer.forget()
    check_sha256(url, actual, sha256)
    return transfer.path


def check_url(url: str) -> None:
    """Refuse an address that is not http or https.

    Raises:
        DataError: it is another one.
    """
    try:
        url.encode()
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # open brackets, an invalid port, or no text
        usable = False
    if not usable:
        raise DataError(
            f"download.url: http or https, not {url!r}; a local archive is download.path"
        )


def check_sha256(name: str, found: str, expected: str | None) -> None:
    """Compare a file's SHA-256 with the pinned one.

    Raises:
        DataError: no value is pinned, or it differs. The message has the value to pin.
    """
    if expected is None:
        raise DataError(
            f"{name}: download.sha256 is missing; if you trust it, set download.sha256: {found}"
        )
    if found != expected:
        raise DataError(
            f"{name}: sha256 {found}, download.sha256 says {expected}; fetch the right file or, if"
            " you trust this one, pin its value"
        )


class _Transfer:
    """The part of a file that was received, and the server's validator of its version."""

    def __init__(self, url: str, directory: Path, patience: Patience) -> None:
        name = hashlib.sha256(url.encode()).hexdigest()[:16]
        self.path = directory / f"{name}.part"
        self._url = url
        self._state_path = directory / f"{name}.json"
        self._patience = patience
        self._last_byte = time.monotonic()
        self._given_up = False

    def complete(self) -> bool:
        """Fetch what is missing. Returns whether a part was there before.

        This runs in a thread, because a name look-up, or a header that arrives byte by byte, has no
        time limit of its own.
        """
        result: Future[bool] = Future()
        self._last_byte = time.monotonic()
        threading.Thread(target=self._complete_into, args=(result,), daemon=True).start()
        while True:
            left = self._last_byte + self._patience.outage - time.monotonic()
            try:
                return result.result(timeout=max(0, left))
            except TimeoutError:
                if time.monotonic() - self._last_byte >= self._patience.outage:
                    self._given_up = True
                    raise self._outage("no answer in time") from None

    def _complete_into(self, result: "Future[bool]") -> None:
        try:
            result.set_result(self._complete())
        except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
            result.set_exception(error)

    def _complete(self) -> bool:
        resumed = self._have() > 0
        if self._state().get("complete"):
            return resumed
        failures = 0
        while True:
            before = self._have()
            try:
                self._attempt(before)
                break
            except _TransferError as error:
                failures = 0 if self._have() - before >= PROGRESS else failures + 1
                if failures >= ATTEMPTS or self._given_up:
                    raise self._outage(f"{error}, after {failures} attempts") from None
                resumed = True
                log.warning("%s: %s; trying again", self._url, error)
                time.sleep(self._patience.pause * 2 ** max(0, failures - 1))
        self._remember(self._state() | {"complete": True})
        return resumed

    def _outage(self, reason: str) -> NetworkError:
        return NetworkError(
            f"{self._url}: {reason}; {self._have():,} bytes are kept: check the network, and run"
            " `cryobase download` again to go on"
        )

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)

    def _attempt(self, have: int) -> None:
        state = self._state()
        headers = {
            "Accept-Encoding": "identity",
            "User-Agent": "cryobase",
        }
        if have:
            headers["Range"] = f"bytes={have}-"
            if validator := state.get("validator"):
                headers["If-Range"] = validator
        try:
            with self._open(headers) as response:
                if response.status_code not in (200, 206):
                    self._refuse(response)
                self._receive(response, have)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, ValueError):  # requests: an invalid address
                raise DataError(f"{self._url}: {_cause(error)}; check download.url") from None
            raise _TransferError(_cause(error)) from None

    def _open(self, headers: dict[str, str]) -> requests.Response:
        """The response, after all redirects."""
        url, silence = self._url, self._patience.silence
        for _ in range(MAX_REDIRECTS + 1):
            session = requests.Session()  # a new session, because a kept connection may be broken
            session.auth = _send_no_password  # otherwise requests sends a password of ~/.netrc
            response = session.get(
                url, headers=headers, stream=True, allow_redirects=False, timeout=(silence, silence)
            )
            if not response.is_redirect:
                return response
            response.close()
            url = redirected(url, response.headers["Location"])
        raise DataError(
            f"{self._url}: redirects ({response.status_code}) more than {MAX_REDIRECTS} times;"
            " check download.url"
        )

    def _refuse(self, response: requests.Response) -> None:
        said = f"the server says {response.status_code} {_one_line(response.reason or '')}".strip()
        if response.status_code == 416:  # the file is now shorter than our part
            self.forget()
        elif response.status_code == PROXY_WANTS_PASSWORD:
            raise NetworkError(
                f"{self._url}: the proxy asks for a password; set HTTP_PROXY and HTTPS_PROXY to"
                " http://USER:PASSWORD@HOST:PORT"
            )
        elif response.status_code not in PASSING:
            raise DataError(f"{self._url}: {said}; check download.url")
        raise _TransferError(said)

    def _receive(self, response: requests.Response, have: int) -> None:
        start = _start(response, have)
        length = response.headers.get("Content-Length", "")
        expected = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
        self._refuse_too_much(start, expected or 0)
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if start == 0:  # only a strong validator guarantees equal bytes
            strong = validator and not validator.startswith("W/")
            self._remember({"validator": validator} if strong else {})
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self.path, flags, 0o600), "wb") as file:
            file.truncate(start)
            file.seek(start)
            total = None if expected is None else start + expected
            with Progress(self._url, BYTES, total, done=start) as progress:
                received = self._copy(response, file, start, progress)
        if expected is not None and received < expected:
            raise _TransferError(f"the connection ended after {received:,} of {expected:,} bytes")

    def _copy(self, response: requests.Response, file: Any, start: int, progress: Progress) -> int:
        received, began = 0, time.monotonic()
        # read1 returns the bytes that have arrived; read would wait for a whole block
        while block := response.raw.read1(BLOCK, decode_content=False):
            if self._given_up:
                raise _TransferError("given up")
            file.write(block)
            received += len(block)
            self._last_byte = time.monotonic()
            self._refuse_too_much(start + received, 0)
            elapsed = time.monotonic() - began
            if elapsed > self._patience.crawl and received < CRAWL * elapsed:
                raise _TransferError(f"only {received:,} bytes came in {elapsed:.0f} s")
            progress.advance(len(block))
        return received

    def _refuse_too_much(self, have: int, more: int) -> None:
        if have + more > MAX_BYTES:
            raise DataError(f"{self._url}: more than {MAX_BYTES:,} bytes; fetch it by hand")
        if more > (free := shutil.disk_usage(self.path.parent).free):
            raise DataError(
                f"{self.path.parent}: {free:,} bytes free, {more:,} to fetch; make room"
            )

    def _have(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def _state(self) -> dict[str, Any]:
        try:
            state = read_json(self._state_path)
        except (StoreError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _remember(self, state: dict[str, Any]) -> None:
        self._state_path.write_text(json.dumps(state))


def _start(response: requests.Response, have: int) -> int:
    """The position of the response's first byte: `have`, or 0 if all of the file is sent."""
    if response.status_code != 206:
        return 0
    sent = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    if not sent or int(sent[1]) != have:
        raise _TransferError("the server sent another range than was asked for")
    return have


def redirected(url: str, location: str) -> str:
    """The target of a redirect: http or https, but never from https to http.

    Raises:
        DataError: the target is another one.
    """
    target = urllib.parse.urljoin(url, location)
    scheme = urllib.parse.urlsplit(target).scheme
    if scheme not in ("http", "https") or (url.startswith("https:") and scheme == "http"):
        raise DataError(
            f"{url}: redirects to {target[:200]!r}; only http and https are followed, and never"
            " from https to http: check download.url"
        )
    return target


def _send_no_password(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _cause(error: Exception) -> str:
    """The innermost reason of an error; requests and urllib3 wrap each other's errors."""
    seen: BaseException = error
    while inner := next((i for i in _within(seen) if isinstance(i, BaseException)), None):
        seen = inner
    # The connection was refused, or the name is unknown.
    if isinstance(seen, urllib3.exceptions.NewConnectionError):
        return _one_line(str(seen).rpartition("): ")[2])
    timeouts = (TimeoutError, urllib3.exceptions.TimeoutError, requests.Timeout)
    if isinstance(error, timeouts) or isinstance(seen, timeouts):
        return "no answer in time"
    return _one_line(str(seen)) or type(seen).__name__


def _within(error: BaseException) -> tuple[Any, ...]:
    return (getattr(error, "reason", None), *error.args)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:120]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
