"""`raynas COMMAND ...`, which is also `python -m raynas COMMAND ...`; every command is also `python -m raynas.COMMAND ...`."""

from raynas import signals

if __name__ == "__main__":
    signals.install()  # before what takes its time to load

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from raynas.cli import BAD_USAGE, DONE
from raynas.errors import UnknownNameError
from raynas.registry import resolve

COMMANDS = {
    "search": "raynas.search:main",
    "compare": "raynas.compare:main",
    "convert": "raynas.convert:main",
    "train": "raynas.train:main",
    "predict": "raynas.predict:main",
    "status": "raynas.status:main",
    "report": "raynas.report:main",
    "list": "raynas.list:main",
}
SHELLS = ("bash", "zsh", "tcsh")

_USAGE = f"""usage: raynas COMMAND ...     (or: python -m raynas COMMAND ...)
commands: {", ".join(COMMANDS)}
help of one: raynas COMMAND --help
version: raynas --version
completion: raynas --completion {"|".join(SHELLS)}, as in  raynas --completion bash > ~/.local/share/bash-completion/completions/raynas"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command by name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return DONE if arguments else BAD_USAGE
    if arguments[0] == "--version":
        print(f"raynas {version('raynas')}")
        return DONE
    if arguments[0] == "--completion":
        return _complete(arguments[1:])
    try:
        command = resolve(COMMANDS, arguments[0], "command")
    except UnknownNameError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_USAGE
    code: int = command(arguments[1:])
    return code


def script() -> int:
    """What the console script `raynas` runs."""
    signals.install()
    return main()


def _complete(shells: Sequence[str]) -> int:
    """Prints what makes a shell complete commands, flags and files."""
    import shtab

    if len(shells) != 1 or shells[0] not in SHELLS:
        print(f"error: --completion takes one of {', '.join(SHELLS)}", file=sys.stderr)
        return BAD_USAGE
    whole = argparse.ArgumentParser(prog="raynas")
    commands = whole.add_subparsers()
    for name, entry in COMMANDS.items():
        own = resolve({}, entry.replace(":main", ":parser"), "parser")()
        commands.add_parser(name, help=own.prog, parents=[own], add_help=False, conflict_handler="resolve")  # without help it is hidden
    print(shtab.complete(whole, shell=shells[0]))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
