"""Fetches a published file over HTTP; a broken download goes on where it stopped, also in another process."""

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from raynas.errors import TableError
from raynas.registry import unknown
from raynas.tables.tfrecord import FULL, ONLY_108, PUBLISHED

URL = "https://storage.googleapis.com/nasbench/"  # as named at https://github.com/google-research/nasbench
DOWNLOADS = {"nasbench101": ONLY_108, "nasbench101-full": FULL}
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt
TIMEOUT = 30.0  # seconds without a byte
_BLOCK = 1 << 18

Report = Callable[[int, int | None], None]  # bytes that are here, bytes of the file where the server says so


class _BrokenError(Exception):
    """The connection failed on the way, or the server did."""


class _UnreachableError(_BrokenError):
    """There was no answer at all."""


def fetch(name: str, folder: Path, url: str | None = None, report: Report = lambda done, total: None) -> Path:
    """The file that `name` of DOWNLOADS stands for, complete and with the published SHA256; its name in `folder` ends in .part.

    Args:
        url: of a mirror; it must deliver the same file.
        report: called after each block.

    Raises:
        UnknownNameError: no such download.
        TableError: the server cannot be reached, does not have the file, broke off too often, or sent another file; or the disk is full.
    """
    if name not in DOWNLOADS:
        raise unknown("download", name, DOWNLOADS)
    file = DOWNLOADS[name]
    url, part = url or URL + file, folder / f"{file}.part"
    if urlsplit(url).scheme not in ("http", "https"):
        raise TableError(f"the address of a mirror must begin with http:// or https://, not {url}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _download(url, part, report)
        with part.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise TableError(f"{part} cannot be written: {error.strerror or error}") from error
    if PUBLISHED.get(digest) != file:
        part.unlink()
        raise TableError(f"{url} is not the published {file}: its SHA256 is {digest}; it was removed, fetch it anew or from --url MIRROR")
    return part


def _download(url: str, part: Path, report: Report) -> None:
    """Appends to `part` until the file is complete. A server that never answered is not tried again."""
    reached, reason = False, ""
    for wait in (0.0, *WAITS):
        time.sleep(wait)
        try:
            if _attempt(url, part, report):
                return
        except _UnreachableError as error:
            reason = str(error)
            if not reached:
                raise TableError(
                    f"{urlsplit(url).netloc} cannot be reached: {reason}; check the network, or fetch {url} elsewhere and convert that file"
                ) from error
        except _BrokenError as error:
            reason, reached = str(error), True
        else:
            reason, reached = "the connection was closed", True
    size = part.stat().st_size if part.exists() else 0
    attempts = len(WAITS) + 1
    raise TableError(
        f"{url} broke off {attempts} times, at last because {reason}; the same command goes on after the {size:,} bytes in {part}"
    )


def _attempt(url: str, part: Path, report: Report) -> bool:
    """Receives what is missing; whether the file is complete now."""
    start = part.stat().st_size if part.exists() else 0
    response = _request(url, start)
    if response is None:
        return True
    with response, part.open("ab") as file:
        if response.status != http.client.PARTIAL_CONTENT:  # the server does not know ranges and begins anew
            file.truncate(0)
            start = 0
        total = _total(response, start)
        done = start
        while block := _read(response):
            file.write(block)
            done += len(block)
            report(done, total)
    return total is None or done >= total


def _request(url: str, start: int) -> http.client.HTTPResponse | None:
    """The answer with the bytes from `start` on, None where there are none left."""
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
        return response
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        if error.code < 500:
            raise TableError(f"{url} cannot be fetched: {error.code} {error.reason}; try --url MIRROR") from error
        raise _BrokenError(f"the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: no host, a port that is no number
        raise _UnreachableError(_reason(error)) from error


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(_reason(error)) from error


def _total(response: http.client.HTTPResponse, start: int) -> int | None:
    """Bytes of the whole file."""
    match = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if match:
        return int(match[1])
    return None if response.length is None else start + response.length


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)  # of a URLError
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
