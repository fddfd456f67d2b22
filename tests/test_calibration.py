"""Statistics of batch norms that are taken from the network as it is."""

from pathlib import Path

import pytest
import torch
from torch import nn

from raynas.spaces import describe, make_space
from tests.photographs import write_photographs
from trainables.learning.calibration import calibrate
from trainables.learning.data import load
from trainables.learning.recipes import make_recipe
from trainables.learning.trainer import Trainer


def test_statistics_are_the_means_over_the_batches() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.5))
    network[1].running_mean.fill_(7.0)
    images = torch.rand(3, 8, 3, 5, 5)
    calibrate(network, iter(images))
    with torch.no_grad():
        seen = network[0](images.flatten(0, 1)).unflatten(0, (3, 8))
    assert torch.allclose(network[1].running_mean, seen.mean((0, 1, 3, 4)), atol=1e-6)
    assert torch.allclose(network[1].running_var, seen.transpose(1, 2).flatten(2).var(2).mean(0), rtol=0.05)
    assert network[1].momentum == 0.3


@pytest.mark.parametrize(("calibration", "right"), [(0, False), (1000, True)])
def test_without_it_a_deep_network_that_has_learned_answers_at_random(tmp_path: Path, calibration: int, right: bool) -> None:
    write_photographs(tmp_path / "photos", 30)
    space = make_space("mobile")
    recipe = make_recipe(
        {"base": "photos", "image_size": 32, "batch_size": 16, "calibration": calibration, "network": {"width": 0.25}}, space
    )
    data = load(f"folder:{tmp_path}/photos", 0, 0.2, view=recipe.view)
    trainer = Trainer(space, describe("MobileNetV2"), data, recipe, torch.device("cpu"), 0, epochs=6)
    for _ in range(6):
        report = trainer.train_epoch()
    accuracy = trainer.evaluate("train")
    assert accuracy is not None
    assert report["train_accuracy"] > 0.6
    assert (accuracy > 0.8) == right
