"""Training architectures of a space of one's own: by trials, in a search, and fully by `raynas.train`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from own_space import ChainSpace

from raynas import results, train
from raynas.cli import BAD_USAGE, DONE
from raynas.errors import ConfigError, UnknownNameError
from trainables.learning.data import load
from trainables.train import TrainTrial

SPACE = "own_space:ChainSpace"
FOLDER = Path(__file__).resolve().parent
ARCH = ChainSpace().make(["wide", "skip", "narrow"])
COMMON: dict[str, Any] = {"space": SPACE, "dataset": "digits", "max_epochs": 2, "device": "cpu"}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "tune"))


def run(*arguments: object) -> int:
    return train.main([str(argument) for argument in arguments])


def test_trials_train_the_network_that_the_space_names() -> None:
    assert TrainTrial.plan(**COMMON, space_options={"depth": 2}).max_epochs == 2
    trial = TrainTrial(COMMON | {"arch": ARCH.to_config(), "recipe": {"base": "quick", "network": {"width": 8}, "learning_rate": 0.2}})
    first, second = trial.step(), trial.step()
    assert second["done"]
    assert second["train_loss"] < first["train_loss"]
    assert first["network_parameters"] == 65 * 8 + 9 * 4 + 5 * 10  # 64 pixels, layers of 8 and 4, 10 classes
    assert trial._trainer is not None
    assert trial._trainer.state_dict()["recipe"] == "quick with learning_rate=0.2, network.width=8"


def test_mistakes_are_found_before_the_first_trial() -> None:
    with pytest.raises(ConfigError, match="space 'chain' has no network to train; give the class PlainSpace the attribute network"):
        TrainTrial.plan(**COMMON | {"space": "own_space:PlainSpace"})
    with pytest.raises(UnknownNameError, match="did you mean 'width'"):
        TrainTrial.plan(**COMMON, recipe={"base": "quick", "network": {"widht": 8}})
    with pytest.raises(ConfigError, match=r"the network of space 'chain' raised .* in line \d+ of .*: "):
        TrainTrial.plan(**COMMON, recipe={"base": "quick", "network": {"width": -1}})


def best_json(folder: Path, **changes: Any) -> str:
    """What a search of the space leaves, with another architecture that it recommends."""
    value = {"arch": ARCH.to_config(), "valid_accuracy": 0.9, "space": SPACE, "space_options": {"depth": 3}}
    (folder / "best.json").write_text(json.dumps(value | changes))
    return str(folder / "best.json")


QUICK = ("--dataset", "digits", "--device", "cpu", "--epochs", 2)


def test_what_a_search_found_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--recipe", "quick", "--set", "recipe.network.width=8", "--set", "recipe.learning_rate=0.05")
    assert run("--arch", best_json(tmp_path), *QUICK, *settings, "--out", tmp_path / "run") == DONE
    printed = capsys.readouterr().out
    assert f"chain {ARCH.id} on digits" in printed
    assert "recipe quick with learning_rate=0.05, network.width=8" in printed
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert stored["recipe"] == {"base": "quick", "network": {"width": 8}, "learning_rate": 0.05}
    assert (stored["space"], stored["space_options"]) == (SPACE, {"depth": 3})
    model = json.loads((tmp_path / "run" / "model.json").read_text())
    assert (model["space"], model["space_options"], model["network"]) == (SPACE, {"depth": 3}, {"width": 8})
    result, test = json.loads((tmp_path / "run" / "result.json").read_text()), load("digits", 0).test
    with torch.inference_mode():
        correct = int((train.load_model(tmp_path / "run")(test.images).argmax(1) == test.labels).sum())
    assert correct / len(test) == result["test_accuracy"]
    assert (result["parameters"], result["flops"]) == (1000, 10)  # what the space says
    assert (result["network_parameters"], result["network_flops"]) == (65 * 8 + 9 * 4 + 5 * 10, 64 * 8 + 8 * 4 + 4 * 10)
    assert run("--resume", tmp_path / "run") == DONE
    assert run("--resume", tmp_path / "run", "--recipe", "quick") == BAD_USAGE
    assert "has recipe = {'base': 'quick'" in capsys.readouterr().err


def test_the_space_of_an_architecture_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = json.dumps({"layers": ["wide", "wide"]})
    assert run("--arch", text, "--space", SPACE, "--set", "space_options.depth=2", *QUICK, "--out", tmp_path / "run") == DONE
    train.load_model(tmp_path / "run")
    capsys.readouterr()
    for arguments, message in (
        (("--arch", text, "--space", SPACE), "a chain has 3 layers"),
        (("--arch", json.dumps(ARCH.to_config())), "chain"),
        (("--arch", json.dumps(ARCH.to_config()), "--space", "own_space:PlainSpace"), "no network to train"),
        (("--arch", text, "--space", "own_space:NoSpace"), "cannot be imported"),
    ):
        assert run(*arguments, *QUICK, "--out", tmp_path / "other") == BAD_USAGE
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
        assert not (tmp_path / "other").exists()


def test_what_a_search_recommends_is_trained_unless_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recommended = ChainSpace().make(["wide", "wide", "wide"])
    path = best_json(tmp_path, recommended=recommended.to_config())
    one = ("--dataset", "digits", "--device", "cpu", "--epochs", 1)
    assert run("--arch", path, *one, "--out", tmp_path / "a") == DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"{path}: the recommended architecture is wide-wide-wide, the best observed one wide-skip-narrow; --choose observed trains that one"
    )
    assert lines[1].startswith("chain wide-wide-wide on digits")
    assert run("--arch", path, *one, "--choose", "observed", "--out", tmp_path / "b") == DONE
    lines = capsys.readouterr().out.splitlines()
    assert "--choose recommended trains that one" in lines[0]
    assert lines[1].startswith(f"chain {ARCH.id} on digits")
    for same in (None, ARCH.to_config()):
        subject, note = train.read_subject(best_json(tmp_path, recommended=same))
        assert (subject.arch, note) == (ARCH, None)
    with pytest.raises(SystemExit):
        run("--arch", path, "--choose", "best")
    assert run("--resume", tmp_path / "a", "--arch", path) == BAD_USAGE  # which now names the other


@pytest.mark.slow
def test_a_search_from_the_command_line_to_the_trained_network(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(FOLDER), str(FOLDER.parent), os.environ.get("PYTHONPATH", "")])}

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    settings = ["--set", "trainable_options.recipe.base=quick", "--set", "trainable_options.recipe.learning_rate=0.05"]
    search = ["raynas.search", "--space", SPACE, "--trainable", "train", "--dataset", "digits", "--searcher", "random", "--trials", "3"]
    command(*search, "--max-epochs", "2", *settings, "--out", "run")
    rows = results.read(str(tmp_path / "run")).trials.to_pylist()
    assert [(row["status"], row["epochs"]) for row in rows] == [("finished", 2)] * 3
    command("raynas.train", "--arch", "run", "--space", SPACE, "--dataset", "digits", "--epochs", "1", "--out", "trained")
    assert json.loads((tmp_path / "trained" / "result.json").read_text())["test_accuracy"] > 0
