"""How a run of Tune is left when a signal asks for it: between two turns of its loop, without waiting for trials."""

from typing import Any

from ray.tune import Callback

from raynas import signals


class Halt(Callback):  # type: ignore[misc]  # ray has no types
    """Raises KeyboardInterrupt out of `Tuner.fit` once a signal has come; it stands before the callbacks that record.

    A terminal and SLURM send a signal to the processes of Ray too. A trial that fails then has not failed: nothing is to be recorded.
    """

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        signals.check()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        signals.check()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        signals.check()
