"""`python -m raynas.train`: trains one architecture and leaves a folder with the network.

ARCH is the `best.json` of a search or the folder of one, an architecture as JSON, a string of NAS-Bench-201, or the name of a
published architecture. With --workers or --address, workers of a Ray cluster train it together (DistributedDataParallel); files
stay on this machine, and no folder has to be shared.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from torch import Tensor, nn

from raynas import storage
from raynas.arch import Arch
from raynas.cli import DONE, INTERRUPTED, Parser, add_flags, run_command
from raynas.config import make_config, provenance
from raynas.errors import ConfigError, OutOfSpaceError, ResultsError, ResumeError
from raynas.registry import unknown
from raynas.run.tensorboard import SummaryWriter
from raynas.spaces import make_space, published
from trainables.learning.checkpoints import Alone, Team, dumped
from trainables.learning.data import load
from trainables.learning.export import check_format, export
from trainables.learning.networks import make_network
from trainables.learning.recipes import make_recipe
from trainables.learning.trainer import Normalize, Trainer, check_shares, make_device

FIELDS = {"normal": "darts", "adjacency": "nasbench101", "arch": "nasbench201"}  # a field that tells the space
SPACE_OPTIONS = {"darts": {"with_none": True}}  # published cells may have this operation
PUBLISHED = published()

CHECKPOINT, MODEL = "checkpoint.pt", "model.pt"


class TrainConfig(BaseModel):
    """Everything that defines a training. It is written to `config.json` in its folder before the first epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    arch: str | None = Field(None, description="what to train: best.json, JSON, a string of NAS-Bench-201, or a name")
    dataset: str = Field("cifar10", description="digits, cifar10, cifar100, svhn, fashion-mnist, folder:PATH or module:function")
    recipe: str | None = Field(None, description="how to train; without it, as the publication of the search space does; digits: quick")
    epochs: int | None = Field(None, gt=0, description="without it, those of the recipe")
    batch_size: int | None = Field(None, gt=1, description="of all workers together; without it, that of the recipe")
    label_smoothing: float | None = Field(None, ge=0, lt=1, description="without it, that of the recipe")
    seed: int = Field(0, ge=0, description="seed of the training and of the choice of validation images")
    device: str = Field("auto", description="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one")
    workers: int = Field(1, gt=0, description="processes that train together, each on a GPU if there are any, else on a CPU core")
    address: str | None = Field(None, description="Ray cluster of the workers; without it a running one on this machine, else a new one")
    compile: bool = Field(False, description="lets torch.compile make the network faster; needs a C++ compiler")
    data_dir: str | None = Field(None, description="where data sets are kept; without it, ~/.cache/raynas")
    export: str | None = Field(None, description="also writes the trained network as torch-export (model.pt2) or onnx (model.onnx)")
    out: str | None = Field(None, description="folder of the training; without it, a new one in runs/")


RESUMABLE = frozenset({"batch_size", "device", "workers", "address", "compile", "data_dir", "export"})
"""What may differ when a training is resumed."""


def parser() -> Parser:
    """The command line."""
    published = "published architectures:\n" + "\n".join(f"  {name:16}{entry.source}" for name, entry in PUBLISHED.items())
    made = Parser(
        prog="python -m raynas.train",
        description=(__doc__ or "").partition("\n\n")[2],
        epilog=published,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
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
        stored = _read_mapping(folder, "config.json").get("config", {})
        if not isinstance(stored.get("arch"), str):
            raise ResultsError(f"{folder} holds no training, but perhaps a search; --resume takes what raynas.train has begun")
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
        return _described(PUBLISHED[text].config)
    if text.startswith("|"):
        return _described({"space": "nasbench201", "arch": text})
    if text.lstrip().startswith("{"):
        try:
            return _described(json.loads(text))
        except json.JSONDecodeError as error:
            raise OutOfSpaceError(f"the architecture is not valid JSON: {error}") from error
    if "://" in text or os.path.exists(os.path.expanduser(text)):  # unlike Path's, it takes texts of any length
        folder, name = os.path.split(text)
        value = storage.read_json(folder or ".", name) if name.endswith(".json") else storage.read_json(text, "best.json")
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
    console, team, arch = Console(), _team(config), read_arch(config.arch)
    recipe = make_recipe(config.recipe, arch.space, config.dataset)
    if config.label_smoothing is not None:
        recipe = replace(recipe, label_smoothing=config.label_smoothing)
    check_shares(config.batch_size or recipe.batch_size, config.workers)
    if config.export is not None:
        check_format(config.export)
    data = load(config.dataset, config.seed, recipe.validation, config.data_dir)
    trainer = Trainer(arch, data, recipe, team.device, config.seed, config.epochs, config.batch_size, compiled=config.compile)
    if resume:
        restore(trainer, out)
    with team:
        if not resume:
            storage.write_json(str(out), "config.json", {"config": config.model_dump(exclude={"out"})} | provenance())
        counts = f"{len(data.train)} images to train, {len(data.valid)} to validate, {len(data.test)} to test"
        console.out(f"{arch.space} {arch.id} on {config.dataset} ({counts}), recipe {recipe.name}, {team}")
        console.out(f"{trainer.parameters:,} parameters, {trainer.flops / 1e6:,.1f} M multiply-accumulates; {out}")
        return _train(trainer, team, config, out, console)


def _team(config: TrainConfig) -> Team:
    """Who trains: without need of Ray, this process."""
    if config.workers == 1 and config.address is None:
        return Alone(config.device)
    from raynas.run.connect import connect  # loads Ray
    from trainables.learning.workers import RayWorkers

    return RayWorkers(config.workers, config.device, partial(connect, config.address))


def _train(trainer: Trainer, team: Team, config: TrainConfig, out: Path, console: Console) -> int:
    """Lets the team train, and writes down and shows what it tells; returns the exit code."""
    writer, epoch, seconds = SummaryWriter(str(out / "tensorboard")), trainer.epoch, trainer.train_seconds
    stream = team.train(trainer)
    try:
        while True:
            with console.status(f"epoch {epoch + 1} of {trainer.epochs}" if epoch < trainer.epochs else "testing"):
                progress = next(stream)
            if progress.state is None:
                break
            _write(out, CHECKPOINT, progress.state)
            epoch += 1
            _show(progress.report, seconds, trainer.epochs, writer, console)
            seconds = progress.report["train_seconds"] or seconds
        _finish(trainer, progress.report, config.export, out, console)
    except KeyboardInterrupt:
        resume_command = f"python -m raynas.train --resume {shlex.quote(str(out))}"
        console.out(f"Interrupted after {epoch} of {trainer.epochs} epochs. Go on with: {resume_command}")
        return INTERRUPTED
    finally:
        writer.close()
    return DONE


def _show(report: Mapping[str, float | None], seconds: float, epochs: int, writer: SummaryWriter, console: Console) -> None:
    """The line of an epoch, before which `seconds` were spent on training, and its points in TensorBoard."""
    values = {name: value for name, value in report.items() if value is not None}
    epoch = int(values.pop("epoch"))
    for name, value in values.items():
        writer.scalar(name, value, epoch)
    console.out(
        f"epoch {epoch:3}/{epochs}  loss {values['train_loss']:.4f}  train {_percent(values['train_accuracy'])}  "
        f"valid {_percent(report['valid_accuracy'])}  {values['train_seconds'] - seconds:.1f} s"
    )


def _finish(trainer: Trainer, accuracies: Mapping[str, float | None], format: str | None, out: Path, console: Console) -> None:
    """The final accuracies, and the network."""
    state = _read(out / CHECKPOINT, torch.device("cpu"))
    save_model(trainer, state["network"], out)
    costs = {"parameters": trainer.parameters, "flops": trainer.flops, "train_seconds": state["train_seconds"]}
    storage.write_json(str(out), "result.json", {"epochs": state["epoch"]} | dict(accuracies) | costs)
    console.out(f"validation accuracy {_percent(accuracies['valid_accuracy'])}")
    console.out(f"test accuracy       {_percent(accuracies['test_accuracy'])}")
    console.out(f"Network:     {out / MODEL} (raynas.train.load_model)")
    if format is not None:
        name, content = export(load_model(out), format, trainer.data.channels, trainer.data.image_size)
        _write(out, name, content)
        console.out(f"Export:      {out / name}")
    console.out(f"TensorBoard: tensorboard --logdir {shlex.quote(str(out / 'tensorboard'))}")


def _percent(accuracy: float | None) -> str:
    return "none held out" if accuracy is None else f"{100 * accuracy:.2f} %"


# Files


def restore(trainer: Trainer, out: Path) -> None:
    """Goes on from the checkpoint in `out`; without one, the training begins.

    Raises:
        ResumeError: the checkpoint is damaged, or of another training.
    """
    if (out / CHECKPOINT).exists():
        trainer.load_state_dict(_read(out / CHECKPOINT, trainer.device))


def save_model(trainer: Trainer, weights: Mapping[str, Tensor], out: Path) -> None:
    """Writes the weights of `trainer.network` as `model.pt`, and beside it as `model.json` all that `load_model` needs to know."""
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
    storage.write_json(str(out), "model.json", described)
    _write(out, MODEL, dumped(weights))


def load_model(folder: str | Path, device: str = "cpu") -> nn.Module:
    """The trained network in the folder of a training, ready to classify.

    It maps images (n, image_channels, image_size, image_size), float32 in [0, 1], to logits (n, classes).

    Raises:
        ResultsError: the folder holds no finished training.
        ResumeError: the weights are damaged, or not of this architecture.
    """
    folder = Path(folder)
    described = _read_mapping(str(folder), "model.json")
    missing = {"arch", "classes", "image_size", "image_channels", "network", "mean", "std"} - described.keys()
    if missing:
        raise ResultsError(f"{folder / 'model.json'} is damaged: it lacks {', '.join(sorted(missing))}")
    sizes = described["classes"], described["image_size"], described["image_channels"]
    network = make_network(_described(described), *sizes, **described["network"])
    try:
        network.load_state_dict(_read(folder / MODEL, torch.device("cpu")))
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ResumeError(f"the weights in {folder / MODEL} are not those of the network in model.json: {reason}") from error
    return nn.Sequential(Normalize(tuple(described["mean"]), tuple(described["std"])), network).eval().to(make_device(device))


def _read_mapping(folder: str, name: str) -> dict[str, Any]:
    value = storage.read_json(folder, name)
    if not isinstance(value, dict):
        raise ResultsError(f"{storage.join(folder, name)} is damaged: it must hold a mapping, not {type(value).__name__}")
    return value


def _write(out: Path, name: str, content: bytes) -> None:
    fs, path = storage.filesystem(str(out))
    storage.write_bytes(fs, f"{path}/{name}", content)


def _read(path: Path, device: torch.device) -> Any:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load promises no type of error for a file that is damaged
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ResumeError(f"{path} is missing or damaged: {reason}") from error


if __name__ == "__main__":
    sys.exit(main())
