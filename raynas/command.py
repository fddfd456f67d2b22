"""What all commands share: flags made from a configuration, one line for a mistake, and the exit codes.

0 done, 1 failed, 2 bad usage, 130 interrupted.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, get_args

from pydantic import BaseModel

from raynas.errors import RaynasError

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, with the nearest flag for an unknown one."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_USAGE, f"error: {message}; see {self.prog} --help\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions, n=1)
            self.error(f"unknown argument {flag!r}" + (f"; did you mean {near[0]}?" if near else ""))
        return parsed


def add_flags(parser: argparse.ArgumentParser, model: type[BaseModel]) -> None:
    """One flag for each field of `model` that holds a plain value: `max_epochs: int | None` becomes `--max-epochs N`.

    Fields that hold a mapping are left to `--set field.key=value`. A flag that is not given is absent from the namespace.
    """
    for name, info in model.model_fields.items():
        kinds = [kind for kind in get_args(info.annotation) or (info.annotation,) if kind is not type(None)]
        flag, text = "--" + name.replace("_", "-"), (info.description or "").replace("%", "%%")
        shown = f"{text} (default: {info.default})" if info.default not in (None, False, "") else text
        if kinds == [bool]:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        elif kinds[0] in (int, float, str):
            parser.add_argument(flag, type=_number_or_text(kinds), default=argparse.SUPPRESS, help=shown, metavar=kinds[0].__name__.upper())
        elif all(isinstance(kind, str) for kind in kinds):
            parser.add_argument(flag, default=argparse.SUPPRESS, help=f"one of {', '.join(kinds)}; {shown}", metavar="NAME")


def _number_or_text(kinds: Sequence[Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        for kind in kinds:
            try:
                return kind(text)
            except (TypeError, ValueError):
                continue
        raise argparse.ArgumentTypeError(
            f"{text!r} is not {' or '.join({'int': 'a whole number', 'float': 'a number'}[k.__name__] for k in kinds)}"
        )

    return convert


def run_command(body: Callable[[], int]) -> int:
    """Runs a command; a mistake of the user becomes one line on standard error and exit code 2."""
    try:
        return body()
    except RaynasError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as `head` does; nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
