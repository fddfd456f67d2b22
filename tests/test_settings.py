"""What a user gives, and what becomes of it before a run begins."""

import ast
import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import own_trials
import pytest
from test_user_space import ChainSpace

import raynas
from raynas import storage
from raynas.cli import Parser, add_flags
from raynas.config import RunConfig, Settings, make_config
from raynas.errors import ConfigError, RaynasError
from raynas.run.settings import name_of, new_run, plain, resumed_run
from raynas.run.slots import count_slots, slots
from raynas.run.train_command import IMAGES, train_command
from raynas.search import _recipe
from raynas.spaces import SPACES, SearchSpace, make_space
from raynas.spaces.darts import DARTSSpace
from searchers import SEARCHERS, Bananas, Method, Random
from trainables import TRAINABLES
from trainables.learning.data import DATASETS
from trainables.lookup import LookupTrial

# -- fields --------------------------------------------------------------------------------------------------------------


def test_the_keywords_of_run_search_are_the_fields_of_the_configuration() -> None:
    hints, fields = get_type_hints(Settings), RunConfig.model_fields
    assert list(hints) == list(fields)
    named = {"space", "trainable", "searcher", "scheduler"}  # may also be a class or a function
    for name, info in fields.items():
        expected = str | raynas.config.Callable[..., Any] if name in named else info.annotation
        expected = {"searcher": expected | Method, "space": expected | SearchSpace}.get(name, expected)
        assert hints[name] == expected, name


def test_public_names_are_typed_and_listed() -> None:
    tree = ast.parse(Path(raynas.__file__).read_text(encoding="utf-8"))
    imported = {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names if alias.asname}
    assert imported == set(raynas.__all__)
    assert set(raynas.__all__) <= set(dir(raynas))
    assert raynas.results.read is __import__("raynas.results", fromlist=["read"]).read


def test_flags_of_lists_are_repeated_and_may_begin_with_a_minus() -> None:
    parser = Parser(prog="x")
    add_flags(parser, RunConfig)
    given = vars(parser.parse_args(["--objective", "valid_accuracy", "--objective", "-latency", "--limit", "parameters<=3e6"]))
    assert given == {"objective": ["valid_accuracy", "-latency"], "limit": ["parameters<=3e6"]}
    with pytest.raises(SystemExit):
        parser.parse_args(["--objective", "--limit", "parameters<=3e6"])


def test_one_text_stands_for_a_list_of_it() -> None:
    assert RunConfig(objective="-latency").objective == ["-latency"]  # type: ignore[arg-type]
    assert RunConfig(warm_start=("a", "b")).warm_start == ["a", "b"]  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"limit\.0 = 3 is not allowed"):
        make_config({"limit": [3]}, RunConfig)


@pytest.mark.parametrize(
    ("flag", "assigned", "stored", "expected"),
    [
        (None, None, None, None),
        ("quick", None, "darts-search", "quick"),
        (None, None, {"epochs": 3}, {"epochs": 3}),
        (None, "quick", "darts-search", "quick"),
        ("darts-search", "quick", None, "darts-search"),
        (None, {"epochs": 3}, None, {"epochs": 3}),
        ("quick", {"epochs": 3}, {"epochs": 4}, {"base": "quick", "epochs": 3}),
        (None, {"epochs": 3}, {"base": "quick", "epochs": 4, "clip": 1.0}, {"base": "quick", "epochs": 3, "clip": 1.0}),
    ],
)
def test_a_recipe_is_a_base_and_changes(flag: str | None, assigned: Any, stored: Any, expected: Any) -> None:
    assert _recipe(flag, assigned, stored) == expected


def test_what_a_recipe_file_holds_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("base: quick\nlearning_rate: 0.2\nepochs: 3\n")
    assert plain({"recipe": "mine.yaml"})["recipe"] == {"base": "quick", "learning_rate": 0.2, "epochs": 3}
    changed = plain({"recipe": {"base": "mine.yaml", "epochs": 4}})["recipe"]
    assert changed == {"base": "quick", "learning_rate": 0.2, "epochs": 4}
    assert plain({"recipe": {"epochs": 4}})["recipe"] == {"epochs": 4}
    assert plain({"recipe": "quick"})["recipe"] == "quick"
    with pytest.raises(RaynasError, match=r"nowhere\.yaml"):
        plain({"recipe": "nowhere.yaml"})


# -- values that hold everywhere -----------------------------------------------------------------------------------------


def test_classes_and_functions_become_names() -> None:
    assert name_of("space", DARTSSpace, SPACES) == "darts"
    assert name_of("trainable", LookupTrial, TRAINABLES) == "lookup"
    assert name_of("searcher", Random, SEARCHERS) == "random"
    assert name_of("space", ChainSpace, SPACES) == "test_user_space:ChainSpace"
    assert name_of("trainable", own_trials.measure, TRAINABLES) == "own_trials:measure"
    assert name_of("trainable", "own_trials:Plain", TRAINABLES) == "own_trials:Plain"


def test_what_no_other_process_can_import_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def local(config: Any) -> None:
        """Within a function."""

    for value in (local, own_trials.Outer.Inner, lambda config: None):
        with pytest.raises(ConfigError, match="move it to the top of a module"):
            name_of("trainable", value, TRAINABLES)
    monkeypatch.setattr(own_trials.Plain, "__module__", "__main__")
    with pytest.raises(ConfigError, match="Plain is defined in the script or notebook that runs; trials run in other processes"):
        name_of("trainable", own_trials.Plain, TRAINABLES)
    with pytest.raises(ConfigError, match=r"the space 'nasbench201' has no name at the top of a module; .* or give its class"):
        new_run({"space": make_space("nasbench201")})  # type: ignore[dict-item]  # an instance
    with pytest.raises(ConfigError, match="trials = '5' is not allowed"):
        new_run({"trials": "5"})


def test_settings_become_plain_json_with_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arch = make_space("nasbench201").sample(np.random.default_rng(0))
    given = {"table": "t.parquet", "warm_start": "a", "dataset": "folder:b", "searcher_options": {"points_to_evaluate": [arch]}}
    values = plain(given)
    assert values["table"] == f"{tmp_path}/t.parquet"
    assert values["warm_start"] == [f"{tmp_path}/a"]
    assert values["dataset"] == f"folder:{tmp_path}/b"
    assert json.loads(json.dumps(values["searcher_options"])) == {"points_to_evaluate": [arch.to_config()]}
    assert plain({"warm_start": ["s3://bucket/a"], "table": None}) == {"warm_start": ["s3://bucket/a"], "table": None}


def test_a_configuration_of_an_earlier_version_is_completed(tmp_path: Path) -> None:
    storage.write_json(str(tmp_path), "config.json", {"config": {"space": "nasbench101", "trials": 7, "seed": 3}})
    config = resumed_run(str(tmp_path), {"trials": 9, "objective": []})
    assert (config.space, config.trials, config.seed, config.objective, config.max_failed_share) == ("nasbench101", 9, 3, [], 0.5)
    with pytest.raises(RaynasError, match=r"objective = \[\], so it cannot go on with \['-latency'\]"):
        resumed_run(str(tmp_path), {"objective": "-latency"})


# -- the command that trains ---------------------------------------------------------------------------------------------


def test_the_names_of_images_are_those_that_can_be_loaded() -> None:
    assert set(IMAGES) == set(DATASETS)


@pytest.mark.parametrize(
    ("settings", "dataset", "rest"),
    [
        ({}, "cifar100", "--dataset cifar100"),
        ({}, "imagenet", "--dataset DATASET"),
        ({}, "folder:/my images", "--dataset 'folder:/my images'"),
        ({"recipe": "quick"}, "digits", "--dataset digits --recipe quick"),
        ({"trainable_options": {"recipe": "quick"}}, "digits", "--dataset digits --recipe quick"),
        (
            {"recipe": {"base": "quick", "epochs": 3, "network": {"channels": 8}}},
            "digits",
            "--dataset digits --recipe quick --set recipe.epochs=3 --set 'recipe.network={\"channels\": 8}'",
        ),
    ],
)
def test_the_command_that_trains_says_on_what_and_how(settings: dict[str, Any], dataset: str, rest: str) -> None:
    command, hint = train_command("run", make_config(settings, RunConfig), dataset)
    assert command == f"python -m raynas.train --arch run/best.json {rest}"
    assert (hint is None) == ("DATASET" not in rest)


# -- slots ---------------------------------------------------------------------------------------------------------------


def test_a_trial_runs_on_one_node() -> None:
    nodes = [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}]
    assert count_slots(nodes, {"CPU": 1.0}) == 18
    assert count_slots(nodes, {"CPU": 1.0, "GPU": 1.0}) == 2 + 2  # not 6, the GPUs of all
    assert count_slots(nodes, {"CPU": 3.0}) == 2 + 0 + 2
    assert count_slots(nodes, {"GPU": 0.1}) == 40 + 20


def test_slots_that_are_not_there(caplog: pytest.LogCaptureFixture) -> None:
    nodes = [{"CPU": 8.0}, {"CPU": 1.0, "GPU": 4.0}]
    both = RunConfig(cpus_per_trial=2, gpus_per_trial=1)
    with pytest.raises(ConfigError, match="no node has 2 CPUs and 1 GPUs, though some have one of them; ask for less"):
        slots(both, nodes, grows=False)
    assert slots(both, nodes, grows=True) == 1
    assert "trials wait until a larger node joins" in caplog.text
    with pytest.raises(ConfigError, match="--gpus-per-trial 5: the largest node has 4 GPUs, the whole cluster 4"):
        slots(RunConfig(gpus_per_trial=5), nodes, grows=False)
    assert slots(RunConfig(concurrency=99), nodes, grows=False) == 99
    assert "99 trials at once were asked for, the cluster has room for 9 now" in caplog.text
    with pytest.raises(ConfigError, match="give --cpus-per-trial or --gpus-per-trial above 0"):
        slots(RunConfig(cpus_per_trial=0), nodes, grows=False)


def test_a_method_with_its_settings_is_a_searcher() -> None:
    values = plain({"searcher": Bananas(pool=50, rates=(1.0,)), "searcher_options": {"climbs": 1}})
    assert values == {"searcher": "bananas", "searcher_options": {"pool": 50, "rates": (1.0,), "climbs": 1}}


def test_what_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """As raynas itself, where its folder is on PYTHONPATH."""

    def version(package: str) -> str:
        if package == "raynas":
            raise PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(raynas.config, "version", version)
    assert raynas.config.provenance()["versions"] == {"raynas": None, "ray": "1.0", "torch": "1.0", "numpy": "1.0", "pyarrow": "1.0"}
