"""Several workers train what one process would: step by step with torch.distributed, and on Ray as a user starts it.

This file comes last: in a process that has run Ray Train, Ray 2.60 ends the actors of a later Tune run before they start.
"""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from raynas import train
from raynas.cli import BAD_USAGE, DONE, INTERRUPTED
from raynas.errors import ConfigError
from raynas.run.connect import cluster
from trainables.learning import trainer as module
from trainables.learning.data import load
from trainables.learning.recipes import make_recipe
from trainables.learning.trainer import Trainer, TrainingError

STRING = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
QUICK = ("--dataset", "digits", "--recipe", "quick", "--device", "cpu")
WORKERS, EPOCHS = 2, 12


def trainer(arch: str, **options: Any) -> Trainer:
    subject, _ = train.read_subject(arch)
    space = subject.make_space()
    recipe = replace(make_recipe("quick", space), padding=2, flip=True, cutout=3, label_smoothing=0.1)
    return Trainer(space, subject.arch, replace(load("digits", 0), mirrored=True), recipe, torch.device("cpu"), 0, **options)


def first_step(arch: str) -> dict[str, Tensor]:
    """The gradients of the first step, on a batch of which the workers' shares differ in size; batch norms do not see the batch."""
    made = trainer(arch)
    made.network.eval()
    part = made.data.train
    totals = made._sum(made._step(part.images[:63], part.labels[:63], 0))
    gradients = {name: w.grad for name, w in made.network.named_parameters() if w.grad is not None}
    weights = {f"{name} after": w.detach() for name, w in made.network.named_parameters()}
    return {"totals": totals, **gradients, **weights}


class Perceptron(nn.Module):
    """In place of what `make_network` makes: without batch norms, and with a layer that is never used."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.spare = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def two_epochs(arch: str) -> dict[str, Tensor]:
    """All that two epochs leave."""
    made = trainer(arch, epochs=2)
    reports = [made.train_epoch() for _ in range(2)]
    values = [[report[name] for name in ("epoch", "train_loss", "train_accuracy", "learning_rate")] for report in reports]
    accuracies = [made.evaluate("valid"), made.evaluate("test")]
    return {**made.network.state_dict(), "reports": torch.tensor(values), "accuracies": torch.tensor(accuracies)}


def two_epochs_without_norms(arch: str) -> dict[str, Tensor]:
    own, module.make_network = module.make_network, Perceptron
    try:
        return two_epochs(arch)
    finally:
        module.make_network = own


CASES = [
    (first_step, STRING),
    (first_step, "inception-like"),
    (first_step, "DARTS_V2"),
    (two_epochs_without_norms, STRING),
    (two_epochs, STRING),
]


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORKERS)
    torch.save([function(arch) for function, arch in CASES], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Tensor]]]:
    """The results of all CASES in each of two processes of a group."""
    folder = tmp_path_factory.mktemp("group")
    torch.multiprocessing.spawn(_process, (str(folder),), WORKERS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORKERS)]


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(CASES) - 1))
def test_two_workers_do_what_one_does(case: int, workers: list[list[dict[str, Tensor]]]) -> None:
    function, arch = CASES[case]
    alone = function(arch)
    for results in workers:
        assert results[case].keys() == alone.keys()
        for name, value in results[case].items():
            torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
def test_workers_agree_about_everything(workers: list[list[dict[str, Tensor]]]) -> None:
    """Batch norms see the shares, but all workers leave the same weights, statistics and reports."""
    first, second = (results[-1] for results in workers)
    assert all(torch.equal(first[name], second[name]) for name in first)
    alone = two_epochs(STRING)
    assert float(first["reports"][0, 1]) == pytest.approx(float(alone["reports"][0, 1]), abs=0.3)  # the loss of the first epoch


def test_what_cannot_be_shared_is_refused() -> None:
    module.check_shares(64, 32)
    for arguments in ((64, 3), (64, 64), (64, 2, 2)):
        with pytest.raises(ConfigError):
            module.check_shares(*arguments)


# On Ray


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def run(*arguments: object) -> int:
    return train.main([str(argument) for argument in arguments])


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_ray_workers_train_and_go_on_after_ctrl_c(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--arch", STRING, *QUICK, "--workers", WORKERS, "--epochs", EPOCHS, "--out", tmp_path / "run")
    command = [sys.executable, "-m", "raynas.train", *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        next(line for line in process.stdout if re.match(r"epoch +2/", line))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
        printed, errors = process.communicate()
    assert process.returncode == INTERRUPTED, errors
    assert f"Go on with: python -m raynas.train --resume {tmp_path / 'run'}" in printed
    assert errors == ""
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored.pop("cluster")["how"] == "started"
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    done = torch.load(tmp_path / "run" / train.CHECKPOINT, weights_only=True)["epoch"]
    assert 2 <= done < EPOCHS

    assert run("--resume", tmp_path / "run") == DONE
    assert json.loads((tmp_path / "run" / "config.json").read_text()).keys() == stored.keys() | {"cluster"}  # that of the last session
    printed = capsys.readouterr().out
    assert "2 workers with a CPU each" in printed
    assert [int(epoch) for epoch in re.findall(r"(?m)^epoch +(\d+)/", printed)] == list(range(done + 1, EPOCHS + 1))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["test_accuracy"] > 0.85
    assert result["epochs"] == EPOCHS
    model, test = train.load_model(tmp_path / "run"), load("digits", 0).test
    with torch.inference_mode():
        assert float((model(test.images).argmax(1) == test.labels).sum()) / len(test) == pytest.approx(result["test_accuracy"], abs=1 / 359)

    assert run("--resume", tmp_path / "run", "--workers", 1) == DONE  # who trained does not matter
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == EPOCHS


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_more_workers_than_there_are_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = ("--workers", 500, "--batch-size", 1000, "--out", tmp_path / "run")
    assert run("--arch", STRING, *QUICK, *many) == BAD_USAGE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.search(r"500 workers need a CPU each, but this machine has \d+; ask for fewer, or --address joins a cluster$", lines[0])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_what_goes_wrong_in_a_worker_is_said_here() -> None:
    from trainables.learning.workers import RayWorkers

    diverging, broken = trainer(STRING), trainer(STRING)
    diverging.recipe = replace(diverging.recipe, learning_rate=1e30, clip=None)
    broken.recipe = replace(broken.recipe, padding="x")  # type: ignore[arg-type]
    with RayWorkers(1, "cpu", partial(cluster, None)) as team:
        assert str(team) == "1 worker with a CPU each"
        with pytest.raises(TrainingError, match="the training diverged"):
            list(team.train(diverging))
        with pytest.raises(TrainingError, match=r"the workers failed; number 0 reports .*; go on with --resume"):
            list(team.train(broken))
