"""Whether long searches slow down or grow: `python benchmarks/long_runs.py [--trials 3000] [--searchers random evolution bananas]`.

Each searcher runs as the command that users type, on a Ray that it starts, over so many lookups in NAS-Bench-201, which has 15,625 cells.
Printed, as Markdown, are for each third of the trials how many ended in a second, and the resident memory of the driver at its end (not of
Ray's own processes, and not of the one that fits predictors). Random search over 3,000 takes a minute or less.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from itertools import pairwise
from pathlib import Path

import psutil

from raynas import results

THIRDS = ("1st", "2nd", "3rd")
LOOK = 0.5  # seconds between two looks at the memory


def searched(searcher: str, trials: int, out: Path) -> list[tuple[float, float]]:
    """Runs a search to its end; what its process held at each look: seconds since 1970, MiB."""
    command = [sys.executable, "-m", "raynas.search", "--searcher", searcher, "--trials", str(trials), "--out", str(out)]
    looks = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            looks.append((time.time(), driver.memory_info().rss / 2**20))
            time.sleep(LOOK)
    if process.returncode:
        sys.exit(process.returncode)
    return looks


def row(searcher: str, trials: int) -> str:
    """Of the table."""
    with tempfile.TemporaryDirectory(prefix="raynas-") as folder:
        looks = searched(searcher, trials, Path(folder) / "run")
        rows = results.read(str(Path(folder) / "run")).trials.to_pylist()
    began, ends = min(row["started_at"] for row in rows).timestamp(), sorted(row["ended_at"].timestamp() for row in rows)
    marks = [0, *(len(ends) * part // 3 for part in (1, 2, 3))]
    moments = [began, *(ends[mark - 1] for mark in marks[1:])]
    rates = [(after - before) / (end - start) for (before, after), (start, end) in zip(pairwise(marks), pairwise(moments), strict=True)]
    memory = [looks[bisect(looks, (moment,)) - 1][1] for moment in moments[1:]]
    return f"| {searcher} | {len(ends):,} | " + " | ".join([f"{rate:.0f}" for rate in rates] + [f"{held:,.0f}" for held in memory]) + " |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searchers", nargs="+", default=["random", "evolution"], metavar="NAME", help="default: random evolution")
    parser.add_argument("--trials", type=int, default=15_000, metavar="N", help="lookups of each (default: 15,000)")
    given = parser.parse_args()
    titles = [f"trials/s, {third} third" for third in THIRDS] + [f"MiB after the {third}" for third in THIRDS]
    print(f"| searcher | lookups | {' | '.join(titles)} |")
    print("|---" * 8 + "|")
    for searcher in given.searchers:
        print(row(searcher, given.trials), flush=True)


if __name__ == "__main__":
    main()
