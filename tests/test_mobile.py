"""The space of mobile networks: what was published of it, what small images make of it, and its way out of raynas."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from test_export import ONNX, TORCH, read_back
from torch import nn

from raynas.errors import ConfigError
from raynas.registry import check_options
from raynas.spaces import describe, make_space
from trainables.learning.export import export
from trainables.learning.networks import make_network
from trainables.learning.networks.mobile import MobileNetwork
from trainables.learning.recipes import make_recipe

SPACE = make_space("mobile")
PUBLISHED = [
    ("MobileNetV2", torchvision.models.mobilenet_v2, 3_504_872, 300_774_272),
    ("EfficientNet-B0", torchvision.models.efficientnet_b0, 5_288_548, 385_814_752),
]


@pytest.mark.parametrize(("name", "model", "parameters", "products"), PUBLISHED)
def test_published_networks_are_those_of_torchvision(name: str, model: Callable[..., nn.Module], parameters: int, products: int) -> None:
    arch, cost = describe(name), SPACE.cost(describe(name))
    assert SPACE.contains(arch)
    assert cost.parameters == parameters == sum(w.numel() for w in model(weights=None).parameters())
    theirs, ours = model(weights=None).eval(), make_network(SPACE, arch, 1000, 224, 3).eval()
    norms = [module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)]
    normalised = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal normalised
        normalised += output[0].numel()

    for norm in norms:  # as if trained
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        norm.register_forward_hook(count)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    image = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=1e-5)
    assert cost.flops == products + 2 * normalised


@pytest.mark.parametrize(
    ("image_size", "resolution", "side"),
    [(224, 1.0, 7), (224, 0.5, 4), (96, 1.0, 6), (32, 1.0, 4), (32, 0.5, 4), (8, 1.0, 4), (8, 0.5, 4), (4, 0.5, 2), (1, 0.5, 1)],
)
def test_small_images_are_halved_less_often(image_size: int, resolution: float, side: int) -> None:
    choices = describe("MobileNetV2").to_config()["choices"] | {"resolution": resolution}
    with torch.device("meta"):
        network = MobileNetwork(choices, 10, image_size, 1, width=0.25).eval()
        features = network.features(torch.zeros(1, 1, network.size, network.size))
        assert network(torch.zeros(2, 1, image_size, image_size)).shape == (2, 10)
    assert features.shape == (1, 1280, side, side)


def test_options_of_the_network() -> None:
    assert check_options(MobileNetwork, {"width": 0.5, "dropout": 0.1, "stochastic_depth": 0.2}, "network")
    for option, value in (("width", 0.0), ("dropout", 1.0), ("stochastic_depth", -0.1)):
        with pytest.raises(ConfigError, match=f"{option}={value}"):
            make_network(SPACE, describe("MobileNetV2"), 10, 8, 1, **{option: value})
    assert make_recipe(None, SPACE, "digits").network_options("mobile") == {"width": 0.25, "dropout": 0.0}
    assert make_space("mobile", {"classes": 10}).cost(describe("MobileNetV2")).parameters == 3_504_872 - 990 * 1281
    blocks = make_network(SPACE, describe("EfficientNet-B0"), 10, 8, 1, stochastic_depth=0.2).features[1:-1]
    assert [block.drop.p for block in blocks] == pytest.approx(np.arange(16) * 0.2 / 16)


def test_every_architecture_has_a_network_and_learns_from_a_batch() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2):
        network = make_network(SPACE, SPACE.sample(rng), 4, 16, 3, width=0.25, stochastic_depth=0.5)
        network(torch.rand(4, 3, 16, 16)).sum().backward()
        assert all(w.grad is not None for w in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("format", "script"), [("torch-export", TORCH), ("onnx", ONNX)])
def test_networks_that_resize_are_exported(format: str, script: str, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxscript")
    choices = describe("EfficientNet-B0").to_config()["choices"] | {"resolution": 0.75}
    choices |= {f"stage{i}": choices[f"stage{i}"] | {"depth": 1} for i in range(1, 8)}
    network = make_network(SPACE, SPACE.from_config({"choices": choices}), 5, 16, 3, width=0.25).eval()
    name, content = export(network, format, 3, 16)
    (tmp_path / name).write_bytes(content)
    batches = [torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(count)) for count in (1, 3)]
    with torch.inference_mode():
        for logits, batch in zip(read_back(script, tmp_path / name, batches), batches, strict=True):
            torch.testing.assert_close(logits, network(batch), rtol=1e-4, atol=1e-5)
