"""A server on this machine that misbehaves in the ways that servers and networks do."""

import collections
import re
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# The scripts are run from their folder, and import each other as they do then.
sys.path.insert(0, str(Path(__file__).parents[2] / "data_scripts"))


class Handler(BaseHTTPRequestHandler):
    """Answers with `server.content` as `server.behaviour` says: a dict that may have

    content, etag: what there is instead. ranges: False ignores the Range header. wrong_part: True answers a
    Range with other bytes. cut: bytes after which request number i breaks off. promise: bytes by which the
    size of the file is said too large (negative: too small). promise_part: the same of a part's
    Content-Length alone. status: number to answer request i with instead.
    """

    def do_GET(self):
        server, behaviour = self.server, self.server.behaviour
        wanted = self.headers.get("Range")
        server.requests.append(wanted)
        number = len(server.requests) - 1
        if number in behaviour.get("status", {}):
            return self.send_error(behaviour["status"][number])
        content, etag = behaviour.get("content", server.content), behaviour.get("etag", '"one"')
        promised = len(content) + behaviour.get("promise", 0)
        start, stop = 0, promised
        partial = wanted and behaviour.get("ranges", True) and self.headers.get("If-Range", etag) == etag
        if partial:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups()
            start, stop = int(first), min(int(last) + 1, promised) if last else promised
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
        self.send_response(206 if partial else 200)
        if partial:
            first = start + 1 if behaviour.get("wrong_part") else start
            self.send_header("Content-Range", f"bytes {first}-{stop - 1}/{promised}")
        extra = behaviour.get("promise_part", 0) if partial else 0
        self.send_header("Content-Length", str(max(stop - start + extra, 1)))
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        with suppress(ConnectionError):  # the other side may have read enough
            self.wfile.write(content[start:stop][: behaviour.get("cut", {}).get(number)])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """The server (attributes content, behaviour, requests: the Range headers so far, and url), running."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.behaviour, server.requests = b"", {}, collections.deque()
    server.url = f"http://127.0.0.1:{server.server_port}/file.zip"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
