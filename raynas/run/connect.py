"""Joining a Ray cluster, or starting one on this machine."""

import importlib.util
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from ray.exceptions import AuthenticationError, RaySystemError

from raynas import signals
from raynas.errors import ConfigError
from raynas.run.ray_private import ask_for_token, ended, greet, left_address, loopback, outlive_head, quieten, signals_kept
from raynas.storage import first_line

logger = logging.getLogger(__name__)

_OPTIONS = {"log_to_driver": False, "logging_level": logging.WARNING}
# A trial that has no GPU is to see none. Ray leaves that to whoever looks, unless this is set where its workers start.
_HIDDEN = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}
_OURS = frozenset({"raynas", "searchers", "trainables"})  # every node has them installed


@dataclass(frozen=True)
class Cluster:
    """The cluster that a run uses, as it was when the run began."""

    how: str  # joined, started (here, for this run), or initialised (by the program that runs)
    address: str
    nodes: int
    cpus: float
    gpus: float

    @property
    def grows(self) -> bool:
        """Whether more nodes may join it."""
        return self.how != "started"

    def __str__(self) -> str:
        parts = [_count(self.nodes, "node")] * self.grows + [_count(self.cpus, "CPU")] + [_count(self.gpus, "GPU")] * bool(self.gpus)
        if not self.grows:
            return f"Ray cluster: a local one, {', '.join(parts)}, started here"
        return f"Ray cluster at {self.address} ({', '.join(parts)}), {self.how}"

    def to_json(self) -> dict[str, Any]:
        """For `config.json`."""
        return asdict(self)


def _count(number: float, unit: str) -> str:
    return f"{number:g} {unit}{'' if number == 1 else 's'}"


@contextmanager
def cluster(address: str | None, modules: Collection[str] = ()) -> Iterator[Cluster]:
    """Within it Ray is connected: to the cluster at `address`, else to the one that $RAY_ADDRESS names or that `ray start` left running
    on this machine, else to a new one. At its end that is left, or ended if it was started here. A Ray that the caller has initialised
    is used and left as it is.

    Args:
        modules: names of modules of the user's, that the workers of a cluster which is joined are to have.

    Raises:
        ConfigError: nothing answers at the address that was given, the cluster refuses, or the caller has initialised another one.
    """
    if ray.is_initialized():
        if address is not None:
            raise ConfigError(f"Ray is initialised already; leave out the address {address}, or call ray.shutdown() before")
        quieten()
        yield _seen("initialised")
        return
    try:
        with signals.held(), signals_kept():
            started = connect(address, modules)
        yield _seen("started" if started else "joined")
    finally:
        with signals.held(), ended():
            ray.shutdown()


def _seen(how: str) -> Cluster:
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (sum(resources.get(kind, 0.0) for resources in alive) for kind in ("CPU", "GPU"))
    return Cluster(how, ray.get_runtime_context().gcs_address, len(alive), cpus, gpus)


def connect(address: str | None, modules: Collection[str] = ()) -> bool:
    """Joins a cluster or starts one, as `cluster` does; returns whether it started one. (Ray's own "auto" would also join the private
    cluster of another search.)

    Raises:
        ConfigError: nothing answers at the address that was given, or the cluster refuses.
    """
    quieten()
    given = address or os.environ.get("RAY_ADDRESS")
    if given and given != "local":
        try:
            outlive_head()
            _join(given, modules)
        except _FAILURES as error:
            raise ConfigError(_refused(given, error)) from error
        return False
    left = None if given else left_address()
    if left and _joined(*left, modules):
        return False
    try:
        with loopback(), patch.dict(os.environ, _HIDDEN):
            ray.init(address="local", include_dashboard=False, **_OPTIONS)
    except Exception as error:  # Ray raises many, as for a path of sockets that is too long
        raise ConfigError(f"no Ray cluster can be started here: {first_line(error)}; mend that, or join one by --address") from error
    return True


_FAILURES = (OSError, ValueError, RuntimeError, AuthenticationError, RaySystemError)


def _join(address: str, modules: Collection[str]) -> None:
    _knock(address)
    plain = "://" not in address and ":" in address
    if not plain or _wants_token(address):
        ask_for_token()
    with _quiet_unless_joined():
        if plain:
            greet(address)
        ray.init(address=address, runtime_env=_environment(modules), **_OPTIONS)


def _wants_token(address: str) -> bool:
    try:
        with _quiet_unless_joined():
            greet(address)
    except AuthenticationError:
        return True
    return False


def _refused(address: str, error: Exception) -> str:
    if isinstance(error, AuthenticationError):
        return f"the Ray cluster at {address} wants {_TOKEN}; {_mend()}"
    return f"no Ray cluster answers at {address}: {first_line(error)}; leave --address out (and RAY_ADDRESS) to start one here"


_TOKEN = "a token, and was shown none or another one"


def _mend() -> str:
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return "unset RAY_AUTH_MODE, so that yours is shown to it"
    return "copy ~/.ray/auth_token of its head node to this machine, or set RAY_AUTH_TOKEN to what it holds"


def _environment(modules: Collection[str]) -> dict[str, Any]:
    """What the workers of a cluster that is joined need besides what is installed there."""
    environment: dict[str, Any] = {"env_vars": dict(_HIDDEN)}
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ and (files := carried(modules)):  # a submitted job has brought its own files
        environment |= {"py_modules": files, "excludes": ["runs", "data", ".git", ".venv", "__pycache__"]}
    return environment


def carried(modules: Collection[str]) -> list[str]:
    """Files and folders of the modules with these names, and of what they have imported from beside them; none of what is installed."""
    found: dict[str, Path] = {}
    for name in {module.partition(".")[0] for module in modules} - _OURS:
        if (path := _path_of(name)) is not None:
            found[name] = path
    beside = {path.parent for path in found.values()}
    for name in {loaded.partition(".")[0] for loaded in list(sys.modules)} - _OURS - found.keys():
        path = _path_of(name)
        if path is not None and path.parent in beside:
            found[name] = path
    return sorted(str(path) for path in found.values())


def _path_of(module: str) -> Path | None:
    """Where a module at the top lies: its file, or the folder of a package; None where it is installed, built in, or cannot be found."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    file = Path(spec.origin).resolve()
    if file.suffix != ".py" or {"site-packages", "dist-packages"} & set(file.parts) or Path(os.__file__).parent in file.parents:
        return None
    return file.parent if spec.submodule_search_locations else file


def _knock(address: str) -> None:
    """Raises OSError or ValueError where nothing answers, within seconds: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "://" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _quiet_unless_joined() -> Iterator[None]:
    """Keeps back what is written to standard error, from C++ too, and drops it where the body fails: the failure is told in one line."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile("w+") as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
            held.seek(0)
            shutil.copyfileobj(held, sys.stderr)
    finally:
        os.close(kept)


def _joined(address: str, pointer: Path, modules: Collection[str]) -> bool:
    """Whether this machine's cluster, to which a file points, takes us; where nothing answers any more, the file is deleted."""
    try:
        _knock(address)
    except (OSError, ValueError):
        _forget(address, pointer)
        return False
    outlive_head()
    try:
        _join(address, modules)
    except _FAILURES as error:
        reason = f"it wants {_TOKEN}; {_mend()}" if isinstance(error, AuthenticationError) else first_line(error)
        logger.warning("the Ray cluster at %s, left by `ray start`, takes no driver (%s); a new one is started here", address, reason)
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
