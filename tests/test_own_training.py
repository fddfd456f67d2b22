"""Training architectures of a space of one's own: by trials, in a search, and fully by `raynas.train`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_space import ChainSpace
from torch import nn

from raynas import results, train
from raynas.arch import Arch
from raynas.cli import BAD_USAGE, DONE
from raynas.errors import ConfigError, UnknownNameError
from raynas.spaces import SPACES, make_space
from raynas.spaces.nasbench201 import NASBench201Space
from trainables.learning.data import load
from trainables.learning.networks import make_network
from trainables.learning.networks.counting import count
from trainables.learning.recipes import RECIPES
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


def wide_network(arch: Arch, classes: int, image_size: int, image_channels: int, width: int = 2) -> nn.Module:
    """A user's own network, named as `module:function`."""
    return nn.Sequential(nn.Flatten(), nn.Linear(image_channels * image_size**2 * width // width, classes))


def no_network(arch: Arch, classes: int, image_size: int, image_channels: int, message: str = "") -> nn.Module | None:
    """One with a mistake."""
    if message:
        raise ValueError(message)
    return None


def hungry_network(arch: Arch, classes: int, image_size: int, image_channels: int) -> nn.Module:
    """One for which the memory of a GPU does not suffice."""
    raise torch.OutOfMemoryError("no memory is left")


class WideSpace(NASBench201Space):
    """A space with a network of the user's own."""

    network = f"{__name__}:wide_network"


def test_every_space_has_a_network_and_users_bring_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(make_space(name).network for name in SPACES)
    arch = make_space("nasbench201").sample(np.random.default_rng(0))
    assert make_network(WideSpace(), arch, 3, 8, 1, width=4)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    with pytest.raises(UnknownNameError, match="did you mean 'width'"):
        make_network(WideSpace(), arch, 3, 8, 1, wide=4)
    for network, error, message in (
        (None, ConfigError, "no network to train; give the class WideSpace the attribute network = 'module:function'"),
        ("wide_network", ConfigError, "the network 'wide_network', which is none; give the class WideSpace"),
        (f"{__name__}:narrow_network", UnknownNameError, "cannot be imported"),
        (f"{__name__}:no_network", ConfigError, "must be a module of torch with weights, but .*no_network returned NoneType"),
    ):
        monkeypatch.setattr(WideSpace, "network", network)
        with pytest.raises(error, match=message):
            make_network(WideSpace(), arch, 3)
    with pytest.raises(ConfigError, match=r"raised ValueError in line \d+ of .*test_own_training.py: two lines$"):
        make_network(WideSpace(), arch, 3, message="two\nlines")


def test_lack_of_memory_is_no_mistake_in_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WideSpace, "network", f"{__name__}:hungry_network")
    with pytest.raises(torch.OutOfMemoryError):
        make_network(WideSpace(), make_space("nasbench201").sample(np.random.default_rng(0)), 3)


@pytest.mark.parametrize("name", SPACES)
def test_a_space_that_inherits_has_the_network_of_the_first(name: str) -> None:
    first = make_space(name)
    arch = first.sample(np.random.default_rng(0))
    own, other = type("OwnSpace", (type(first),), {"name": "own"})(), Arch.from_config({**arch.to_config(), "space": "own"})
    sizes = 10, 8, 1
    options = RECIPES["quick"].network_options(name)
    networks = make_network(first, arch, *sizes, **options), make_network(own, other, *sizes, **options)
    assert count(networks[0], 1, 8)[:3] == count(networks[1], 1, 8)[:3]


def best_json(folder: Path, **changes: Any) -> str:
    """What a search of the space leaves, with another architecture that it recommends."""
    value = {"arch": ARCH.to_config(), "valid_accuracy": 0.9, "space": SPACE, "space_options": {"depth": 3}}
    (folder / "best.json").write_text(json.dumps(value | changes))
    return str(folder / "best.json")


QUICK = ("--dataset", "digits", "--device", "cpu", "--epochs", 2)


def test_what_a_search_found_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--recipe", "quick", "--set", "recipe.network.width=8", "--set", "recipe.learning_rate=0.05")
    assert run("--arch", best_json(tmp_path), "--trust", *QUICK, *settings, "--out", tmp_path / "run") == DONE
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
    one = ("--trust", "--dataset", "digits", "--device", "cpu", "--epochs", 1)
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
        subject, note = train.read_subject(best_json(tmp_path, recommended=same), trust=True)
        assert (subject.arch, note) == (ARCH, None)
    with pytest.raises(SystemExit):
        run("--arch", path, "--choose", "best")
    assert run("--resume", tmp_path / "a", "--arch", path) == BAD_USAGE  # which now names the other


@pytest.mark.slow
def test_a_search_from_the_command_line_to_the_trained_network(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(FOLDER), str(FOLDER.parent)])}

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
