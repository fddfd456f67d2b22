"""`python -m raynas.train`: trains one architecture and leaves a folder with the network.

ARCH is the `best.json` of a search or the folder of one, an architecture as JSON, a string of NAS-Bench-201, or the name of a
published architecture. With --workers or --address, workers of a Ray cluster train it together (DistributedDataParallel); this
process reads and writes the files, and no folder has to be shared.
"""

from raynas import signals

if __name__ == "__main__":
    signals.install()  # before what takes its time to load

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from torch import Tensor

from raynas import storage
from raynas.cli import DONE, INTERRUPTED, Parser, add_flags, printable, program, run_command
from raynas.config import assign, make_config, provenance
from raynas.errors import ConfigError, RaynasError, ResultsError, ResumeError
from raynas.run.lock import Lock, check_free, refuse_held
from raynas.run.tensorboard import SummaryWriter
from raynas.run.writer import insist
from raynas.spaces import published
from raynas.trust import check_code, is_own, modules, signed, vouched
from trainables.learning.data import load
from trainables.learning.export import check_format, export
from trainables.learning.model_file import CHECKPOINT, MODEL, Subject, read_state, restore, save_model, space_told, write
from trainables.learning.model_file import load_model as load_model
from trainables.learning.recipes import make_recipe, read_recipe
from trainables.learning.team import Alone, Team
from trainables.learning.testing import ClassResult, as_json, by_class, latency
from trainables.learning.trainer import Trainer, check_shares, device_name

_SIGNS = ("config.json",)  # of a folder that holds a training
_WORST = 10  # classes whose results are shown
CHOICES = ("recommended", "observed")  # which of two architectures of a best.json is trained


class TrainConfig(BaseModel):
    """Everything that defines a training. It is written to `config.json` in its folder before the first epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    arch: str | None = Field(None, description="what to train: best.json, JSON, a string of NAS-Bench-201, or a name")
    space: str | None = Field(None, description="search space of the architecture, as module:Class where it is one of your own")
    space_options: dict[str, Any] | None = Field(None, description="settings of the space")
    dataset: str = Field("cifar10", description="digits, cifar10, cifar100, svhn, fashion-mnist, folder:PATH or module:function")
    recipe: str | dict[str, Any] | None = Field(
        None, description="how to train: a name or FILE.yaml; without it, as the publication of the search space does; digits: quick"
    )
    epochs: int | None = Field(None, gt=0, description="without it, those of the recipe")
    batch_size: int | None = Field(None, gt=1, description="of all workers together; without it, that of the recipe")
    label_smoothing: float | None = Field(None, ge=0, lt=1, description="without it, that of the recipe")
    seed: int = Field(0, ge=0, description="seed of the training and of the choice of validation images")
    device: str = Field("auto", description="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one")
    workers: int = Field(1, gt=0, description="processes that train together, each on a GPU if there are any, else on a CPU core")
    address: str | None = Field(None, description="Ray cluster of the workers; without it a running one on this machine, else a new one")
    compile: bool = Field(False, description="lets torch.compile make the network faster; needs a C++ compiler")
    cuda_graphs: bool = Field(False, description="lets a GPU replay training steps: less work for the CPU, more memory on the GPU")
    data_dir: str | None = Field(None, description="where data sets are kept; without it, ~/.cache/raynas")
    export: str | None = Field(None, description="also writes the trained network as torch-export (model.pt2) or onnx (model.onnx)")
    out: str | None = Field(None, description="folder of the training: a path or a URI; without it, a new one in runs/")


RESUMABLE = frozenset({"batch_size", "device", "workers", "address", "compile", "cuda_graphs", "data_dir", "export"})
"""What may differ when a training is resumed."""


def parser() -> Parser:
    """The command line."""
    listed = "published architectures:\n" + "\n".join(f"  {name:16}{entry.source}" for name, entry in published().items())
    made = Parser(
        prog=program("train"),
        description=(__doc__ or "").partition("\n\n")[2],
        epilog=listed,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="any setting, e.g. recipe.learning_rate=0.05")
    made.add_argument("--resume", metavar="DIR", help="goes on with the interrupted training in this folder, a path or a URI")
    made.add_argument("--trust", action="store_true", help="loads the code that --arch or --resume names, though it is not your own")
    chosen = f"of a search's best.json, if they differ (default: {CHOICES[0]})"
    made.add_argument("--choose", choices=CHOICES, default=CHOICES[0], help=f"which architecture {chosen}")
    add_flags(made, TrainConfig)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m raynas.train --help`."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    flags = vars(parser().parse_args(argv))
    folder, choose, trust = (flags.pop(name) for name in ("resume", "choose", "trust"))
    given = _given(flags, flags.pop("set"))
    if folder is not None:
        return _resume(folder, given, choose, trust)
    config = make_config(given, TrainConfig)
    if config.arch is None:
        raise ConfigError(f"--arch is missing: a best.json, JSON, a string of NAS-Bench-201, or one of {', '.join(published())}")
    subject, note = read_subject(config.arch, config.space, config.space_options, choose, trust)
    if note is not None:
        Console(soft_wrap=True).print(note, highlight=False)
    config = config.model_copy(update=_told(subject))
    out = config.out or f"runs/train-{config.dataset.partition(':')[0]}-{datetime.now():%Y%m%d-%H%M%S}"
    out = out if "://" in out else os.path.expanduser(out)
    refuse_held(out)
    check_free(out, _SIGNS)
    return train(config, out)


def _given(flags: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """The settings of flags and --set; a recipe that both name is that of the flag with the changes of --set."""
    values: dict[str, Any] = {}
    if "recipe" in flags:
        values["recipe"] = recipe = read_recipe(flags["recipe"])
        if isinstance(recipe, str) and any(text.startswith("recipe.") for text in assignments):
            values["recipe"] = {"base": recipe}
    assign(values, assignments)
    if isinstance(values.get("recipe"), str):
        values["recipe"] = read_recipe(values["recipe"])
    return values | {key: value for key, value in flags.items() if key != "recipe"}


def _resume(folder: str, given: dict[str, Any], choose: str, trust: bool) -> int:
    """Goes on with the training in `folder`."""
    stored = storage.read_config(folder)
    if not isinstance(stored.get("arch"), str):
        raise ResultsError(f"{folder} holds no training, but perhaps a search; --resume takes what raynas.train has begun")
    own = trust or is_own(folder)
    check_code(storage.join(folder, "config.json"), stored, given, own)
    stored |= _told(Subject.read(stored["arch"], **space_told(stored, storage.join(folder, "config.json"))))  # of earlier versions, too
    given.pop("out", None)
    if "arch" in given:
        given |= _told(read_subject(given["arch"], given.get("space"), given.get("space_options"), choose, trust)[0])
    for key, value in given.items():
        if key not in RESUMABLE and stored.get(key) != value:
            raise ResumeError(
                f"the training in {folder} has {key} = {stored.get(key)}, so it cannot go on with {value}; "
                "leave that out, or start a new training with another --out"
            )
    return train(make_config(stored | given, TrainConfig), folder, resume=True)


def _told(subject: Subject) -> dict[str, Any]:
    """What the configuration says about what is trained."""
    return {"arch": json.dumps(subject.arch.to_config()), "space": subject.space, "space_options": subject.space_options}


def read_subject(
    text: str, space: str | None = None, options: Mapping[str, Any] | None = None, choose: str = CHOICES[0], trust: bool = False
) -> tuple[Subject, str | None]:
    """The architecture that a user names, and a line about it where a search left two: the recommended one and the best observed.

    Args:
        space: of the architecture; None: the one that is told with it.
        choose: which of the two is taken.
        trust: whether code that the file names is loaded, though the run beside it is not the user's own.

    Raises:
        ConfigError: the file names code that the user has not named.
        UnknownNameError: it is no known name, no file and no description.
        OutOfSpaceError: the description is wrong.
        ResultsError: the file cannot be read.
    """
    path = os.path.expanduser(text)  # unlike Path, os.path takes texts of any length
    if text in published() or not ("://" in text or text.endswith(".json") or os.path.exists(path)):
        return Subject.read(text, space, options), None
    folder, name = os.path.split(path) if text.endswith(".json") else (path, "best.json")
    value = storage.read_mapping(folder or ".", name)
    told = space_told(value, text)
    given = {"space": space or told["space"], "space_options": told["space_options"] if options is None else options}
    check_code(text, given, {"space": space, "space_options": options}, trust or vouched(folder or ".", given))
    if not isinstance(value.get("arch"), dict):  # a file with an architecture alone
        return Subject.read(value, space, options), None
    if space is None:
        space, options = told["space"], told["space_options"] if options is None else options
    found = {"recommended": value.get("recommended") or value["arch"], "observed": value["arch"]}
    read = {key: Subject.read(arch, space, options) for key, arch in found.items()}
    taken, other = read[choose], next(key for key in CHOICES if key != choose)
    if taken.arch == read[other].arch:
        return taken, None
    names = {"recommended": "the recommended architecture", "observed": "the best observed one"}
    return taken, f"{text}: {names[choose]} is {taken.arch.id}, {names[other]} {read[other].arch.id}; --choose {other} trains that one"


def train(config: TrainConfig, out: str, resume: bool = False) -> int:
    """Trains to the end, or until a signal, and leaves all files in the folder `out`, a path or a URI; returns the exit code."""
    assert config.arch is not None
    console, team = Console(), _team(config)
    subject = Subject.read(config.arch, config.space, config.space_options)
    space, arch = subject.make_space(), subject.arch
    recipe = make_recipe(config.recipe, space, config.dataset)
    if config.label_smoothing is not None:
        recipe = replace(recipe, label_smoothing=config.label_smoothing)
    check_shares(config.batch_size or recipe.batch_size, config.workers)
    if config.export is not None:
        check_format(config.export)
    data = load(config.dataset, config.seed, recipe.validation, config.data_dir, recipe.view)
    limits = config.epochs, config.batch_size
    trainer = Trainer(space, arch, data, recipe, team.device, config.seed, *limits, compiled=config.compile, graphs=config.cuda_graphs)
    with Lock(out, _resume_command(out)) as lock, ExitStack() as stack:
        if resume:
            restore(trainer, out)
        else:
            check_free(out, _SIGNS)  # another training may have been here since
            # Before a cluster is joined or started: a folder with a configuration can be resumed, whatever happens next.
            storage.write_json(out, "config.json", signed({"config": config.model_dump(exclude={"out"})} | provenance()))
        _gather(team, stack, out, resume, console)
        stack.enter_context(signals.held())  # but for the training itself
        counts = f"{len(data.train)} images to train, {len(data.valid)} to validate, {len(data.test)} to test"
        console.out(f"{arch.space} {arch.id} on {config.dataset} ({counts}), recipe {recipe.name}, {team}")
        console.out(f"{trainer.parameters:,} parameters, {trainer.flops / 1e6:,.1f} M multiply-accumulates; {out}")
        return _train(trainer, subject, team, config.export, out, console, lock)


def _gather(team: Team, stack: ExitStack, out: str, resume: bool, console: Console) -> None:
    """Has the team at hand for as long as `stack` is open; config.json says on which cluster that is, of the last session with one.

    Raises:
        ConfigError: there is none, or no room; of a new training nothing is left behind.
        KeyboardInterrupt: it is said how to go on.
    """
    try:
        stack.enter_context(team)
    except RaynasError:
        if not resume:
            storage.delete(out, "config.json")
        raise
    except KeyboardInterrupt:
        console.out(f"Nothing is lost. Go on with: {_resume_command(out)}")
        raise
    if team.cluster is not None:
        storage.write_json(out, "config.json", storage.read_mapping(out, "config.json") | {"cluster": team.cluster.to_json()})
        console.out(str(team.cluster), highlight=False)


def _resume_command(out: str) -> str:
    return f"python -m raynas.train --resume {shlex.quote(out)}"


def _team(config: TrainConfig) -> Team:
    """Who trains: without need of Ray, this process."""
    if config.workers == 1 and config.address is None:
        return Alone(config.device)
    from raynas.run.connect import cluster  # loads Ray
    from trainables.learning.workers import RayWorkers

    return RayWorkers(config.workers, config.device, partial(cluster, config.address, modules(config.model_dump())))


def _train(trainer: Trainer, subject: Subject, team: Team, format: str | None, out: str, console: Console, lock: Lock) -> int:
    """Lets the team train, and writes down and shows what it tells; returns the exit code."""
    writer, epoch, seconds = SummaryWriter(storage.join(out, "tensorboard")), trainer.epoch, trainer.train_seconds
    stream = team.train(trainer)
    try:
        with signals.raising():
            while True:
                with console.status(f"epoch {epoch + 1} of {trainer.epochs}" if epoch < trainer.epochs else "testing"):
                    milestone = next(stream)
                if milestone.state is None:
                    break
                lock.check()
                with signals.held():
                    insist(partial(write, out, CHECKPOINT, milestone.state), console.out, _resume_command(out))
                    epoch += 1
                    _show(milestone.report, seconds, trainer.epochs, writer, console)
                    seconds = milestone.report["train_seconds"] or seconds
            assert milestone.confusion is not None
            _finish(trainer, subject, milestone.report, milestone.confusion, format, out, console)
    except KeyboardInterrupt:
        console.out(f"Interrupted after {epoch} of {trainer.epochs} epochs. Go on with: {_resume_command(out)}")
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
    writer.flush()
    console.out(
        f"epoch {epoch:3}/{epochs}  loss {values['train_loss']:.4f}  train {_percent(values['train_accuracy'])}  "
        f"valid {_percent(report['valid_accuracy'])}  {values['train_seconds'] - seconds:.1f} s"
    )


def _finish(
    trainer: Trainer,
    subject: Subject,
    accuracies: Mapping[str, float | None],
    confusion: Tensor,
    format: str | None,
    out: str,
    console: Console,
) -> None:
    """The final accuracies, and the network."""
    state, data = read_state(out, CHECKPOINT, torch.device("cpu")), trainer.data
    size = save_model(trainer, subject, state["network"], out)
    network = load_model(out, str(trainer.device), trust=True)
    costs = trainer.space.cost(trainer.arch)._asdict() | {"network_parameters": trainer.parameters, "network_flops": trainer.flops}
    use = {"latency_ms": latency(network, data.channels, data.image_size), "device": device_name(trainer.device), "model_bytes": size}
    result = {"epochs": state["epoch"], **accuracies, **costs, "train_seconds": state["train_seconds"], **use}
    storage.write_json(out, "result.json", result)
    storage.write_json(out, "test.json", as_json(confusion, data.class_names))
    console.out(f"validation accuracy {_percent(accuracies['valid_accuracy'])}")
    console.out(f"test accuracy       {_percent(accuracies['test_accuracy'])}")
    _show_classes(by_class(confusion, data.class_names), console)
    console.out(f"latency             {use['latency_ms']:.2f} ms for one image on {use['device']}", highlight=False)
    console.out(f"Network:     {storage.join(out, MODEL)}, {size / 2**20:.1f} MiB (raynas.train.load_model)")
    if format is not None:
        name, content = export(network.cpu(), format, data.channels, data.image_size)
        write(out, name, content)
        console.out(f"Export:      {storage.join(out, name)}")
    console.out(f"Use it:      {program('predict')} {shlex.quote(out)} IMAGE ...")
    console.out(f"TensorBoard: tensorboard --logdir {shlex.quote(storage.join(out, 'tensorboard'))}")


def _show_classes(results: list[ClassResult], console: Console) -> None:
    """The classes that were recognised worst; all are in test.json."""
    tested = sorted((result for result in results if result.accuracy is not None), key=lambda result: result.accuracy or 0.0)
    width = max((len(result.name) for result in tested[:_WORST]), default=0)
    for result in tested[:_WORST]:
        mistaken = "" if result.mistaken_for is None else f"  mistaken for {printable(result.mistaken_for)}"
        console.out(f"  {printable(result.name):<{width}}  {_percent(result.accuracy):>8} of {result.images}{mistaken}", highlight=False)
    if len(tested) > _WORST:
        console.out(f"  (the worst of {len(tested)} classes; all are in test.json)", highlight=False)


def _percent(accuracy: float | None) -> str:
    return "none held out" if accuracy is None else f"{100 * accuracy:.2f} %"


if __name__ == "__main__":
    sys.exit(main())
