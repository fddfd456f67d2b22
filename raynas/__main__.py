"""`python -m raynas COMMAND ...`; every command is also `python -m raynas.COMMAND ...`."""

from raynas import signals

if __name__ == "__main__":
    signals.install()  # before what takes its time to load

import sys
from collections.abc import Sequence

from raynas.cli import BAD_USAGE, DONE
from raynas.errors import UnknownNameError
from raynas.registry import resolve

COMMANDS = {
    "search": "raynas.search:main",
    "compare": "raynas.compare:main",
    "convert": "raynas.convert:main",
    "train": "raynas.train:main",
    "status": "raynas.status:main",
    "report": "raynas.report:main",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command by name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: python -m raynas COMMAND ...\ncommands: {', '.join(COMMANDS)}\nhelp of one: python -m raynas COMMAND --help")
        return DONE if arguments else BAD_USAGE
    try:
        command = resolve(COMMANDS, arguments[0], "command")
    except UnknownNameError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_USAGE
    code: int = command(arguments[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
