"""Commands of raynas in this process, which has loaded already what takes one of its own longer than most of what they do.

Where the process itself is what is tested, its signals or what it has on its path, a test starts one.
"""

import logging
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess

from raynas.search import main


def called(command: Callable[[list[str]], int], folder: Path, *arguments: object) -> CompletedProcess[str]:
    """What comes of a command, its `main`, in `folder`."""
    words, out, err = [str(argument) for argument in arguments], StringIO(), StringIO()
    told = logging.StreamHandler(err)  # as Python does where nobody has set up logging, but pytest has
    told.setLevel(logging.WARNING)
    logging.getLogger().addHandler(told)
    try:
        with chdir(folder), redirect_stdout(out), redirect_stderr(err):
            code = command(words)
    except SystemExit as ended:  # flags that nobody knows
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        logging.getLogger().removeHandler(told)
    return CompletedProcess(words, code, out.getvalue(), err.getvalue())


def search(folder: Path, *arguments: object) -> CompletedProcess[str]:
    """`python -m raynas.search`, on the Ray that is initialised if one is; see `local_ray`."""
    return called(main, folder, *arguments)
