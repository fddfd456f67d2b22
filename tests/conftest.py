"""Fixtures that several test files share, and what makes all of them independent of the state of the machine."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports Ray: no cluster that runs here, ran here, or is named in the environment is joined by a test or a command that
# one starts. The path is short, as those of sockets in it have at most 107 characters.
os.environ.pop("RAY_ADDRESS", None)
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="rn-", dir="/tmp")
os.environ["XDG_CONFIG_HOME"] = os.path.join(os.environ["RAY_TMPDIR"], "config")  # the key that signs runs

# Before anything imports numpy or torch: threads that spin while they wait for each other make what is as small as in tests take several
# times as long where the processors have something else to do.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_unconfigure() -> None:
    """Leaves nothing of Ray's behind."""
    shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the benchmark tables, which is not part of the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the benchmark tables (../shared/data) are not here")
    return folder


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of two CPUs, which this process has initialised."""
    import ray

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")  # no token file in the home folder
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()
