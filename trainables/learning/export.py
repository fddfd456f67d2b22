"""Trained networks for use without this package."""

import io
import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from raynas.errors import ConfigError
from raynas.registry import unknown


def _torch_export(network: nn.Module, example: Tensor) -> bytes:
    """For `torch.export.load`."""
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=_shapes()), buffer)
    return buffer.getvalue()


def _onnx(network: nn.Module, example: Tensor) -> bytes:
    """For every runtime of https://onnx.ai; the input is called `images`, the output `logits`."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            network, (example,), dynamo=True, dynamic_shapes=_shapes(), input_names=["images"], output_names=["logits"]
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def _shapes() -> tuple[dict[int, torch.export.Dim]]:
    return ({0: torch.export.Dim("n", min=1)},)


FORMATS: dict[str, tuple[str, tuple[str, ...], Callable[[nn.Module, Tensor], bytes]]] = {
    "torch-export": ("model.pt2", (), _torch_export),
    "onnx": ("model.onnx", ("onnx", "onnxscript"), _onnx),
}
"""By name: the file, the packages that writing it needs beside torch, and the function that makes its content."""


def check_format(name: str) -> None:
    """Checks that this format can be written here.

    Raises:
        UnknownNameError: there is no such format.
        ConfigError: a package that it needs is not installed.
    """
    if name not in FORMATS:
        raise unknown("export format", name, FORMATS)
    missing = [package for package in FORMATS[name][1] if find_spec(package) is None]
    if missing:
        raise ConfigError(f"the export to {name} needs {' and '.join(missing)}; pip install {' '.join(missing)}, or take torch-export")


def export(network: nn.Module, name: str, channels: int, size: int) -> tuple[str, bytes]:
    """The network in evaluation mode, for batches of any number of images: the usual name of the file, and its content."""
    check_format(name)
    file, _, make = FORMATS[name]
    example = torch.zeros(2, channels, size, size, device=next(network.parameters()).device)
    return file, make(network.eval(), example)
