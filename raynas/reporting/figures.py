"""The figures of a report: each says how to read it, or why there is nothing to see."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raynas.outcome import STATUSES, Metric
from raynas.reporting.facts import Effect, Facts, Floats
from raynas.run.display import title

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito (2008)
_STATUS = dict(zip(STATUSES, (COLOURS[0], COLOURS[4], COLOURS[1]), strict=True))
_MARKERS = dict(zip(STATUSES, "o^x", strict=True))
DENSE = 1500  # points that are drawn as pixels, so that a file stays small
WINDOW = 20  # predictions over which their quality is told
_BARS = 12
_STYLE: dict[str, Any] = {
    "font.size": 11,
    "font.family": ["DejaVu Sans"],
    "text.parse_math": False,  # names may hold dollar signs
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
}


@dataclass(frozen=True)
class Panel:
    """A figure of a page."""

    name: str  # of its files
    title: str
    caption: str  # how to read it; without a figure, why there is none
    svg: bytes | None = None
    png: bytes | None = None


def panel(name: str, heading: str, caption: str, draw: Callable[[Any], str | None]) -> Panel:
    """What `draw` puts on axes; where it returns a text, that says why there is nothing to draw."""
    with rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(6.4, 3.9), layout="constrained", facecolor="white")
        missing = draw(figure.add_subplot())
        if missing is not None:
            return Panel(name, heading, missing)
        files = []
        for kind, metadata in (("svg", {"Date": None, "Title": heading}), ("png", {"Title": heading})):
            file = BytesIO()
            figure.savefig(file, format=kind, dpi=140, metadata=metadata)
            files.append(file.getvalue())
    return Panel(name, heading, caption, *files)


def scaled(metric: Metric, values: Any) -> Any:
    """Values as they are drawn: fractions in percent."""
    return 100 * values if metric.unit == "fraction" else values


def labelled(metric: Metric) -> str:
    """What stands at an axis."""
    unit = "%" if metric.unit == "fraction" else metric.unit
    return _short(title(metric) + (f" ({unit})" if unit else ""))


def no_trial(run: Facts) -> str | None:
    return None if run.ranked else "No trial has succeeded yet."


def focus(axes: Any, values: Floats, whole: Floats | None = None) -> None:
    """Shows what matters: a few very bad values do not squeeze the others together; how many lie outside is said.

    `whole`: values that are shown, all of them; of `values` that come with them none are counted.
    """
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.1, 0.9])
    margin = max(high - low, 1e-9)
    least, most = max(values.min(), low - 1.5 * margin), min(values.max(), high + 1.5 * margin)
    if whole is not None:
        least, most = min(least, whole.min()), max(most, whole.max())
    pad = 0.06 * max(most - least, 1e-9)
    axes.set_ylim(least - pad, most + pad)
    outside = [
        f"{count} {side}" for count, side in ((int((values < least).sum()), "below"), (int((values > most).sum()), "above")) if count
    ]
    if outside and whole is None:
        axes.set_title(f"not shown: {' and '.join(outside)}", loc="right", fontsize=9, color="#555555")


def spans(hours: float) -> tuple[float, str]:
    """The unit in which a time of so many hours is told: how many of it an hour has, and its name."""
    for factor, unit in ((3600.0, "seconds"), (60.0, "minutes")):
        if hours * factor < 120:
            return factor, unit
    return 1.0, "hours"


def _whole(axis: Any) -> None:
    axis.set_major_locator(MaxNLocator(integer=True))


def incumbent(runs: Sequence[Facts], by: str) -> Panel:
    """The best value so far, against trials or hours; runs that differ in the seed alone as their mean with a band."""
    metric = runs[0].objective.first
    factor, unit = spans(max((float(run.hours[-1]) for run in runs if len(run.rows)), default=0.0))
    against = "trials that have ended" if by == "trials" else f"{unit} since the first start"
    caption = f"{title(metric).capitalize()} of the best trial so far against {against}."
    groups = grouped(runs)
    if any(run.status.counts["stopped"] for run in runs):
        caption += " A full evaluation counts before one that was stopped early, so the line may fall where the first one ends."
    if any(len(members) > 1 for members in groups.values()):
        caption += " A line is the mean of the runs that differ in their seed alone, its band one standard error."

    bands: list[Floats] = []

    def draw(axes: Any) -> str | None:
        if not any(run.ranked for run in runs):
            return "No trial has succeeded yet."
        if len({(run.objective.first.name, run.sign) for run in runs}) > 1:
            return "The runs optimise different metrics, which have no common axis; see what each came to below."
        for colour, (name, members) in zip(_cycle(len(groups)), groups.items(), strict=True):
            shown_runs = [run for run in members if run.ranked]
            xs = [np.arange(1.0, len(run.rows) + 1) if by == "trials" else factor * run.hours for run in shown_runs]
            bands.append(_line(axes, shown_runs, xs, metric, _short(name), colour))
        axes.set(xlabel=against, ylabel=labelled(metric))
        values = np.concatenate([band.ravel() for band in bands])
        focus(axes, values, np.concatenate([band[:, -1] for band in bands if band.size]))
        if len(groups) > 1:
            axes.legend(fontsize=9)
        return None

    return panel(f"incumbent_by_{by}", f"The best so far, by {'trials' if by == 'trials' else 'time'}", caption, draw)


def _line(axes: Any, members: Sequence[Facts], xs: Sequence[Floats], metric: Metric, name: str, colour: str) -> Floats:
    """Draws a line, and returns its lower and its upper end at each point, (2, points)."""
    curves = []
    for run, x in zip(members, xs, strict=True):
        known = np.array(run.incumbent) >= 0
        curves.append((x[known], scaled(metric, run.values[np.array(run.incumbent)[known]])))
    if len(curves) == 1:
        x, y = curves[0]
        axes.step(x, y, where="post", color=colour, linewidth=2, label=name)
        return np.stack([y, y])
    if curves:
        start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
        grid = np.linspace(start, max(end, start + 1e-9), 400)
        values = np.array([y[np.searchsorted(x, grid, side="right") - 1] for x, y in curves])
        mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))
        axes.plot(grid, mean, color=colour, linewidth=2, label=f"{name} ({len(values)} runs)")
        axes.fill_between(grid, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
        return np.stack([mean - error, mean + error])
    return np.empty((2, 0))


def grouped(runs: Sequence[Facts]) -> dict[str, list[Facts]]:
    """Runs that differ in their seed alone, by what tells the groups apart."""
    groups: dict[str, list[Facts]] = {}
    for run in runs:
        groups.setdefault(str(run.config.model_dump(exclude={"out", "seed", "address"})), []).append(run)
    named: dict[str, list[Facts]] = {}
    for members in groups.values():
        config = members[0].config
        name = members[0].name if len(members) == 1 else f"{config.searcher}, {config.scheduler}"
        named[name if name not in named else f"{name} ({len(named) + 1})"] = members
    return named


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def trials(run: Facts) -> Panel:
    """Every trial as a point."""
    metric = run.objective.first

    def draw(axes: Any) -> str | None:
        if problem := no_trial(run):
            return problem
        values, epochs = scaled(metric, run.values), np.array([row["epochs"] or 0 for row in run.rows], dtype=float)
        sizes = 12 + 40 * epochs / max(epochs.max(), 1.0)
        for status in STATUSES[:2]:
            chosen = np.array([row["status"] == status for row in run.rows]) & np.isfinite(values)
            if chosen.any():
                x, label = np.flatnonzero(chosen) + 1, f"{status} ({chosen.sum()})"
                style: dict[str, Any] = {"marker": _MARKERS[status], "alpha": 0.7, "linewidths": 0, "label": label}
                axes.scatter(x, values[chosen], s=sizes[chosen], color=_STATUS[status], rasterized=len(x) > DENSE, **style)
        focus(axes, values)
        failed = [i + 1 for i, row in enumerate(run.rows) if row["status"] == "failed"]
        if failed:
            foot: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
            axes.plot(failed, [0.0] * len(failed), "x", color=_STATUS["failed"], label=f"failed ({len(failed)})", **foot)
        axes.set(xlabel="trial, by the time of its end", ylabel=labelled(metric))
        _whole(axes.xaxis)
        axes.legend(fontsize=9, loc="best")
        return None

    caption = "Each point is a trial; the larger, the more epochs it was given. Trials that failed have no value and stand on the axis."
    return panel("trials", "Every trial", caption, draw)


def predicted(run: Facts) -> Panel:
    """What was predicted against what was observed."""
    metric, told = run.objective.first, run.predictions

    def draw(axes: Any) -> str | None:
        if len(told) < 3:
            return _no_predictions(run)
        x, y = scaled(metric, told[:, 1]), scaled(metric, told[:, 3])
        points = axes.scatter(x, y, c=told[:, 0] + 1, cmap="viridis", s=18, alpha=0.8, linewidths=0, rasterized=len(x) > DENSE)
        axes.axline((float(y.max()), float(y.max())), slope=1, color="#777777", linewidth=1, linestyle="--")
        focus(axes, y)
        low, high = np.quantile(x, [0.02, 0.98])
        axes.set_xlim(low - 0.1 * (high - low) - 1e-9, high + 0.1 * (high - low) + 1e-9)
        axes.figure.colorbar(points, ax=axes, label="trial")
        axes.set(xlabel=f"predicted {labelled(metric)}", ylabel="observed")
        return None

    caption = "Each point is a full evaluation that a model had predicted before; on the dashed line both agree. Late ones are light."
    return panel("predicted", "Predicted against observed", caption, draw)


def _no_predictions(run: Facts) -> str:
    if run.config.searcher.startswith("bananas") and len(run.rows) < 30:
        return "Too few trials have ended that a model had predicted."
    return f"No predictions are recorded: {run.config.searcher} makes none, or the run is of an earlier version."


def calibration(run: Facts) -> Panel:
    """How good predictions were over time."""
    told = run.predictions[np.isfinite(run.predictions[:, 2])]

    def draw(axes: Any) -> str | None:
        if len(told) < WINDOW:
            return _no_predictions(run)
        off = np.abs(told[:, 3] - told[:, 1]) / np.maximum(told[:, 2], 1e-12)
        x = told[WINDOW - 1 :, 0] + 1
        for colour, (width, expected) in zip(COLOURS, ((1, 68), (2, 95)), strict=False):
            share = np.convolve(off <= width, np.ones(WINDOW) / WINDOW, mode="valid")
            axes.plot(x, 100 * share, color=colour, linewidth=2, label=f"within {width} deviation{'s' * (width > 1)}")
            axes.axhline(expected, color=colour, linewidth=1, linestyle="--")
        axes.set(xlabel="trial", ylabel="results within (%)", ylim=(0, 103))
        axes.legend(fontsize=9)
        return None

    caption = (
        f"Share of the last {WINDOW} results that lay within one and two deviations of their prediction; dashed: 68 % and 95 %, where "
        "the lines should lie. Lines below say that the model was too sure."
    )
    return panel("calibration", "How sure the model was", caption, draw)


def effects(run: Facts, kind: str) -> Panel:
    """Which operations, or paths, go with good results."""
    metric = run.objective.first

    def draw(axes: Any) -> str | None:
        if run.space is None:
            return f"The architectures cannot be read: {run.no_space}."
        found: list[Effect] = run.operations if kind == "operations" else run.paths[:_BARS]
        if not found:
            return "Too few trials differ in it, or the space does not say how its architectures are graphs."
        found = sorted(found, key=lambda effect: effect.difference)[-_BARS:]
        y = np.arange(len(found))
        values, errors = (scaled(metric, np.array([effect[i] for effect in found])) for i in (1, 2))
        colours = [(COLOURS[2] if v >= 0 else COLOURS[1], 1.0 if abs(v) > 2 * e else 0.3) for v, e in zip(values, errors, strict=True)]
        axes.barh(y, values, xerr=errors, color=colours, ecolor="#444444")
        axes.set_yticks(y, [f"{_short(effect.name)} ({effect.having} : {effect.lacking})" for effect in found], fontsize=9)
        axes.axvline(0, color="#444444", linewidth=1)
        unit = "points" if metric.unit == "fraction" else metric.unit
        axes.set(xlabel=f"better by ({unit})" if unit else "better by")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        return None

    what = "operation" if kind == "operations" else "path from input to output"
    caption = (
        f"Mean of the trials whose architecture has the {what}, minus that of the others, with its standard error (pale: may be "
        "chance); in brackets how many have it and lack it. A search prefers what does well: it goes together, and need not be the cause."
    )
    return panel(kind, f"Which {kind} help", caption, draw)


def _short(text: str, most: int = 44) -> str:
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def rungs(run: Facts) -> Panel:
    """How many trials came how far."""

    def draw(axes: Any) -> str | None:
        if not run.status.rungs:
            return f"No trial was stopped early (scheduler {run.config.scheduler})."
        epochs = [row["epochs"] or 0 for row in run.rows]
        levels = sorted({*run.status.rungs, max(epochs)})
        reached = [sum(epoch >= level for epoch in epochs) for level in levels]
        bars = axes.bar([str(level) for level in levels], reached, color=COLOURS[0])
        axes.bar_label(bars, fontsize=9)
        axes.set(xlabel="epochs", ylabel="trials that came so far")
        _whole(axes.yaxis)
        return None

    caption = "How many trials came to the epochs at which the scheduler stopped some of them; the last bar were evaluated fully."
    return panel("rungs", "Who was stopped early", caption, draw)


def utilisation(run: Facts) -> Panel:
    """How many trials were under way at once."""

    def draw(axes: Any) -> str | None:
        if not run.rows:
            return "No trial has ended yet."
        edges, running = run.running()
        factor, unit = spans(float(edges[-1]))
        axes.stairs(running, factor * edges, color=COLOURS[0], linewidth=1.2)
        axes.stairs(running, factor * edges, fill=True, color=COLOURS[0], alpha=0.15)
        if run.config.concurrency:
            axes.axhline(run.config.concurrency, color="#777777", linewidth=1, linestyle="--")
        axes.set(xlabel=f"{unit} since the first start", ylabel="trials at once", ylim=(0, None))
        return None

    caption = "Trials under way, on average over short times; at 0 nothing ran. Dashed: how many were asked for, if that was said."
    return panel("utilisation", "How busy the cluster was", caption, draw)


def failures(run: Facts) -> Panel:
    """Failures and retries by whose fault they were."""

    def draw(axes: Any) -> str | None:
        failed, retried = Counter(run.status.failures), Counter(run.status.retries)
        faults = sorted({*failed, *retried})
        if not faults:
            return "No trial has failed, and none had to be tried again."
        y = np.arange(len(faults))
        series = [each for each in ((retried, COLOURS[4], "tried again"), (failed, COLOURS[1], "failed for good")) if each[0]]
        for i, (counts, colour, label) in enumerate(series):
            height = 0.76 / len(series)
            bars = axes.barh(
                y + (i - (len(series) - 1) / 2) * height, [counts[f] for f in faults], height=height, color=colour, label=label
            )
            axes.bar_label(bars, fontsize=9)
        axes.set_ylim(-0.9, len(faults) - 0.1)
        axes.set_yticks(y, faults)
        axes.set(xlabel="times")
        _whole(axes.xaxis)
        axes.legend(fontsize=9)
        return None

    caption = "What went wrong, by what it is laid to: the architecture itself, the machine, or that a trial hung."
    return panel("failures", "What failed", caption, draw)


def all_of(run: Facts) -> list[Panel]:
    """The figures of one run, but for those that several share, and the fronts."""
    return [
        trials(run),
        predicted(run),
        calibration(run),
        effects(run, "operations"),
        effects(run, "paths"),
        rungs(run),
        utilisation(run),
        failures(run),
    ]
