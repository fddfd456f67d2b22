"""The files of a training: what to train, the checkpoint, and the trained network; in a folder on a local path or any URI."""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from raynas import storage
from raynas.arch import Arch
from raynas.errors import RaynasError, ResultsError, ResumeError
from raynas.outcome import as_number
from raynas.spaces import SearchSpace, describe, make_space
from raynas.trust import check_code, vouched
from trainables.learning.networks import make_network
from trainables.learning.photos import View
from trainables.learning.team import dumped
from trainables.learning.trainer import Normalize, Trainer, make_device

CHECKPOINT, MODEL, DESCRIPTION = "checkpoint.pt", "model.pt", "model.json"


@dataclass(frozen=True)
class Subject:
    """An architecture, and its space as a user names it."""

    space: str  # a registered name, or module:Class
    space_options: Mapping[str, Any] | None
    arch: Arch

    @classmethod
    def read(cls, value: Mapping[str, Any] | str, space: str | None = None, space_options: Mapping[str, Any] | None = None) -> "Subject":
        """The one that JSON or a text describes (`raynas.spaces.describe`, which also says what it raises)."""
        arch = describe(value, space, space_options)
        return cls(space or arch.space, space_options, arch)

    def make_space(self) -> SearchSpace:
        """The space of the architecture."""
        return make_space(self.space, self.space_options)


def restore(trainer: Trainer, folder: str) -> None:
    """Goes on from the checkpoint in `folder`; without one, the training begins.

    Raises:
        ResumeError: the checkpoint is damaged, or of another training.
        ResultsError: the storage does not answer.
    """
    if storage.exists(folder, CHECKPOINT):
        trainer.load_state_dict(read_state(folder, CHECKPOINT, trainer.device))


def save_model(trainer: Trainer, subject: Subject, weights: Mapping[str, Tensor], folder: str) -> int:
    """Writes the weights of `trainer.network` as MODEL, and beside it as DESCRIPTION all that `read_model` needs to know.

    Returns the size of MODEL in bytes.

    Raises:
        ResultsError: the storage refuses.
    """
    data = trainer.data
    described = {
        "space": subject.space,
        "space_options": subject.space_options,
        "arch": trainer.arch.to_config(),
        "classes": data.classes,
        "image_size": data.image_size,
        "image_channels": data.channels,
        "network": dict(trainer.recipe.network_options(trainer.space.name)),
        "mean": data.mean,
        "std": data.std,
        "class_names": data.class_names,
        "view": None if data.view is None else asdict(data.view),
    }
    storage.write_json(folder, DESCRIPTION, described)
    content = dumped(weights)
    write(folder, MODEL, content)
    return len(content)


@dataclass(frozen=True)
class Model:
    """A trained network, and what it takes and tells."""

    network: nn.Module  # images (n, channels, image_size, image_size), float32 in [0, 1] -> logits (n, classes)
    class_names: tuple[str, ...]  # (classes,)
    view: View  # how a photograph becomes such an image
    channels: int


def load_model(folder: str | Path, device: str = "cpu", *, trust: bool = False) -> nn.Module:
    """The trained network in the folder of a training, a path or a URI, ready to classify.

    It maps images (n, image_channels, image_size, image_size), float32 in [0, 1], to logits (n, classes). Errors as `read_model`.
    """
    return read_model(folder, device, trust=trust).network


def read_model(folder: str | Path, device: str = "cpu", *, trust: bool = False) -> Model:
    """The trained network in the folder of a training, a path or a URI, with what is known of it.

    Args:
        trust: whether the space may be code of another module, though the training is not the user's own.

    Raises:
        ConfigError: it names such code, and `trust` is not given.
        ResultsError: the folder holds no finished training.
        ResumeError: the weights are damaged, or not of this architecture.
    """
    folder = str(folder)
    if not storage.exists(folder, DESCRIPTION):
        raise ResultsError(f"{folder} holds no trained network; take the folder that raynas.train has left")
    described = storage.read_mapping(folder, DESCRIPTION)
    missing = {"arch", "classes", "image_size", "image_channels", "network", "mean", "std"} - described.keys()
    if missing:
        raise ResultsError(f"{storage.join(folder, DESCRIPTION)} is damaged: it lacks {', '.join(sorted(missing))}")
    file = storage.join(folder, DESCRIPTION)
    told = space_told(described, file)
    if not trust and not vouched(folder, told):
        check_code(file, told, {}, own=False)
    subject = Subject.read(described["arch"], **told)
    sizes = [described[key] for key in ("classes", "image_size", "image_channels")]
    if not all(isinstance(size, int) and 0 < size < 1 << 20 for size in sizes) or not isinstance(described["network"], dict):
        raise ResultsError(f"{file} is damaged: sizes must be positive whole numbers, and network a mapping")
    if not all(_numbers(described[key]) for key in ("mean", "std")):
        raise ResultsError(f"{file} is damaged: mean and std must be lists of numbers")
    names, view = _names(described, file), _view(described, file)
    network = make_network(subject.make_space(), subject.arch, *sizes, **described["network"])
    try:
        network.load_state_dict(read_state(folder, MODEL, torch.device("cpu")))
    except (RuntimeError, TypeError) as error:
        reason, file = " ".join(str(error).split())[:200], storage.join(folder, MODEL)
        raise ResumeError(f"the weights in {file} are not those of the network in {DESCRIPTION}: {reason}") from error
    whole = nn.Sequential(Normalize(tuple(described["mean"]), tuple(described["std"])), network).eval().to(make_device(device))
    return Model(whole, names, view, sizes[2])


def _names(described: Mapping[str, Any], file: str) -> tuple[str, ...]:
    """The names of the classes; models of version 0.1 have numbers."""
    classes = described["classes"]
    names = described.get("class_names") or [str(number) for number in range(classes)]
    if not isinstance(names, list) or len(names) != classes or not all(isinstance(name, str) for name in names):
        raise ResultsError(f"{file} is damaged: class_names must be {classes} texts")
    return tuple(names)


def _view(described: Mapping[str, Any], file: str) -> View:
    """What the network sees of a photograph; where it was trained on images of one size, the middle of it at this size."""
    size = described["image_size"]
    try:
        view = TypeAdapter(View).validate_python(described.get("view") or {"image_size": size, "resize": size})
    except ValidationError as error:
        raise ResultsError(f"{file} is damaged: view must hold image_size, resize and fit, not {described['view']!r}") from error
    if not size == view.image_size <= view.resize < 1 << 14:
        raise ResultsError(f"{file} is damaged: no image of {view.image_size} pixels, for a network of {size}, is cut from {view.resize}")
    return view


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(as_number(value) is not None for value in values)


def space_told(described: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The settings `space` and `space_options` in a file.

    Raises:
        ResultsError: they are none.
    """
    space, options = described.get("space"), described.get("space_options")
    if not isinstance(space, str | None) or not isinstance(options, dict | None):
        raise ResultsError(f"{file} is damaged: space must be a text and space_options a mapping, not {space!r} and {options!r}")
    return {"space": space, "space_options": options}


def write(folder: str, name: str, content: bytes) -> None:
    """Writes a file in one step; raises ResultsError where the storage refuses."""
    fs, root = storage.filesystem(folder)
    storage.write_bytes(fs, f"{root}/{name}", content)


def read_state(folder: str, name: str, device: torch.device) -> Any:
    """What torch saved in a file: tensors, numbers and texts only.

    Raises:
        ResumeError: it is missing or damaged.
        ResultsError: the storage does not answer.
    """
    fs, root = storage.filesystem(folder)
    try:
        return torch.load(io.BytesIO(storage.read_bytes(fs, f"{root}/{name}")), map_location=device, weights_only=True)
    except RaynasError:
        raise
    except Exception as error:  # torch.load promises no type of error for a file that is damaged
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ResumeError(f"{storage.join(folder, name)} is missing or damaged: {reason}") from error
