"""Exported networks, read back where this package is not."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raynas import train
from raynas.cli import BAD_USAGE, DONE
from raynas.errors import ConfigError, UnknownNameError
from trainables.learning.export import check_format, export
from trainables.learning.networks import make_network
from trainables.learning.recipes import RECIPES
from trainables.learning.trainer import Normalize

STRING = "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
NETWORKS: Mapping[str, Mapping[str, Any]] = RECIPES["quick"].networks

TORCH = """
import json, sys, torch
network = torch.export.load(sys.argv[1]).module()
with torch.inference_mode():
    print(json.dumps([network(torch.load(path)).tolist() for path in sys.argv[2:]]))
assert not {"raynas", "trainables"} & sys.modules.keys()
"""
ONNX = """
import json, sys, torch
from onnx.reference import ReferenceEvaluator
network = ReferenceEvaluator(sys.argv[1])
print(json.dumps([network.run(["logits"], {"images": torch.load(path).numpy()})[0].tolist() for path in sys.argv[2:]]))
"""


def read_back(script: str, file: Path, batches: list[Tensor]) -> list[Tensor]:
    """The logits of an exported network in a fresh process."""
    paths = [file.with_name(f"batch{i}.pt") for i in range(len(batches))]
    for path, batch in zip(paths, batches, strict=True):
        torch.save(batch, path)
    command = [sys.executable, "-c", script, str(file), *map(str, paths)]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=True)
    return [torch.tensor(logits) for logits in json.loads(done.stdout)]


@pytest.mark.slow
@pytest.mark.parametrize(("format", "name", "script"), [("torch-export", "model.pt2", TORCH), ("onnx", "model.onnx", ONNX)])
def test_a_training_exports_what_load_model_loads(
    format: str, name: str, script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if format == "onnx":
        pytest.importorskip("onnxscript")
    arguments = ["--arch", STRING, "--dataset", "digits", "--recipe", "quick", "--device", "cpu", "--epochs", "1"]
    assert train.main([*arguments, "--out", str(tmp_path), "--export", format]) == DONE
    assert f"Export:      {tmp_path / name}" in capsys.readouterr().out
    batches = [torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count)) for count in (1, 5)]
    model = train.load_model(tmp_path)
    with torch.inference_mode():
        for logits, batch in zip(read_back(script, tmp_path / name, batches), batches, strict=True):
            torch.testing.assert_close(logits, model(batch), rtol=1e-4, atol=1e-5)


def test_a_finished_training_can_be_exported(tmp_path: Path) -> None:
    arguments = ["--arch", STRING, "--dataset", "digits", "--recipe", "quick", "--device", "cpu", "--epochs", "1"]
    assert train.main([*arguments, "--out", str(tmp_path)]) == DONE
    assert not (tmp_path / "model.pt2").exists()
    weights = (tmp_path / train.MODEL).read_bytes()
    assert train.main(["--resume", str(tmp_path), "--export", "torch-export"]) == DONE
    assert (tmp_path / "model.pt2").exists()
    assert (tmp_path / train.MODEL).read_bytes() == weights


@pytest.mark.parametrize("arch", ["inception-like", "BANANAS", "ASHA200"])
def test_networks_of_every_space_can_be_exported(arch: str, tmp_path: Path) -> None:
    subject, _ = train.read_subject(arch)
    made = make_network(subject.make_space(), subject.arch, 10, 8, 1, **NETWORKS[subject.space])
    network = nn.Sequential(Normalize((0.4,), (0.3,)), made).eval()
    name, content = export(network, "torch-export", 1, 8)
    (tmp_path / name).write_bytes(content)
    images = torch.rand(3, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(torch.export.load(tmp_path / name).module()(images), network(images))


def test_a_missing_package_is_named_before_the_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("trainables.learning.export.find_spec", lambda name: None)
    check_format("torch-export")
    with pytest.raises(ConfigError, match="needs onnx and onnxscript; pip install onnx onnxscript"):
        check_format("onnx")
    with pytest.raises(UnknownNameError, match="did you mean 'torch-export'"):
        check_format("torch_export")
    arguments = ["--arch", STRING, "--dataset", "digits", "--recipe", "quick", "--device", "cpu", "--export", "onnx"]
    assert train.main([*arguments, "--out", str(tmp_path / "run")]) == BAD_USAGE
    assert not (tmp_path / "run").exists()
