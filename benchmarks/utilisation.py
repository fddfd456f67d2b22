"""How busy workers are: a search on Ray whose trials take some seconds each, by turns with random search and with BANANAS.

A worker is a logical CPU, and a trial a lookup that sleeps, so that any machine can have many. Printed are the seconds that workers were
occupied (from the start of a trial to its end, as the driver sees them) and worked (within trials, as they see it) as shares of workers x
time, from the first start to the last end; the CPU seconds of the driver for a trial; and the ratio to random search. Then the
limit of Tune itself: trials a second of random search whose lookups answer at once.

Run on a machine that does nothing else: python benchmarks/utilisation.py [--workers 8 24]
The default takes about 10 minutes. Ray's own processes start first; what they take is not counted.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import ray

from raynas import results, run_search

SEARCHERS = ("random", "bananas")


class Utilisation(NamedTuple):
    """Of one search."""

    occupied: float  # share of workers x time
    worked: float
    rate: float  # trials a second
    cpu: float  # seconds of the driver for a trial


def measure(searcher: str, workers: int, trials: int, seconds: float) -> Utilisation:
    """One search of `trials` lookups that take so many seconds each."""
    with tempfile.TemporaryDirectory(prefix="raynas-") as folder:
        began, out = time.process_time(), str(Path(folder) / "run")
        run_search(
            searcher=searcher,
            trials=trials,
            concurrency=workers,
            trainable_options={"seconds_per_report": seconds} if seconds else {},
            out=out,
        )
        spent, tables = time.process_time() - began, results.read(out)
    rows, reports = tables.trials.to_pandas(), tables.reports.to_pandas()
    span = (rows["ended_at"].max() - rows["started_at"].min()).total_seconds()
    room = workers * span
    return Utilisation(rows["wall_seconds"].sum() / room, reports["wall_seconds"].sum() / room, trials / span, spent / trials)


def compare(workers: int, trials: int, seconds: float, rounds: int) -> None:
    """Prints a row for each searcher, medians of the rounds, and what became of the ratio."""
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    measure("random", workers, 2 * workers, 0.1)  # the actors' processes have started once
    found: dict[str, list[Utilisation]] = {searcher: [] for searcher in SEARCHERS}
    for _ in range(rounds):
        for searcher in SEARCHERS:
            found[searcher].append(measure(searcher, workers, trials, seconds))
    ray.shutdown()
    medians = {searcher: Utilisation(*map(median, zip(*all_of_it, strict=True))) for searcher, all_of_it in found.items()}
    for searcher, (occupied, worked, rate, cpu) in medians.items():
        ratio = worked / medians[SEARCHERS[0]].worked
        row = f"| {workers} | {trials} | {searcher} | {100 * occupied:.1f} % | {100 * worked:.1f} % | {100 * ratio:.1f} %"
        print(f"{row} | {rate:.2f} | {1000 * cpu:.0f} |", flush=True)


def limit(workers: int, trials: int) -> None:
    """Prints how many trials a second Tune ends whose lookups answer at once."""
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    done = measure("random", workers, trials, 0.0)
    ray.shutdown()
    print(f"| {workers} | {trials} | random, at once | | | | {done.rate:.2f} | {1000 * done.cpu:.0f} |", flush=True)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 24])
    parser.add_argument("--per-worker", type=int, default=20, help="trials for each worker")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a trial")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=1000, help="trials that answer at once, to find the limit of Tune")
    given = parser.parse_args()
    print("| workers | trials | searcher | occupied | worked | to random | trials/s | driver, ms CPU/trial |\n" + "|---" * 8 + "|")
    for workers in given.workers:
        compare(workers, workers * given.per_worker, given.seconds, given.rounds)
    for workers in (2, *given.workers):
        limit(workers, given.at_once)


if __name__ == "__main__":
    main()
