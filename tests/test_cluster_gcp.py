"""cluster/gcp.yaml: Ray's own preparation of it, with stand-ins of Google's services, and Google's definition of a machine."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from googleapiclient import discovery_cache
from ray.autoscaler._private.gcp import config as gcp
from ray.autoscaler._private.gcp.node import GCPCompute
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The file as `ray up` completes it, in a project where everything that Ray looks for is there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    projects, accounts, compute = MagicMock(), MagicMock(), MagicMock()
    projects.projects().get().execute.return_value = {"projectId": "PROJECT", "lifecycleState": "ACTIVE"}
    projects.projects().getIamPolicy().execute.return_value = {"bindings": []}
    account = {"email": "ray-autoscaler-sa-v1@PROJECT.iam.gserviceaccount.com", "projectId": "PROJECT"}
    accounts.projects().serviceAccounts().get().execute.return_value = account
    compute.projects().get().execute.return_value = {"name": "PROJECT", "commonInstanceMetadata": {}}
    compute.globalOperations().get().execute.return_value = {"status": "DONE"}
    monkeypatch.setattr(gcp, "construct_clients_from_provider_config", lambda provider: (projects, accounts, compute, None))
    config = prepare_config(yaml.safe_load((ROOT / "cluster" / "gcp.yaml").read_text()))
    validate_config(config)
    done: dict[str, Any] = gcp.bootstrap_gcp(config)
    assert not compute.subnetworks().list.called  # else the default network, which lets in SSH from everywhere
    return done


def requests(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What Ray would ask Compute Engine for, by type of node."""
    asked = {}
    for name, kind in config["available_node_types"].items():
        service = MagicMock()
        account = config["head_node"] if name == config["head_node_type"] else {}
        node = GCPCompute(service, "PROJECT", config["provider"]["availability_zone"], config["cluster_name"])
        node.create_instance(account | kind["node_config"], {"ray-node-type": "worker", "ray-node-name": "node"}, wait_for_operation=False)
        asked[name] = service.instances().insert.call_args.kwargs["body"]
    return asked


def test_machines_are_what_compute_engine_defines(prepared: dict[str, Any]) -> None:
    definition = Path(discovery_cache.__path__[0]) / "documents" / "compute.v1.json"
    schemas = json.loads(definition.read_text())["schemas"]
    for name, body in requests(prepared).items():
        assert list(wrong(body, schemas["Instance"], schemas, name)) == []
    assert list(wrong({"scheduling": [{"preemptible": True}]}, schemas["Instance"], schemas, "")) != []


def wrong(value: Any, schema: dict[str, Any], schemas: dict[str, Any], place: str) -> Any:
    """Where a value is not what a schema of Google's discovery documents says."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    kind = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}[schema["type"]]
    if schema.get("format") in ("int64", "uint64"):  # strings in JSON, for which Google also takes numbers
        kind = (str, int)
    if not isinstance(value, kind) or ("enum" in schema and value not in schema["enum"]):
        yield f"{place}: {value!r}"
    elif isinstance(value, list):
        for item in value:
            yield from wrong(item, schema["items"], schemas, place)
    elif isinstance(value, dict):
        for key, item in value.items():
            known = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            yield from [f"{place}.{key}"] if known is None else wrong(item, known, schemas, f"{place}.{key}")


def test_workers_are_spot_and_have_one_gpu(prepared: dict[str, Any]) -> None:
    asked = requests(prepared)
    worker = asked["gpu_worker"]
    assert worker["scheduling"]["provisioningModel"] == "SPOT"
    assert worker["scheduling"]["onHostMaintenance"] == "TERMINATE"  # machines with GPUs cannot be moved
    (gpu,) = worker["guestAccelerators"]
    assert gpu["acceleratorType"].endswith("/acceleratorTypes/nvidia-l4")
    assert prepared["available_node_types"]["gpu_worker"]["resources"]["GPU"] == gpu["acceleratorCount"] == 1
    assert "scheduling" not in asked["head"]


def test_workers_may_use_storage_and_nothing_else(prepared: dict[str, Any]) -> None:
    asked = requests(prepared)
    (account,) = asked["gpu_worker"]["serviceAccounts"]
    assert account["email"].startswith("raynas-worker@")
    assert account["scopes"] == ["https://www.googleapis.com/auth/devstorage.read_write"]
    assert {interface["subnetwork"].rpartition("/")[2] for body in asked.values() for interface in body["networkInterfaces"]} == {"raynas"}
