"""How a run ends: noted in its folder, and where something outside of it has ended it with one line, and everything that is known there."""

import logging
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.tune.error import TuneError

from raynas import signals, storage
from raynas.errors import RaynasError, RunFailed, RunLost
from raynas.run.failures import reason, write_error
from raynas.run.recorder import Recorder
from raynas.run.summary import resume_command

logger = logging.getLogger(__name__)


@contextmanager
def one_line(uri: str) -> Iterator[None]:
    """Turns what ends the run in `uri` into one line that says why, and how to go on; the whole text goes into a file there.

    Raises:
        RunLost: the cluster or the storage cannot be reached any more.
        RunFailed: anything else.
        RaynasError: what was one already.
    """
    try:
        yield
    except RaynasError:
        raise
    except Exception as error:
        found = _inner(error)
        if isinstance(found, RaynasError):
            raise found from None
        kind = RunLost if _gone(found) or storage.may_pass(found) else RunFailed
        text = "".join(traceback.format_exception(error))
        go_on = f"what has ended is kept; go on with: {resume_command(uri)}"
        raise kind(f"the run was ended by {_words(found)}{_written(uri, text)}; {go_on}") from error


@contextmanager
def closing(recorder: Recorder, file: Mapping[str, Any], exhausted: Callable[[], bool]) -> Iterator[None]:
    """Closes what records a session, with a note in config.json about when and how it ended.

    Where the storage is lost, or the process is killed, no note is written: `ended` is null, as while the run goes on.

    Args:
        file: what config.json holds.
        exhausted: whether the space holds no more architectures.

    Raises:
        RunLost: the storage has not answered for too long.
    """
    how, why = "interrupted", None
    try:
        yield
        progress, number = recorder.progress, signals.received()
        if progress.ended >= progress.trials or exhausted():
            how = "complete"
        elif number is not None:
            why = signal.Signals(number).name
    except RaynasError as error:
        how, why = "lost" if isinstance(error, RunLost) else "failed", str(error)
        raise
    finally:
        note = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "how": how, "why": why}
        recorder.close({**file, "ended": note})


def _inner(error: Exception) -> Exception:
    """What led to an error of Tune's, which often is the text of another only."""
    while isinstance(error, (TuneError, RuntimeError)):
        within = error.__cause__ or error.__context__
        if not isinstance(within, Exception):
            break
        error = within
    return error


def _gone(error: Exception) -> bool:
    """Whether an error is that of a cluster that is gone: one of Ray's, where it is no trial's."""
    return isinstance(error, RayError) and not isinstance(error, RayTaskError)


def _words(error: Exception) -> str:
    if _gone(error):
        return f"the loss of the Ray cluster: its head does not answer any more ({type(error).__name__})"
    if isinstance(error, TuneError):  # the text of a traceback
        return reason(str(error))
    return f"{type(error).__name__}: {storage.first_line(error)}"


def _written(uri: str, text: str) -> str:
    """Where the whole text is; nothing where it cannot be written, as the storage is what failed."""
    try:
        return f", see {storage.join(uri, write_error(uri, 'run', text))}"
    except (OSError, RaynasError) as problem:
        logger.debug("the error that ended the run cannot be written: %s", problem)
        return ""
