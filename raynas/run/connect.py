"""Joining a Ray cluster, or starting one on this machine."""

import logging
import os
import socket
from pathlib import Path

import ray

from raynas.errors import ConfigError
from raynas.run.ray_private import left_address, outlive_head, quieten

logger = logging.getLogger(__name__)


def connect(address: str | None) -> bool:
    """Joins the cluster at `address`, else the one that $RAY_ADDRESS names or that `ray start` left running on this machine, else
    starts one; returns whether it started one. (Ray's own "auto" would also join the private cluster of another search.)

    Raises:
        ConfigError: nothing answers at the address that was given.
    """
    quieten()
    given = address or os.environ.get("RAY_ADDRESS")
    if given and given != "local":
        try:
            _knock(given)
            outlive_head()
            ray.init(address=given, **_OPTIONS)
        except (OSError, ValueError, RuntimeError) as error:
            first = str(error).splitlines()[0]
            raise ConfigError(
                f"no Ray cluster answers at {given}: {first}; leave --address out (and RAY_ADDRESS) to start one here"
            ) from error
        return False
    left = None if given else left_address()
    if left and _joined(*left):
        return False
    ray.init(address="local", include_dashboard=False, **_OPTIONS)
    return True


_OPTIONS = {"log_to_driver": False, "logging_level": logging.WARNING}


def _knock(address: str) -> None:
    """Raises OSError or ValueError where nothing answers, within seconds: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "://" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _joined(address: str, pointer: Path) -> bool:
    """Whether this machine's cluster, to which a file points, takes us; where nothing answers any more, the file is deleted."""
    try:
        _knock(address)
    except (OSError, ValueError):
        _forget(address, pointer)
        return False
    outlive_head()
    try:
        ray.init(address=address, **_OPTIONS)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        logger.warning("the Ray cluster at %s, left by `ray start`, takes no driver (%s); a new one is started here", address, first)
        return False
    return True


def _forget(address: str, pointer: Path) -> None:
    """Deletes what points to a cluster that is gone, if it is ours, so that this is said once; else it is not worth a word."""
    try:
        if pointer.stat().st_uid != os.getuid():
            return
        pointer.unlink()
    except OSError:  # it went meanwhile, or the folder is not ours to change
        return
    logger.warning("the Ray cluster at %s, left by `ray start`, does not answer; what pointed to it, %s, is deleted", address, pointer)
