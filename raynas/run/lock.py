"""One writer a run folder, on local disks and object stores alike, without any operation that only some of them have.

Whoever wants to write puts a claim of its own into the folder, `.lock-ID.json`, and then lists the claims. It holds the folder if no
other claim is alive; else it withdraws its own. As a listing shows every file that was complete before, two never hold it together.
Two that see each other's claims, neither of which is held, both withdraw and try again after pauses of random length.

A holder says that it lives by rewriting `.lock-ID.beat` every BEAT seconds, never the claim: to delete the claim is to take the folder
over, and cannot be undone by a holder that comes back late. A claim is dead DEAD_AFTER seconds after its last beat, by the storage's
own clock, or at once where its process ran on this machine and is gone.
"""

import json
import logging
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyarrow.fs import FileType, LocalFileSystem

from raynas.errors import ResultsError, RunLost
from raynas.storage import exists, filesystem, first_line, json_bytes, list_files, make_folder, read_bytes, write_bytes

logger = logging.getLogger(__name__)

BEAT = 10.0  # seconds between two signs of life
DEAD_AFTER = 60.0  # seconds without one
_ATTEMPTS = 8  # of two that race, before one gives up
_PREFIX = ".lock-"


class Lock:
    """Holds a run folder, which is made if need be, as a context.

    Args:
        uri: the folder.
        again: the command that goes on with what is interrupted.

    Raises:
        ResultsError: (on entering) another process writes the folder, or the storage refuses.
        RunLost: (check) another process has taken the folder over.
    """

    def __init__(self, uri: str, again: str) -> None:
        self.uri, self._again = uri, again
        self._fs, self._root = filesystem(uri)
        self._id = secrets.token_hex(8)
        self._lost = False
        self._beaten = 0.0  # when its last sign of life was written, in seconds since 1970: other clocks stand still while a machine sleeps
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name="raynas-lock", daemon=True)

    def __enter__(self) -> Self:
        self._made = self._fs.get_file_info(self._root).type == FileType.NotFound
        make_folder(self._fs, self._root)
        attempts = 0
        while (other := self._claim()) is not None:
            attempts += 1
            if other["held"] or attempts == _ATTEMPTS:
                raise _refusal(self.uri, _named(other))
            time.sleep(random.uniform(0.1, 1.0))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)  # a storage that hangs must not keep us: the claim dies by itself

    def check(self, look: bool = False) -> None:
        """Whether the folder is still ours; `look`: asks the storage where the last sign of life is so old that it may not be."""
        if look and not self._lost and time.time() - self._beaten > DEAD_AFTER - BEAT:
            self._beat()
        if self._lost:
            raise RunLost(
                f"{self.uri} was taken over by another process, as this one had not been seen for {DEAD_AFTER:.0f} s; "
                f"if that one has ended, go on with: {self._again}"
            )

    def _claim(self) -> dict[str, Any] | None:
        """Takes the folder, or returns whose it is, and whether that one holds it or is only trying, too."""
        since = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
        write_bytes(self._fs, _path(self._root, self._id, "json"), json_bytes(_this_process() | {"since": since}))
        try:
            claims = _claims(self._fs, self._root)
            now = claims[self._id]["seen"]
            for name, claim in claims.items():
                if name == self._id:
                    continue
                if _alive(claim, now):
                    self._delete(self._id)
                    return claim
                logger.info("%s was left by a process that is gone (host %s, pid %s)", self.uri, claim.get("host"), claim.get("pid"))
                self._delete(name)
            self._beat()
        except (OSError, ResultsError) as error:
            with suppress(OSError):
                self._delete(self._id)
            raise ResultsError(f"cannot lock {self.uri}: {first_line(error)}") from error
        return None

    def _delete(self, name: str) -> None:
        for suffix in ("json", "beat"):
            with suppress(FileNotFoundError):
                self._fs.delete_file(_path(self._root, name, suffix))

    def _beat(self) -> None:
        """Gives a sign of life, and looks whether the claim is still there."""
        now = time.time()
        write_bytes(self._fs, _path(self._root, self._id, "beat"), b"")
        self._lost = f"{_PREFIX}{self._id}.json" not in {info.base_name for info in list_files(self._fs, self._root)}
        self._beaten = now

    def _live(self) -> None:
        """Beats until the end; a beat that fails is made up for by the next."""
        while not self._stop.wait(BEAT) and not self._lost:
            try:
                self._beat()
            except Exception as error:  # of whatever implements the storage
                logger.debug("no sign of life in %s: %s", self.uri, first_line(error))
        try:
            self._delete(self._id)
            if self._made and isinstance(self._fs, LocalFileSystem):
                with suppress(OSError):  # it holds something, as it should
                    os.rmdir(self._root)
        except Exception as error:
            logger.debug("the lock of %s stays: %s", self.uri, first_line(error))


@dataclass(frozen=True)
class Holder:
    """Who writes a run folder, or did until it died; None: its claim does not say."""

    host: str | None
    pid: int | None
    since: str | None  # in UTC, ISO 8601
    alive: bool = True


def refuse_held(uri: str) -> None:
    """Raises ResultsError where a live process holds the folder, as far as that can be seen from here without a claim."""
    if (other := holder(uri)) is not None and other.alive:
        raise _refusal(uri, other)


def check_free(uri: str, names: Sequence[str] = ("config.json", "parts", "trials.parquet")) -> None:
    """Raises ResultsError where the folder holds a run, of which each of `names` is a sign."""
    if any(exists(uri, name) for name in names):
        raise ResultsError(f"{uri} already holds a run; go on with it by --resume {uri}, or choose another --out")


def holder(uri: str) -> Holder | None:
    """Who writes a run folder, or did so until it died; what is old is judged by the clock of this machine.

    Raises:
        ResultsError: the storage refuses.
    """
    fs, root = filesystem(uri)
    try:
        claims = _claims(fs, root).values()
    except OSError as error:
        raise ResultsError(f"cannot read {uri}: {first_line(error)}") from error
    held = [_named(claim, _alive(claim, time.time())) for claim in claims if claim["held"]]
    return max(held, key=lambda one: one.alive, default=None)


def _alive(claim: dict[str, Any], now: float) -> bool:
    """Whether a claim is not dead; one whose time lies far ahead is a copy, or of a clock that was set back."""
    return not _gone(claim) and abs(now - claim["seen"]) < DEAD_AFTER


def _named(claim: dict[str, Any], alive: bool = True) -> Holder:
    host, pid, since = (claim.get(key) for key in ("host", "pid", "since"))
    return Holder(str(host) if host else None, pid if isinstance(pid, int) else None, str(since) if since else None, alive)


def _refusal(uri: str, other: Holder) -> ResultsError:
    return ResultsError(
        f"{uri} is being written by another process: host {other.host}, pid {other.pid}, since {other.since}; wait for its end, or choose "
        f"another --out (one that has died is taken over {DEAD_AFTER:.0f} s after its last sign of life)"
    )


def _claims(fs: Any, root: str) -> dict[str, dict[str, Any]]:
    """Those in a folder, by id: what they say, `held`, and when they were `seen` last, in seconds of the storage's clock."""
    times: dict[str, dict[str, float]] = {}
    for info in list_files(fs, root):
        name, _, suffix = info.base_name.removeprefix(_PREFIX).partition(".")
        if info.base_name.startswith(_PREFIX) and suffix in ("json", "beat"):
            times.setdefault(name, {})[suffix] = _modified(fs, info)
    claims = {}
    for name, by_suffix in times.items():
        if "json" in by_suffix:  # else the beat of one that was taken over
            claims[name] = _content(fs, _path(root, name, "json")) | {"held": "beat" in by_suffix, "seen": max(by_suffix.values())}
    return claims


def _content(fs: Any, path: str) -> dict[str, Any]:
    try:
        value = json.loads(read_bytes(fs, path).to_pybytes())
    except (FileNotFoundError, ValueError):  # withdrawn meanwhile, or damaged
        return {}
    return value if isinstance(value, dict) else {}


def _modified(fs: Any, info: Any) -> float:
    modified = info.mtime
    if modified is None:  # pyarrow asks fsspec for a time under one of its names only
        modified = fs.handler.fs.modified(info.path)
    return float(modified.timestamp())


def _path(root: str, name: str, suffix: str) -> str:
    return f"{root}/{_PREFIX}{name}.{suffix}"


def _this_process() -> dict[str, Any]:
    """What tells a process from all others, and the machine and container that it runs in from all others."""
    return _machine() | {"pid": os.getpid(), "begun": _begun(os.getpid())}


def _machine() -> dict[str, Any]:
    try:
        boot, namespace = Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        boot, namespace = None, None
    return {"host": socket.gethostname(), "boot": boot, "namespace": namespace}


def _begun(pid: int) -> int | None:
    """When a process on this machine began, in ticks since the machine did; 0: it is gone; None: that cannot be known."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0 if Path("/proc/self/stat").exists() else None
    return 0 if state in "ZX" else int(fields[18])  # proc(5): field 22 is starttime; Z, X: it has ended


def _gone(claim: dict[str, Any]) -> bool:
    """Whether a claim is one of a process that ran here and is gone."""
    here, pid = _machine(), claim.get("pid")
    if not isinstance(pid, int) or pid <= 0 or any(claim.get(key) != value for key, value in here.items()):
        return False
    begun = _begun(pid)
    return begun is not None and begun != claim.get("begun")
