"""The fronts of a run in a report: figures of two quantities, and a table of the front of several objectives. n: trials."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter

from raynas.outcome import COSTS, Metric
from raynas.reporting.facts import Facts, Floats, front
from raynas.reporting.figures import COLOURS, DENSE, Panel, focus, labelled, no_trial, panel, scaled
from raynas.run.display import shown, title

_MOST = 50  # rows of the table


def fronts(run: Facts) -> list[Panel]:
    """Accuracy against costs, and any other two of several objectives."""
    metrics = run.objective.metrics
    others = [pair for pair in combinations(metrics, 2) if not (pair[0] == metrics[0] and pair[1].name in COSTS)]
    return [
        _against_cost(run, "parameters", "parameters"),
        _against_cost(run, "flops", "multiply-accumulates"),
        *(_pair(run, *pair) for pair in others),
    ]


def table(run: Facts) -> tuple[list[str], list[list[str]]] | None:
    """The head and the rows of the front of several objectives, the best of the first objective first; None of one objective."""
    metrics = run.objective.metrics
    if len(metrics) == 1 or not run.on_front:
        return None
    head = ["Architecture", *(title(metric) for metric in metrics), "Trial"]
    return head, [[row["arch_id"], *(shown(m, row[m.name]) for m in metrics), row["trial_id"]] for row in run.on_front[:_MOST]]


def _against_cost(run: Facts, cost: str, unit: str) -> Panel:
    """The first objective against what a network costs, and what nothing beats in both."""
    metric = run.objective.first

    def draw(axes: Any) -> str | None:
        chosen = [i for i in run.ranked if run.rows[i].get(cost) is not None and np.isfinite(run.values[i])]
        if not chosen:
            return no_trial(run) or f"No trial knows its {cost}."
        costs, values = np.array([run.rows[i][cost] for i in chosen], dtype=float), run.values[chosen]
        _points(axes, costs / 1e6, scaled(metric, values), front(costs, run.sign * values), "o-")
        axes.set(xlabel=f"million {unit}", ylabel=labelled(metric))
        return None

    caption = f"Each point is a trial; those on the line are beaten by none that has as few {unit}."
    return panel(f"front_{cost}", f"{title(metric).capitalize()} against {cost}", caption, draw)


def _pair(run: Facts, first: Metric, second: Metric) -> Panel:
    """Two of several objectives against each other, with the front of all."""
    metrics = run.objective.metrics

    def draw(axes: Any) -> str | None:
        chosen = [row for row in run.rows if row["status"] == "finished" and None not in (row.get(first.name), row.get(second.name))]
        if not chosen:
            return "No trial has been evaluated fully yet."
        kept = {row["trial_id"] for row in run.on_front}
        best = sorted((i for i, row in enumerate(chosen) if row["trial_id"] in kept), key=lambda i: float(chosen[i][second.name]))
        x, y = (scaled(metric, np.array([row[metric.name] for row in chosen], dtype=np.float64)) for metric in (second, first))
        _points(axes, x, y, best, "o-" if len(metrics) == 2 else "o")
        axes.set(xlabel=labelled(second), ylabel=labelled(first))
        return None

    caption = "Each point is a full evaluation; those marked keep the limits, if there are any, and no other is better in all objectives."
    name = f"front_{1 + metrics.index(first)}_{1 + metrics.index(second)}"
    return panel(name, f"{title(first).capitalize()} against {title(second)}", caption, draw)


def _points(axes: Any, x: Floats, y: Floats, best: Sequence[int], style: str) -> None:
    """Draws n points (n,), and those at the indices `best` as the front."""
    axes.scatter(x, y, s=14, color="#9a9a9a", alpha=0.6, linewidths=0, rasterized=len(x) > DENSE, label="trials")
    axes.plot(x[best], y[best], style, color=COLOURS[0], linewidth=1.5, markersize=5, label="front")
    if x.min() > 0 and x.max() / x.min() > 20:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    focus(axes, y)
    axes.legend(fontsize=9, loc="best")
