"""A trial of the user's own that reports no more than it must, and fails for architectures that convolve the input by 3x3."""

from typing import Any

from ray.tune import Trainable


class FailingTrial(Trainable):  # type: ignore[misc]  # ray has no types
    """Reports an accuracy and a latency."""

    def setup(self, config: dict[str, Any]) -> None:
        self.fails = "nor_conv_3x3~0" in config["arch"]["id"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self.fails:
            try:
                {}["key"]
            except KeyError as error:
                raise RuntimeError(
                    "CUDA error: device-side assert triggered\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
                ) from error
        return {"valid_accuracy": 0.5, "latency": 2.5, "done": True}
