"""A file on a web server, read here and there by HTTP byte ranges, so that zipfile needs only parts of it."""

import io
import urllib.request

from download import RUN_AGAIN, TIMEOUT, TryAgain, content_range, network_errors, pause

from weakseg_lib.errors import InputError


class NoRanges(InputError):
    """The server sends whole files only."""


class RemoteFile(io.RawIOBase):
    """The file at `url`, read-only, as a raw binary file; wrap it in `io.BufferedReader` for small reads.

    tries: how many attempts in a row may bring nothing. wait: seconds before the second, doubled each time.
    Attribute size: of the file, in bytes. A broken connection is made again where it broke.

    Raises, when it is made and at every read, NoRanges where the server knows no byte ranges, and InputError
    where it has no such file, keeps failing, or sends other bytes than it was asked for.
    """

    AHEAD = 16 << 20  # bytes asked for at once: what is read next mostly follows, but not always

    def __init__(self, url, tries=5, wait=1.0):
        super().__init__()
        self.url, self.size = url, None
        self._tries, self._wait = tries, wait
        self._position = 0
        self._response, self._next, self._stop = (
            None,
            0,
            0,
        )  # the answer, its next byte, the byte after its last
        self._receive(0)

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self._position

    def seek(self, offset, whence=io.SEEK_SET):
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative position {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer):
        count = min(len(buffer), self.size - self._position)
        if count <= 0:
            return 0
        block = self._receive(count)
        buffer[: len(block)] = block
        self._position += len(block)
        return len(block)

    def close(self):
        self._hang_up()
        super().close()

    def _receive(self, count):
        """Return 1 to `count` bytes from the position on; with 0 only ask for them."""
        failures = 0
        while True:
            try:
                with network_errors(self.url):
                    if self._response is None or self._position != self._next or self._next == self._stop:
                        self._ask()
                    block = self._response.read(min(count, self._stop - self._next))
                if count and not block:
                    raise TryAgain(f"the connection ended at byte {self._next} of {self.size}")
                self._next += len(block)
                return block
            except TryAgain as reason:
                self._hang_up()
                failures += 1
                if failures >= self._tries:
                    problem = f"gave up after {self._tries} attempts ({reason})"
                    raise InputError(self.url, problem, RUN_AGAIN) from reason
                pause(reason, self._wait * 2**failures)

    def _ask(self):
        self._hang_up()
        stop = (
            self._position + self.AHEAD if self.size is None else min(self._position + self.AHEAD, self.size)
        )
        headers = {"User-Agent": "weakseg", "Range": f"bytes={self._position}-{stop - 1}"}
        request = urllib.request.Request(self.url, headers=headers)
        self._response = urllib.request.urlopen(request, timeout=TIMEOUT)
        if self._response.status != 206:
            fix = "get all of it, without `--frames` or `--needed`"
            raise NoRanges(self.url, "the server does not send parts of a file", fix)
        start, size = content_range(self._response) or (None, None)
        if start != self._position or size is None or size != (self.size or size):
            raise InputError(self.url, "the server sends another part of the file than asked for", RUN_AGAIN)
        self.size, self._next, self._stop = size, start, min(stop, size)

    def _hang_up(self):
        if self._response is not None:
            self._response.close()
            self._response = None
