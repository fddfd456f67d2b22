"""`python -m raynas.report`: a page about one run or several, or the picture of an architecture.

The page needs neither network nor scripts. It is written into the folder `report` of a run on this machine's disks, for other runs and for
several of them into a new folder here, with each figure as SVG and PNG beside it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from pyarrow.fs import LocalFileSystem
from rich.console import Console

from raynas import storage
from raynas.cli import DONE, Parser, nonnegative, program, run_command
from raynas.drawing import write
from raynas.errors import ConfigError, RaynasError
from raynas.reporting.facts import folder_name, read_facts
from raynas.reporting.page import make_page
from raynas.spaces import describe, permissive, published
from raynas.trust import named_code, vouched


def write_report(folders: Sequence[str], out: str | None = None, price: float | None = None, trust: bool = False) -> Path:
    """Writes the report of the runs in `folders`, and returns where its page is.

    Args:
        out: a folder; by default `report` within the run, or in the current directory where the run is elsewhere or there are several.
        price: of one GPU, or CPU core where trials take no GPU, for an hour.
        trust: whether to load the space of a run that is not one's own.

    Raises:
        RaynasError: there is no run in a folder, or the page cannot be written.
    """
    page = make_page([read_facts(folder, trust) for folder in folders], price)
    target = Path(out) if out is not None else _target(folders)
    try:
        figures = target / "figures"
        if out is None and not figures.resolve().is_relative_to(target.parent.resolve()):
            raise RaynasError(f"{target} leads elsewhere, to {target.resolve()}; name the folder of the report with --out")
        figures.mkdir(parents=True, exist_ok=True)
        fs = LocalFileSystem()
        for name, content in page.pictures.items():
            storage.write_bytes(fs, str(figures / name), content)
        storage.write_bytes(fs, str(target / "index.html"), page.html.encode())
    except OSError as error:
        raise RaynasError(f"cannot write the report into {target}: {storage.first_line(error)}; name another folder with --out") from error
    return target / "index.html"


def _target(folders: Sequence[str]) -> Path:
    local = Path(folders[0])
    if len(folders) == 1 and local.is_dir():
        return local / "report"
    return Path("report-" + "-".join(map(folder_name, folders[:3])))


def draw(text: str, space: str | None = None, out: str | None = None, trust: bool = False) -> Path:
    """Draws the architecture that `text` describes: JSON, a published name, `best.json`, or the folder of a run, whose best one it is.

    Args:
        space: of the architecture; None: the one that is told with it.
        out: the file, .svg or .png; by default `architecture.svg` in the current directory.
        trust: whether to load the space that a file of somebody else names.

    Raises:
        RaynasError: it describes none, or the picture cannot be written.
    """
    folder, name = _file(text)
    told = storage.read_mapping(folder, name) if name else {}
    named = told.get("space")
    if space is None and isinstance(named, str):
        told_code = {"space": named, "space_options": told.get("space_options") or {}}
        if named_code(told_code) and not (trust or vouched(folder, told_code)):
            raise ConfigError(f"{text} names the space {named}, which is code; repeat it with --space, or pass --trust")
        space = named
    options = told.get("space_options") if space == named else None
    arch = describe(told or text, space, options)
    path = Path(out or "architecture.svg")
    write(permissive(space or arch.space, options), arch, path)
    return path


def _file(text: str) -> tuple[str, str]:
    """The folder and name of the file that `text` means, if it is one or the folder of a run; else the name is empty."""
    if text.lstrip()[:1] in ("{", "|") or text in published():
        return "", ""
    folder, _, name = text.rpartition("/")
    if name.endswith(".json"):
        return folder or ".", name
    return (text, "best.json") if storage.exists(text, "best.json") else ("", "")


def parser() -> Parser:
    """The command line."""
    made = Parser(prog=program("report"), description=__doc__, allow_abbrev=False)
    made.add_argument("runs", metavar="RUN", nargs="*", help="folder of a run: a path or a URI")
    made.add_argument("--out", metavar="PATH", help="folder of the report; with --draw the file, .svg or .png (default: architecture.svg)")
    made.add_argument("--price", metavar="FLOAT", type=nonnegative, help="of one GPU, or CPU core where trials take no GPU, for an hour")
    made.add_argument("--trust", action="store_true", help="loads the space of a run which is not your own")
    made.add_argument("--draw", metavar="ARCH", help="draws this instead: JSON, a published name, best.json, or the folder of a run")
    made.add_argument("--space", metavar="STR", help="space of the architecture to draw, where its description does not say it")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m raynas.report --help`."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    flags = parser().parse_args(argv)
    if bool(flags.runs) == (flags.draw is not None):
        raise ConfigError("name the folder of a run, or of several; or an architecture with --draw, and nothing else")
    if flags.draw is not None:
        path = draw(flags.draw, flags.space, flags.out, flags.trust)
    else:
        path = write_report(flags.runs, flags.out, flags.price, flags.trust)
    Console(soft_wrap=True).out(str(path), highlight=False)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
