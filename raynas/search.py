"""`python -m raynas.search`: searches an architecture on a Ray cluster and leaves a run folder.

Without arguments: BANANAS, 150 trials, NAS-Bench-201's CIFAR-10 results from the installed package, on this machine.
"""

from raynas import signals

if __name__ == "__main__":
    signals.install()  # before what takes its time to load

import io
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from rich.console import Console

from raynas import storage
from raynas.cli import DONE, FAILED, INTERRUPTED, Parser, add_flags, program, run_command
from raynas.config import RunConfig, Settings, assign
from raynas.run.lock import Lock, check_free
from raynas.run.settings import new_run, resumed_run
from raynas.run.summary import Run, lines, resume_command
from raynas.storage import read_yaml
from raynas.trust import is_own

if TYPE_CHECKING:  # Ray takes a second to load, in which the first line is to stand there already
    from raynas.run.session import Session


def run_search(*, show: bool = False, **settings: Unpack[Settings]) -> Run:
    """Searches an architecture, as `python -m raynas.search` does, and returns what came of it.

    Trials run in processes of their own, so classes and functions must stand at the top of a module that can be imported. A Ray
    that is initialised is used and left as it is; else one is joined or started, and left or ended again.

    Args:
        show: whether to print what the command prints.
        settings: the fields of `raynas.config.RunConfig`; `space`, `trainable`, `searcher` and `scheduler` may also be a class or a
            function instead of its name `module:attribute`.

    Raises:
        RaynasError: something that was asked for cannot work; no folder is left behind where that is seen at once.
        KeyboardInterrupt: after Ctrl-C. The run is closed then, nothing of it is lost, and `resume_search` goes on.
    """
    return _returned(_new(settings, _console(show)))


def resume_search(folder: str, *, show: bool = False, trust: bool = False, **settings: Unpack[Settings]) -> Run:
    """Goes on with the run in `folder`, as `python -m raynas.search --resume` does; what changes, such as `trials`, is stored there.

    Args:
        trust: whether the run may load the code that its configuration names, and pickled checkpoints, though another user or another
            machine began it. What is given as one of the `settings` may be loaded in any case.

    Raises:
        RaynasError, KeyboardInterrupt: as `run_search`; also where a setting would make it another search.
    """
    return _returned(_resumed(folder, settings, _console(show), trust))


def _new(given: Mapping[str, Any], console: Console) -> Run:
    config, uri = new_run(given)
    _announce(console, f"{config.searcher} searches {config.space}: {config.trials} trials; results go to {uri}")
    from raynas.run.session import Session

    session = Session(config, uri, console)
    with Lock(uri, resume_command(uri)) as lock:
        check_free(uri)  # another search may have been here since
        return _searched(session, lock)


def _resumed(folder: str, given: Mapping[str, Any], console: Console, trust: bool) -> Run:
    own = trust or is_own(folder)
    config = resumed_run(folder, given, own)
    with Lock(folder, resume_command(folder)) as lock:
        _announce(console, f"{config.searcher} goes on with {config.space} in {folder}: {config.trials} trials in all")
        from raynas.run.resume import read_earlier
        from raynas.run.session import Session

        return _searched(Session(config, folder, console, read_earlier(folder), own), lock)


def _announce(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _searched(session: "Session", lock: Lock) -> Run:
    try:
        run = session.run(lock.check)
    except KeyboardInterrupt:  # before the first trial, as while Ray starts
        if storage.exists(session.uri, "config.json"):
            session.console.out(f"Nothing is lost. Go on with: {resume_command(session.uri)}", highlight=False)
        raise
    for line in lines(run, session.plan.optimum, session.hint):
        session.console.out(line, highlight=False)
    return run


def _console(show: bool) -> Console:
    return Console() if show else Console(file=io.StringIO(), quiet=True)


def _returned(run: Run) -> Run:
    if run.complete:
        return run
    ended = len(run.tables.trials)
    raise KeyboardInterrupt(f"interrupted after {ended} of {run.trials} trials; raynas.resume_search({run.folder!r}) goes on")


GROUPS = {
    "what is searched": ("space", "dataset", "table", "objective", "limit"),
    "how it is searched": ("searcher", "scheduler", "trials", "max_epochs", "seed", "warm_start", "proxies"),
    "how architectures are evaluated": ("trainable", "recipe"),
    "where": ("out", "address", "concurrency", "cpus_per_trial", "gpus_per_trial"),
    "who else is told": ("log", "tensorboard_trials"),
    "when something breaks": ("max_failures", "trial_timeout", "stall_timeout", "max_failed_share"),
}


def parser() -> Parser:
    """The command line."""
    made = Parser(prog=program("search"), description=(__doc__ or "").partition("\n\n")[2], allow_abbrev=False)
    made.add_argument("--config", metavar="FILE", help="configuration as YAML; flags and --set override it")
    made.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="any setting, e.g. searcher_options.pool=500")
    made.add_argument("--resume", metavar="DIR", help="goes on with the interrupted run in this folder")
    made.add_argument("--trust", action="store_true", help="lets --resume load code and pickles that a run names which is not your own")
    add_flags(made, RunConfig, GROUPS)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m raynas.search --help`."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    flags = vars(parser().parse_args(argv))
    path, assignments, folder, trust = (flags.pop(name) for name in ("config", "set", "resume", "trust"))
    given = read_yaml(path) if path else {}
    named, stored = flags.pop("recipe", None), given.pop("recipe", None)
    assign(given, assignments)
    recipe = _recipe(named, given.pop("recipe", None), stored)
    given |= flags | ({} if recipe is None else {"recipe": recipe})
    run = _new(given, Console()) if folder is None else _resumed(folder, given, Console(), trust)
    if not run.complete:
        return INTERRUPTED
    return FAILED if run.failed else DONE


def _recipe(named: str | None, assigned: Any, stored: Any) -> Any:
    """The recipe of `--recipe`, else of `--set recipe=...`, else of the file; and what `--set recipe.key=value` changes in it."""
    if assigned is not None and not isinstance(assigned, dict):
        return assigned if named is None else named
    base = stored if named is None else named
    if assigned is None:
        return base
    return ({} if base is None else base if isinstance(base, dict) else {"base": base}) | assigned


if __name__ == "__main__":
    sys.exit(main())
