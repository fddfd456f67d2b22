"""The thread that writes a run folder, so that nothing that trials and the search wait for ever waits for the storage.

What is handed over goes into a batch; the thread takes the batch and leaves an empty one. A batch is written in this order, which is
what lets the process be killed at any moment: files that rows name, rows (see `RunStore.flush`), JSON about them, and at last what may
only happen once they are on disk, as the deletion of checkpoints to which no row points any more (by a second thread).

A storage that refuses is asked again, with growing pauses; one that hangs holds up the thread only. Both are seen by `check`, which
whoever runs the search calls now and then: it says so after `TROUBLE` seconds and raises after `GIVE_UP`.
"""

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any, NoReturn

from raynas import signals
from raynas.errors import DamagedError, ResultsError, RunLost
from raynas.outcome import METRICS, Metric
from raynas.run.store import Rows, RunStore
from raynas.run.summary import resume_command
from raynas.storage import first_line, json_bytes

logger = logging.getLogger(__name__)

PERIOD = 1.0  # seconds between two batches
CURVES = 30.0  # seconds between two uploads of TensorBoard's curves
TROUBLE = 10.0  # seconds after which a storage that does not answer is worth a line
GIVE_UP = 120.0  # seconds after which the run ends
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0  # seconds before a refused attempt is repeated
MOST_ROWS = 100_000  # that wait; beyond, `check` waits too


def insist(action: Callable[[], None], say: Callable[[str], None], again: str) -> None:
    """Repeats what storage refuses until it succeeds; `again`: the command that goes on with what is interrupted.

    Raises:
        RunLost: it has not for GIVE_UP seconds, or was asked to stop.
    """
    began = time.monotonic()
    for pause in _pauses():
        try:
            action()
            return
        except (OSError, ResultsError) as error:
            if time.monotonic() - began > GIVE_UP or signals.received() is not None:
                raise RunLost(f"{first_line(error)}, after {time.monotonic() - began:.0f} s. Go on with: {again}") from error
            if pause == FIRST_PAUSE:
                say(f"the storage refuses: {first_line(error)}; trying again")
        time.sleep(pause)


def _pauses() -> Iterator[float]:
    """Seconds before each further attempt."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)


@dataclass
class Batch:
    """What is to be written together, in this order."""

    asked: list[Callable[[], None]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)  # name in the run folder -> content
    rows: Rows = field(default_factory=Rows)
    values: dict[str, Any] = field(default_factory=dict)  # name in the run folder -> plain JSON
    then: list[Callable[[], None]] = field(default_factory=list)
    deletions: list[Callable[[], None]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.asked or self.files or self.rows or self.values or self.then or self.deletions)


class Writer:
    """Writes one run folder from a thread of its own, which starts with the first call that needs it.

    Args:
        uri: the run folder.
        say: shows a line to the user.
        periodically: is called by the thread every CURVES seconds, after what was handed over until then.
        guard: raises RunLost where the folder is ours no more.
        metrics: what is known of metrics.

    Raises:
        ResultsError: (constructor) the storage refuses; (add_started, add_report, add_trial) the row does not fit its schema.
        RunLost: (check, flush, close) the storage has not answered for GIVE_UP seconds.
    """

    def __init__(
        self,
        uri: str,
        say: Callable[[str], None],
        periodically: Callable[[], None],
        guard: Callable[..., None] = lambda look=False: None,
        metrics: Mapping[str, Metric] = METRICS,
    ) -> None:
        self.uri, self._say, self._periodically, self._guard = uri, say, periodically, guard
        self._store, self.metrics = RunStore(uri, metrics), metrics
        self._batch, self._writing = Batch(), Batch()
        self._deletions: SimpleQueue[Callable[[], None] | None] = SimpleQueue()  # None: there are no more
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._deleter: threading.Thread | None = None
        self._hurried = self._closing = self._merged = False
        self._since: float | None = None  # when the first attempt began at what the thread is trying; None: nothing
        self._reason = "no answer"  # of the last refusal
        self._told = False  # that there is trouble
        self._warned: set[str] = set()  # of what need not succeed
        self.lost: RunLost | None = None
        self._failed: Exception | None = None  # what it is no use to repeat
        self._abandoned = threading.Event()
        self.seconds = 0.0  # that the thread has worked, for those who measure

    # -- what the search calls: nothing here waits for the storage ---------------------------------------------------------

    def add_started(self, row: Mapping[str, Any]) -> None:
        """See `Rows`."""
        with self._change:
            self._batch.rows.add_started(row)
            self._wake()

    def add_report(self, row: Mapping[str, Any]) -> None:
        """See `Rows`."""
        with self._change:
            self._batch.rows.add_report(row)
            self._wake()

    def add_trial(self, row: Mapping[str, Any]) -> None:
        """See `Rows`."""
        with self._change:
            self._batch.rows.add_trial(row)
            self._wake()

    def put(self, name: str, content: bytes) -> None:
        """A file of the run folder, written before the rows that are added from now on."""
        with self._change:
            self._batch.files[name] = content
            self._wake()

    def put_json(self, name: str, value: Any) -> None:
        """A file of the run folder, written after the rows so far; of several under one name the last counts."""
        with self._change:
            self._batch.values[name] = value
            self._wake()

    def then(self, action: Callable[[], None]) -> None:
        """Something to do once all so far is written. Where it fails there is a warning, and it is not repeated."""
        with self._change:
            self._batch.then.append(action)
            self._wake()

    def delete(self, action: Callable[[], None]) -> None:
        """Likewise, but no later row waits for it: it is for what takes many requests, and another thread does it."""
        with self._change:
            self._batch.deletions.append(action)
            self._wake()

    def ask(self, action: Callable[[], None]) -> None:
        """Returns once the thread has done what asks the storage, and is repeated until it answers.

        Raises:
            KeyboardInterrupt: the process is to end, and there is no answer yet.
            RunLost: the storage has not answered for GIVE_UP seconds.
        """
        done = threading.Event()
        with self._change:
            self._batch.asked += [action, done.set]
            self._hurried = True
            self._wake()
        self._await(lambda: done.is_set() or signals.received() is not None)
        if not done.is_set():
            raise KeyboardInterrupt

    @property
    def waiting(self) -> int:
        """Rows that are not on disk."""
        return len(self._batch.rows) + len(self._writing.rows)

    def check(self) -> None:
        """Says whether the storage is in trouble; waits where too many rows do.

        Raises:
            RunLost: it has been for too long.
        """
        self._judge()
        while self.waiting > MOST_ROWS:
            time.sleep(0.05)
            self._judge()

    def flush(self) -> None:
        """Returns once all so far is written."""
        with self._change:
            self._hurried = True
            self._wake()
        self._await(lambda: not self._batch and not self._writing)

    def close(self) -> None:
        """Writes everything, merges the parts and ends the thread; after the storage was lost it is left as it is."""
        if self.lost is not None:
            return
        with self._change:
            self._closing = True
            self._wake()
        self._await(lambda: self._merged)
        self._deletions.put(None)
        if self._deleter is not None:
            self._deleter.join(timeout=GIVE_UP)

    @property
    def _urgent(self) -> bool:
        return self._hurried or self._closing or self._abandoned.is_set()

    def _wake(self) -> None:
        if self._thread is None:  # daemons: one that hangs must not keep us
            self._thread = threading.Thread(target=self._work, name="raynas-writer", daemon=True)
            self._deleter = threading.Thread(target=self._delete, name="raynas-deleter", daemon=True)
            self._thread.start()
            self._deleter.start()
        self._change.notify_all()

    def _await(self, done: Callable[[], bool]) -> None:
        while True:
            self._judge()
            with self._change:
                if self._change.wait_for(done, timeout=0.2):
                    return

    def _judge(self) -> None:
        if self.lost or self._failed:
            raise self.lost or self._failed  # type: ignore[misc]  # one of them is an exception
        try:
            self._guard()
        except RunLost as error:
            self._lose(error)
        since = self._since
        seconds = 0.0 if since is None else time.monotonic() - since
        if seconds > GIVE_UP:
            unwritten = f"{self.waiting} rows could not be written" if self.waiting else "all rows were written"
            problem = f"the storage of {self.uri} has not answered for {seconds:.0f} s: {self._reason}; {unwritten}"
            self._lose(RunLost(f"{problem}. Go on with: {resume_command(self.uri)}"))
        if seconds > TROUBLE and not self._told:
            self._told = True
            self._say(f"the storage does not answer: {self._reason}; trying again, {self.waiting} rows wait")
        elif seconds <= TROUBLE and self._told:
            self._told = False
            self._say("the storage answers again")

    def _lose(self, error: RunLost) -> NoReturn:
        self._abandon(error)
        raise error

    def _abandon(self, error: RunLost) -> None:
        """Nothing more is written or deleted."""
        self.lost = error
        self._abandoned.set()
        self._deletions.put(None)
        with self._change:
            self._change.notify_all()
        atexit.register(self._leave)

    def _leave(self) -> None:
        """Ends the process if the thread hangs; the library of the storage would wait for it until an answer comes."""
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(timeout=1.0)
            if self._thread.is_alive():
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(RunLost.exit_code)

    # -- the thread --------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        begun, called = -PERIOD, time.monotonic()
        try:
            while not self._abandoned.is_set():
                with self._change:
                    self._change.wait_for(lambda: self._urgent or bool(self._batch), timeout=CURVES)
                    self._change.wait_for(lambda: self._urgent, timeout=max(0.0, begun + PERIOD - time.monotonic()))
                    closing, self._hurried = self._closing, False
                    self._writing, self._batch = self._batch, Batch()
                begun = time.monotonic()
                self._write(self._writing)
                if time.monotonic() - called >= CURVES:
                    called = time.monotonic()
                    self._once(self._periodically)
                if closing:
                    self._insist(self._store.compact)
                self.seconds += time.monotonic() - begun
                with self._change:
                    self._writing, self._merged = Batch(), closing
                    self._change.notify_all()
                if closing:
                    return
        except Exception as error:
            self._failed = error

    def _write(self, batch: Batch) -> None:
        for action in batch.asked:
            self._insist(action)
        for name, content in batch.files.items():
            self._insist(partial(self._store.put, name, content))
        while batch.rows and not self._abandoned.is_set():
            self._insist(partial(self._store.write_next, batch.rows))
        for name, value in batch.values.items():
            self._insist(partial(self._store.put, name, json_bytes(value)))
        for action in batch.deletions:
            self._deletions.put(action)
        for action in batch.then:
            self._once(action)
        self._once(self._store.merge_levels)

    def _insist(self, action: Callable[[], None]) -> None:
        """Repeats it until it succeeds, or it is too late."""
        self._since = time.monotonic()
        for pause in _pauses():
            if self._abandoned.is_set():
                return
            try:
                self._guard(look=True)
                action()
                self._since = None
                return
            except DamagedError:
                raise
            except RunLost as error:  # what another process holds is not ours to write
                self._abandon(error)
                return
            except Exception as error:  # of whatever implements the storage
                self._reason = first_line(error)
            self._abandoned.wait(pause)

    def _once(self, action: Callable[[], None]) -> None:
        """What the run does not depend on; a failure is a warning, and one that repeats itself is one."""
        if self._abandoned.is_set():
            return
        self._since = time.monotonic()
        self._try(action)
        self._since = None

    def _try(self, action: Callable[[], None]) -> None:
        try:
            self._guard(look=True)
            action()
        except Exception as error:
            if (text := first_line(error)) not in self._warned:
                self._warned.add(text)
                logger.warning("%s", text)

    def _delete(self) -> None:
        while (action := self._deletions.get()) is not None and not self._abandoned.is_set():
            self._try(action)
