"""Training steps that a GPU replays from CUDA graphs; which steps these are is seen without a GPU, too."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raynas.spaces import make_space
from raynas.spaces.darts import GENOTYPES, DARTSSpace
from trainables.learning import trainer as trainer_module
from trainables.learning.data import load
from trainables.learning.networks import make_network
from trainables.learning.recipes import make_recipe
from trainables.learning.replay import Replayed, free, replayed
from trainables.learning.trainer import Trainer

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ARCH = DARTSSpace(with_none=True).from_genotype(**GENOTYPES["DARTS_V2"])


class Branching(nn.Module):
    """Counts the images that it sees."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.branch = False
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return x + 1


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The shapes that were captured, by what has one warming step and replays nothing."""
    shapes = []

    def capture(module: nn.Module, arguments: tuple[Tensor], **options: Any) -> nn.Module:
        module(*arguments)
        torch.rand(1)
        shapes.append(tuple(arguments[0].shape))
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices, device_type, own=torch.random.fork_rng: own([]))
    return shapes


def test_what_comes_twice_in_a_row_is_captured(captured: list[Any]) -> None:
    network, small, large = Branching(), torch.zeros(1, 2), torch.zeros(4, 2)
    called = Replayed(network)
    state = torch.get_rng_state()
    for _ in range(2):  # epochs, whose last batch is smaller
        for x in (large, large, large, small):
            assert torch.equal(called(x), x + 1)
    assert captured == [(4, 2)]
    network.branch = True
    for x in (large, large, large, small):
        called(x)
    assert captured == [(4, 2)] * 2
    network.eval()
    called(small)
    called(small)
    assert captured == [(4, 2)] * 2
    assert network.seen == 3 * 13 + 2  # warming up has left no trace
    assert torch.equal(torch.get_rng_state(), state)


def test_where_nothing_can_be_captured_training_goes_on(monkeypatch: pytest.MonkeyPatch, captured: list[Any]) -> None:
    def refuse(module: nn.Module, arguments: tuple[Tensor], **options: Any) -> nn.Module:
        module(*arguments)
        captured.append(None)
        raise torch.OutOfMemoryError("no memory is left")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    network, x = Branching(), torch.zeros(4, 2)
    called = Replayed(network)
    for _ in range(4):
        assert torch.equal(called(x), x + 1)
    assert captured == [None]
    assert network.seen == 16


def test_networks_are_replayed_on_a_gpu_alone_and_only_those_that_say_they_can() -> None:
    for space in ("nasbench101", "nasbench201", "darts", "mobile"):
        made = make_space(space)
        network = make_network(made, made.sample(np.random.default_rng(0)), 10, 8, 1, **make_recipe("quick", made).networks[space])
        assert replayed(network, CPU) is network
        assert isinstance(replayed(network, GPU), Replayed)
    other = nn.Linear(1, 1)
    assert replayed(other, GPU) is other


@on_gpu
@pytest.mark.parametrize("space", ["darts", "nasbench101", "nasbench201", "mobile"])
def test_a_replayed_training_is_like_one_that_is_not(space: str) -> None:
    made = make_space(space)
    arch = ARCH if space == "darts" else made.sample(np.random.default_rng(1))
    recipe = replace(make_recipe("quick", made), drop_path=0.3 if space == "darts" else 0.0, learning_rate=0.01)
    data, losses = load("digits", 0, recipe.validation), []
    for eager in (False, True):
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            trainer = Trainer(made, arch, data, recipe, GPU, seed=0, epochs=3, graphs=True)
            trainer._bf16 = False
            called = trainer._averaging
            assert isinstance(called, Replayed)
            called._refused = eager
            losses.append([trainer.train_epoch()["train_loss"] for _ in range(3)] + [trainer.evaluate("valid")])
            assert (called._captured[0] is None) == eager
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02, atol=0.01)
    np.testing.assert_allclose(losses[0][0], losses[1][0], rtol=1e-3)


@on_gpu
def test_a_training_that_is_dropped_leaves_no_memory_behind() -> None:
    made = make_space("darts")
    recipe = make_recipe("quick", made)
    data, kept = load("digits", 0, recipe.validation), []
    for _ in range(3):
        trainer = Trainer(made, ARCH, data, recipe, GPU, seed=0, graphs=True)
        trainer.train_epoch()
        del trainer
        free()
        kept.append(torch.cuda.memory_reserved())
    assert kept[2] <= kept[0]


def test_a_training_replays_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(trainer_module, "replayed", lambda network, device: asked.append(device) or network)
    made = make_space("darts")
    recipe = make_recipe("quick", made)
    data = load("digits", 0, recipe.validation)
    for options in ({}, {"graphs": True, "micro_batches": 2}, {"graphs": True}):
        Trainer(made, ARCH, data, recipe, CPU, seed=0, **options)
    assert asked == [CPU]
