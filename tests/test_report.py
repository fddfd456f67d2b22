"""The report of a run: what it says, what it shows, and that a browser shows it."""

import json
import re
import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browser as browser
from browser import complaints, requested

from raynas import report, results
from raynas.config import RunConfig
from raynas.errors import ConfigError, RaynasError
from raynas.report import draw, write_report
from raynas.reporting.facts import differences, front, read_facts, search_command
from raynas.reporting.figures import all_of, grouped, incumbent
from raynas.reporting.fronts import fronts
from raynas.reporting.page import make_page
from raynas.run.store import RunStore
from raynas.spaces import make_space
from raynas.trust import signed

NB201 = make_space("nasbench201")
HOSTILE = '<script>document.title = "x"</script><img src=http://192.0.2.1/x onerror=alert(1)>'


def make_run(folder: Path, trials: int = 60, seed: int = 0, statuses: tuple[str, ...] = ("finished",), **config: Any) -> Path:
    """A run folder as a search leaves it; the more convolutions of 3x3 a cell has, the better it is."""
    folder.mkdir(parents=True)
    stored = RunConfig(trials=trials, seed=seed, **config).model_dump()
    (folder / "config.json").write_text(json.dumps(signed({"config": stored})))
    rng, store, began, best = np.random.default_rng(seed), RunStore(str(folder)), datetime(2026, 1, 1, tzinfo=UTC), None
    for order in range(trials):
        arch = NB201.sample(rng)
        status, value = statuses[order % len(statuses)], 0.5 + 0.05 * arch.id.count("nor_conv_3x3") + 0.01 * float(rng.normal())
        cost, moment = NB201.cost(arch), began + timedelta(seconds=60 * order)
        row = {"order": order, "trial_id": f"t{order}", "arch_id": arch.id, "arch": json.dumps(arch.to_config()), "status": status}
        row |= {"started_at": moment, "ended_at": moment + timedelta(seconds=90), "wall_seconds": 90.0, "parameters": cost.parameters}
        row |= {"flops": cost.flops, "epochs": 12 if status == "finished" else 3, "proposed_by": "model"}
        row |= {"predicted": value + 0.01 * float(rng.normal()), "predicted_deviation": 0.01}
        if status == "failed":
            row |= {"error": f"{HOSTILE} {order}", "fault": "architecture", "epochs": None}
        else:
            row |= {"valid_accuracy": value, "test_accuracy": value - 0.01, "latency": 10.0 * value + float(rng.normal())}
            best = row if best is None or value > best["valid_accuracy"] else best
        store.add_trial(row)
    store.close()
    if best is not None:
        other = NB201.sample(rng).to_config()
        value = {"arch": json.loads(best["arch"]), "trial_id": best["trial_id"], "recommended": other, "space": "nasbench201"}
        (folder / "best.json").write_text(json.dumps(value))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report") / "run", statuses=("finished", "stopped", "finished", "failed"), scheduler="asha")


def test_the_page_answers_what_people_ask(run: Path) -> None:
    html = make_page([read_facts(str(run))], price=2.0).html
    rows = results.read(str(run)).trials.to_pandas()
    best = rows[rows["status"] == "finished"].nlargest(1, "valid_accuracy").iloc[0]
    assert f"the best architecture has validation accuracy {100 * best['valid_accuracy']:.3f} %" in html
    assert f"Its test accuracy, which the search never saw, is {100 * best['test_accuracy']:.3f} %." in html
    assert "Trials held 90.0 CPU-minutes in all: 3.00 at 2 an hour." in html
    assert "15 of 60 trials failed for good" in html
    assert "The method recommends another cell than the best observed one" in html
    assert "python -m raynas.search --scheduler asha --trials 60" in html


def test_nothing_in_a_folder_can_do_anything_in_the_page(run: Path) -> None:
    html = make_page([read_facts(str(run))]).html
    assert HOSTILE not in html
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_every_figure_shows_what_it_says(run: Path) -> None:
    facts = read_facts(str(run))
    panels = {panel.name: panel for panel in (*all_of(facts), *fronts(facts))}
    assert {name for name, panel in panels.items() if panel.svg is None} == set()
    assert facts.operations[0].name == "nor_conv_3x3"
    assert facts.operations[0].having + facts.operations[0].lacking == 45
    usable = [(arch, value) for arch, value in zip(facts.archs, facts.values, strict=True) if np.isfinite(value)]
    having = [value for arch, value in usable if arch is not None and "nor_conv_3x3" in arch.id]
    lacking = [value for arch, value in usable if arch is not None and "nor_conv_3x3" not in arch.id]
    assert facts.operations[0].difference == pytest.approx(np.mean(having) - np.mean(lacking))
    assert any(effect.name == "nor_conv_3x3 → nor_conv_3x3" for effect in facts.paths)
    assert len(facts.predictions) == 30  # stopped ones are no full evaluations
    edges, running = facts.running()
    assert running @ np.diff(edges) == pytest.approx(60 * 90 / 3600)
    assert facts.incumbent[-1] == facts.ranked[0]


def test_the_front_is_what_nothing_beats_in_both() -> None:
    assert front(np.array([3.0, 1.0, 2.0, 2.0]), np.array([5.0, 1.0, 0.5, 4.0])) == [1, 3, 0]


def test_the_front_of_several_objectives_is_shown(tmp_path: Path) -> None:
    folder = make_run(
        tmp_path / "run", 30, objective=["valid_accuracy", "-latency", "-flops"], limit=["latency<=8"], statuses=("finished", "stopped")
    )
    page = make_page([facts := read_facts(str(folder))])
    rows = results.read(str(folder)).trials.to_pandas().query("status == 'finished' and latency <= 8")
    beaten = [
        ((rows.valid_accuracy >= a) & (rows.latency <= b) & (rows.flops <= c) & (rows.arch_id != i)).any()
        for i, a, b, c in zip(rows.arch_id, rows.valid_accuracy, rows.latency, rows.flops, strict=True)
    ]
    kept = rows[~np.array(beaten)].sort_values("valid_accuracy", ascending=False)
    assert [row["trial_id"] for row in facts.on_front] == kept.trial_id.tolist()
    shown = page.html.partition("no other architecture is better in all objectives")[2].partition("</table>")[0]
    assert re.findall(r"<th scope=\"row\">(.*?)</th>", shown) == kept.arch_id.tolist()
    assert {"front_1_2.svg", "front_2_3.svg", "front_flops.svg"} <= page.pictures.keys()
    assert "front_1_3.svg" not in page.pictures  # it is front_flops


def test_runs_side_by_side(tmp_path: Path, run: Path) -> None:
    folders = [make_run(tmp_path / f"seed{seed}", 30, seed) for seed in range(3)] + [run]
    runs = [read_facts(str(folder)) for folder in folders]
    assert [len(members) for members in grouped(runs).values()] == [3, 1]
    assert differences(runs) == {"scheduler": ["fifo"] * 3 + ["asha"], "trials": [30] * 3 + [60]}
    assert b"3 runs" in (incumbent(runs, "trials").svg or b"")
    page = make_page(runs)
    assert page.html.count("<h2") == 5
    assert {"run1-best-1.svg", "run4-failures.png", "incumbent_by_time.svg"} <= page.pictures.keys()
    ids = re.findall(r' id="([^"]*)"', page.html)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("trials", "statuses"),
    [(0, ("finished",)), (1, ("finished",)), (4, ("failed",)), (2, ("stopped",))],
    ids=["none", "one", "failed", "stopped"],
)
def test_runs_of_which_little_is_known(tmp_path: Path, trials: int, statuses: tuple[str, ...]) -> None:
    folder = make_run(tmp_path / "run", max(1, trials), statuses=statuses)
    if not trials:
        (folder / "trials.parquet").unlink()
    html = make_page([read_facts(str(folder))]).html
    assert ("No trial has succeeded yet." in html) == (trials == 0 or statuses == ("failed",))


def test_a_run_of_earlier_versions(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    folder = make_run(tmp_path / "run", 30)
    table = pq.read_table(folder / "trials.parquet")
    pq.write_table(table.drop_columns(["predicted", "predicted_deviation", "proposed_by", "parent", "run_id"]), folder / "trials.parquet")
    html = make_page([read_facts(str(folder))]).html
    assert "No predictions are recorded" in html


def test_code_of_others_is_not_loaded(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 5, space="subprocess:Popen")
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"config": stored["config"]}))
    html = make_page([read_facts(str(folder))]).html
    assert "loaded for your own runs alone, or with --trust" in html
    assert "is no search space" in make_page([read_facts(str(folder), trust=True)]).html


def test_where_reports_go(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert report.main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report' / 'index.html'}\n"
    assert (run / "report" / "figures" / "best-1.svg").exists()
    small = str(make_run(tmp_path / "small", 1))
    assert write_report([small, small]) == Path("report-small-small", "index.html")
    assert write_report([small], str(tmp_path / "there")) == tmp_path / "there" / "index.html"
    (tmp_path / "file").touch()
    assert report.main([small, "--out", str(tmp_path / "file")]) == 2
    assert "name another folder with --out" in capsys.readouterr().err
    assert report.main([str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    for wrong in ([], [str(run), "--draw", "DARTS_V2"]):
        assert report.main(wrong) == 2
        assert "name the folder of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "DARTS_V2",
        "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
        '{"adjacency": [[0,1],[0,0]], "operations": ["input", "output"]}',
    ],
)
def test_architectures_are_drawn(tmp_path: Path, text: str) -> None:
    assert draw(text, out=str(tmp_path / "cell.png")).read_bytes().startswith(b"\x89PNG")


def test_the_best_of_a_run_is_drawn(tmp_path: Path, run: Path) -> None:
    assert (
        draw(str(run), out=str(tmp_path / "a.svg")).read_bytes() == draw(str(run / "best.json"), out=str(tmp_path / "b.svg")).read_bytes()
    )
    with pytest.raises(RaynasError, match="unknown architecture 'DARTS_V3'; did you mean 'DARTS_V2'"):
        draw("DARTS_V3", out=str(tmp_path / "c.svg"))
    strange = tmp_path / "best.json"
    strange.write_text(json.dumps({"arch": {"id": "1"}, "space": "subprocess:Popen"}))
    with pytest.raises(ConfigError, match=r"names the space subprocess:Popen, which is code; repeat it with --space, or pass --trust"):
        draw(str(strange))


def test_the_command_that_does_it_again_means_the_same_search(tmp_path: Path) -> None:
    from raynas.config import assign
    from raynas.search import parser

    config = RunConfig(
        trials=7,
        seed=3,
        searcher_options={"pool": 50, "predictor_options": {"layers": 2}},
        objective=["valid_accuracy", "-latency"],
        limit=["parameters<=1e6"],
        metrics={"latency": {"direction": "min"}},
        max_epochs=12,
        tensorboard_trials=True,
    )
    flags = vars(parser().parse_args(shlex.split(search_command(config))[3:]))
    given: dict[str, Any] = {}
    assign(given, flags.pop("set"))
    kept = {key: value for key, value in flags.items() if key in RunConfig.model_fields}
    assert RunConfig(**{**given, **kept}) == config


@pytest.mark.slow
def test_a_browser_shows_it(browser: Any, run: Path, tmp_path: Path) -> None:
    folders = [run, make_run(tmp_path / "other", 30, 1)]
    page = write_report([str(folder) for folder in folders], str(tmp_path / "page"))
    requested(browser)
    complaints(browser)
    for width, scheme in ((1280, "light"), (390, "dark")):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        pictures = browser.execute_script(
            "return Array.from(document.images, i => [i.complete && i.naturalWidth > 0, i.getBoundingClientRect().width, i.alt])"
        )
        assert len(pictures) > 30
        assert all(shown and wide > 100 and len(alt) > 20 for shown, wide, alt in pictures)
        levels = browser.execute_script("return Array.from(document.querySelectorAll('h1,h2,h3,h4'), h => +h.tagName[1])")
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        ink, paper = browser.execute_script("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
        bright = [np.mean([int(n) for n in re.findall(r"\d+", colour)[:3]]) for colour in (ink, paper)]
        assert (bright[0] > bright[1] + 150) == (scheme == "dark")
        assert browser.execute_script("return document.querySelectorAll('main').length") == 1
        assert browser.execute_script("return document.documentElement.lang") == "en"
        assert browser.execute_script("return Array.from(document.querySelectorAll('table')).every(t => t.querySelector('th[scope=col]'))")
        browser.execute_script("document.activeElement.blur()")
        browser.switch_to.active_element.send_keys("\ue004")  # the tab key
        assert browser.switch_to.active_element.text == "Skip to the results"
    assert not complaints(browser)
    assert {url.split(":")[0] for url in requested(browser)} <= {"file", "data"}
    assert browser.title == "2 searches side by side"


def test_a_large_run_makes_a_small_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 40)
    facts = read_facts(str(folder))
    many = replace(facts, rows=[row | {"order": i} for i, row in enumerate(facts.rows * 100)])
    assert len(make_page([many]).html) < 3_000_000
