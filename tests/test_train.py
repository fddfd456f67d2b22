"""The command `python -m raynas.train`, the Trainer behind it, and the recipes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow.fs import FileSelector
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from raynas import train
from raynas.cli import BAD_USAGE, DONE, INTERRUPTED
from raynas.errors import ConfigError, OutOfSpaceError, ResultsError, ResumeError, UnknownNameError
from raynas.spaces import make_space, published
from raynas.storage import filesystem, read_json
from trainables.learning import trainer as module
from trainables.learning.data import Data, Split, load
from trainables.learning.networks import make_network
from trainables.learning.networks.counting import count
from trainables.learning.recipes import RECIPES, make_recipe
from trainables.learning.rmsprop import TensorFlowRMSprop
from trainables.learning.trainer import Trainer, TrainingError, make_device

STRING = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
POOR = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
QUICK = ("--dataset", "digits", "--recipe", "quick", "--device", "cpu")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", 0)


def trainer(data: Data, arch: str = STRING, seed: int = 0, **options: Any) -> Trainer:
    subject, _ = train.read_subject(arch)
    space = subject.make_space()
    return Trainer(space, subject.arch, data, make_recipe("quick", space), CPU, seed, **options)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def run(*arguments: object) -> int:
    return train.main([str(argument) for argument in arguments])


# The command


@pytest.mark.parametrize(("arch", "epochs", "floor"), [("inception-like", 3, 0.5), (STRING, 5, 0.85), ("DARTS_V2", 4, 0.5)])
def test_digits_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str], arch: str, epochs: int, floor: float) -> None:
    assert run("--arch", arch, *QUICK, "--epochs", epochs, "--out", tmp_path / "run") == DONE
    printed = capsys.readouterr().out
    assert len(re.findall(r"(?m)^epoch +\d+/", printed)) == epochs
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["epochs"] == epochs
    assert result["test_accuracy"] > floor
    assert f"{100 * result['test_accuracy']:.2f} %" in printed
    model = train.load_model(tmp_path / "run")
    test = load("digits", 0).test
    with torch.inference_mode():
        correct = int((model(test.images).argmax(1) == test.labels).sum())
    assert correct / len(test) == result["test_accuracy"]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [point.step for point in events.Scalars("valid_accuracy")] == list(range(1, epochs + 1))
    assert {"train_loss", "train_accuracy", "learning_rate", "train_seconds"} <= set(events.Tags()["scalars"])


def test_a_killed_training_goes_on_to_the_same_network(tmp_path: Path) -> None:
    arguments = ("--arch", STRING, *QUICK, "--epochs", 8)
    assert run(*arguments, "--out", tmp_path / "whole") == DONE
    command = [sys.executable, "-m", "raynas.train", *map(str, arguments), "--out", str(tmp_path / "killed")]
    one = os.environ | {"OMP_NUM_THREADS": "1"}  # the number of threads decides in which order sums are taken
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=one) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if re.match(r"epoch +3/", line):
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.pt").exists()
    assert run("--resume", tmp_path / "killed") == DONE
    assert equal(train.load_model(tmp_path / "killed").state_dict(), train.load_model(tmp_path / "whole").state_dict())


def test_ctrl_c_prints_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    own = Trainer.train_epoch

    def interrupted(self: Trainer) -> dict[str, float]:
        if self.epoch == 1:
            raise KeyboardInterrupt
        return own(self)

    monkeypatch.setattr(Trainer, "train_epoch", interrupted)
    assert run("--arch", STRING, *QUICK, "--epochs", 2, "--out", tmp_path / "run") == INTERRUPTED
    assert f"after 1 of 2 epochs. Go on with: python -m raynas.train --resume {tmp_path / 'run'}" in capsys.readouterr().out
    monkeypatch.setattr(Trainer, "train_epoch", own)
    assert run("--resume", tmp_path / "run", "--epochs", 3) == BAD_USAGE
    assert run("--resume", tmp_path / "run", "--arch", POOR) == BAD_USAGE
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "has epochs = 2, so it cannot go on with 3" in errors[0]
    assert "has arch = " in errors[1]
    assert run("--resume", tmp_path / "run", "--batch-size", 32) == DONE
    assert run("--arch", STRING, *QUICK, "--out", tmp_path / "run") == BAD_USAGE
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("BANANAS", 3_583_054),
        ("DARTS_V1", 3_169_414),
        ("DARTS_V2", 3_349_342),
        ("ASHA200", 2_243_206),
        ("PDARTS", 3_433_798),  # published: 3.4 M
        ("PC_DARTS", 3_634_678),  # published: 3.6 M
        ("inception-like", 2_694_282),
    ],
)
def test_published_architectures_have_names(name: str, parameters: int, capsys: pytest.CaptureFixture[str]) -> None:
    subject, _ = train.read_subject(name)
    assert subject.make_space().cost(subject.arch).parameters == parameters
    assert "https://arxiv.org/abs/" in published()[name].source
    with pytest.raises(SystemExit):
        run("--help")
    assert f"  {name} " in capsys.readouterr().out


def test_architectures_are_read_from_what_a_search_leaves(tmp_path: Path) -> None:
    arch = make_space("nasbench201").from_config({"arch": STRING})
    (tmp_path / "best.json").write_text(json.dumps({"arch": arch.to_config(), "valid_accuracy": 0.9}))
    for text in (str(tmp_path / "best.json"), str(tmp_path), f"file://{tmp_path}/best.json", STRING, json.dumps(arch.to_config())):
        subject, note = train.read_subject(text)
        assert (subject.arch, subject.space, note) == (arch, "nasbench201", None)
    inception = train.read_subject("inception-like")[0]
    assert count(make_network(inception.make_space(), inception.arch, 10), 3, 32)[0] == 2_694_282  # as published
    assert all(train.read_subject(name)[0].space in ("darts", "nasbench101", "mobile") for name in published())
    with pytest.raises(OutOfSpaceError):
        train.read_subject("|nor_conv_3x3~0|")
    with pytest.raises(UnknownNameError):
        train.read_subject("nowhere" * 100)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultsError, match=r"best\.json does not exist"):
        train.read_subject(str(tmp_path / "empty"))


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_a_training_on_any_storage_leaves_what_a_local_one_does(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("--arch", POOR, *QUICK, "--epochs", 2, "--export", "torch-export")
    uri = f"{scheme}://{tmp_path}/away"
    own = Trainer.train_epoch

    def interrupted(self: Trainer) -> dict[str, float]:
        if self.epoch == 1:
            raise KeyboardInterrupt
        return own(self)

    monkeypatch.setattr(Trainer, "train_epoch", interrupted)
    assert run(*arguments, "--out", uri) == INTERRUPTED
    assert f"Go on with: python -m raynas.train --resume {uri}" in capsys.readouterr().out
    monkeypatch.setattr(Trainer, "train_epoch", own)
    assert run(*arguments, "--out", uri) == BAD_USAGE
    assert "already holds a run" in capsys.readouterr().err
    assert run("--resume", uri) == DONE
    assert run(*arguments, "--out", "here") == DONE
    files = {"config.json", "checkpoint.pt", "model.pt", "model.json", "model.pt2", "result.json", "tensorboard", "test.json"}
    assert {path.name for path in (tmp_path / "here").iterdir()} == files
    fs, root = filesystem(uri)
    assert {info.base_name for info in fs.get_file_info(FileSelector(root))} == files
    assert len(fs.get_file_info(FileSelector(f"{root}/tensorboard"))) == 2  # of two sessions
    assert equal(train.load_model(uri).state_dict(), train.load_model("here").state_dict())
    results = [read_json(folder, "result.json") | {"train_seconds": 0, "latency_ms": 0} for folder in (uri, "here")]
    assert results[0] == results[1]
    if scheme == "memory":  # nothing of it is on this machine's disk
        assert {path.name for path in tmp_path.iterdir()} == {"here"}
    fs.delete_file(f"{root}/model.pt")
    with pytest.raises(ResumeError, match=r"away/model\.pt is missing or damaged"):
        train.load_model(uri)
    with pytest.raises(ResultsError, match=r"nowhere holds no trained network; take the folder that raynas.train has left"):
        train.load_model(f"{scheme}://{tmp_path}/nowhere")


# The trainer


def test_test_images_stay_where_they_are_until_they_are_needed(monkeypatch: pytest.MonkeyPatch, digits: Data) -> None:
    moved = []
    own = Split.to
    monkeypatch.setattr(Split, "to", lambda self, device: moved.append(self) or own(self, device))
    training = trainer(digits)
    assert [split is digits.train or split is digits.valid for split in moved] == [True, True]
    assert training._splits["test"] is digits.test
    assert training.evaluate("test") is not None


def test_bfloat16_that_is_emulated_is_not_used(monkeypatch: pytest.MonkeyPatch, digits: Data) -> None:
    asked = []
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: asked.append(including_emulation) or False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert not module.has_bf16(torch.device("cpu"))
    assert not asked
    assert not module.has_bf16(torch.device("cuda"))
    assert asked == [False]


@pytest.mark.parametrize("arch", [STRING, "inception-like", "DARTS_V2"])
def test_a_restored_training_is_equal_bit_for_bit(arch: str, digits: Data, tmp_path: Path) -> None:
    whole, first, second = (trainer(digits, arch, epochs=2) for _ in range(3))
    reports = [whole.train_epoch() for _ in range(2)]
    first.train_epoch()
    torch.save(first.state_dict(), tmp_path / "state.pt")
    torch.rand(5)  # whatever else happens in the process
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    report = second.train_epoch()
    assert report["train_loss"] == reports[1]["train_loss"]
    assert equal(second.network.state_dict(), whole.network.state_dict())  # type: ignore[arg-type]
    assert second.evaluate("test") == whole.evaluate("test")
    with pytest.raises(TrainingError, match="all 2 epochs are done"):
        second.train_epoch()


def test_drop_path_and_auxiliary_head_train_and_resume(digits: Data) -> None:
    """The published recipe of DARTS with a small network, on digits enlarged to 32 pixels."""
    from dataclasses import replace

    def enlarged(split: Any, count: int) -> Any:
        return replace(split, images=split.images[:count].repeat_interleave(4, 2).repeat_interleave(4, 3), labels=split.labels[:count])

    data = replace(digits, train=enlarged(digits.train, 64), valid=enlarged(digits.valid, 0), test=enlarged(digits.test, 10), image_size=32)
    recipe = replace(RECIPES["darts-final"], networks={"darts": {"channels": 4, "layers": 3, "auxiliary": True}}, batch_size=16)
    subject, _ = train.read_subject("DARTS_V2")
    whole, first, second = (Trainer(subject.make_space(), subject.arch, data, recipe, CPU, 0, epochs=3) for _ in range(3))
    for _ in range(3):
        whole.train_epoch()
    first.train_epoch()
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.train_epoch()
    assert second.network.drop_path_prob == pytest.approx(0.2 * 2 / 3)
    assert equal(second.network.state_dict(), whole.network.state_dict())  # type: ignore[arg-type]
    assert whole.evaluate("valid") is None


def test_seeds_differ_and_the_process_does_not_notice(digits: Data) -> None:
    before = torch.get_rng_state()
    a, b = trainer(digits, POOR, seed=0), trainer(digits, POOR, seed=1)
    assert not equal(a.network.state_dict(), b.network.state_dict())  # type: ignore[arg-type]
    a.train_epoch()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_checkpoint_of_another_training_is_refused(digits: Data) -> None:
    from dataclasses import replace

    state = trainer(digits).state_dict()
    for other, message in (
        (trainer(digits, POOR), "its architecture is"),
        (trainer(replace(digits, classes=11)), "its classes is 10, here it is 11"),
        (trainer(digits, epochs=9), "its epochs is 5"),
    ):
        with pytest.raises(ResumeError, match=message):
            other.load_state_dict(state)


def test_a_damaged_checkpoint_is_one_line(digits: Data, tmp_path: Path) -> None:
    (tmp_path / train.CHECKPOINT).write_bytes(b"PK damaged")
    with pytest.raises(ResumeError, match=r"checkpoint\.pt is missing or damaged") as caught:
        train.restore(trainer(digits), str(tmp_path))
    assert "\n" not in str(caught.value)
    torch.save([1, 2], tmp_path / train.CHECKPOINT)
    with pytest.raises(ResumeError, match="its format is None"):
        train.restore(trainer(digits), str(tmp_path))


def test_divergence_is_an_error(digits: Data) -> None:
    training = trainer(digits)
    with torch.no_grad():
        next(training.network.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="diverged"):
        training.train_epoch()
    with pytest.raises(TrainingError, match="diverged"):
        training.evaluate("valid")
    assert training.epoch == 0


def test_parts_of_a_batch_add_up_to_its_gradient(digits: Data) -> None:
    """Without batch norm in training mode there is no difference but rounding."""
    whole, parts = trainer(digits, epochs=1), trainer(digits, epochs=1, micro_batches=3)
    for training in (whole, parts):
        training.network.eval()
        training._step(digits.train.images[:64], digits.train.labels[:64], 0)
    for a, b in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_labels_are_smoothed(digits: Data) -> None:
    from dataclasses import replace

    training = trainer(digits)
    training.recipe = replace(training.recipe, label_smoothing=0.1)
    logits, labels = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.1, 0.0]]), torch.tensor([0, 2])
    wanted = torch.full((2, 3), 0.1 / 3)
    wanted[[0, 1], labels] += 0.9
    torch.testing.assert_close(training._loss(logits, labels), -(wanted * logits.log_softmax(1)).sum())


@pytest.mark.slow
def test_a_compiled_training_is_the_same_but_for_rounding(
    digits: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a tiny network, as compilers take their time."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("there is no C++ compiler on this machine")
    monkeypatch.setattr(
        "trainables.learning.trainer.make_network", lambda *_, **__: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    )
    plain, compiled = trainer(digits), trainer(digits, compiled=True)
    assert plain.state_dict()["network"].keys() == compiled.state_dict()["network"].keys()
    losses = [training.train_epoch()["train_loss"] for training in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for a, b in zip(plain.network.parameters(), compiled.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "nowhere"))
    torch._dynamo.reset()
    assert run("--arch", STRING, *QUICK, "--compile", "--out", tmp_path / "run") == BAD_USAGE
    assert "--compile does not work on this machine" in capsys.readouterr().err.splitlines()[-1]


def test_the_learning_rate_is_half_a_cosine(digits: Data) -> None:
    from dataclasses import replace

    training = trainer(digits, epochs=4)
    assert training._set_learning_rate(0.0) == 0.1
    training.epoch = 2
    assert training._set_learning_rate(0.0) == pytest.approx(0.05)
    assert training._set_learning_rate(0.5) < 0.04
    training.recipe = replace(training.recipe, cosine="epoch")
    assert training._set_learning_rate(0.5) == pytest.approx(0.05)


def test_costs_of_the_published_network_are_those_of_the_space() -> None:
    space = make_space("nasbench201")
    arch = space.from_config({"arch": STRING})
    assert count(make_network(space, arch, 10), 3, 32)[0] == space.cost(arch).parameters


def test_rmsprop_is_the_one_of_tensorflow() -> None:
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = TensorFlowRMSprop([w], lr=0.2, weight_decay=0.1)
    values, squares, momenta = [1.0, -2.0], [1.0, 1.0], [0.0, 0.0]
    for gradient in ([0.5, -1.0], [2.0, 0.1], [0.0, 3.0]):
        w.grad = torch.tensor(gradient)
        optimizer.step()
        for i, g in enumerate(gradient):
            g += 0.1 * values[i]
            squares[i] = 0.9 * squares[i] + 0.1 * g * g
            momenta[i] = 0.9 * momenta[i] + 0.2 * g / (squares[i] + 1.0) ** 0.5
            values[i] -= momenta[i]
        assert w.tolist() == pytest.approx(values, rel=1e-5)


def test_a_device_that_is_none_is_told() -> None:
    with pytest.raises(ConfigError, match="device 'gpu'"):
        make_device("gpu")
