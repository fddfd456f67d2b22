"""The files in cluster/, checked offline with Ray's own schema."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "cluster").glob("*.yaml"))
INSTALL = re.compile(r"pip install .*-e (\S+)")


@pytest.fixture(scope="module")
def gpu() -> dict[str, Any]:
    """cluster/gpu.yaml as `ray up` completes and checks it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config: dict[str, Any] = prepare_config(yaml.safe_load((ROOT / "cluster" / "gpu.yaml").read_text()))
    validate_config(config)
    return config


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_is_yaml(file: Path) -> None:
    assert all(isinstance(document, dict) for document in yaml.safe_load_all(file.read_text()))


def test_a_wrong_key_would_be_noticed() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster" / "gpu.yaml").read_text()) | {"worker_types": {}}
    with pytest.raises(Exception, match="worker_types"):
        validate_config(prepare_config(config))


def test_head_takes_no_trials(gpu: dict[str, Any]) -> None:
    head = gpu["available_node_types"][gpu["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]


def test_workers_are_spot_and_go_when_idle(gpu: dict[str, Any]) -> None:
    workers = [kind for name, kind in gpu["available_node_types"].items() if name != gpu["head_node_type"]]
    assert len(workers) == 1
    for worker in workers:
        assert worker["min_workers"] == 0
        assert 0 < worker["max_workers"] <= gpu["max_workers"]
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert gpu["idle_timeout_minutes"] == 5
    assert gpu["provider"]["cache_stopped_nodes"] is False


def test_every_node_installs_raynas(gpu: dict[str, Any]) -> None:
    for commands in (gpu["head_setup_commands"], gpu["worker_setup_commands"]):
        installs = [match for command in commands if (match := INSTALL.search(command))]
        assert len(installs) == 1
        assert gpu["file_mounts"][installs[0][1]] == "."  # `ray up` runs in the root of the checkout
    assert not any("worker_setup_commands" in kind for kind in gpu["available_node_types"].values())  # these would replace the common ones
    assert (ROOT / "pyproject.toml").is_file()


def test_image_has_the_ray_and_python_of_the_project(gpu: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [re.match(r"ray\[.*\]>=([\d.]+)", name) for name in project["dependencies"]]
    (ray_version,) = [pin[1] for pin in pins if pin]
    assert gpu["docker"]["image"].startswith(f"rayproject/ray:{ray_version}.")
    assert f"-py{project['requires-python'].removeprefix('>=').replace('.', '')}-" in gpu["docker"]["image"]


def test_authentication_is_the_same_on_every_node(gpu: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in gpu["docker"]["run_options"]
    assert gpu["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
