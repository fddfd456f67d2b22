"""Reports of folders that strangers wrote, that lie elsewhere, that are large, or that differ in what they are after."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_space import PlainSpace
from pyarrow.fs import FileSelector, copy_files
from storages import s3_server
from test_report import make_run

from raynas.config import RunConfig
from raynas.errors import ConfigError, RaynasError
from raynas.report import draw, write_report
from raynas.reporting.facts import Facts, folder_name, read_facts, told_apart
from raynas.reporting.figures import grouped, incumbent, labelled
from raynas.reporting.page import make_page
from raynas.storage import filesystem
from raynas.trust import signed


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("folders") / "run", 24)


@pytest.fixture(scope="module")
def facts(run: Path) -> Facts:
    return read_facts(str(run))


def configure(folder: Path, **changes: Any) -> None:
    stored = json.loads((folder / "config.json").read_text())["config"] | changes
    (folder / "config.json").write_text(json.dumps(signed({"config": stored})))


def test_a_link_in_a_folder_leads_nothing_out_of_it(tmp_path: Path) -> None:
    folder, mine = make_run(tmp_path / "run", 1), tmp_path / "mine.txt"
    mine.write_text("precious")
    (folder / "report").mkdir()
    (folder / "report" / "index.html").symlink_to(mine)
    page = write_report([str(folder)])
    assert mine.read_text() == "precious"
    assert not page.is_symlink()
    other = make_run(tmp_path / "other", 1)
    (tmp_path / "elsewhere").mkdir()
    (other / "report").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RaynasError, match=r"leads elsewhere, to .*; name the folder of the report with --out"):
        write_report([str(other)])
    assert not list((tmp_path / "elsewhere").iterdir())


def test_best_json_names_no_code_that_its_run_does_not(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 1)  # the user's own, to whose folder somebody else may write
    best = json.loads((folder / "best.json").read_text())
    for code in ({"space": "subprocess:Popen"}, {"space_options": {"build": "subprocess:Popen"}}):
        (folder / "best.json").write_text(json.dumps(best | code))
        with pytest.raises(ConfigError, match="which is code; repeat it with --space, or pass --trust"):
            draw(str(folder), out=str(tmp_path / "a.svg"))


def test_options_of_a_space_of_others_name_no_code(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 1, space_options={"build": "subprocess:Popen"})
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"config": stored["config"]}))
    assert "loaded for your own runs alone" in read_facts(str(folder)).no_space


@pytest.mark.parametrize("name", ["cost$\\frac{", "$x$", "a\x00b", "_" * 200])
def test_a_metric_may_have_any_name(tmp_path: Path, facts: Facts, name: str) -> None:
    metric = replace(facts.objective.first, name=name)
    rows = [row | {name: row["valid_accuracy"]} for row in facts.rows]
    odd = replace(facts, rows=rows, objective=replace(facts.objective, metrics=(metric,)), called=name)
    svg = incumbent([odd, facts], "trials").svg or incumbent([odd], "trials").svg
    assert svg is not None
    assert b"\x00" not in svg
    assert len(labelled(metric)) < 60


def test_runs_that_are_after_different_things_share_no_axis(facts: Facts) -> None:
    smallest = replace(facts.objective.first, name="parameters", direction="min", unit="weights")
    other = replace(facts, objective=replace(facts.objective, metrics=(smallest,)))
    panel = incumbent([facts, other], "trials")
    assert panel.svg is None
    assert "different metrics" in panel.caption
    assert "parameters" in make_page([facts, other]).html


def test_runs_of_one_name_are_told_apart(facts: Facts) -> None:
    runs = told_apart([replace(facts, folder="a/run"), replace(facts, folder="b/run"), replace(facts, folder="c")])
    assert [run.name for run in runs] == ["a/run", "b/run", "c"]


def test_the_band_is_seen_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [read_facts(str(make_run(tmp_path / str(seed), 40, seed))) for seed in range(3)]
    assert len(grouped(runs)) == 1
    limits: list[float] = []
    monkeypatch.setattr("raynas.reporting.figures.Figure.savefig", lambda self, *a, **k: limits.append(self.axes[0].get_ylim()[1]))
    incumbent(runs, "trials")
    ends = [100 * run.values[run.incumbent[-1]] for run in runs]
    assert limits[0] > np.mean(ends) + np.std(ends, ddof=1) / np.sqrt(3)


def test_rows_are_gone_through_a_few_times(facts: Facts) -> None:
    walks = []

    class Counted(list):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            walks.append(1)
            return super().__iter__()

    counted = replace(facts, rows=Counted(facts.rows))
    counted.running()
    assert len(counted.hours) == 24
    assert len(walks) < 10


@pytest.mark.parametrize(
    ("folder", "name"), [("runs/a/", "a"), ("s3://b/runs/c?endpoint_override=127.0.0.1:9/x", "c"), ("s3://b/", "b"), ("/", "run")]
)
def test_what_a_folder_is_called(folder: str, name: str) -> None:
    assert folder_name(folder) == name


def test_a_run_that_was_cut_short_says_how_to_go_on(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 5)
    configure(folder, trials=9)
    html = make_page([read_facts(str(folder))]).html
    assert "interrupted" in html
    assert f"python -m raynas.search --resume {folder}" in html


@pytest.mark.slow
def test_a_run_on_s3(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.chdir(tmp_path)
    with s3_server() as options:
        uri = f"s3://bucket/runs/first{options}"
        fs, root = filesystem(uri)
        copy_files(str(run), root, destination_filesystem=fs)
        before = {info.path for info in fs.get_file_info(FileSelector(root, recursive=True))}
        page = write_report([uri])
        assert {info.path for info in fs.get_file_info(FileSelector(root, recursive=True))} == before
    assert page == Path("report-first", "index.html")
    assert "After 24 of 24 trials" in page.read_text()
    assert RunConfig().space in page.read_text()


@pytest.mark.parametrize(("deviation", "verdict"), [(0.001, "it was too sure of itself"), (0.03, "so its own doubt can be believed")])
def test_the_page_says_whether_the_model_is_to_be_believed(facts: Facts, deviation: float, verdict: str) -> None:
    rows = [row | {"predicted_deviation": deviation} for row in facts.rows]
    assert verdict in make_page([replace(facts, rows=rows)]).html


def test_a_space_of_ones_own_that_gives_the_least(facts: Facts) -> None:
    space = PlainSpace()
    archs = [space.make([("wide", "narrow", "skip")[(i + j) % 3] for j in range(3)]) for i in range(len(facts.rows))]
    rows = [row | {"arch_id": a.id, "arch": json.dumps(a.to_config())} for row, a in zip(facts.rows, archs, strict=True)]
    html = make_page([replace(facts, space=space, rows=rows, recommended=None)]).html
    assert "the space does not say how its architectures are graphs" in html
    assert rows[0]["arch_id"] in html
