"""How many trials a cluster runs at once."""

import logging
from collections.abc import Iterable, Mapping

from raynas.config import RunConfig
from raynas.errors import ConfigError

logger = logging.getLogger(__name__)

_FLAGS = {"CPU": "--cpus-per-trial", "GPU": "--gpus-per-trial"}


def needs_of(config: RunConfig) -> dict[str, float]:
    """What one trial takes, by kind of resource; what it takes nothing of is left out.

    Raises:
        ConfigError: it takes nothing at all, so that nothing would limit how many run at once.
    """
    needs = {"CPU": config.cpus_per_trial, "GPU": config.gpus_per_trial}
    if not any(needs.values()):
        raise ConfigError("a trial must take something: give --cpus-per-trial or --gpus-per-trial above 0")
    return {kind: amount for kind, amount in needs.items() if amount}


def count_slots(nodes: Iterable[Mapping[str, float]], needs: Mapping[str, float]) -> int:
    """How many trials that take `needs` fit on `nodes` at once, each on one node; by kind of resource."""
    return sum(min(int(node.get(kind, 0.0) / amount + 1e-9) for kind, amount in needs.items()) for node in nodes)


def slots(config: RunConfig, nodes: Iterable[Mapping[str, float]], grows: bool) -> int:
    """How many trials run at once on `nodes`; says so where they cannot do what was asked.

    Args:
        grows: further nodes may join; else none ever will.

    Raises:
        ConfigError: not even one trial fits, and never will.
    """
    nodes, needs = list(nodes), needs_of(config)
    room = count_slots(nodes, needs)
    if room == 0:
        problem = _problem(nodes, needs)
        if not grows:
            raise ConfigError(f"{problem}; ask for less, or use a cluster with --address")
        logger.warning("%s; trials wait until a larger node joins (Ctrl-C ends the wait)", problem)
    elif config.concurrency is not None and room < config.concurrency:
        logger.warning("%d trials at once were asked for, the cluster has room for %d now", config.concurrency, room)
    return config.concurrency or max(1, room)


def _problem(nodes: list[Mapping[str, float]], needs: Mapping[str, float]) -> str:
    """Why no trial fits on any node, in words."""
    for kind, amount in needs.items():
        there = [node.get(kind, 0.0) for node in nodes]
        if max(there, default=0.0) < amount:
            return f"{_FLAGS[kind]} {amount:g}: the largest node has {max(there, default=0.0):g} {kind}s, the whole cluster {sum(there):g}"
    return "no node has " + " and ".join(f"{amount:g} {kind}s" for kind, amount in needs.items()) + ", though some have one of them"
