"""A search space in ten lines, and a search in it on images of your own: `python choice_space.py PHOTOS RUN`."""

import sys

from torch import nn

from raynas import ChoiceSpace, Optional, Ordered, Repeat, run_search


def build(choices, classes, image_size, channels):
    layers, norm = [], {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}[choices["norm"]]
    for block in choices["blocks"]:
        layers += [nn.Conv2d(channels, block["width"], block["kernel"], padding="same"), norm(block["width"]), nn.ReLU()]
        channels = block["width"]
    dropout = choices["dropout"]
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(dropout["rate"] if dropout else 0)]
    return nn.Sequential(*layers, nn.Linear(4 * channels, classes))


space = ChoiceSpace(
    "photos",
    {
        "norm": ["batch", "instance"],
        "blocks": Repeat(1, 3, {"width": Ordered(8, 16, 32), "kernel": Ordered(3, 5)}),
        "dropout": Optional({"rate": Ordered(0.1, 0.3)}),
    },
    build,
)

if __name__ == "__main__":
    photos, run = sys.argv[1:]
    found = run_search(space="choice_space:space", trainable="train", dataset=f"folder:{photos}", trials=6, max_epochs=2, out=run)
    print(found.best["arch"]["choices"])
