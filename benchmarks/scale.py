"""What a large search costs the driver: time of a suggestion, of a refit, and memory, up to 10,000 observations and 1,000 workers.

The searcher is fitted in its process, as on a cluster; 1,000 simulated trials are pending all the time, and results of no meaning (noise
on the parameter count) arrive as fast as they are asked for. Draws scale.png with --figure.

Run: python benchmarks/scale.py [--figure FILE]
"""

import argparse
import resource
import time
from collections.abc import Callable, Iterable

import numpy as np

from raynas.arch import Arch
from raynas.model.candidates import random_archs
from raynas.spaces import SearchSpace, make_space
from searchers import Bananas, Engine, Method
from searchers.fitting import Where

SIZES = (100, 300, 1000, 3000, 10000)
WORKERS = 1000
CALLS = 1000


def knowing(method: Method, space: SearchSpace, archs: Iterable[Arch], value: Callable[[Arch], float], fitting: Where) -> Engine:
    """A search that has been told the values of some architectures, and has not been asked since."""
    search = Engine(method, space, fitting=fitting)
    search.tell_many(search.observation(arch, {"valid_accuracy": value(arch)}) for arch in archs)
    return search


def measure(size: int) -> tuple[float, float, float]:
    """(median, 99th percentile of a suggestion in ms while fits run, median seconds of a refit) with `size` observations."""
    space, rng = make_space("nasbench101"), np.random.default_rng(0)

    def value(_: Arch) -> float:
        return 0.9 + 0.02 * float(rng.standard_normal())

    known = random_archs(make_space("nasbench101", {"sampler": "uniform"}), (), rng, size)
    search = knowing(Bananas(), space, known, value, "process")

    def asked() -> Arch:
        suggestion = search.ask()
        assert suggestion is not None
        return suggestion.arch

    pending = [asked() for _ in range(WORKERS)]
    waits = []
    for _ in range(CALLS):
        done = pending.pop(0)
        search.tell(done, value(done))
        start = time.perf_counter()
        pending.append(asked())
        waits.append(1000 * (time.perf_counter() - start))
        time.sleep(0.01)
    search.wait()
    search.close()
    refits = [refit.seconds for refit in search.refits]
    return float(np.median(waits)), float(np.percentile(waits, 99)), float(np.median(refits))


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", help="file for a picture of the table")
    arguments = parser.parse_args()
    print("| observations | suggest, median ms | suggest, p99 ms | refit, s | memory, MB |\n|---|---|---|---|---|")
    rows = []
    for size in SIZES:
        rows.append(measure(size))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {size:,} | {rows[-1][0]:.2f} | {rows[-1][1]:.2f} | {rows[-1][2]:.2f} | {memory:,.0f} |", flush=True)
    if arguments.figure:
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
        axes.loglog(SIZES, [row[2] for row in rows], "o-", label="refit (beside the control loop), s")
        axes.loglog(SIZES, [row[1] / 1000 for row in rows], "o-", label="suggestion, 99th percentile, s")
        axes.set(xlabel="observations", ylabel="seconds")
        axes.legend()
        figure.savefig(arguments.figure, dpi=120)


if __name__ == "__main__":
    main()
