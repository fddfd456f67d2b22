"""`python -m raynas.convert --download`, against a server on this machine that breaks off."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from nasbench_files import entry, record, refused, run

from raynas.tables import Table, download, tfrecord


class Server(ThreadingHTTPServer):
    """Serves `content`, at most `limits[i]` bytes of it in the i-th answer."""

    daemon_threads = True
    content: ClassVar[bytes] = b"".join(record(entry(f"cell-{i}")) for i in range(60))
    limits: ClassVar[list[int | None]]
    codes: ClassVar[list[int]]
    asked: ClassVar[list[str | None]]
    ranges: ClassVar[bool]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        Server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and Server.ranges else 0
        code = Server.codes.pop(0) if Server.codes else (206 if asked and Server.ranges else 200)
        code = 416 if start >= len(Server.content) else code
        body = Server.content[start:] if code < 400 else b""
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        if code == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(Server.content) - 1}/{len(Server.content)}")
        self.end_headers()
        self.wfile.write(body[: Server.limits.pop(0) if Server.limits else None])

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a server on this machine with a file that is taken for the published one."""
    Server.limits, Server.codes, Server.asked, Server.ranges = [], [], [], True
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(download, "PUBLISHED", {hashlib.sha256(Server.content).hexdigest(): tfrecord.ONLY_108})
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/file"
        server.shutdown()
        thread.join()


SIZE = len(Server.content)
PART = "nasbench_only108.tfrecord.part"


def fetched(capsys: pytest.CaptureFixture[str], url: str, folder: Path) -> None:
    code, printed, errors = run(capsys, "--download", "nasbench101", folder / "t.parquet", "--url", url)
    assert (code, errors) == (0, "")
    assert "60 architectures" in printed
    assert [file.name for file in folder.iterdir()] == ["t.parquet"]
    assert len(Table.open(folder / "t.parquet")) == 60


def test_a_download_that_breaks_off_goes_on(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Server.limits = [1000, 5000, 0]
    fetched(capsys, url, tmp_path)
    assert Server.asked == [None, "bytes=1000-", "bytes=6000-", "bytes=6000-"]


def test_a_download_goes_on_in_another_process(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Server.limits = [1000, 0, 0, 0]
    problem = refused(capsys, "--download", "nasbench101", tmp_path / "t.parquet", "--url", url)
    assert "broke off 4 times, at last because the connection was closed; the same command goes on after the 1,000 bytes" in problem
    assert [file.name for file in tmp_path.iterdir()] == [PART]
    Server.asked = []
    fetched(capsys, url, tmp_path)
    assert Server.asked == ["bytes=1000-"]


def test_a_server_without_ranges_begins_anew(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Server.ranges, Server.limits = False, [1000]
    fetched(capsys, url, tmp_path)
    assert Server.asked == [None, "bytes=1000-"]


def test_a_complete_part_is_not_fetched_again(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / PART).write_bytes(Server.content)
    fetched(capsys, url, tmp_path)
    assert Server.asked == [f"bytes={SIZE}-"]


def test_a_server_that_fails_is_asked_again(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Server.codes = [503, 500]
    fetched(capsys, url, tmp_path)
    assert len(Server.asked) == 3


def test_another_file_is_removed(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / PART).write_bytes(b"of another file")
    problem = refused(capsys, "--download", "nasbench101", tmp_path / "t.parquet", "--url", url)
    assert "is not the published nasbench_only108.tfrecord: its SHA256 is" in problem
    assert list(tmp_path.iterdir()) == []
    fetched(capsys, url, tmp_path)


@pytest.mark.parametrize("code", [403, 404])
def test_a_file_that_is_not_there(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int) -> None:
    Server.codes = [code]
    assert f"cannot be fetched: {code}" in refused(capsys, "--download", "nasbench101", tmp_path / "t.parquet", "--url", url)
    assert len(Server.asked) == 1


def test_a_server_that_cannot_be_reached(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for address, problem in {
        "http://127.0.0.1:9/file": "127.0.0.1:9 cannot be reached: Connection refused; check the network",
        "http://127.0.0.1:x/file": "127.0.0.1:x cannot be reached: ",
        "ftp://127.0.0.1/file": "must begin with http:// or https://",
    }.items():
        assert problem in refused(capsys, "--download", "nasbench101-full", tmp_path / "t.parquet", "--url", address)
    assert "unknown download 'nasbench'; did you mean 'nasbench101'?" in refused(capsys, "--download", "nasbench", tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []


def test_the_published_addresses() -> None:
    assert {name: download.URL + file for name, file in download.DOWNLOADS.items()} == {
        "nasbench101": "https://storage.googleapis.com/nasbench/nasbench_only108.tfrecord",
        "nasbench101-full": "https://storage.googleapis.com/nasbench/nasbench_full.tfrecord",
    }
    assert set(tfrecord.PUBLISHED.values()) == set(download.DOWNLOADS.values())
