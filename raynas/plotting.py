"""The figure of a comparison: how good the best architecture is after so much search."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Okabe and Ito (2008). A method has its colour in every figure, whatever it is compared with; others take the rest.
COLOURS = {"bananas": "#0072b2", "bananas-paper": "#56b4e9", "evolution": "#d55e00", "random": "#555555"}
OTHERS = ("#009e73", "#cc79a7", "#e69f00", "#8c6bb1", "#a6761d", "#000000")
_STYLES = ("-", "--", ":", "-.")  # of schedulers
_LABEL = 11.0  # points between two labels


def colours(names: Sequence[str]) -> dict[str, str]:
    """The colour of each method."""
    rest = iter(OTHERS * len(names))
    return {name: COLOURS.get(name) or next(rest) for name in names}


def comparison(
    errors: Mapping[tuple[str, str], Floats],
    hours: Mapping[tuple[str, str], Floats] | None,
    *,
    title: str,
    kind: str,
    optimum: float,
) -> Any:
    """A matplotlib Figure: mean and standard error over the seeds.

    Args:
        errors: (seeds, queries) error in percent of the best architecture after so many queries, by searcher and scheduler.
        hours: (seeds, queries) simulated hours at which they ended; None where the table knows no times: there is no panel of them then.
        title: the benchmark and the seeds.
        kind: what error it is, as "test".
        optimum: the least error in percent that there is.
    """
    from matplotlib.figure import Figure

    width = 6.6 if hours is None else 12.0
    figure = Figure(figsize=(width, 4.4), layout="constrained")
    panels = figure.subplots(1, 1 if hours is None else 2, sharey=True, squeeze=False)[0]
    coloured = colours(list(dict.fromkeys(searcher for searcher, _ in errors)))
    schedulers = list(dict.fromkeys(scheduler for _, scheduler in errors))
    for panel, axes in enumerate(panels):
        ends = []
        for (searcher, scheduler), runs in errors.items():
            x, y = np.arange(1.0, runs.shape[1] + 1), runs
            if panel and hours is not None:
                x, y = _over_time(runs, hours[searcher, scheduler])
            mean, deviation = y.mean(axis=0), y.std(axis=0, ddof=min(1, len(y) - 1)) / np.sqrt(len(y))
            style = _STYLES[schedulers.index(scheduler) % len(_STYLES)]
            axes.plot(x, mean, style, color=coloured[searcher], linewidth=1.8)
            axes.fill_between(x, mean - deviation, mean + deviation, color=coloured[searcher], alpha=0.2, linewidth=0)
            name = searcher if len(schedulers) == 1 else f"{searcher} + {scheduler}"
            ends.append((float(x[-1]), float(mean[-1]), name, coloured[searcher]))
        axes.axhline(optimum, color="#222222", linewidth=1, linestyle=(0, (1, 2)))
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("architectures evaluated" if panel == 0 else "simulated hours")
        _limit(axes, errors, optimum)
        _label(axes, [*ends, (ends[0][0], optimum, "best of the table", "#222222")])
    panels[0].set_ylabel(f"{kind} error of the best so far, %")
    figure.suptitle(f"{title}; band: one standard error of the mean", fontsize=10)
    return figure


def _over_time(runs: Floats, hours: Floats) -> tuple[Floats, Floats]:
    """The same at moments up to the end of the run that ends first."""
    grid = np.linspace(0, hours[:, -1].min(), 200)
    at = [run[np.clip(np.searchsorted(times, grid, side="right") - 1, 0, None)] for run, times in zip(runs, hours, strict=True)]
    return grid, np.stack(at)


def _limit(axes: Any, errors: Mapping[tuple[str, str], Floats], optimum: float) -> None:
    """Leaves out what the first ten queries were like, which would dwarf the rest."""
    most = max(float(runs[:, min(9, runs.shape[1] - 1)].mean()) for runs in errors.values())
    least = min(optimum, *(float(runs[:, -1].mean()) for runs in errors.values()))
    axes.set_ylim(least - 0.06 * (most - least) - 1e-3, most + 1e-3)


def _label(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names at the ends of their lines, moved apart where they would cover each other."""
    height = axes.get_figure().get_figheight() * 72 * 0.75  # points, about
    low, high = axes.get_ylim()
    wanted = sorted((height * (y - low) / (high - low), x, y, name, colour) for x, y, name, colour in ends)
    last = -np.inf
    for points, x, y, name, colour in wanted:
        last = max(points, last + _LABEL)
        offset = (6, last - points)
        paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
        place: dict[str, Any] = {"xytext": offset, "textcoords": "offset points", "va": "center", "annotation_clip": False}
        axes.annotate(name, (x, y), color=colour, fontsize=9, bbox=paper, **place)
