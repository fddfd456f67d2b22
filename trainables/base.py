"""What a search asks of a trainable before the first trial.

A trainable is a class of Tune's (`ray.tune.Trainable`) or a function that Tune can run. It gets the architecture as `config["arch"]`
(the form of `Arch.to_config`) and reports `valid_accuracy`, or whatever else the objective of the search names, and if it can `epoch`,
the budget it has spent; other numbers that it reports are kept. It need not import anything of this package. It may have

* a class method `plan(**config) -> Plan`, given the trials' common configuration; its keywords are the options that the trainable
  takes. It raises a RaynasError for what cannot work, so that a mistake ends the run before it begins;
* an attribute `metrics`, a sequence of `raynas.outcome.Metric`: what is known of the numbers that it reports, such as a latency;
* a class method `proxies(config)`, for `--proxies`: what it returns can be pickled, and called with an architecture it always returns the
  same few floats, not a number where one is not defined;
* an attribute `oneshot`, true where it searches by itself, see `trainables.oneshot`.
"""

from dataclasses import dataclass

from raynas.spaces import SearchSpace


@dataclass(frozen=True)
class Plan:
    """What is known of all trials of a run before any starts."""

    max_epochs: int | None = None  # budget of a full evaluation
    optimum: float | None = None  # best value of the metric there is, where known
    instant: bool = False  # a trial takes less time than fitting a predictor
    space: SearchSpace | None = None  # the part of the space that trials can answer; None: all of it
