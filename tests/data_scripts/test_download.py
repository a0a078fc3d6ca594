"""The download against a server on this machine that misbehaves in the ways that servers and networks do."""

import collections
import errno
import hashlib

import download as download_module
import numpy as np
import pytest
from download import check_free_space, download

from weakseg_lib.errors import InputError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(server):
    server.content = CONTENT
    return server


def fetch(server, path, **options):
    return download(server.url, path, SHA256, **({"wait": 0.001, "tries": 3} | options))


def is_one_line_with_a_fix(error, where):
    message = str(error.value)
    return (
        "\n" not in message and message.startswith(f"{where}: ") and message.endswith(f"; {error.value.fix}")
    )


def only_file_in(folder):
    return [path.name for path in folder.iterdir()]


def test_a_download_makes_its_folder_and_is_not_repeated(server, tmp_path):
    path = tmp_path / "archives" / "file.zip"
    assert fetch(server, path) == path
    assert path.read_bytes() == CONTENT
    assert only_file_in(path.parent) == ["file.zip"]
    fetch(server, path)
    assert list(server.requests) == [None]


def test_a_broken_connection_goes_on_where_it_broke(server, tmp_path):
    server.behaviour = {"cut": {0: 100_000, 1: 50_000}}
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert list(server.requests) == [None, "bytes=100000-", "bytes=150000-"]
    assert only_file_in(tmp_path) == ["file.zip"]


def test_the_next_run_goes_on_where_the_last_one_stopped(server, tmp_path):
    server.behaviour = {"cut": {0: 100_000}, "status": {1: 503, 2: 503, 3: 503}}
    with pytest.raises(InputError, match="503.*goes on where it stopped") as error:
        fetch(server, tmp_path / "file.zip")
    assert is_one_line_with_a_fix(error, server.url)
    assert not (tmp_path / "file.zip").exists()
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=100000-"


def test_a_server_that_ignores_ranges_makes_it_start_over(server, tmp_path):
    server.behaviour = {"cut": {0: 100_000}, "ranges": False}
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one(server, tmp_path):
    server.behaviour = {"cut": {0: 100_000}, "status": {1: 404}, "content": bytes(200_000), "etag": '"old"'}
    with pytest.raises(InputError):
        fetch(server, tmp_path / "file.zip")
    server.behaviour = {}
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_server_that_sends_another_part_makes_it_start_over(server, tmp_path):
    server.behaviour = {"cut": {0: 100_000}, "wrong_part": True}
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert list(server.requests) == [None, "bytes=100000-", None]


def test_a_transfer_that_never_gets_further_is_given_up(server, tmp_path):
    server.behaviour = {"cut": dict.fromkeys(range(100), 100_000), "wrong_part": True}
    with pytest.raises(InputError, match="run again later"):
        fetch(server, tmp_path / "file.zip")
    assert len(server.requests) < 10
    server.requests.clear()
    server.behaviour = {"cut": dict.fromkeys(range(100), 100_000), "ranges": False}
    with pytest.raises(InputError, match="ended after 0.1 MB of 0.3 MB") as error:
        fetch(server, tmp_path / "other.zip")
    assert is_one_line_with_a_fix(error, server.url)
    assert len(server.requests) < 10


def test_a_part_that_is_longer_than_the_file_starts_over(server, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(bytes(400_000))
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_part_that_is_whole_is_only_checked(server, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(CONTENT)
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_length_that_is_too_large_does_no_harm(server, tmp_path, ranges):
    server.behaviour = {"promise": 1000, "ranges": ranges}
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_length_that_is_too_small_is_caught_by_the_hash(server, tmp_path):
    server.behaviour = {"promise": -1000}
    with pytest.raises(InputError, match="sha256") as error:
        fetch(server, tmp_path / "file.zip")
    assert is_one_line_with_a_fix(error, server.url)
    assert only_file_in(tmp_path) == []


def test_a_wrong_file_is_removed_and_an_earlier_one_kept(server, tmp_path):
    server.behaviour = {"content": b"<html>We have moved</html>"}
    (tmp_path / "file.zip").write_bytes(b"an older release")
    with pytest.raises(InputError, match="sha256.*removed") as error:
        fetch(server, tmp_path / "file.zip")
    assert is_one_line_with_a_fix(error, server.url)
    assert only_file_in(tmp_path) == ["file.zip"]
    assert (tmp_path / "file.zip").read_bytes() == b"an older release"


def test_a_missing_file_is_told_at_once(server, tmp_path):
    server.behaviour = {"status": {0: 404}}
    with pytest.raises(InputError, match="404") as error:
        fetch(server, tmp_path / "file.zip")
    assert is_one_line_with_a_fix(error, server.url)
    assert len(server.requests) == 1


def test_no_server_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    waits = []
    monkeypatch.setattr(download_module.time, "sleep", waits.append)
    url = "http://127.0.0.1:9/file.zip"  # port 9 is "discard", and nothing listens there
    with pytest.raises(InputError, match="gave up after 4 attempts") as error:
        download(url, tmp_path / "file.zip", SHA256, tries=4, wait=1)
    assert is_one_line_with_a_fix(error, url)
    assert waits == [2, 4, 8]


def test_a_disk_without_room_is_told_before_anything_is_written(server, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 200_000))
    with pytest.raises(InputError, match="100.3 MB are needed.*0.2 MB are free.*--out") as error:
        fetch(server, tmp_path / "file.zip")
    assert is_one_line_with_a_fix(error, tmp_path)
    assert not (tmp_path / "file.zip.part").exists()
    with pytest.raises(InputError, match="are needed"):
        check_free_space(tmp_path / "not" / "there" / "yet", 300_000)


def test_a_disk_that_fills_up_keeps_what_has_arrived(server, tmp_path, monkeypatch):
    class Full:
        """A file on a disk with room for the first block only."""

        def __init__(self, file):
            self.file, self.blocks = file, 0

        def write(self, block):
            if self.blocks:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.blocks += 1
            self.file.write(block)

        def flush(self):
            self.file.flush()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    part = tmp_path / "file.zip.part"
    monkeypatch.setattr(download_module, "BLOCK", 100_000)
    monkeypatch.setattr(download_module, "open", lambda *args: Full(open(*args)), raising=False)
    with pytest.raises(InputError, match="no space left.*goes on where it stopped") as error:
        fetch(server, tmp_path / "file.zip")
    assert is_one_line_with_a_fix(error, part)
    assert part.read_bytes() == CONTENT[:100_000]


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        fetch(server, tmp_path / "file" / "file.zip")
