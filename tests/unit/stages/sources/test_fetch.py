"""Fetching from servers that are slow, break off, lie, redirect and change their minds."""

import hashlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from cryobase.stages.errors import DataError, NetworkError, StageError
from cryobase.stages.sources import fetch as fetching
from cryobase.stages.sources.fetch import Patience, fetch, redirected

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(silence=0.5, crawl=0.3, pause=0.001)


class Handler(BaseHTTPRequestHandler):
    """Answers each request by the next of the server's behaviours; the last one stays."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        behaviours = self.server.behaviours
        behaviour = behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]
        self.server.requests.append(dict(self.headers))
        self.close_connection = True
        behaviour(self)

    def log_message(self, *_):
        pass

    def start(self):
        """How much of the content the client asks to skip."""
        asked = self.headers.get("Range")
        return int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0

    def head(self, code, length=None, **headers):
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


def good(handler, content=CONTENT, until=None, etag=None):
    """Serve ranges properly; break the connection off at `until`."""
    headers = {"ETag": etag} if etag else {}
    start = handler.start()
    if_range = handler.headers.get("If-Range")
    if start and (if_range is None or if_range == etag):
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.head(206, len(content) - start, Content_Range=span, **headers)
    else:
        start = 0
        handler.head(200, len(content), **headers)
    handler.wfile.write(content[start:until])


def breaking_at(until, **options):
    return lambda handler: good(handler, until=until, **options)


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.requests = []
        running.url = f"http://127.0.0.1:{running.server_port}/flowers.tgz"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_good_server(server, tmp_path):
    server.behaviours = [good]
    assert fetch(server.url, SHA256, tmp_path, QUICK).read_bytes() == CONTENT
    assert len(server.requests) == 1
    fetch(server.url, SHA256, tmp_path, QUICK)
    assert len(server.requests) == 1, "what is complete is not fetched again"


@pytest.mark.fault(59)
def test_a_broken_connection_is_resumed_where_it_broke(server, tmp_path):
    server.behaviours = [breaking_at(1_000_000), breaking_at(2_500_000), good]
    assert fetch(server.url, SHA256, tmp_path, QUICK).read_bytes() == CONTENT
    assert [request.get("Range") for request in server.requests] == [
        None, "bytes=1000000-", "bytes=2500000-",
    ]  # fmt: skip


@pytest.mark.fault(59)
def test_an_interrupted_run_is_resumed_by_the_next(server, tmp_path):
    server.behaviours = [breaking_at(2_000_000)]
    with pytest.raises(NetworkError, match="2,000,000 bytes are kept"):
        fetch(server.url, SHA256, tmp_path, QUICK)
    assert len(server.requests) <= 2 * fetching.ATTEMPTS
    server.behaviours = [good]
    server.requests.clear()
    assert fetch(server.url, SHA256, tmp_path, QUICK).read_bytes() == CONTENT
    assert server.requests[0]["Range"] == "bytes=2000000-"


@pytest.mark.fault(59)
@pytest.mark.parametrize("code", [500, 503, 429])
def test_passing_errors_are_tried_again(server, tmp_path, code):
    server.behaviours = [lambda handler: handler.head(code, 0), good]
    assert fetch(server.url, SHA256, tmp_path, QUICK).read_bytes() == CONTENT


@pytest.mark.fault(59)
def test_lasting_errors_are_not(server, tmp_path):
    server.behaviours = [lambda handler: handler.head(404, 0)]
    with pytest.raises(DataError, match="404"):
        fetch(server.url, SHA256, tmp_path, QUICK)
    assert len(server.requests) == 1


@pytest.mark.fault(59)
def test_a_reset_and_a_silent_server_end_in_one_line(server, tmp_path):
    server.behaviours = [lambda handler: handler.connection.close()]
    with pytest.raises(NetworkError, match="after 5 attempts"):
        fetch(server.url, SHA256, tmp_path, QUICK)
    server.behaviours = [lambda handler: time.sleep(1)]
    with pytest.raises(NetworkError, match="no answer in time"):
        fetch(server.url, SHA256, tmp_path, Patience(silence=0.05, pause=0.001))


@pytest.mark.fault(59)
def test_attempts_are_further_and_further_apart(server, tmp_path, monkeypatch):
    pauses = []
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=pauses.append)
    monkeypatch.setattr(fetching, "time", clock)
    server.behaviours = [lambda handler: handler.head(503, 0)]
    with pytest.raises(NetworkError, match="503"):
        fetch(server.url, SHA256, tmp_path, Patience(pause=3))
    assert pauses == [3, 6, 12, 24]
    assert len(server.requests) == 5


@pytest.mark.fault(59)
def test_a_server_that_gives_little_at_a_time_is_given_up(server, tmp_path):
    little = lambda handler: good(handler, until=handler.start() + 1000)  # noqa: E731
    server.behaviours = [little]
    with pytest.raises(NetworkError, match="after 5 attempts; 5,000 bytes are kept"):
        fetch(server.url, SHA256, tmp_path, QUICK)
    assert len(server.requests) == 5


@pytest.mark.fault(59)
def test_nonsense_and_a_chunk_cut_short_are_tried_again(server, tmp_path):
    def cut(handler):
        handler.head(200, Transfer_Encoding="chunked")
        handler.wfile.write(b"ffff\r\n" + CONTENT[:100])

    server.behaviours = [lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"), cut, good]
    assert fetch(server.url, SHA256, tmp_path, QUICK).read_bytes() == CONTENT
    assert len(server.requests) == 3


@pytest.mark.fault(59)
def test_a_dripping_server_is_given_up(server, tmp_path):
    def drip(handler):
        handler.head(200, len(CONTENT))
        for byte in CONTENT[:200]:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.02)

    server.behaviours = [drip, good]
    assert fetch(server.url, SHA256, tmp_path, QUICK).read_bytes() == CONTENT
    assert server.requests[1]["Range"] != "bytes=200-", "the first attempt was cut short"


@pytest.mark.fault(59)
@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://x/"]
)
def test_redirects_elsewhere_are_refused(server, tmp_path, target):
    server.behaviours = [lambda handler: handler.head(302, 0, Location=target)]
    with pytest.raises(DataError, match="only http and https are followed"):
        fetch(server.url, SHA256, tmp_path, QUICK)
    assert len(server.requests) == 1
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.fault(59)
def test_redirects_to_http_are_followed_but_not_from_https_or_in_circles(server, tmp_path):
    server.behaviours = [lambda handler: handler.head(302, 0, Location="/elsewhere"), good]
    assert fetch(server.url, SHA256, tmp_path, QUICK).read_bytes() == CONTENT
    for target in ("/flowers.tgz", "//"):
        server.behaviours = [lambda handler, to=target: handler.head(302, 0, Location=to)]
        with pytest.raises(DataError, match="302") as caught:
            fetch(server.url, SHA256, tmp_path / "circle", QUICK)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="never from https to http"):
        redirected("https://example.org/a", "http://a.org/")


@pytest.mark.fault(60)
@pytest.mark.parametrize("length", [1_000_000, 4_000_000, None])
def test_a_lying_or_missing_length_ends_in_the_right_bytes_or_an_error(server, tmp_path, length):
    def lie(handler):
        handler.head(200, length)
        handler.wfile.write(CONTENT)

    server.behaviours = [lie]
    if length is None:
        assert fetch(server.url, SHA256, tmp_path, QUICK).read_bytes() == CONTENT
    else:
        with pytest.raises(StageError, match=r"sha256|bytes are kept"):
            fetch(server.url, SHA256, tmp_path, QUICK)


@pytest.mark.fault(60)
def test_a_length_beyond_the_disk_is_refused_before_fetching(server, tmp_path):
    server.behaviours = [lambda handler: handler.head(200, 10**12)]
    with pytest.raises(DataError, match="make room"):
        fetch(server.url, SHA256, tmp_path, QUICK)
    server.behaviours = [lambda handler: handler.head(200, 10**15)]
    with pytest.raises(DataError, match="more than"):
        fetch(server.url, SHA256, tmp_path, QUICK)


@pytest.mark.fault(60)
def test_a_body_of_no_length_is_capped_while_it_comes(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(fetching, "BLOCK", 1 << 14)
    server.behaviours = [lambda handler: (handler.head(200), handler.wfile.write(CONTENT))]
    with pytest.raises(DataError, match="more than 1,000,000 bytes"):
        fetch(server.url, SHA256, tmp_path, QUICK)
    assert next(tmp_path.glob("*.part")).stat().st_size < 1_100_000


@pytest.mark.fault(60)
@pytest.mark.parametrize(
    ("etags", "asked"),
    [(('"old"', '"new"'), '"old"'), (('W/"1"', 'W/"1"'), None), ((None,) * 2, None)],
)
def test_a_file_that_changes_between_resumes_is_fetched_anew(server, tmp_path, etags, asked):
    """With an ETag the server sends the new file whole; without a strong one, the digest tells."""
    old = np.random.default_rng(9).bytes(len(CONTENT))
    first = lambda handler: good(handler, old, until=2_000_000, etag=etags[0])  # noqa: E731
    server.behaviours = [first, lambda handler: good(handler, etag=etags[1])]
    assert fetch(server.url, SHA256, tmp_path, QUICK).read_bytes() == CONTENT
    assert server.requests[1].get("If-Range") == asked
    assert len(server.requests) == (2 if asked else 3)


@pytest.mark.fault(60)
def test_a_file_that_became_shorter_or_a_wrong_range_is_fetched_anew(server, tmp_path):
    def wrong(handler):
        handler.head(206, 5, Content_Range="bytes 0-4/5")
        handler.wfile.write(b"wrong")

    gone = lambda handler: handler.head(416, 0)  # noqa: E731
    server.behaviours = [breaking_at(1_000_000), wrong, gone, good]
    assert fetch(server.url, SHA256, tmp_path, QUICK).read_bytes() == CONTENT
    assert [request.get("Range") for request in server.requests] == [
        None, "bytes=1000000-", "bytes=1000000-", None,
    ]  # fmt: skip
    server.requests.clear()
    short = CONTENT[:1_000_000]
    server.behaviours = [
        breaking_at(2_000_000, etag='"old"'),
        lambda handler: good(handler, short, etag='"new"'),
    ]
    sha256 = hashlib.sha256(short).hexdigest()
    assert fetch(server.url, sha256, tmp_path / "short", QUICK).read_bytes() == short
    assert len(server.requests) == 2


@pytest.mark.fault(14)
def test_another_file_than_pinned_is_refused_and_not_kept(server, tmp_path):
    server.behaviours = [good]
    with pytest.raises(DataError, match="sha256"):
        fetch(server.url, "0" * 64, tmp_path, QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(61)
def test_without_a_pinned_digest_the_message_gives_it(server, tmp_path):
    server.behaviours = [good]
    with pytest.raises(DataError, match=f"set download.sha256: {SHA256}"):
        fetch(server.url, None, tmp_path, QUICK)
    fetch(server.url, SHA256, tmp_path, QUICK)
    assert len(server.requests) == 1, "once pinned, it need not be fetched again"


@pytest.mark.fault(59)
@pytest.mark.parametrize("url", ["file:///etc/passwd", "flowers.tgz", "ftp://a/b", "http://"])
def test_other_addresses_are_refused(url, tmp_path):
    with pytest.raises(DataError, match=r"download\.url"):
        fetch(url, SHA256, tmp_path, QUICK)


@pytest.fixture
def silent():
    """A server that accepts, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/flowers.tgz"


@pytest.mark.fault(59)
def test_no_network_ends_soon_whatever_it_looks_like(silent, server, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as once:
        refused = f"http://127.0.0.1:{once.getsockname()[1]}/flowers.tgz"
    quick = Patience(silence=0.1, pause=0.001, outage=1)
    for url, why in (
        (silent, "no answer in time"), (refused, "refused"),
        ("http://localhost.invalid/x", "resolve"), ("https://localhost.invalid/x", "resolve"),
    ):  # fmt: skip
        words = f"{why}.*0 bytes are kept: check the network"
        with pytest.raises(NetworkError, match=words) as caught:
            fetch(url, SHA256, tmp_path, quick)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("http_proxy", refused)
    with pytest.raises(NetworkError, match="check the network"):
        fetch("http://example.invalid/x", SHA256, tmp_path, quick)
    monkeypatch.setenv("http_proxy", server.url)
    server.behaviours = [lambda handler: handler.head(407, 0)]
    with pytest.raises(NetworkError, match="the proxy asks for a password"):
        fetch("http://example.invalid/x", SHA256, tmp_path, quick)


@pytest.mark.fault(59)
def test_what_no_socket_can_time_ends_soon_too(server, tmp_path, monkeypatch):
    """A header that drips for ever, and a name that is looked up for ever."""

    def drip(handler):
        for number in range(100):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n" if number == 0 else b"X: y\r\n")
            time.sleep(0.05)

    server.behaviours = [drip]
    patience = Patience(silence=1, outage=0.5)
    with pytest.raises(NetworkError, match="no answer in time"):
        fetch(server.url, SHA256, tmp_path, patience)
    ever = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ever.wait(20))
    with pytest.raises(NetworkError, match="no answer in time"):
        fetch("http://example.invalid/x", SHA256, tmp_path, patience)
    ever.set()


def test_no_password_of_netrc_goes_along(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.behaviours = [good]
    fetch(server.url, SHA256, tmp_path, QUICK)
    assert "Authorization" not in server.requests[0]


@pytest.mark.fault(59)
@pytest.mark.parametrize("url", ["http://[", "http://a b/", "http://\udcff/", "http://x:99999999/"])
def test_addresses_that_are_none_are_refused(url, tmp_path):
    with pytest.raises(DataError, match=r"download\.url"):
        fetch(url, SHA256, tmp_path, QUICK)
