"""A trial that trains, alone and in a search."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import tune

from raynas import results
from raynas.errors import RaynasError, ResumeError
from raynas.registry import resolve
from raynas.spaces import make_space
from trainables import TRAINABLES
from trainables.learning.networks import make_network
from trainables.learning.networks.counting import count
from trainables.learning.recipes import make_recipe
from trainables.learning.trainer import Trainer, limit_threads
from trainables.train import TrainTrial

SPACE = make_space("nasbench201")
STRING = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
OTHER = "|nor_conv_1x1~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_1x1~2|"


def config(arch: str = STRING, **changes: Any) -> dict[str, Any]:
    common = {"arch": SPACE.from_config({"arch": arch}).to_config(), "space": "nasbench201", "space_options": {}, "table": None}
    return common | {"dataset": "digits", "recipe": "quick", "max_epochs": 2, "seed": 0, "device": "cpu"} | changes


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "tune"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def reports(trial: TrainTrial) -> list[dict[str, Any]]:
    """All reports until done, without the time they took."""
    found = []
    while not found or not found[-1]["done"]:
        found.append(trial.step())
    return [{key: value for key, value in report.items() if key != "train_seconds"} for report in found]


def test_the_registry_knows_it() -> None:
    assert resolve(TRAINABLES, "train", "trainable") is TrainTrial


def test_a_step_is_an_epoch() -> None:
    first, second = reports(TrainTrial(config()))
    assert (first["epoch"], first["done"]) == (1, False)
    assert (second["epoch"], second["done"]) == (2, True)
    assert second["train_loss"] < first["train_loss"]
    assert 0 <= second["valid_accuracy"] <= 1
    assert second["test_accuracy"] is None
    assert not {"parameters", "flops"} & second.keys()  # these are what the space says
    costs = second["network_parameters"], second["network_flops"]
    assert costs == (first["network_parameters"], first["network_flops"])
    network = make_network(SPACE, SPACE.from_config({"arch": STRING}), 10, 8, 1, **make_recipe("quick", SPACE).networks["nasbench201"])
    assert costs == count(network, 1, 8)[:2]
    assert [metric.name for metric in TrainTrial.metrics] == ["network_parameters", "network_flops", "latency"]


def test_a_latency_is_measured_once_where_it_is_asked_for() -> None:
    first, second = reports(TrainTrial(config(latency=2)))
    assert 0 < first["latency"] == second["latency"]
    assert "latency" not in TrainTrial(config()).step()


def test_a_restored_trial_goes_on_equally(tmp_path: Path) -> None:
    whole = reports(TrainTrial(config()))
    trial, other = TrainTrial(config()), TrainTrial(config())
    trial.step()
    trial.save_checkpoint(str(tmp_path))
    other.load_checkpoint(str(tmp_path))
    assert reports(other) == whole[1:]
    with pytest.raises(ResumeError, match="another training: its architecture"):
        TrainTrial(config(OTHER)).load_checkpoint(str(tmp_path))


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "something else"])
def test_with_a_damaged_checkpoint_a_trial_begins_again_and_says_so(tmp_path: Path, damage: str) -> None:
    trial = TrainTrial(config())
    trial.step()
    trial.save_checkpoint(str(tmp_path))
    path = tmp_path / "state.pt"
    saved = path.read_bytes()
    path.write_bytes({"missing": b"", "empty": b"", "cut": saved[: len(saved) // 2], "something else": b"no state"}[damage])
    if damage == "missing":
        path.unlink()
    other = TrainTrial(config())
    other.load_checkpoint(str(tmp_path))
    first, second = reports(other)
    assert "cannot be read, so it begins again" in first.pop("warning")
    assert "\n" not in str(first)
    assert second.pop("warning") is None
    assert [first, second] == [
        {key: value for key, value in report.items() if key != "warning"} for report in reports(TrainTrial(config()))
    ]


def test_a_reused_actor_is_like_a_new_one() -> None:
    trial = TrainTrial(config(OTHER, max_epochs=1))
    trial.step()
    assert trial.reset_config(config())
    assert reports(trial) == reports(TrainTrial(config()))


def test_out_of_memory_halves_the_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    own, sizes = Trainer._step, []

    def step(self: Trainer, *arguments: Any) -> torch.Tensor:
        sizes.append(self.micro_batches)
        if len(sizes) == 25:  # within the second epoch of 18 steps
            raise torch.OutOfMemoryError("no memory is left")
        return own(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", step)
    found = reports(TrainTrial(config()))
    assert sizes == [1] * 25 + [2] * 18
    assert [report["epoch"] for report in found] == [1, 2]
    assert found[1]["train_loss"] < found[0]["train_loss"]

    def never(self: Trainer, *arguments: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory is left")

    monkeypatch.setattr(Trainer, "_step", never)
    trial = TrainTrial(config())
    with pytest.raises(torch.OutOfMemoryError):
        trial.step()
    monkeypatch.setattr(Trainer, "_step", own)
    assert trial.reset_config(config())  # nothing of the lack of memory is left over
    assert reports(trial) == reports(TrainTrial(config()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "digit"}, "did you mean 'digits'"),
        ({"dataset": "folder:images"}, "the path in dataset must be absolute"),
        ({"data_dir": "data"}, "the path in data_dir must be absolute"),
        ({"recipe": "darts-search"}, "does not train architectures of space 'nasbench201'"),
        ({"table": "t.parquet"}, "reads no table"),
        ({"batch_size": 1}, "at least 2"),
        ({"latency": 0}, "number of images that are classified at once"),
        ({"space": "darts", "recipe": "darts-search"}, "auxiliary head"),
        ({"space": "darts", "recipe": "darts-final"}, "no validation images"),
    ],
)
def test_a_plan_finds_mistakes_before_the_first_trial(changes: dict[str, Any], message: str) -> None:
    common = {key: value for key, value in config().items() if key != "arch"}
    with pytest.raises(RaynasError, match=message):
        TrainTrial.plan(**common | changes)


def test_a_plan_has_the_epochs_of_the_recipe() -> None:
    common = {"space": "nasbench201", "dataset": "digits", "recipe": "quick"}
    assert TrainTrial.plan(**common, max_epochs=None).max_epochs == 5
    assert TrainTrial.plan(**common, max_epochs=3).max_epochs == 3
    assert not TrainTrial.plan(**common, max_epochs=3).instant


@pytest.mark.slow
def test_a_search_trains(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "raynas.search", "--space", "nasbench201", "--trainable", "train", "--dataset", "digits"]
    options = ["--trials", "4", "--max-epochs", "2", "--out", "run", "--set", "trainable_options.recipe=quick"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    tables = results.read(str(tmp_path / "run"))
    trials = tables.trials.to_pylist()
    assert len(trials) == 4
    assert {(row["status"], row["epochs"]) for row in trials} == {("finished", 2)}
    assert all(row["valid_accuracy"] > 0 and row["test_accuracy"] is None and row["parameters"] > 0 for row in trials)
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    assert best["valid_accuracy"] == max(row["valid_accuracy"] for row in trials)


def test_a_trial_has_as_many_threads_as_cpus() -> None:
    threads = torch.get_num_threads()
    try:
        for before, cpus, after in ((4, 1.0, 1), (4, 2.0, 2), (4, 0.5, 1), (1, 2.0, 1)):
            torch.set_num_threads(before)
            limit_threads(tune.PlacementGroupFactory([{"CPU": cpus, "GPU": 0.5}]))
            assert torch.get_num_threads() == after
        torch.set_num_threads(4)
        limit_threads(None)  # not a trial
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(threads)
