"""The lines that end a search."""

from typing import Any

import numpy as np
import pyarrow as pa
import run_rows

from raynas import results
from raynas.config import RunConfig
from raynas.outcome import Limit, Objective
from raynas.run.summary import Run, lines
from raynas.spaces import make_space


def summary(**changes: Any) -> list[str]:
    space = make_space("nasbench201")
    archs = [space.sample(np.random.default_rng(seed)) for seed in range(2)]
    trials = [run_rows.trial(i, arch_id=arch.id, valid_accuracy=0.9 - i / 100) for i, arch in enumerate(archs)]
    best = {"arch": archs[0].to_config(), "arch_id": archs[0].id, "train": "train it"} | trials[0] | {"arch": archs[0].to_config()}
    tables = results.Tables(pa.Table.from_pylist(trials), None, None)
    run = Run("run", RunConfig(), Objective(limits=(Limit.parse("flops<=1000"),)), tables, best, archs[1], 2, **changes)
    return list(lines(run, optimum=0.95))


def test_what_is_recommended_stands_beside_the_best_observed() -> None:
    text = "\n".join(summary())
    best, recommended = text.split("Recommended: ")
    assert "validation accuracy 90.000 % (5.000 points below the best of the table, 95.000 %)" in best
    assert "validation accuracy 89.000 %\n" in recommended
    assert text.count("beyond the limit flops<=1000") == 2
    assert "no more architectures" in "\n".join(summary(exhausted=True))
