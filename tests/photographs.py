"""A small folder of photographs of several sizes, shapes and modes, whose classes a network learns within seconds."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("coarse", "fine", "plain")  # stripes of two widths, and none


def write_photographs(folder: Path, count: int, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> None:
    """`count` images a class, in a folder each: JPEG and PNG, in colour, grey and CMYK, wide and high."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            height, width = rng.integers(40, 90, 2)
            period = {"coarse": 16, "fine": 4, "plain": 10_000}[name]
            stripes = (np.arange(width) + rng.integers(period)) % period < period // 2
            image = rng.normal(110 + 90 * stripes[None, :, None], 10, (height, width, 3)).clip(0, 255).astype(np.uint8)
            mode, suffix = [("RGB", "jpg"), ("L", "png"), ("CMYK", "jpg"), ("RGB", "png")][i % 4]
            Image.fromarray(image).convert(mode).save(folder / name / f"{i}.{suffix}")
