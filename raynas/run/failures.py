"""Why a trial of Tune failed: in one line, in full, and whose fault it was."""

import builtins
import re
from errno import EDQUOT, EIO, EMFILE, ENFILE, ENOSPC, EROFS, ESTALE
from pathlib import Path
from typing import Any, NamedTuple

from ray.exceptions import RayActorError, RayError, RayTaskError

from raynas import storage
from raynas.errors import RaynasError
from raynas.outcome import Fault

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ATTEMPT = re.compile(r"Failure # \d+ \(occurred at .*\)\n")  # Tune's line above each
_RAISED = re.compile(r"(?:\w+\.)*(\w+)(:.*)?")  # the line of a traceback that names the error
_DEATHS = {  # what Ray writes of an actor that is gone -> in a few words; the first that fits counts
    r"running low on memory|OOM kill reason": "OutOfMemoryError: its node ran out of memory",
    r"node was preempted|PREEMPTED": "NodeDiedError: its node was taken away",
    r"its node has died|node has been|Node Id|node .* was terminated": "NodeDiedError: its node was lost",
    r"exit code (\d+)": r"ActorDiedError: its process ended with exit code \1",
    r"worker process has died|connection error code": "ActorDiedError: its process was killed, or crashed",
    r"is unavailable": "ActorUnavailableError: its process is out of reach",
    r"never ran": "ActorDiedError: its process never started",
}
_TUNES_STORAGE = re.compile(r"ray/train/(_internal/storage|_checkpoint)\.py")  # frames that persist and fetch checkpoints
_OF_DISKS = frozenset({EDQUOT, EIO, EMFILE, ENFILE, ENOSPC, EROFS, ESTALE})
_OF_DEVICES = re.compile(r"uncorrectable ECC|fallen off the bus|devices? (?:is|are|\(s\) is/are) busy or unavailable|driver shutting down")


class Failure(NamedTuple):
    """Why a trial failed."""

    reason: str  # "TypeName: first line of its message"
    text: str  # with the tracebacks of all attempts


class Hung(Exception):
    """A trial took too long, or was silent for too long, and was ended."""


class Blame(NamedTuple):
    """What a failure is laid to."""

    fault: Fault
    storage: bool = False  # a checkpoint could be neither written nor read
    counts: bool = True  # a node that was taken away with notice is no failure
    final: bool = False  # to try again is of no use


def failure(trial: Any) -> Failure:
    """Why a trial of Tune failed, as its error file has it: here at once; a copy reaches the run folder later."""
    text = _COLOURS.sub("", Path(trial.error_file).read_text(encoding="utf-8"))
    return Failure(reason(_ATTEMPT.split(text)[-1]), text)


def reason(text: str) -> str:
    """What the last traceback in `text` raised; where there is none, as after the death of a process, how it died."""
    lines = text.splitlines()
    last = max((i for i, line in enumerate(lines) if line.startswith('  File "') or "ray::" in line), default=None)
    if last is not None:
        for line in lines[last + 1 :]:
            if not line[:1].isspace() and (match := _RAISED.fullmatch(line)):
                return match[1] + (match[2] or "").rstrip()
    for pattern, words in _DEATHS.items():
        if match := re.search(pattern, text):
            return match.expand(words)
    return next((line.strip() for line in lines if line.strip()), "no reason is known")


def blame(error: BaseException, *, saving: bool = False) -> Blame:
    """Whose fault it was that a trial ended with `error`, as Tune has it.

    The trial's own exception is the architecture's, memory included (of the process or the GPU); but for what storage, disks and
    devices do. All else is the machine's: a process, a node or an object that is gone, and memory of the whole node.

    Args:
        saving: whether a checkpoint was being written or read.
    """
    if isinstance(error, Hung):
        return Blame("timeout")
    if isinstance(error, RayActorError) and not error.actor_init_failed:
        return Blame("machine", counts=not error.preempted)
    if isinstance(error, RayTaskError):
        return _raised(error.cause, str(error), saving)
    if isinstance(error, RayActorError):
        text = _COLOURS.sub("", str(error))
        return _raised(_revived(text), text, saving)
    return Blame("machine" if isinstance(error, RayError) else "architecture")


def _raised(cause: BaseException | None, text: str, saving: bool) -> Blame:
    """The same for what a trial raised itself, with its traceback."""
    if isinstance(cause, RayError) and not isinstance(cause, RayTaskError):  # of a task of its own
        return Blame("machine", counts=not getattr(cause, "preempted", False))
    stored = saving or _TUNES_STORAGE.search(text) is not None
    if stored and (isinstance(cause, OSError) or "set up cluster storage" in str(cause)):  # the latter: Tune's, where a node lacks it
        return Blame("machine", storage=True)
    if isinstance(cause, ConnectionError) or (isinstance(cause, OSError) and cause.errno in _OF_DISKS) or _OF_DEVICES.search(text):
        return Blame("machine")
    return Blame("architecture", final=isinstance(cause, RaynasError))


def _revived(text: str) -> BaseException | None:
    """What a constructor raised, of which only the text is left; None for a kind that makes no difference here."""
    name, _, message = reason(text).partition(": ")
    for kind in RaynasError.__subclasses__():
        if kind.__name__ == name:
            return kind(message)
    known = vars(builtins).get(name)
    number = re.match(r"\[Errno (\d+)\]", message)
    return known(int(number[1]) if number else 0, message) if isinstance(known, type) and issubclass(known, OSError) else None


def write_error(uri: str, name: str, text: str) -> str:
    """Writes the whole text of an error into the run folder; its path there."""
    fs, root = storage.filesystem(uri)
    storage.make_folder(fs, f"{root}/errors")
    storage.write_bytes(fs, f"{root}/errors/{name}.txt", text.encode())
    return f"errors/{name}.txt"
