"""`python -m raynas.search` in this process, which has loaded already what takes one of its own longer than most searches.

Where the process itself is what is tested, its signals or what it has on its path, a test starts one.
"""

import logging
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess

from raynas.search import main


def search(folder: Path, *arguments: object) -> CompletedProcess[str]:
    """Runs in `folder`, on the Ray that is initialised if one is (see `local_ray`): what came of it."""
    words, out, err = [str(argument) for argument in arguments], StringIO(), StringIO()
    told = logging.StreamHandler(err)  # as Python does where nobody has set up logging, but pytest has
    told.setLevel(logging.WARNING)
    logging.getLogger().addHandler(told)
    try:
        with chdir(folder), redirect_stdout(out), redirect_stderr(err):
            code = main(words)
    except SystemExit as ended:  # flags that nobody knows
        code = int(ended.code or 0)
    finally:
        logging.getLogger().removeHandler(told)
    return CompletedProcess(words, code, out.getvalue(), err.getvalue())
