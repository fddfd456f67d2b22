"""The tables and figures of `rivals.yaml`, beside what was published, in Markdown; of a comparison that is not finished, what there is.

NAS-Bench-101: mean error of the best observed architecture, and ranks among those that were published (White, Neiswanger, Savani,
AAAI 2021, 200 trials, as given in Table 1 of https://doi.org/10.1038/s41598-025-94187-8). NAS-Bench-201: who found the best cell, after how
many queries (median over all runs, those that did not counting as infinite), and regret. Several schedulers: regret after simulated hours.

Run: python benchmarks/rivals_table.py benchmarks/rivals.yaml [--out FOLDER] [--figures benchmarks/figures]
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raynas import storage
from raynas.cli import DONE, run_command
from raynas.comparing.config import names, read_configs
from raynas.comparing.runs import Benchmark, read_parts, runs
from raynas.comparing.summary import Outcome, cell, figures, summarize, summarize_found

PUBLISHED_ERROR = {  # mean test error in % after 150 queries of NAS-Bench-101, one run's validation error searched
    "reinforce": 6.436,
    "tpe": 6.415,
    "bohb": 6.356,
    "random": 6.341,
    "gcn": 6.331,
    "gp": 6.267,
    "nasbot": 6.250,
    "alphax": 6.233,
    "evolution": 6.109,
    "dngo": 6.085,
    "bohamiann": 6.010,
    "bonas": 5.954,
    "local-search": 5.932,
    "bananas-paper": 5.923,
}
PUBLISHED_QUERIES = {  # mean queries until the best cell of NAS-Bench-201; of random search by arithmetic, of WeakNAS as it reports
    "random": {"cifar10": 7813, "cifar100": 7813, "imagenet": 7813},
    "weaknas": {"cifar10": 182, "cifar100": 78, "imagenet": 268},
}
HOURS = (1, 2, 4, 8, 16)

Rows = Sequence[Mapping[str, Any]]


def markdown(heads: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in (heads, ["---"] * len(heads), *lines))


def places(values: Mapping[str, float]) -> dict[str, int]:
    """The rank of each, the least first, among those that were published."""
    ordered = sorted(PUBLISHED_ERROR.keys() & values.keys(), key=lambda name: values[name])
    return {name: 1 + i for i, name in enumerate(ordered)}


def errors(rows: Rows, kind: str) -> str:
    """By final error, and a line for each rank that is not the published one."""
    last = max(row["queries"] for row in rows)
    ends = {row["searcher"]: row for row in rows if row["queries"] == last}
    final = {name: row[f"{kind}_error_mean"] for name, row in ends.items()}
    ranks, published = places(final), places({name: PUBLISHED_ERROR[name] for name in PUBLISHED_ERROR.keys() & final.keys()})
    shown = sorted({50, 100, last} & {row["queries"] for row in rows})
    at = {(row["searcher"], row["queries"]): cell(row, f"{kind}_error") for row in rows}
    lines = []
    for name in sorted(final, key=lambda name: final[name]):
        beside = ranks.get(name, ""), PUBLISHED_ERROR.get(name, ""), published.get(name, "")
        recommended = cell(ends[name], "recommended_test_error")
        lines.append([name, *(at[name, q] for q in shown), recommended, ends[name]["seeds"], *beside])
    differ = [f"- {name}: rank {ranks[name]}, published {published[name]}" for name in ranks if ranks[name] != published[name]]
    heads = ["searcher", *shown, f"recommended, {last}", "seeds", "rank", "published", "rank there"]
    return "\n".join([markdown(heads, lines), "", *differ])


def found(rows: Rows, when: Rows, dataset: str) -> str:
    """By the share of runs that found the best cell, then by how soon."""
    regrets = {(row["searcher"], row["queries"]): cell(row, "regret") for row in rows}
    shown = [q for q in (50, 100, 200) if any(queries == q for _, queries in regrets)]
    longest = max(row["queries"] for row in rows)
    lines = []
    for row in sorted(when, key=lambda row: (-row["share"], row["median_queries"] or np.inf, row["mean_queries_of_found"] or np.inf)):
        median = f"> {longest}" if row["median_queries"] is None else f"{row['median_queries']:g}"
        mean = "" if row["mean_queries_of_found"] is None else f"{row['mean_queries_of_found']:.0f}"
        published = PUBLISHED_QUERIES.get(row["searcher"], {}).get(dataset, "")
        share = f"{row['found']} of {row['seeds']}, {100 * row['share']:.0f} %"
        lines.append([row["searcher"], share, median, mean, published, *(regrets[row["searcher"], q] for q in shown)])
    heads = ["searcher", "found", "queries, median", "mean of those", "published mean", *(f"regret at {q}" for q in shown)]
    return markdown(heads, lines)


def over_time(outcome: Outcome) -> str:
    """Mean regret (standard error) in points after simulated hours; a run that has ended keeps its last one."""
    lines = []
    seconds = outcome.values("simulated_seconds")
    for key, regrets in outcome.regrets().items():
        cells = []
        for hours in HOURS:
            ended = [int(np.searchsorted(at, 3600 * hours, side="right")) for at in seconds[key]]
            now = np.array([regret[count - 1] for regret, count in zip(regrets, ended, strict=True) if count])
            error = f" ({now.std(ddof=1) / np.sqrt(len(now)):.3f})" if len(now) > 1 else ""
            cells.append(f"{now.mean():.3f}{error}" if len(now) == len(ended) else "")
        lines.append([*key, *cells, f"{np.median(np.nanmax(seconds[key], axis=1)) / 3600:.1f}", len(regrets)])
    return markdown(["searcher", "scheduler", *(f"{h} h" for h in HOURS), "ends after, h", "seeds"], lines)


def main() -> int:
    """Prints a section for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--out", help="folder of the comparisons, as given to raynas.compare")
    parser.add_argument("--figures", type=Path, help="folder for the figures")
    given = parser.parse_args()
    for name, config in read_configs(given.config, [], {"out": given.out} if given.out else {}).items():
        planned = runs([config])
        done = [run for run in planned if storage.exists(config.out, run.part)]
        print(f"### {name or config.space}: {len(done)} of {len(planned)} runs\n")
        if not done:
            continue
        outcome = Outcome.of(config, read_parts(done), Benchmark.of(config))
        rows, when = summarize(outcome), summarize_found(outcome)
        if len(names(config.schedulers)) > 1:
            print(over_time(outcome) + "\n")
        elif config.space == "nasbench201":
            print(found(rows, when, config.dataset) + "\n")
        else:
            print(errors(rows, outcome.kind) + "\n")
        if given.figures:
            for file, picture in figures(outcome).items():
                (given.figures / f"rivals-{name or config.space}-{file}").write_bytes(picture)
    return DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
