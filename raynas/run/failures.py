"""Why a trial of Tune failed: in one line, and in full."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from raynas import storage

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ATTEMPT = re.compile(r"Failure # \d+ \(occurred at .*\)\n")  # Tune's line above each
_RAISED = re.compile(r"(?:\w+\.)*(\w+)(:.*)?")  # the line of a traceback that names the error


class Failure(NamedTuple):
    """Why a trial failed."""

    reason: str  # "TypeName: first line of its message"
    text: str  # with the tracebacks of all attempts


def failure(trial: Any) -> Failure:
    """Why a trial of Tune failed, as its error file has it: here at once; a copy reaches the run folder later."""
    text = _COLOURS.sub("", Path(trial.error_file).read_text(encoding="utf-8"))
    return Failure(reason(_ATTEMPT.split(text)[-1]), text)


def reason(text: str) -> str:
    """What the last traceback in `text` raised; where there is none, as after the death of a process, the first line."""
    lines = text.splitlines()
    last = max((i for i, line in enumerate(lines) if line.startswith('  File "')), default=None)
    if last is not None:
        for line in lines[last:]:
            if not line[:1].isspace() and (match := _RAISED.fullmatch(line)):
                return match[1] + (match[2] or "").rstrip()
    return next((line.strip() for line in lines if line.strip()), "no reason is known")


def write_error(uri: str, name: str, text: str) -> str:
    """Writes the whole text of an error into the run folder; its path there."""
    fs, root = storage.filesystem(uri)
    storage.make_folder(fs, f"{root}/errors")
    storage.write_bytes(fs, f"{root}/errors/{name}.txt", text.encode())
    return f"errors/{name}.txt"
