"""The signals by which a command is asked to stop: SIGINT (Ctrl-C), SIGTERM (`kill`, SLURM, Kubernetes) and SIGHUP (a closed terminal).

A command notes the first of them. It becomes one KeyboardInterrupt, raised where that does no harm: at once in code that may be left
anywhere, at the end of what is `held` (as while Ray starts), or where `check` asks for it. All later ones change nothing: what is being
closed is closed.

Handlers are installed by commands alone. A program that calls `raynas.run_search` keeps its own; there is nothing to hold or to check then.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class _State:
    received: int | None = None  # the first signal
    raised = False  # whether it has become a KeyboardInterrupt
    holds = 0  # contexts in which none is raised
    installed = False
    loading = False  # whether the command has not begun


def install() -> None:
    """From now on signals are ours; to be called before anything heavy is imported, whose modules an exception cannot leave in order.

    Until the command begins, nothing has been started that would have to be closed: it ends at once.

    What was ignored when the process began stays ignored, as `nohup` and the background jobs of a shell mean it.
    """
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _note)
    _State.installed, _State.loading, _State.holds = True, True, 1


def installed() -> bool:
    """Whether this process is a command."""
    return _State.installed


def received() -> int | None:
    """The first signal that came, by number."""
    return _State.received


def check() -> None:
    """Raises KeyboardInterrupt, once, if a signal has come."""
    if _State.received is not None and not _State.raised:
        _State.raised = True
        raise KeyboardInterrupt


def ignore() -> None:
    """Signals change nothing any more."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def shielding() -> Iterator[None]:
    """Processes that are started within it get none of the signals, which a terminal sends to all: the command ends them itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def held() -> Iterator[None]:
    """Within it a signal is only noted; it is raised at the end, unless something else is raised then."""
    _State.holds += 1
    try:
        yield
    finally:
        _State.holds -= 1
    if not _State.holds:
        check()


@contextmanager
def raising() -> Iterator[None]:
    """The body of a command: all of it may be left, but for what is held. What comes after it is as held."""
    before, _State.holds, _State.loading = _State.holds, 0, False
    try:
        check()
        yield
    finally:
        _State.holds = before


def _note(number: int, frame: FrameType | None) -> None:
    if _State.loading:
        os.write(2, b"interrupted\n")
        os._exit(128 + number)
    if _State.received is None:
        _State.received = number
    if not _State.holds:
        check()
