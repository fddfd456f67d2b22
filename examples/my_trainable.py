"""A trainable of your own, with a metric: `--trainable my_trainable:TimedTrial --objective valid_accuracy --objective -latency`."""

import time

import torch

from raynas import Metric
from trainables.train import TrainTrial


class TimedTrial(TrainTrial):
    """Trains, and measures how long one image takes; what a trial reports becomes a column and a curve."""

    metrics = (*TrainTrial.metrics, Metric("latency", "min", "ms"))

    def step(self):
        return super().step() | {"latency": self.latency()}

    def latency(self):
        network, image = self.network.eval(), torch.zeros(1, 1, 8, 8)
        with torch.inference_mode():
            began = time.perf_counter()
            network(image)
        return 1000 * (time.perf_counter() - began)
