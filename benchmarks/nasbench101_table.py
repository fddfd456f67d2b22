"""Checks NASBench101Space against every row of the published table and times its functions.

    python benchmarks/nasbench101_table.py [TABLE.parquet]

Takes about two minutes of one core. Prints the number of rows, how many disagree in hash, description, parameters or FLOPs, whether
`enumerate` yields exactly the cells of the table, and microseconds per call.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from raynas.spaces.nasbench101 import NASBench101Space, module_hash

TABLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "nasbench101_test108.parquet"


def mismatches(space: NASBench101Space, path: Path) -> dict[str, int]:
    """Rows of the table at `path`, rows that disagree in each column, and ids in which the table and `space.enumerate` differ."""
    counts = {"rows": 0, "hash": 0, "description": 0, "parameters": 0, "flops": 0}
    ids = set()
    for batch in pq.ParquetFile(path).iter_batches(columns=["hash", "adjacency", "operations", "trainable_parameters", "macs_thop"]):
        for row in batch.to_pylist():
            arch = space.from_strings(row["adjacency"], row["operations"])
            cost = space.cost(arch)
            counts["rows"] += 1
            counts["hash"] += arch.id != row["hash"]
            adjacency = "".join([str(entry) for line in arch["adjacency"] for entry in line])
            counts["description"] += (adjacency, ",".join(arch["operations"])) != (row["adjacency"], row["operations"])
            counts["parameters"] += cost.parameters != row["trainable_parameters"]
            counts["flops"] += cost.flops != row["macs_thop"]
            ids.add(row["hash"])
    return counts | {"enumerated differently": len(ids ^ {arch.id for arch in space.enumerate()})}


def microseconds(function: Callable[[Any], object], arguments: Iterable[Any]) -> float:
    """Mean time of `function` over `arguments`."""
    calls = list(arguments)
    start = time.perf_counter()
    for argument in calls:
        function(argument)
    return (time.perf_counter() - start) / len(calls) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", type=Path, default=TABLE)
    path = parser.parse_args().table
    space, uniform, rng = NASBench101Space(), NASBench101Space("uniform"), np.random.default_rng(0)
    start = time.perf_counter()
    uniform.sample(rng)
    print(f"first uniform sample of the process: {(time.perf_counter() - start) * 1e3:.0f} ms")
    archs = [uniform.sample(rng) for _ in range(2000)]  # 85 % have 7 vertices
    timed: dict[str, tuple[Callable[[Any], object], Iterable[Any]]] = {
        "module_hash": (lambda arch: module_hash(arch["adjacency"], arch["operations"]), archs),
        "from_config": (space.from_config, [arch.to_config() for arch in archs]),
        "sample, reference": (lambda _: space.sample(rng), range(2000)),
        "sample, uniform": (lambda _: uniform.sample(rng), range(2000)),
        "mutate": (lambda arch: space.mutate(arch, rng), archs),
        "neighbors": (space.neighbors, archs[:200]),
        "paths": (space.paths, archs),
        "cost": (space.cost, archs),
        "adjacency": (space.adjacency, archs),
        "scalars": (space.scalars, archs),
    }
    for name, (function, arguments) in timed.items():
        print(f"{name:20} {microseconds(function, arguments):8.1f} us")
    for name, count in mismatches(space, path).items():
        print(f"{name:24} {count:8,}")


if __name__ == "__main__":
    main()
