"""The page of a report: what people read first, and where everything else stands."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import version
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, StrictUndefined

from raynas.arch import Arch
from raynas.drawing import as_text, picture
from raynas.outcome import STATUSES, TEST_ACCURACY, VALID_ACCURACY
from raynas.reporting.facts import Facts, Floats, differences, search_command, told_apart, training_command
from raynas.reporting.figures import WINDOW, Panel, all_of, incumbent, spans
from raynas.reporting.fronts import fronts, table
from raynas.run.display import shown, title
from raynas.run.summary import resume_command

CELLS = 10  # of the best ones that are drawn
_RECENT = 50  # predictions from which the model is judged


class Page(NamedTuple):
    """A page and the files of its pictures, by name."""

    html: str
    pictures: dict[str, bytes]


def make_page(runs: Sequence[Facts], price: float | None = None) -> Page:
    """The report of one run, or of several side by side; `price` is that of what `Status.unit` names, for an hour."""
    pictures: dict[str, bytes] = {}
    runs = told_apart(runs)
    shared = [incumbent(runs, by) for by in ("trials", "time")]
    alone = len(runs) == 1
    sections = [_section(run, "" if alone else f"run{i}-", shared if alone else [], pictures, price) for i, run in enumerate(runs, 1)]
    names, settings = [run.name for run in runs], differences(runs)
    first = runs[0]
    heading = f"Search of {first.config.space} on {first.config.dataset}" if alone else f"{len(runs)} searches side by side"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(files("raynas.reporting").joinpath("page.html").read_text(encoding="utf-8")).render(
        title=heading,
        subtitle=f"{_method(first)}. {first.folder}: {first.status.state}" if alone else "Each run has a part of its own below.",
        runs=sections,
        overview=[_overview(run) for run in runs],
        overview_head=["Run", "State", "Trials", "Best", "Hours of CPU or GPU"],
        settings=[[key, *map(str, values)] for key, values in settings.items()],
        settings_head=["Setting", *names],
        shared=[_chart(panel, "", pictures) for panel in shared] if not alone else [],
        version=version("raynas"),
        now=f"{datetime.now().astimezone():%Y-%m-%d %H:%M}",
    )
    return Page(html, pictures)


def _method(run: Facts) -> str:
    config = run.config
    return f"Method {config.searcher}, scheduler {config.scheduler}, trainable {config.trainable}, seed {config.seed}"


def _overview(run: Facts) -> list[str]:
    value = float(run.values[run.ranked[0]]) if run.ranked else None
    best = "none yet" if value is None else shown(run.objective.first, value)
    if value is not None and run.objective.first.name != VALID_ACCURACY.name:
        best = f"{title(run.objective.first)} {best}"
    return [run.name, run.status.state, f"{len(run.rows)} of {run.status.trials}", best, f"{run.status.hours:,.2f} {run.status.unit}-hours"]


def _section(run: Facts, prefix: str, shared: Sequence[Panel], pictures: dict[str, bytes], price: float | None) -> dict[str, Any]:
    return {
        "name": run.name,
        "heading": "What came of it" if not prefix else f"{run.name}: {run.status.state}",
        "answers": [
            ("What did it find?", list(_found(run))),
            ("How sure is it?", list(_sure(run))),
            ("What did it cost?", list(_cost(run, price))),
            ("What failed?", list(_failed(run))),
        ],
        "panels": [_chart(panel, prefix, pictures) for panel in (*shared, *all_of(run), *fronts(run))],
        "front": table(run),
        "reasons": [[count, fault, reason] for count, fault, reason in run.reasons[:10]],
        "cells": [_cell(run, heading, index, arch, prefix, pictures) for heading, index, arch in _chosen(run)],
        "no_cells": _no_cells(run),
        "search": search_command(run.config),
        "resume": resume_command(run.folder) if run.status.state in ("crashed", "interrupted") else None,
        "train": training_command(run) if run.ranked else "There is no best architecture yet.",
        "configuration": [[key, str(value)] for key, value in run.config.model_dump().items() if value not in (None, {}, [])],
    }


def _chart(panel: Panel, prefix: str, pictures: dict[str, bytes]) -> dict[str, Any]:
    name = f"{prefix}{panel.name}"
    if panel.svg is not None and panel.png is not None:
        pictures |= {f"{name}.svg": panel.svg, f"{name}.png": panel.png}
    return {"id": name, "title": panel.title, "caption": panel.caption, "uri": _uri(panel.svg)}


def _uri(svg: bytes | None) -> str | None:
    return None if svg is None else f"data:image/svg+xml;base64,{b64encode(svg).decode()}"


def _no_cells(run: Facts) -> str | None:
    if not run.ranked:
        return "No trial has succeeded yet."
    return f"They cannot be drawn: {run.no_space}." if run.space is None else None


def _chosen(run: Facts) -> Iterator[tuple[str, int | None, Arch | None]]:
    """What is drawn: heading, trial, architecture; the recommended one first where it is not the best observed one."""
    advised = run.arch(run.recommended) if run.recommended else None
    rank = {run.rows[i]["arch_id"]: i for i in run.ranked}
    if advised is not None and run.ranked and advised.id != run.rows[run.ranked[0]]["arch_id"]:
        yield "Recommended: the best by the model, which weighs each result with those of similar ones", rank.get(advised.id), advised
    for place, index in enumerate(run.ranked[:CELLS], 1):
        also = ", and recommended" if advised is not None and advised.id == run.rows[index]["arch_id"] else ""
        yield f"{'Best observed' if place == 1 else f'Number {place}'}{also}", index, run.archs[index]


def _cell(run: Facts, heading: str, index: int | None, arch: Arch | None, prefix: str, pictures: dict[str, bytes]) -> dict[str, Any]:
    row = {} if index is None else run.rows[index]
    values = [f"{title(metric)} {shown(metric, row[metric.name])}" for metric in run.objective.metrics if row.get(metric.name) is not None]
    if row.get("test_accuracy") is not None:
        values.append(f"test accuracy {shown(TEST_ACCURACY, row['test_accuracy'])}")
    if row.get("parameters") is not None:
        values.append(f"{row['parameters'] / 1e6:,.2f} M parameters, {(row['flops'] or 0) / 1e6:,.0f} M multiply-accumulates")
    if index is not None:
        values.append(f"trial {index + 1}, {row['status']}" + (f", proposed by {row['proposed_by']}" if row.get("proposed_by") else ""))
    else:
        values.append("not evaluated in this run, but in one that it was told of")
    svg, text = None, ""
    if run.space is not None and arch is not None:
        try:
            svg, text = picture(run.space, arch), as_text(run.space, arch)
        except Exception as error:  # of a space of one's own; the page shows the rest
            values.append(f"no picture: {type(error).__name__}: {error}")
        else:
            name = prefix + ("recommended" if heading.startswith("Recommended") else f"best-{run.ranked.index(index or 0) + 1}")
            pictures |= {f"{name}.svg": svg, f"{name}.png": picture(run.space, arch, "png")}
    return {
        "heading": heading,
        "facts": "; ".join(values),
        "arch_id": row.get("arch_id", arch and arch.id),
        "uri": _uri(svg),
        "text": text,
    }


# -- what people ask first


def _found(run: Facts) -> Iterator[str]:
    counts, metric = run.status.counts, run.objective.first
    ended = sum(counts[status] for status in STATUSES)
    if not run.ranked:
        yield f"Nothing yet: of {run.status.trials} trials {ended} have ended, and none of them has succeeded."
        return
    best = run.ranked[0]
    row = run.rows[best]
    values = ", ".join(f"{title(each)} {shown(each, row[each.name])}" for each in run.objective.metrics if row.get(each.name) is not None)
    yield f"After {ended} of {run.status.trials} trials the best architecture has {values}; it was trial {best + 1}."
    if row.get("test_accuracy") is not None:
        yield f"Its test accuracy, which the search never saw, is {shown(TEST_ACCURACY, row['test_accuracy'])}."
    first = float(run.values[next(i for i in run.incumbent if i >= 0)])
    yield f"It is called {row['arch_id']}. The first trial that succeeded had {title(metric)} {shown(metric, first)}."


def _sure(run: Facts) -> Iterator[str]:
    if not run.ranked:
        yield "There is nothing to be sure of."
        return
    metric, ended = run.objective.first, len(run.rows)
    since = ended - 1 - run.ranked[0]
    yield f"The last {since} trials brought nothing better." if since else "The last trial is the best one: more may well be better."
    if len(run.ranked) > 1:
        gap = abs(float(run.values[run.ranked[0]] - run.values[run.ranked[1]]))
        yield f"The second best is behind by {_distance(run, gap)}; each value is that of one evaluation."
    told = run.predictions[-_RECENT:]
    if len(told) >= 3:
        error = float(np.abs(told[:, 3] - told[:, 1]).mean())
        yield f"Before each of the last {len(told)} full evaluations the model was off by {_distance(run, error)} on average."
        yield from _calibrated(told)
    advised = run.recommended
    if advised is not None and advised.get("id") != run.rows[run.ranked[0]]["arch_id"]:
        yield "The method recommends another cell than the best observed one, which may have been lucky: it is drawn first below."
    elif advised is not None:
        yield f"The method recommends the best observed one, judged by {title(metric)} of all that is similar."


def _calibrated(told: Floats) -> Iterator[str]:
    """Whether the deviations that came with predictions are to be believed; (k, 4) as `Facts.predictions`."""
    told = told[np.isfinite(told[:, 2])]
    if len(told) >= WINDOW:
        share = float((np.abs(told[:, 3] - told[:, 1]) <= 2 * told[:, 2]).mean())
        verdict = "it was too sure of itself" if share < 0.85 else "so its own doubt can be believed"
        yield f"{100 * share:.0f} % of these results lay within two deviations of their prediction, where 95 % should: {verdict}."


def _distance(run: Facts, value: float) -> str:
    metric = run.objective.first
    return f"{100 * value:.3f} points" if metric.unit == "fraction" else shown(metric, value)


def _cost(run: Facts, price: float | None) -> Iterator[str]:
    status = run.status
    money = f": {price * status.hours:,.2f} at {price:g} an hour" if price is not None else " (what that costs: --price)"
    amount, unit = _lasting(status.hours).split()
    yield f"Trials held {amount} {status.unit}-{unit} in all{money}."
    if len(run.rows):
        yield f"It took {_lasting(float(run.hours[-1]))} from the first start to the last end of {len(run.rows)} trials."
    trained = sum(row["train_seconds"] or 0.0 for row in run.rows) / 3600
    if trained:
        yield f"The trainings themselves took {_lasting(trained)}, by what trials report (of a table, those of its authors)."
    stopped = status.counts["stopped"]
    if stopped:
        yield f"{stopped} trials were stopped early by {run.config.scheduler}."


def _lasting(hours: float) -> str:
    factor, unit = spans(hours)
    return f"{factor * hours:,.1f} {unit}"


def _failed(run: Facts) -> Iterator[str]:
    failed, retried = run.status.counts["failed"], sum(run.status.retries.values())
    again = f"{retried} times one was tried again" if retried else "none was tried again"
    yield f"{failed} of {len(run.rows)} trials failed for good, {again}." if failed or retried else "No trial failed."
    for count, fault, reason in run.reasons[:3]:
        yield f"{count} laid to the {fault}: {reason[:200]}"
    if run.status.state == "crashed":
        yield "The search itself was killed; it can go on from where it was."
    elif run.status.state == "interrupted":
        yield "The search was interrupted; it can go on from where it was."
