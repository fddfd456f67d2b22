"""What all commands share: flags made from a configuration, one line for a mistake, and the exit codes.

0 done, 1 failed, 2 bad usage, 75 ended by what may pass (the same command goes on later), 129, 130 or 143 stopped by SIGHUP, SIGINT or
SIGTERM.
"""

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from pydantic import BaseModel

from raynas import signals
from raynas.errors import RaynasError, ResultsError, RunFailed, RunLost
from raynas.storage import may_pass

DONE, FAILED, BAD_USAGE, AGAIN, INTERRUPTED = 0, 1, 2, RunLost.exit_code, 130


def program(command: str) -> str:
    """How the user calls a command: `raynas COMMAND` where that is what was called."""
    return f"raynas {command}" if Path(sys.argv[0]).stem == "raynas" else f"python -m raynas.{command}"


class Repeated(argparse.Action):
    """A flag that may be given several times; its values become a list."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest, []), values])


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, with the nearest flag for an unknown one."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_USAGE, f"error: {message}; see {self.prog} --help\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        parsed, unknown = self.parse_known_args(self._joined(sys.argv[1:] if args is None else args), namespace)
        if unknown:
            flag = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions, n=1)
            self.error(f"unknown argument {flag!r}" + (f"; did you mean {near[0]}?" if near else ""))
        return parsed

    def _joined(self, args: Sequence[str]) -> list[str]:
        """`--objective -latency` as `--objective=-latency`: argparse takes a value that begins with a minus for a flag."""
        lists = {flag for flag, action in self._option_string_actions.items() if isinstance(action, Repeated)}
        joined: list[str] = []
        for text in args:
            if joined and joined[-1] in lists and text.startswith("-") and not text.startswith("--"):
                joined[-1] += f"={text}"
            else:
                joined.append(text)
        return joined


def add_flags(parser: argparse.ArgumentParser, model: type[BaseModel], groups: Mapping[str, Sequence[str]] | None = None) -> None:
    """One flag for each field of `model` that holds a plain value: `max_epochs: int | None` becomes `--max-epochs N`.

    A flag for a list of texts may be repeated. Fields that hold a mapping are left to `--set field.key=value`. A flag that is not given
    is absent from the namespace. `groups` are the titles under which the help shows fields.
    """
    titled = {name: parser.add_argument_group(title) for title, names in (groups or {}).items() for name in names[:1]}
    placed = {name: titled[names[0]] for names in (groups or {}).values() for name in names}
    for name, info in model.model_fields.items():
        _add_flag(placed.get(name, parser), name, info)


def _add_flag(parser: Any, name: str, info: Any) -> None:
    kinds = _plain_kinds(info.annotation)
    flag, text = "--" + name.replace("_", "-"), (info.description or "").replace("%", "%%")
    if info.annotation == list[str]:
        parser.add_argument(flag, action=Repeated, default=argparse.SUPPRESS, help=text, metavar="STR")
        return
    shown = text if info.default is None else f"{text} (default: {info.default})"
    if kinds == [bool]:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=shown)
    elif kinds:
        parser.add_argument(flag, type=_converter(kinds), default=argparse.SUPPRESS, help=shown, metavar=kinds[0].__name__.upper())


def _plain_kinds(annotation: Any) -> list[type]:
    """bool, int, float and str among the alternatives of a type, a literal text counting as str; empty for a mapping."""
    alternatives = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kinds = [str if get_origin(kind) is Literal else kind for kind in alternatives]
    return [kind for kind in kinds if kind in (bool, int, float, str)]


def _converter(kinds: Sequence[type]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        for kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
        allowed = " or ".join("a whole number" if kind is int else "a number" for kind in kinds)
        raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}")

    return convert


def nonnegative(text: str) -> float:
    """The type of a flag that takes a number from 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return value


def printable(text: str) -> str:
    """A text of unknown origin without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def run_command(body: Callable[[], int]) -> int:
    """Runs a command; a mistake of the user becomes one line on standard error and exit code 2, and a signal its own exit code."""
    try:
        with signals.raising():
            code = body()
        return _stopped() if code == INTERRUPTED else code
    except RunLost as error:
        print(f"error: {error}", file=sys.stderr)
        return AGAIN
    except RaynasError as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, ResultsError) and may_pass(error.__cause__):  # nobody's mistake
            return AGAIN
        return FAILED if isinstance(error, RunFailed) else BAD_USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _stopped()
    except BrokenPipeError:  # the reader of our output went away, as `head` does; nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    finally:
        if signals.installed():  # all is said and done, and Python resets its own handlers before it ends
            signals.ignore()


def _stopped() -> int:
    """The exit code of a command that a signal has stopped, as shells count."""
    return 128 + (signals.received() or signal.SIGINT)
