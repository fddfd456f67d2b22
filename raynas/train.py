"""`python -m raynas.train`: trains one architecture on one device and leaves a folder with the network.

ARCH is the `best.json` of a search or the folder of one, an architecture as JSON, a string of NAS-Bench-201, or the name of a
published architecture.
"""

import io
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from torch import nn

from raynas import results
from raynas.arch import Arch
from raynas.command import DONE, INTERRUPTED, Parser, add_flags, run_command
from raynas.config import make_config, provenance
from raynas.errors import ConfigError, OutOfSpaceError, ResultsError, ResumeError
from raynas.registry import unknown
from raynas.spaces import make_space
from raynas.spaces.darts import GENOTYPES
from raynas.tensorboard import SummaryWriter
from trainables.data import load
from trainables.networks import make_network
from trainables.recipes import make_recipe
from trainables.training import Normalize, Trainer, make_device

# Ying et al. 2019, https://arxiv.org/abs/1902.09635: the cell that resembles Inception's, as in the README of its code.
INCEPTION_LIKE = {
    "space": "nasbench101",
    "adjacency": [
        [0, 1, 1, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0],
    ],
    "operations": ["input", "conv1x1-bn-relu", *["conv3x3-bn-relu"] * 3, "maxpool3x3", "output"],
}
PUBLISHED: dict[str, dict[str, Any]] = {name: {"space": "darts", **cells} for name, cells in GENOTYPES.items()} | {
    "inception-like": INCEPTION_LIKE
}
FIELDS = {"normal": "darts", "adjacency": "nasbench101", "arch": "nasbench201"}  # a field that tells the space
SPACE_OPTIONS = {"darts": {"with_none": True}}  # published cells may have this operation

CHECKPOINT, MODEL = "checkpoint.pt", "model.pt"


class TrainConfig(BaseModel):
    """Everything that defines a training. It is written to `config.json` in its folder before the first epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    arch: str | None = Field(None, description="what to train: best.json, JSON, a string of NAS-Bench-201, or a name")
    dataset: str = Field("cifar10", description="digits, cifar10, cifar100, svhn, fashion-mnist or folder:PATH")
    recipe: str | None = Field(None, description="how to train; without it, as the publication of the search space does")
    epochs: int | None = Field(None, gt=0, description="without it, those of the recipe")
    batch_size: int | None = Field(None, gt=1, description="without it, that of the recipe")
    seed: int = Field(0, ge=0, description="seed of the training and of the choice of validation images")
    device: str = Field("auto", description="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one")
    data_dir: str | None = Field(None, description="where data sets are kept; without it, ~/.cache/raynas")
    out: str | None = Field(None, description="folder of the training; without it, a new one in runs/")


RESUMABLE = frozenset({"batch_size", "device", "data_dir"})
"""What may differ when a training is resumed."""


def parser() -> Parser:
    """The command line."""
    made = Parser(prog="python -m raynas.train", description=(__doc__ or "").partition("\n\n")[2], allow_abbrev=False)
    made.add_argument("--resume", metavar="DIR", help="goes on with the interrupted training in this folder")
    add_flags(made, TrainConfig)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m raynas.train --help`."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    given = vars(parser().parse_args(argv))
    folder = given.pop("resume")
    if folder is not None:
        stored = results.read_json(folder, "config.json")["config"]
        given.pop("out", None)
        if "arch" in given:
            given["arch"] = _text(read_arch(given["arch"]))
        _check_resume(stored, given, folder)
        return train(make_config(stored | given, TrainConfig), Path(folder), resume=True)
    config = make_config(given, TrainConfig)
    if config.arch is None:
        raise ConfigError(f"--arch is missing: a best.json, JSON, a string of NAS-Bench-201, or one of {', '.join(PUBLISHED)}")
    config = config.model_copy(update={"arch": _text(read_arch(config.arch))})
    out = Path(config.out or f"runs/train-{config.dataset.partition(':')[0]}-{datetime.now():%Y%m%d-%H%M%S}").expanduser()
    if (out / "config.json").exists():
        raise ResultsError(f"{out} already holds a run; go on with it by --resume {out}, or choose another --out")
    return train(config, out)


def _text(arch: Arch) -> str:
    return json.dumps(arch.to_config())


def _check_resume(stored: Mapping[str, Any], given: Mapping[str, Any], folder: str) -> None:
    for key, value in given.items():
        if key not in RESUMABLE and stored.get(key) != value:
            raise ResumeError(
                f"the training in {folder} has {key} = {stored.get(key)}, so it cannot go on with {value}; "
                "leave that out, or start a new training with another --out"
            )


def read_arch(text: str) -> Arch:
    """The architecture that a user names.

    Raises:
        UnknownNameError: it is no known name, no file and no description.
        OutOfSpaceError: the description is wrong.
        ResultsError: the file cannot be read.
    """
    if text in PUBLISHED:
        return _described(PUBLISHED[text])
    if text.startswith("|"):
        return _described({"space": "nasbench201", "arch": text})
    if text.lstrip().startswith("{"):
        try:
            return _described(json.loads(text))
        except json.JSONDecodeError as error:
            raise OutOfSpaceError(f"the architecture is not valid JSON: {error}") from error
    if "://" in text or os.path.exists(os.path.expanduser(text)):  # unlike Path's, it takes texts of any length
        folder, name = os.path.split(text)
        value = results.read_json(folder or ".", name) if name.endswith(".json") else results.read_json(text, "best.json")
        return _described(value)
    raise unknown("architecture", text, [*PUBLISHED, "a best.json", "JSON", "a string of NAS-Bench-201"])


def _described(value: Any) -> Arch:
    """The architecture that JSON describes, itself or under the key `arch`."""
    if isinstance(value, dict) and isinstance(value.get("arch"), dict):
        value = value["arch"]
    space = value.get("space", next((FIELDS[key] for key in FIELDS if key in value), None)) if isinstance(value, dict) else None
    if not isinstance(space, str):
        raise OutOfSpaceError(f"this JSON describes no architecture: it needs the field 'space' and one of {', '.join(FIELDS)}")
    return make_space(space, SPACE_OPTIONS.get(space)).from_config(value)


def train(config: TrainConfig, out: Path, resume: bool = False) -> int:
    """Trains to the end, or until Ctrl-C; returns the exit code."""
    assert config.arch is not None
    console, device, arch = Console(), make_device(config.device), read_arch(config.arch)
    recipe = make_recipe(config.recipe, arch.space)
    data = load(config.dataset, config.seed, recipe.validation, config.data_dir)
    trainer = Trainer(arch, data, recipe, device, config.seed, config.epochs, config.batch_size)
    if resume:
        restore(trainer, out)
    else:
        results.write_json(str(out), "config.json", {"config": config.model_dump(exclude={"out"})} | provenance())
    counts = f"{len(data.train)} images to train, {len(data.valid)} to validate, {len(data.test)} to test"
    console.out(f"{arch.space} {arch.id} on {config.dataset} ({counts}), recipe {recipe.name}, {device}")
    console.out(f"{trainer.parameters:,} parameters, {trainer.flops / 1e6:,.1f} M multiply-accumulates; {out}")
    writer = SummaryWriter(str(out / "tensorboard"))
    try:
        while trainer.epoch < trainer.epochs:
            _epoch(trainer, writer, console)
            save(trainer, out)
        _finish(trainer, out, console)
    except KeyboardInterrupt:
        resume_command = f"python -m raynas.train --resume {shlex.quote(str(out))}"
        console.out(f"Interrupted after {trainer.epoch} of {trainer.epochs} epochs. Go on with: {resume_command}")
        return INTERRUPTED
    finally:
        writer.close()
    return DONE


def _epoch(trainer: Trainer, writer: SummaryWriter, console: Console) -> None:
    """One epoch: its line, and its points in TensorBoard."""
    before = trainer.train_seconds
    with console.status(f"epoch {trainer.epoch + 1} of {trainer.epochs}"):
        report = trainer.train_epoch()
        valid = trainer.evaluate("valid")
    for name, value in (report | {"valid_accuracy": valid}).items():
        if name != "epoch":
            writer.scalar(name, value, trainer.epoch)
    console.out(
        f"epoch {trainer.epoch:3}/{trainer.epochs}  loss {report['train_loss']:.4f}  "
        f"train {_percent(report['train_accuracy'])}  valid {_percent(valid)}  {trainer.train_seconds - before:.1f} s"
    )


def _finish(trainer: Trainer, out: Path, console: Console) -> None:
    """The final accuracies, and the network."""
    accuracies = {f"{split}_accuracy": trainer.evaluate(split) for split in ("valid", "test")}
    save_model(trainer, out)
    costs = {"parameters": trainer.parameters, "flops": trainer.flops, "train_seconds": trainer.train_seconds}
    results.write_json(str(out), "result.json", {"epochs": trainer.epoch} | accuracies | costs)
    console.out(f"validation accuracy {_percent(accuracies['valid_accuracy'])}")
    console.out(f"test accuracy       {_percent(accuracies['test_accuracy'])}")
    console.out(f"Network:     {out / MODEL} (raynas.train.load_model)")
    console.out(f"TensorBoard: tensorboard --logdir {shlex.quote(str(out / 'tensorboard'))}")


def _percent(accuracy: float | None) -> str:
    return "none held out" if accuracy is None else f"{100 * accuracy:.2f} %"


# Files


def save(trainer: Trainer, out: Path) -> None:
    """Writes the checkpoint, in one step."""
    _write(out, CHECKPOINT, trainer.state_dict())


def restore(trainer: Trainer, out: Path) -> None:
    """Goes on from the checkpoint in `out`; without one, the training begins.

    Raises:
        ResumeError: the checkpoint is damaged, or of another training.
    """
    if (out / CHECKPOINT).exists():
        trainer.load_state_dict(_read(out / CHECKPOINT, trainer.device))


def save_model(trainer: Trainer, out: Path) -> None:
    """Writes the weights as `model.pt`, and beside it as `model.json` all that `load_model` needs to know."""
    data = trainer.data
    described = {
        "arch": trainer.arch.to_config(),
        "classes": data.classes,
        "image_size": data.image_size,
        "image_channels": data.channels,
        "network": dict(trainer.recipe.networks[trainer.arch.space]),
        "mean": data.mean,
        "std": data.std,
    }
    results.write_json(str(out), "model.json", described)
    _write(out, MODEL, trainer.network.state_dict())


def load_model(folder: str | Path, device: str = "cpu") -> nn.Module:
    """The trained network in the folder of a training, ready to classify.

    It maps images (n, image_channels, image_size, image_size), float32 in [0, 1], to logits (n, classes).

    Raises:
        ResultsError: the folder holds no finished training.
        ResumeError: the weights are damaged, or not of this architecture.
    """
    folder = Path(folder)
    described = results.read_json(str(folder), "model.json")
    sizes = described["classes"], described["image_size"], described["image_channels"]
    network = make_network(_described(described), *sizes, **described["network"])
    try:
        network.load_state_dict(_read(folder / MODEL, torch.device("cpu")))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ResumeError(f"the weights in {folder / MODEL} are not those of the network in model.json: {reason}") from error
    return nn.Sequential(Normalize(tuple(described["mean"]), tuple(described["std"])), network).eval().to(make_device(device))


def _write(out: Path, name: str, state: Any) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    fs, path = results.filesystem(str(out))
    results.write_bytes(fs, f"{path}/{name}", buffer.getbuffer())


def _read(path: Path, device: torch.device) -> Any:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load promises no type of error for a file that is damaged
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ResumeError(f"{path} is missing or damaged: {reason}") from error


if __name__ == "__main__":
    sys.exit(main())
