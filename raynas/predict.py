"""`python -m raynas.predict MODEL IMAGE...`: what a trained network takes images for.

MODEL is the folder that raynas.train has left. IMAGE is a file, or a folder of files at any depth. Exit code 1 where an image could not be
read; the others are classified all the same.
"""

from raynas import signals

if __name__ == "__main__":
    signals.install()  # before what takes its time to load

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale

from raynas.cli import DONE, FAILED, Parser, printable, program, run_command
from raynas.errors import ConfigError, ResultsError
from trainables.learning.augmentation import middle
from trainables.learning.listing import images_in
from trainables.learning.model_file import DESCRIPTION, MODEL, Model, read_model
from trainables.learning.photos import DamagedImage, pixels
from trainables.learning.splits import fractions

logger = logging.getLogger(__name__)

BATCH = 32  # images that are classified at a time


class Prediction(NamedTuple):
    """What a network takes an image for."""

    path: str
    classes: list[tuple[str, float]]  # the likeliest ones and their probabilities, from the highest on


def parser() -> Parser:
    """The command line."""
    made = Parser(prog=program("predict"), description=(__doc__ or "").partition("\n\n")[2], allow_abbrev=False)
    made.add_argument("model", metavar="MODEL", help="folder of a training, a path or a URI")
    made.add_argument("images", metavar="IMAGE", nargs="+", help="a file, or a folder of files")
    made.add_argument("--top", type=int, default=3, metavar="N", help="how many classes are told of each image (default: 3)")
    made.add_argument("--json", action="store_true", help="prints a list of objects instead of a table")
    made.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one")
    made.add_argument("--trust", action="store_true", help="loads the code that MODEL names, though it is not your own")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m raynas.predict --help`."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    if options.top < 1:
        raise ConfigError(f"--top must be at least 1, not {options.top}")
    paths = _files(options.images)
    model = read_model(_folder(options.model), options.device, trust=options.trust)
    found = list(_told(predict(model, paths, options.top), paths, options.json))
    return DONE if len(found) == len(paths) else FAILED


def _folder(text: str) -> str:
    """The folder of a training, of which one of its files may be named."""
    path = os.path.expanduser(text)
    return os.path.dirname(path) or "." if os.path.basename(path) in (MODEL, DESCRIPTION) else path


def _files(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in map(os.path.expanduser, names):
        if os.path.isdir(name):
            inside = images_in(Path(name))
            if not inside:
                raise ResultsError(f"the folder {name} holds no images")
            found += inside
        elif os.path.exists(name):
            found.append(name)
        else:
            raise ResultsError(f"there is no file {name}")
    return found


def predict(model: Model, paths: Sequence[str | os.PathLike[str]], top: int = 3) -> Iterator[Prediction]:
    """What the network takes the images in files for, in their order; one that cannot be read is told to the log and left out."""
    device = next(model.network.parameters()).device
    with ThreadPoolExecutor(min(BATCH, torch.get_num_threads())) as pool, torch.inference_mode():
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            read = [(os.fspath(path), image) for path, image in zip(batch, pool.map(partial(_image, model), batch), strict=True)]
            good = [(path, image) for path, image in read if image is not None]
            if good:
                logits = model.network(torch.stack([image for _, image in good]).to(device)).float()
                values, indices = logits.softmax(1).topk(min(top, len(model.class_names)))
                for (path, _), row, places in zip(good, values.tolist(), indices.tolist(), strict=True):
                    yield Prediction(path, [(model.class_names[i], value) for i, value in zip(places, row, strict=True)])


def _image(model: Model, path: str | os.PathLike[str]) -> Tensor | None:
    """(channels, image_size, image_size) in [0, 1]; None where it cannot be read."""
    try:
        image = torch.from_numpy(pixels(path, model.view).copy()).permute(2, 0, 1)
    except DamagedImage as error:
        logger.warning("%s", error)
        return None
    return fractions(middle(image if model.channels == 3 else rgb_to_grayscale(image), model.view.image_size))


def _told(predictions: Iterator[Prediction], paths: Sequence[str], as_json: bool) -> Iterator[Prediction]:
    """The predictions, each printed when it is made."""
    width, before = max(map(len, paths)), "["
    for found in predictions:
        if as_json:
            told = [{"class": name, "probability": round(value, 6)} for name, value in found.classes]
            print(before, json.dumps({"path": found.path, "classes": told}, ensure_ascii=False), sep="\n", end="", flush=True)
            before = ","
        else:
            print(
                f"{found.path:<{width}}", *(f"{printable(name)} {100 * value:.1f} %" for name, value in found.classes), sep="  ", flush=True
            )
        yield found
    if as_json:
        print("[]" if before == "[" else "\n]")


if __name__ == "__main__":
    sys.exit(main())
