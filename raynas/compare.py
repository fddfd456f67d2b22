"""`python -m raynas.compare`: runs searchers side by side on a simulated cluster, many seeds each, and prints who wins.

It writes `curves.parquet` (the incumbent after every trial of every run), `summary.csv`, `found.csv` (who met the best architecture of the
table, and when) and figures into the folder --out. What is finished there is not run again, so an interrupted comparison goes on with the
same command, and more seeds or searchers can be added. A configuration file may hold several comparisons, under `comparisons`: each
has a folder of its own below --out.
"""

from raynas import signals

if __name__ == "__main__":
    signals.install()  # before what takes its time to load

import sys
from collections.abc import Sequence

from raynas.cli import DONE, INTERRUPTED, Parser, add_flags, program, run_command
from raynas.comparing.config import CompareConfig, read_configs, told
from raynas.comparing.runs import Benchmark, check, claim, parquet, read_parts, run_all, runs, write
from raynas.comparing.summary import Outcome, as_csv, figures, show, summarize, summarize_found


def parser() -> Parser:
    """The command line."""
    made = Parser(prog=program("compare"), description=__doc__, allow_abbrev=False)
    made.add_argument("--config", metavar="FILE", help="configuration as YAML; flags and --set override it")
    made.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="any setting, e.g. searcher_options.bananas.pool=500")
    add_flags(made, CompareConfig)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m raynas.compare --help`."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    flags = vars(parser().parse_args(argv))
    configs = read_configs(flags.pop("config"), flags.pop("set"), flags)
    benchmarks = {}
    for name, config in configs.items():
        with told(name):
            benchmarks[name] = check(config)
    for config in configs.values():
        claim(config)
    every = list(configs.values())
    try:
        run_all(runs(every), every[0].processes)
    except KeyboardInterrupt:
        print(f"Interrupted. What is finished is in {', '.join(c.out for c in every)}; the same command goes on.")
        return INTERRUPTED
    for name, config in configs.items():
        if name:
            print(f"{name}: {config.space}, {config.dataset}")
        _summarize(config, benchmarks[name])
    return DONE


def _summarize(config: CompareConfig, benchmark: Benchmark) -> None:
    outcome = Outcome.of(config, read_parts(runs([config])), benchmark)
    rows, found = summarize(outcome), summarize_found(outcome)
    pictures = figures(outcome)
    files = {"curves.parquet": parquet(outcome.curves), "summary.csv": as_csv(rows), "found.csv": as_csv(found), **pictures}
    for name, content in files.items():
        write(config.out, name, content)
    show(outcome, rows, found, list(files))


if __name__ == "__main__":
    sys.exit(main())
