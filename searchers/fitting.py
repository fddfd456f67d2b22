"""Where a method is asked for proposals while a search goes on: in place, in a thread, or in a process of its own.

Candidates are plain Python, so a thread shares its lock with whatever drives the search; a process does not. The process runs `main`
below, and is no child of `multiprocessing`, which would import the user's main script a second time. It is started once,
keeps a copy of the history, and is sent what is new.
"""

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from raynas.history import History
from raynas.model.ranks import spearman
from raynas.spaces import SearchSpace
from searchers.method import Method, Proposal

logger = logging.getLogger(__name__)

Where = Literal["inline", "apart", "thread", "process"]
_LOSSES = 3  # processes lost in a row, as to the memory monitor, after which a thread takes over
_NICE = 19  # below the control loop (0) and the processes of trials, to which Ray gives 15: what they wait for is a free slot


class Fit(NamedTuple):
    """What a method proposed, and the seconds that it took."""

    proposal: Proposal
    seconds: float


@dataclass(frozen=True)
class Refit:
    """One fit of the model, and how it predicted the results that came in since the fit before, before it learned them."""

    observations: int  # that it learned from
    seconds: float  # of fitting and proposing
    compared: int  # new results with a prediction
    mae: float | None  # mean absolute error, in units of the first objective
    rank_correlation: float | None  # Spearman's; None for fewer than 3 results


def refit(observations: int, seconds: float, pairs: Sequence[tuple[float, float]]) -> Refit:
    """One that took so long, and (expected, observed) of what came in since the one before."""
    expected, observed = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    mae = float(np.abs(expected - observed).mean()) if pairs else None
    return Refit(observations, seconds, len(pairs), mae, spearman(expected, observed))


class MethodError(Exception):
    """A method failed; the text is its traceback."""


def fit(method: Method, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Fit:
    """Asks the method."""
    began = time.perf_counter()
    proposal = method.propose(space, history, rng, count)
    if not isinstance(proposal, Proposal):
        raise TypeError(f"a method must return a searchers.Proposal, not {type(proposal).__name__}")
    return Fit(proposal, time.perf_counter() - began)


class Beside:
    """Asks a method beside the control loop, for one proposal at a time. `where`: a thread or a process."""

    def __init__(self, method: Method, space: SearchSpace, where: Where) -> None:
        self._method, self._space, self._where = method, space, where
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="raynas-fit")
        self._copy, self._additions = History(method.carry), 0  # a copy of the history, and how far it goes
        self._process: Process | None = None
        self._losses = 0
        self._closed = False

    def warm_up(self) -> None:
        """Starts the process, so that the first proposal need not wait for it."""
        if self._where == "process":
            self._executor.submit(self._started)

    def submit(self, history: History, rng: np.random.Generator, count: int) -> "Future[Fit]":
        """Has the method asked; `history` is read here and now."""
        update = history.since(self._additions)
        self._additions = history.additions
        self._copy.follow(update)
        return self._executor.submit(self._fit, self._copy, rng, count)

    def fit(self, history: History, rng: np.random.Generator, count: int) -> Fit:
        """Has the method asked, and waits for what it proposes."""
        return self.submit(history, rng, count).result()

    def close(self) -> None:
        """Ends the process, if there is one, and the thread; what is being fitted is given up."""
        self._closed = True
        if self._process is not None:
            self._process.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _started(self) -> "Process | None":
        if self._process is None and self._where == "process":
            try:
                self._process = Process(self._method, self._space)
            except Exception as error:  # pickling promises no type
                self._to_thread(error)
        return self._process

    def _to_thread(self, error: Exception) -> None:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning("models are fitted in a thread, which slows the search down a little: no process can do it (%s)", reason)
        self._where, self._process = "thread", None

    def _fit(self, history: History, rng: np.random.Generator, count: int) -> Fit:
        process = self._started()
        if process is not None:
            try:
                done = process.fit(history, rng, count)
            except LostError as error:
                process.close()
                self._process = None
                self._losses += 1
                if self._closed:
                    raise
                if error.final or self._losses >= _LOSSES:
                    self._to_thread(error)
            else:
                self._losses = 0
                return done
        return fit(self._method, self._space, history, rng, count)


class LostError(Exception):
    """A process did not answer. `final`: another one would not either."""

    def __init__(self, message: str, final: bool) -> None:
        super().__init__(message)
        self.final = final


class Process:
    """The process, seen from outside."""

    def __init__(self, method: Method, space: SearchSpace) -> None:
        task = pickle.dumps((method, space))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), "OMP_NUM_THREADS": "1"}
        # In a session of its own, so that what it has started itself can be ended with it.
        self._popen = subprocess.Popen(
            [sys.executable, "-c", "from searchers.fitting import main; main()"],
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self.close = weakref.finalize(self, _end, self._popen)
        self._additions = 0  # what its copy of the history has
        self._send(task)

    def fit(self, history: History, rng: np.random.Generator, count: int) -> Fit:
        """As the function `fit`.

        Raises:
            MethodError: the method failed.
            LostError: the process is gone, or cannot load the method or the space.
        """
        try:
            self._send(pickle.dumps((history.since(self._additions), rng, count)))
            kind, value = _receive(self._answers)
        except (OSError, EOFError, pickle.PickleError) as error:
            raise LostError(f"the process that fits is gone: {error}", final=False) from error
        self._additions = history.additions
        if kind == "failed":
            raise MethodError(value)
        if kind == "unloadable":
            raise LostError(value, final=True)
        done: Fit = value
        return done

    @property
    def _answers(self) -> IO[bytes]:
        assert self._popen.stdout is not None
        return self._popen.stdout

    def _send(self, message: bytes) -> None:
        assert self._popen.stdin is not None
        _send(self._popen.stdin, message)


def _end(popen: "subprocess.Popen[bytes]") -> None:
    """Kills the process, which may be in the middle of a fit, of which nobody wants to know, and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    popen.wait()
    for pipe in (popen.stdin, popen.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was not sent yet need not be
                logger.debug("the process that fits was gone before its pipes were closed")


def _send(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(len(message).to_bytes(8, "big") + message)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    size = pipe.read(8)
    if len(size) < 8:
        raise EOFError("the pipe was closed")
    return pickle.loads(pipe.read(int.from_bytes(size, "big")))


def main() -> None:
    """The process, seen from inside: answers until nobody asks any more. What is printed meanwhile goes to the error output."""
    os.nice(_NICE)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        _answer(requests, answers)
    except (EOFError, BrokenPipeError):
        os._exit(0)  # at once: an orderly end would try to send what nobody reads


def _answer(requests: IO[bytes], answers: IO[bytes]) -> None:
    loaded, problem = None, ""
    try:
        loaded = _receive(requests)
        loaded[0].warm_up(loaded[1])  # while nobody waits for it yet
    except EOFError:
        raise
    except Exception as error:  # whatever importing the user's module raises
        loaded = None
        problem = f"{type(error).__name__}: {error}"
    history = History() if loaded is None else History(loaded[0].carry)
    while True:
        update, rng, count = _receive(requests)
        answer: tuple[str, Any] = ("unloadable", problem)
        if loaded is not None:
            history.follow(update)
            try:
                answer = ("done", fit(loaded[0], loaded[1], history, rng, count))
            except Exception:  # a method may raise anything
                answer = ("failed", traceback.format_exc())
        _send(answers, pickle.dumps(answer))
