"""What a search asks of a trainable before the first trial."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """What is known of all trials of a run before any starts.

    A trainable may have a class method `plan(**config) -> Plan`, given the trials' common configuration; its keywords are the
    options that the trainable takes. It raises a RaynasError for what cannot work, so that a mistake ends the run before it begins.
    """

    max_epochs: int | None = None  # budget of a full evaluation
    optimum: float | None = None  # best value of the metric there is, where known
    instant: bool = False  # a trial takes less time than fitting a predictor
