"""Comparisons: several in one file, who finds the best architecture and when, and that what is finished is kept."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from raynas import compare
from raynas.comparing.config import CompareConfig, names, read_configs
from raynas.comparing.runs import CURVES, runs
from raynas.comparing.summary import Outcome, summarize, summarize_found
from raynas.config import make_config
from raynas.spaces import make_space
from raynas.tables import Table
from searchers import SEARCHERS

CELLS = 14


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a table of 14 cells of which one is best."""
    rng, space = np.random.default_rng(0), make_space("nasbench201")
    ids = list(dict.fromkeys(space.sample(rng).id for _ in range(CELLS)))
    accuracy = np.linspace(0.3, 0.9, len(ids))[:, None, None]
    about = {"space": "nasbench201", "dataset": "tiny", "budgets": (2,), "source": "test", "licence": "none", "sha256": None}
    Table.build(ids=ids, metrics={"valid_accuracy": accuracy, "train_seconds": accuracy}, **about).write(tmp_path / "tiny.parquet")  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object) -> int:
    return compare.main([*map(str, arguments), "--processes", "1"])


SEVERAL = """
table: tiny.parquet
out: all
trials: 12
seeds: 2
searcher_seeds: {evolution: 1}
searchers:
  - random
  - evolution
comparisons:
  first:
  second: {trials: 8, searchers: random, seeds: 3}
"""


def test_a_file_of_several_comparisons_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("several.yaml").write_text(SEVERAL)
    assert run("--config", "several.yaml") == 0
    shown = capsys.readouterr().out
    assert shown.index("first: nasbench201") < shown.index("second: nasbench201")
    assert "1 to 2 seeds from 0" in shown
    first, second = (pd.read_parquet(f"all/{name}/curves.parquet") for name in ("first", "second"))
    assert first.groupby("searcher")["seed"].unique().map(list).to_dict() == {"random": [0, 1], "evolution": [0]}
    assert second.groupby("searcher")["seed"].nunique().to_dict() == {"random": 3}
    assert (first["queries"].max(), second["queries"].max()) == (12, 8)
    kept = {path: path.stat().st_mtime_ns for path in Path("all").glob("*/parts/*.parquet")}
    lost = kept.popitem()[0]
    content = lost.read_bytes()
    lost.unlink()
    assert run("--config", "several.yaml", "--set", "comparisons.second.seeds=4") == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert lost.read_bytes() == content
    assert len(list(Path("all/second/parts").iterdir())) == 4
    assert len(list(Path("all/first/parts").iterdir())) == 3


def test_every_searcher_and_comparison_has_its_first_seeds_first(folder: Path) -> None:
    Path("several.yaml").write_text(SEVERAL)
    configs = read_configs("several.yaml", [], {})
    planned = [(Path(run.config.out).name, run.searcher, run.seed) for run in runs(list(configs.values()))]
    assert planned == [
        ("first", "random", 0),
        ("first", "evolution", 0),
        ("second", "random", 0),
        ("first", "random", 1),
        ("second", "random", 1),
        ("second", "random", 2),
    ]


def test_flags_come_before_the_file_and_a_comparison_before_what_is_shared(folder: Path) -> None:
    Path("several.yaml").write_text(SEVERAL)
    assignments = ["searcher_options.random.num_initial=3", "comparisons.second.trials=9", "searcher_seeds={}"]
    first, second = read_configs("several.yaml", assignments, {"searchers": "random", "seeds": 5, "out": "s3://b/c?x=1"}).values()
    assert (first.trials, second.trials) == (12, 9)
    assert (first.runs_of("evolution"), second.runs_of("random")) == (5, 5)
    assert first.searchers == "random"
    assert first.searcher_options == second.searcher_options == {"random": {"num_initial": 3}}
    assert (first.out, second.out) == ("s3://b/c/first?x=1", "s3://b/c/second?x=1")


def test_who_found_the_best_cell_and_when(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--table", "tiny.parquet", "--searchers", "random", "--seeds", 4, "--trials", 7]
    assert run(*flags, "--out", "whole") == 0
    shown = capsys.readouterr().out
    curves, found = pd.read_parquet("whole/curves.parquet"), pd.read_csv("whole/found.csv").iloc[0]
    when = curves[curves["valid_accuracy"] == 0.9].groupby("seed")["queries"].min()
    assert 0 < len(when) < 4  # or the seeds say nothing
    assert (found["seeds"], found["found"], found["share"]) == (4, len(when), len(when) / 4)
    assert found["mean_queries_of_found"] == when.mean()
    assert f"{len(when)} of 4" in shown
    last = pd.read_csv("whole/summary.csv").iloc[-1]
    ends = curves[curves["queries"] == 7]["valid_accuracy"]
    assert last["regret_mean"] == pytest.approx(100 * (0.9 - ends.mean()))
    assert last["found_share"] == len(when) / 4
    assert Path("whole/found.png").read_bytes().startswith(b"\x89PNG")

    assert run(*flags, "--out", "stopped", "--stop-at-best") == 0
    short = pd.read_parquet("stopped/curves.parquet")
    pd.testing.assert_frame_equal(short[["seed", "queries", "valid_accuracy"]], curves[["seed", "queries", "valid_accuracy"]])
    assert short["simulated_seconds"].count() == sum(when.get(seed, 7) for seed in range(4))  # of what was evaluated
    for name in ("found.csv", "summary.csv"):
        assert Path("stopped", name).read_text() == Path("whole", name).read_text()
    assert run(*flags, "--out", "whole", "--stop-at-best") == 2  # another comparison
    assert "stop_at_best = False, not True" in capsys.readouterr().err


def test_a_folder_from_before_a_setting_existed_goes_on(folder: Path) -> None:
    flags = ["--table", "tiny.parquet", "--searchers", "random", "--seeds", 1, "--trials", 3]
    assert run(*flags) == 0
    file = Path("comparison/config.json")
    content = json.loads(file.read_text())
    del content["config"]["stop_at_best"]
    file.write_text(json.dumps(content))
    assert run(*flags) == 0


@pytest.mark.parametrize(
    ("when", "median", "mean"),
    [([3, 5, 2], 3, 10 / 3), ([4, 1, 9], 4, 2.5), ([3, 1, 9, 9], None, 2), ([9, 9], None, None)],
)
def test_a_run_that_did_not_find_it_counts_as_infinite(when: list[int], median: float | None, mean: float | None) -> None:
    """Of eight queries; 9 stands for never. With two of four the median lies between a number and infinity."""
    rows = [
        {"searcher": "a", "scheduler": "fifo", "seed": seed, "queries": q, "valid_accuracy": 0.9 if q >= at else 0.8}
        for seed, at in enumerate(when)
        for q in range(1, 9)
    ]
    outcome = Outcome(make_config({}, CompareConfig), pa.Table.from_pylist(rows, schema=CURVES), 0.9, 0.9, False)
    (found,) = summarize_found(outcome)
    assert found["median_queries"] == median
    assert found["mean_queries_of_found"] == (None if mean is None else pytest.approx(mean))
    assert found["share"] == np.mean(np.array(when) < 9)
    assert summarize(outcome)[-1]["regret_mean"] == pytest.approx(10 * np.mean(np.array(when) == 9))


def test_the_files_that_are_shown_can_be_read(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    (tmp_path / "page.yaml").write_text((root / "docs/benchmarks.md").read_text().partition("```yaml\n")[2].partition("```")[0])
    page = read_configs(str(tmp_path / "page.yaml"), [], {})
    assert [(config.out, config.runs_of("random"), config.trials) for config in page.values()] == [
        ("rivals/setting-a", 200, 150),
        ("rivals/cifar100", 200, 300),
    ]
    rivals = read_configs(str(root / "benchmarks/rivals.yaml"), [], {})
    for name, config in rivals.items():
        assert {*names(config.searchers), *config.searcher_seeds} <= SEARCHERS.keys()
        assert min(map(config.runs_of, names(config.searchers))) >= (20 if name.startswith("setting") else 10)


BAD = {
    "none": ("comparisons: {}", "comparisons must map names to settings"),
    "a list": ("comparisons: [a, b]", "comparisons must map names to settings"),
    "a number": ("comparisons: {1: {}}", "1 in comparisons cannot be the name of a folder"),
    "a path": ("comparisons: {../up: {}}", "'../up' in comparisons cannot be the name of a folder"),
    "text": ("comparisons: {a: bananas}", "comparisons.a must hold keys and values"),
    "out": ("comparisons: {a: {out: here}}", "comparisons.a.out: all comparisons of a file share it"),
    "key": ("comparisons: {a: {trails: 3}}", "comparisons.a: unknown configuration key 'trails'; did you mean 'trials'?"),
    "shared key": ("trails: 3\ncomparisons: {a: {}}", "unknown configuration key 'trails'"),
    "within each other": ("comparisons: {a: {comparisons: {}}}", "comparisons.a: unknown configuration key 'comparisons'"),
    "value": ("comparisons: {a: {}, b: {seeds: 0}}", "comparisons.b: seeds = 0 is not allowed"),
    "table": ("comparisons: {a: {}, b: {table: no.parquet}}", "comparisons.b: there is no table no.parquet"),
    "searcher": ("comparisons: {a: {searchers: [bananna]}}", "comparisons.a: unknown searcher 'bananna'"),
    "names": ("searchers: [random, 3]", "searchers"),
    "seeds of": ("searcher_seeds: {random: 0}", "searcher_seeds.random = 0 is not allowed"),
    "seeds of nobody": ("searcher_seeds: {randon: 9}", "unknown searcher 'randon'; did you mean 'random'?"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gets_one_clear_line(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, words = BAD[case]
    Path("bad.yaml").write_text(text)
    assert run("--config", "bad.yaml") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert words in said
    assert not Path("comparison").exists()
