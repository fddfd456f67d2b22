"""The figures of a comparison: how good the best architecture is after so much search, and how many runs have found the best of all."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Okabe and Ito (2008). A method has its colour in every figure, whatever it is compared with; others take the rest.
COLOURS = {"bananas": "#0072b2", "bananas-paper": "#56b4e9", "evolution": "#d55e00", "random": "#555555"}
OTHERS = ("#009e73", "#cc79a7", "#e69f00", "#8c6bb1", "#a6761d", "#000000")
_STYLES = ("-", "--", ":", "-.")  # of schedulers
_LABEL = 11.0  # points between two labels
_MANY = 8  # lines beyond which each has a panel of its own
_COLUMNS = 6  # of such panels
_GREY, _DARK = "#d0d0d0", "#222222"
_BAND = "band: one standard error of the mean"
_EVALUATED = "architectures evaluated"


def colours(names: Sequence[str]) -> dict[str, str]:
    """The colour of each method."""
    rest = iter(OTHERS * len(names))
    return {name: COLOURS.get(name) or next(rest) for name in names}


class _Line(NamedTuple):
    """A curve of the mean over the seeds."""

    name: str
    x: Floats
    mean: Floats
    deviation: Floats  # standard error
    colour: str
    style: str

    def draw(self, axes: Any) -> None:
        axes.plot(self.x, self.mean, self.style, color=self.colour, linewidth=1.8)
        low, high = self.mean - self.deviation, self.mean + self.deviation
        axes.fill_between(self.x, low, high, color=self.colour, alpha=0.2, linewidth=0)


def comparison(
    errors: Mapping[tuple[str, str], Floats],
    hours: Mapping[tuple[str, str], Floats] | None,
    *,
    title: str,
    kind: str,
    optimum: float,
) -> Any:
    """A matplotlib Figure: mean and standard error over the seeds. More than eight curves have a panel each, the best first.

    Args:
        errors: (seeds, queries) error in percent of the best architecture after so many queries, by searcher and scheduler.
        hours: (seeds, queries) simulated hours at which they ended, NaN after the end of a run; None where the table knows no times. With
            few curves there is a panel of them then.
        title: the benchmark and the seeds.
        kind: what error it is, as "test".
        optimum: the least error in percent that there is.
    """
    label, limits = f"{kind} error of the best so far, %", _limits(errors, optimum)
    if len(errors) > _MANY:
        lines = sorted(_lines(errors), key=lambda line: float(line.mean[-1]))
        return _panels(lines, f"{title}; {_BAND}", label, limits, optimum, "{:.3f}")
    timed = [] if hours is None else [(_lines(errors, hours), "simulated hours")]
    return _together([(_lines(errors), _EVALUATED), *timed], f"{title}; {_BAND}", label, limits, optimum)


def shares(found: Mapping[tuple[str, str], Floats], queries: int, *, title: str) -> Any:
    """A matplotlib Figure: the share of runs that have observed the best architecture of all.

    Args:
        found: (seeds,) after how many queries, infinite where never, by searcher and scheduler.
        queries: how many there were.
        title: the benchmark and the seeds.
    """
    met = {key: np.where(np.arange(1, queries + 1) >= at[:, None], 100.0, 0.0) for key, at in found.items()}
    label, limits = "runs that have found the best, %", (0.0, 103.0)
    if len(met) > _MANY:
        lines = sorted(_lines(met), key=lambda line: (-float(line.mean[-1]), -float(line.mean.sum())))
        return _panels(lines, f"{title}; {_BAND}", label, limits, None, "{:.0f} %")
    return _together([(_lines(met), _EVALUATED)], f"{title}; {_BAND}", label, limits, None)


def _lines(values: Mapping[tuple[str, str], Floats], hours: Mapping[tuple[str, str], Floats] | None = None) -> list[_Line]:
    """Against queries, or against hours."""
    coloured = colours(list(dict.fromkeys(searcher for searcher, _ in values)))
    schedulers = list(dict.fromkeys(scheduler for _, scheduler in values))
    lines = []
    for (searcher, scheduler), runs in values.items():
        x, y = (np.arange(1.0, runs.shape[1] + 1), runs) if hours is None else _over_time(runs, hours[searcher, scheduler])
        deviation = y.std(axis=0, ddof=min(1, len(y) - 1)) / np.sqrt(len(y))
        name = searcher if len(schedulers) == 1 else f"{searcher} + {scheduler}"
        style = _STYLES[schedulers.index(scheduler) % len(_STYLES)]
        lines.append(_Line(name, x, y.mean(axis=0), deviation, coloured[searcher], style))
    return lines


def _over_time(runs: Floats, hours: Floats) -> tuple[Floats, Floats]:
    """The same at moments up to the end of the run that ends first; one that stopped at the best architecture has no end."""
    ends, stopped = np.nanmax(hours, axis=1), np.isnan(hours[:, -1])
    grid = np.linspace(0, ends.max() if stopped.all() else ends[~stopped].min(), 200)
    at = [run[np.clip(np.searchsorted(times, grid, side="right") - 1, 0, None)] for run, times in zip(runs, hours, strict=True)]
    return grid, np.stack(at)


def _limits(errors: Mapping[tuple[str, str], Floats], optimum: float) -> tuple[float, float]:
    """Leaves out what the first ten queries were like, which would dwarf the rest."""
    most = max(float(runs[:, min(9, runs.shape[1] - 1)].mean()) for runs in errors.values())
    least = min(optimum, *(float(runs[:, -1].mean()) for runs in errors.values()))
    return least - 0.06 * (most - least) - 1e-3, most + 1e-3


def _together(panels: Sequence[tuple[list[_Line], str]], title: str, label: str, limits: tuple[float, float], optimum: float | None) -> Any:
    """All curves in one panel, named at their ends; `panels`: (curves, what they are drawn against)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6 if len(panels) == 1 else 12.0, 4.4), layout="constrained")
    drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (lines, against) in zip(drawn, panels, strict=True):
        for line in lines:
            line.draw(axes)
        ends = [(float(line.x[-1]), float(line.mean[-1]), line.name, line.colour) for line in lines]
        if optimum is not None:
            axes.axhline(optimum, color=_DARK, linewidth=1, linestyle=(0, (1, 2)))
            ends.append((ends[0][0], optimum, "best of the table", _DARK))
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(against)
        axes.set_ylim(limits)
        _label(axes, ends)
    drawn[0].set_ylabel(label)
    figure.suptitle(title, fontsize=10)
    return figure


def _panels(lines: Sequence[_Line], title: str, label: str, limits: tuple[float, float], optimum: float | None, shown: str) -> Any:
    """A panel for each curve, the others grey behind it."""
    from matplotlib.figure import Figure

    rows = -(-len(lines) // _COLUMNS)
    figure = Figure(figsize=(12.0, 0.9 + 1.9 * rows), layout="constrained")
    drawn = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, line in zip(drawn, lines, strict=False):
        for other in lines:
            axes.plot(other.x, other.mean, color=_GREY, linewidth=0.7)
        line.draw(axes)
        if optimum is not None:
            axes.axhline(optimum, color=_DARK, linewidth=1, linestyle=(0, (1, 2)))
        axes.set_title(line.name, loc="left", fontsize=9, color=line.colour)
        axes.set_title(shown.format(line.mean[-1]), loc="right", fontsize=9, color=_DARK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(limits)
    for position, axes in enumerate(drawn):
        axes.set_visible(position < len(lines))
        axes.xaxis.set_tick_params(labelbottom=len(lines) - _COLUMNS <= position)  # none is below it
    figure.supxlabel(_EVALUATED, fontsize=10)
    figure.supylabel(label, fontsize=10)
    figure.suptitle(title, fontsize=10)
    return figure


def _label(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names at the ends of their lines, moved apart where they would cover each other."""
    height = axes.get_figure().get_figheight() * 72 * 0.75  # points, about
    low, high = axes.get_ylim()
    wanted = sorted((height * (y - low) / (high - low), x, y, name, colour) for x, y, name, colour in ends)
    places, lowest = [], -np.inf
    for points, *_ in wanted:
        lowest = max(points, lowest) + _LABEL
        places.append(lowest - _LABEL)
    highest = height
    for i in reversed(range(len(places))):  # down again, where they would leave the panel
        places[i] = min(places[i], highest)
        highest = places[i] - _LABEL
    paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
    for place, (points, x, y, name, colour) in zip(places, wanted, strict=True):
        how: dict[str, Any] = {"xytext": (6, place - points), "textcoords": "offset points", "va": "center", "annotation_clip": False}
        axes.annotate(name, (x, y), color=colour, fontsize=9, bbox=paper, **how)
