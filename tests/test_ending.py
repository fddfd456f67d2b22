"""What ends a run from outside is one line, whatever Ray made of it."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError
from ray.tune.error import TuneError

from raynas import cli
from raynas.errors import ConfigError, RaynasError, RunFailed, RunLost
from raynas.run.ending import closing, one_line

TRACE = 'Traceback (most recent call last):\n  File "/x.py", line 1, in f\n    g()\nKeyError: 3\n'


def nested(error: Exception) -> TuneError:
    """As Tune wraps what a callback raises: as the text of it."""
    try:
        try:
            raise error
        except Exception:
            raise TuneError(TRACE)  # noqa: B904  # as Tune does it
    except TuneError as wrapped:
        return wrapped


@pytest.mark.parametrize(
    ("error", "kind", "code", "words"),
    [
        (TypeError("cannot pickle"), RunFailed, cli.FAILED, "the run was ended by TypeError: cannot pickle, see"),
        (nested(ValueError("bad\nworse")), RunFailed, cli.FAILED, "the run was ended by ValueError: bad, see"),
        (TuneError(TRACE), RunFailed, cli.FAILED, "the run was ended by KeyError: 3, see"),
        (nested(OSError(5, "I/O error")), RunLost, cli.AGAIN, "the run was ended by OSError: [Errno 5] I/O error, see"),
        (
            nested(FileNotFoundError(2, "No such file")),
            RunFailed,
            cli.FAILED,
            "the run was ended by FileNotFoundError: [Errno 2]",
        ),
        (ConnectionError("no head"), RunLost, cli.AGAIN, "the run was ended by ConnectionError: no head, see"),
        (GetTimeoutError("placement group"), RunLost, cli.AGAIN, "its head does not answer any more (GetTimeoutError), see"),
    ],
)
def test_what_ends_a_run_is_one_line_and_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception, kind: type[RaynasError], code: int, words: str
) -> None:
    uri = str(tmp_path / "my run")

    def body() -> int:
        with one_line(uri):
            raise error

    with pytest.raises(kind):
        body()
    assert cli.run_command(body) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert line.endswith(f"what has ended is kept; go on with: python -m raynas.search --resume '{uri}'")
    assert type(error).__name__ in (tmp_path / "my run" / "errors" / "run.txt").read_text()


def test_an_error_of_our_own_stays_as_it_is(tmp_path: Path) -> None:
    for error in (ConfigError("mend it"), nested(ConfigError("mend it"))):
        with pytest.raises(ConfigError, match=r"^mend it$"), one_line(str(tmp_path)):
            raise error


def test_where_nothing_can_be_written_the_line_comes_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunLost, match=r"ended by OSError: \[Errno 28\] full; what has ended"), one_line(str(tmp_path / "file" / "run")):
        raise OSError(28, "full")


@pytest.mark.parametrize(
    ("error", "ended", "exhausted", "how", "why"),
    [
        (None, 3, False, "complete", None),
        (None, 2, True, "complete", None),
        (None, 2, False, "interrupted", None),
        (RunFailed("the run was ended by KeyError: 3"), 2, False, "failed", "the run was ended by KeyError: 3"),
        (RunLost("no head"), 2, False, "lost", "no head"),
    ],
)
def test_how_a_session_ended_is_noted(error: RaynasError | None, ended: int, exhausted: bool, how: str, why: str | None) -> None:
    notes: list[Any] = []
    recorder: Any = SimpleNamespace(progress=SimpleNamespace(ended=ended, trials=3), close=notes.append)
    with pytest.raises(type(error)) if error else nullcontext(), closing(recorder, {"run_id": "a", "ended": None}, lambda: exhausted):
        if error is not None:
            raise error
    (note,) = notes
    assert note == {"run_id": "a", "ended": {"at": note["ended"]["at"], "how": how, "why": why}}
