"""Fetching one large file over HTTP: streamed, resumed, and believed only by its SHA-256."""

import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import DataError

log = logging.getLogger(__name__)

BLOCK = 1 << 20
MAX_BYTES = 1 << 40
ATTEMPTS = 5  # in a row that bring less than PROGRESS
PROGRESS = 1 << 20  # bytes
SAY_EVERY = 10.0  # seconds
CONTENT_RANGE = re.compile(r"\Abytes ([0-9]{1,18})-[0-9]{1,18}/(?:[0-9]{1,18}|\*)\Z")
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP errors that may be gone the next time


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait, in seconds, for a server."""

    silence: float = 30.0  # until a byte comes
    crawl: float = 60.0  # at less than CRAWL bytes a second
    pause: float = 1.0  # before the second attempt, doubled each time


CRAWL = 1024
PATIENT = Patience()


class _TransferError(Exception):
    """This attempt failed; the next may not."""


def fetch(url: str, sha256: str | None, directory: Path, patience: Patience = PATIENT) -> Path:
    """Fetch `url` into `directory`, going on where an interrupted run stopped.

    Raises:
        DataError: it cannot be had, or is not what `sha256` says; without a `sha256` the message
            gives the value to pin, and the file stays for the next run.
    """
    check_url(url)
    directory.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(url, directory, patience)
    resumed = transfer.complete()
    found = _sha256(transfer.path)
    if sha256 is not None and found != sha256 and resumed:
        log.warning("%s: changed since the transfer began; fetching it anew", url)
        transfer.forget()
        transfer.complete()
        found = _sha256(transfer.path)
    if sha256 is not None and found != sha256:
        transfer.forget()
    check_sha256(url, found, sha256)
    return transfer.path


def check_url(url: str) -> None:
    """Refuse anything but http and https."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DataError(
            f"download.url: http or https, not {url!r}; a local archive is download.path"
        )


def check_sha256(name: str, found: str, expected: str | None) -> None:
    """Compare, or tell what to pin.

    Raises:
        DataError: nothing is pinned, or something else.
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
    """The file as far as it has come, and what the server said of it."""

    def __init__(self, url: str, directory: Path, patience: Patience) -> None:
        name = hashlib.sha256(url.encode()).hexdigest()[:16]
        self.path = directory / f"{name}.part"
        self._url = url
        self._state_path = directory / f"{name}.json"
        self._patience = patience
        self._opener = _opener()

    def complete(self) -> bool:
        """Fetch what is missing; whether any of it was there before."""
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
                if failures >= ATTEMPTS:
                    raise DataError(
                        f"{self._url}: {error}, after {ATTEMPTS} attempts; {self._have():,} bytes"
                        " are kept: run `cryobase download` again to go on"
                    ) from None
                resumed = True
                log.warning("%s: %s; trying again", self._url, error)
                time.sleep(self._patience.pause * 2 ** max(0, failures - 1))
        self._remember(self._state() | {"complete": True})
        return resumed

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)

    def _attempt(self, have: int) -> None:
        state = self._state()
        headers = {"Accept-Encoding": "identity", "User-Agent": "cryobase"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if validator := state.get("validator"):
                headers["If-Range"] = validator
        request = urllib.request.Request(self._url, headers=headers)
        try:
            with self._opener.open(request, timeout=self._patience.silence) as response:
                self._receive(response, have)
        except urllib.error.HTTPError as error:
            error.close()
            said = " ".join(f"the server says {error.code} {error.reason}".split())
            if error.code == 416:  # the file has become shorter than our part
                self.forget()
            elif error.code not in PASSING:
                raise DataError(f"{self._url}: {said}; check download.url") from None
            raise _TransferError(said) from None
        except (OSError, http.client.HTTPException) as error:
            raise _TransferError(_cause(error)) from None

    def _receive(self, response: Any, have: int) -> None:
        start = _start(response, have)
        length = response.headers.get("Content-Length", "")
        expected = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
        self._refuse_too_much(start, expected or 0)
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if start == 0:  # a weak validator does not promise the same bytes
            strong = validator and not validator.startswith("W/")
            self._remember({"validator": validator} if strong else {})
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self.path, flags, 0o600), "wb") as file:
            file.truncate(start)
            file.seek(start)
            received = self._copy(response, file, start)
        if expected is not None and received < expected:
            raise _TransferError(f"the connection ended after {received:,} of {expected:,} bytes")

    def _copy(self, response: Any, file: Any, start: int) -> int:
        received, began, said = 0, time.monotonic(), time.monotonic()
        # read1 returns what has come; read would wait for the whole block, however slowly it drips
        while block := response.read1(BLOCK):
            file.write(block)
            received += len(block)
            self._refuse_too_much(start + received, 0)
            elapsed = time.monotonic() - began
            if elapsed > self._patience.crawl and received < CRAWL * elapsed:
                raise _TransferError(f"only {received:,} bytes came in {elapsed:.0f} s")
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                log.info("%s: %s MB so far", self._url, f"{(start + received) / 1e6:,.0f}")
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
            state = json.loads(self._state_path.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _remember(self, state: dict[str, Any]) -> None:
        self._state_path.write_text(json.dumps(state))


def _start(response: Any, have: int) -> int:
    """Where the bytes that come now belong: a server may answer with the whole file instead."""
    if response.status != 206:
        return 0
    found = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    if not found or int(found[1]) != have:
        raise _TransferError("the server sent another range than was asked for")
    return have


class _CarefulRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects go to http or https, and never from https back to http."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        target = urllib.parse.urljoin(req.full_url, headers.get("Location") or "")
        scheme = urllib.parse.urlsplit(target).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            fp.close()
            raise DataError(
                f"{req.full_url}: redirects to {target[:200]!r}; only http and https are followed,"
                " and never from https to http: check download.url"
            )
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener() -> urllib.request.OpenerDirector:
    """An opener that knows HTTP and nothing else: no file:, ftp: or data:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _CarefulRedirects(),
    ):
        opener.add_handler(handler)
    return opener


def _cause(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    return " ".join(str(reason).split())[:120] or type(reason).__name__


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
