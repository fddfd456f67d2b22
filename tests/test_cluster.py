"""The files in cluster/: what all of them must agree on, Ray's own schema, and the names that KubeRay defines.

No package ships KubeRay's schema. The names here are those of its definitions of RayCluster and RayJob, version 1.7.0, against which
cluster/kuberay.yaml was checked whole when it was written (no unknown key, no wrong type).
"""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from raynas import search

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "cluster").glob("*.yaml"))
LAUNCHED = [ROOT / "cluster" / name for name in ("gpu.yaml", "gcp.yaml")]  # by `ray up`
INSTALL = re.compile(r"pip install .*-e (\S+)")


def launched(file: Path) -> dict[str, Any]:
    """A file as `ray up` completes and checks it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config: dict[str, Any] = prepare_config(yaml.safe_load(file.read_text()))
    validate_config(config)
    return config


@pytest.fixture(scope="module", params=LAUNCHED, ids=lambda file: file.name)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """cluster/gpu.yaml and gcp.yaml as `ray up` completes and checks them."""
    return launched(request.param)


@pytest.fixture(scope="module")
def kuberay() -> dict[str, dict[str, Any]]:
    """What cluster/kuberay.yaml describes, by kind."""
    return {part["kind"]: part for part in yaml.safe_load_all((ROOT / "cluster" / "kuberay.yaml").read_text())}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_is_yaml(file: Path) -> None:
    assert all(isinstance(document, dict) for document in yaml.safe_load_all(file.read_text()))


def test_a_wrong_key_would_be_noticed() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster" / "gpu.yaml").read_text()) | {"worker_types": {}}
    with pytest.raises(Exception, match="worker_types"):
        validate_config(prepare_config(config))


def test_head_takes_no_trials(config: dict[str, Any]) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert not head["node_config"].keys() & {"InstanceMarketOptions", "scheduling"}  # on demand


def test_workers_come_with_work_and_go_without(config: dict[str, Any]) -> None:
    (worker,) = [kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]]
    assert worker["min_workers"] == 0
    assert 0 < worker["max_workers"] <= config["max_workers"]
    assert config["idle_timeout_minutes"] == 5
    assert config["provider"]["cache_stopped_nodes"] is False


def test_every_node_installs_raynas_in_a_few_tries(config: dict[str, Any]) -> None:
    for commands in (config["head_setup_commands"], config["worker_setup_commands"]):
        (install,) = [match[1] for command in commands if (match := INSTALL.search(command))]
        assert config["file_mounts"][install] == "."  # `ray up` runs in the root of the checkout
        assert Path(install).name not in (
            "raynas",
            "searchers",
            "trainables",
        )  # which would hide the package from commands started above it
        assert all(command.startswith("for wait in ") for command in commands if "pip install" in command)
    assert not any(
        "worker_setup_commands" in kind for kind in config["available_node_types"].values()
    )  # these would replace the common ones
    assert (ROOT / "pyproject.toml").is_file()


def test_an_install_is_tried_again_and_its_last_failure_counts(config: dict[str, Any]) -> None:
    (command,) = [command for command in config["head_setup_commands"] if INSTALL.search(command)]
    told = "tries=0; sleep() { :; }; pip() { tries=$((tries + 1)); [ $tries = $NEEDED ]; }"
    for needed, code in ((1, 0), (4, 0), (5, 1)):
        assert subprocess.run(["bash", "-c", f"NEEDED={needed}; {told}; {command}"]).returncode == code


def test_a_worker_whose_gpu_torch_cannot_use_takes_no_trials(config: dict[str, Any]) -> None:
    assert any("torch.cuda.is_available()" in command for command in config["worker_setup_commands"])
    assert not any("torch.cuda" in command for command in config["head_setup_commands"])


def test_every_file_has_the_ray_and_python_of_the_project(kuberay: dict[str, dict[str, Any]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [re.match(r"ray\[tune\]>=([\d.]+)", name) for name in project["dependencies"]]
    (ray_version,) = [pin[1] for pin in pins if pin]
    image = f"rayproject/ray:{ray_version}.0-py{project['requires-python'].removeprefix('>=').replace('.', '')}-gpu"
    assert {launched(file)["docker"]["image"] for file in LAUNCHED} == {image}
    assert f"FROM {image}\n" in (ROOT / "cluster" / "Dockerfile").read_text()
    assert kuberay["RayCluster"]["spec"]["rayVersion"] == f"{ray_version}.0"
    tag = f"REGISTRY/raynas:{project['version']}"
    assert f"docker build -t {tag} " in (ROOT / "cluster" / "Dockerfile").read_text()
    cluster = kuberay["RayCluster"]["spec"]
    templates = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    assert {container["image"] for template in templates for container in template["containers"]} == {tag}
    for text in ((ROOT / "docs" / "clusters.md").read_text(), *(file.read_text() for file in FILES)):
        assert set(re.findall(r"ray\[default\]==([\d.]+)\.\*", text)) <= {ray_version}


def test_authentication_is_the_same_on_every_node(config: dict[str, Any], kuberay: dict[str, dict[str, Any]]) -> None:
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    (head,) = [command for command in config["head_start_ray_commands"] if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in head
    assert kuberay["RayCluster"]["spec"]["authOptions"] == {"mode": "token"}


def test_a_job_that_is_stopped_has_time_to_write(config: dict[str, Any], kuberay: dict[str, dict[str, Any]]) -> None:
    """The variable is read by Ray's job supervisor on the head; without it a job is killed 3 s after it was told to end."""
    from ray.dashboard.modules.job import job_supervisor

    variable = "RAY_JOB_STOP_WAIT_TIME_S"
    assert variable in Path(job_supervisor.__file__).read_text()
    assert f"--env {variable}=60" in config["docker"]["run_options"]
    (head,) = kuberay["RayCluster"]["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"name": variable, "value": "60"} in head["env"]


def test_no_file_holds_a_secret() -> None:
    for file in (ROOT / "cluster").iterdir():
        if file.is_file():
            assert not re.search(r"AKIA[A-Z0-9]{16}|secret_access_key *[:=] *\w|PRIVATE KEY|password *[:=]", file.read_text(), re.I)


def test_kuberay_cluster(kuberay: dict[str, dict[str, Any]]) -> None:
    assert {part["apiVersion"] for part in kuberay.values()} == {"ray.io/v1"}
    spec = kuberay["RayCluster"]["spec"]
    assert spec.keys() == {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"].keys() == {"version", "upscalingMode", "idleTimeoutSeconds"}
    assert spec["headGroupSpec"].keys() == {"rayStartParams", "template"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"  # no trials there; parameters are strings
    (workers,) = spec["workerGroupSpecs"]
    assert workers.keys() == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    assert (workers["minReplicas"], workers["maxReplicas"]) == (0, 8)
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    for group in (spec["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert "restartPolicy" not in pod  # the autoscaler of version 2 wants Never, which KubeRay then sets
        assert all(container["securityContext"]["allowPrivilegeEscalation"] is False for container in pod["containers"])


def test_kuberay_job_is_a_search_on_that_cluster(kuberay: dict[str, dict[str, Any]]) -> None:
    spec = kuberay["RayJob"]["spec"]
    assert spec.keys() == {"clusterSelector", "backoffLimit", "entrypoint"}
    assert spec["clusterSelector"] == {"ray.io/cluster": kuberay["RayCluster"]["metadata"]["name"]}
    assert spec["backoffLimit"] == 0  # KubeRay allows no other with a selector
    program, *flags = spec["entrypoint"].split()[1:]
    assert program == "-m"
    assert flags.pop(0) == "raynas.search"
    given = vars(search.parser().parse_args(flags))
    (workers,) = kuberay["RayCluster"]["spec"]["workerGroupSpecs"]
    assert (given["trainable"], given["gpus_per_trial"], given["concurrency"]) == ("train", 1, workers["maxReplicas"])
