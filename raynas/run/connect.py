"""Joining a Ray cluster, or starting one on this machine."""

import logging
import os
import socket

import ray
from ray._private.utils import read_ray_address

from raynas.errors import ConfigError

logger = logging.getLogger(__name__)


def connect(address: str | None) -> bool:
    """Joins the cluster at `address`, else the one that $RAY_ADDRESS names or that `ray start` left running on this machine, else
    starts one; returns whether it started one. (Ray's own "auto" would also join the private cluster of another search.)

    Raises:
        ConfigError: nothing answers at the address that was given.
    """
    # What these warn of is meant: a cluster of one machine needs no token, and results are in our own files, not in Tune's.
    for name in ("ray._private.authentication", "ray.tune.analysis.experiment_analysis"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options = {"log_to_driver": False, "logging_level": logging.WARNING}
    given = address or os.environ.get("RAY_ADDRESS")
    found = given or read_ray_address()
    try:
        if found and found != "local":
            host, colon, port = found.rpartition(":")
            if colon and "://" not in host:  # Ray itself would try for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address=found, **options)
            return False
    except (OSError, ValueError, RuntimeError) as error:
        if given:
            first = str(error).splitlines()[0]
            raise ConfigError(
                f"no Ray cluster answers at {given}: {first}; leave --address out (and RAY_ADDRESS) to start one here"
            ) from error
        logger.warning("the Ray cluster at %s, left by `ray start`, does not answer; a new one is started here", found)
    ray.init(address="local", include_dashboard=False, **options)
    return True
