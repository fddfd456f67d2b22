"""cluster/gpu.yaml and cluster/aws_setup.py against a simulated AWS (moto): rights, firewall, and the machines that Ray starts."""

import copy
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws

ROOT = Path(__file__).resolve().parents[1]
HOME = "192.0.2.7/32"  # the user's own address

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def setup() -> Any:
    """The module cluster/aws_setup.py."""
    spec = importlib.util.spec_from_file_location("aws_setup", ROOT / "cluster" / "aws_setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def account(setup: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An account with a bucket, in which aws_setup.py has run; twice, the first time from another address."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setattr(setup.time, "sleep", lambda seconds: None)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(key, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")  # another one than the file's
        boto3.client("s3").create_bucket(Bucket="bucket")
        for address in ("198.51.100.1/32", HOME):
            patch.setattr(sys, "argv", ["aws_setup.py", "s3://bucket/runs", "--ssh-from", address])
            setup.main()
        yield


@pytest.fixture(scope="module")
def started(account: None) -> Any:
    """The configuration as `ray up` completes it with what it finds in the account."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / "cluster" / "gpu.yaml").read_text()))
    validate_config(config)
    return AWSNodeProvider.bootstrap_config(AWSNodeProvider.fillout_available_node_types_resources(config))


def test_gpus_and_cpus_are_read_off_the_instance_type(started: Any) -> None:
    worker = started["available_node_types"]["gpu_worker"]["resources"]
    assert {key: worker[key] for key in worker if key != "memory"} == {"CPU": 4, "GPU": 1, "accelerator_type:A10G": 1}
    head = started["available_node_types"]["head"]["resources"]
    assert (head["CPU"], head["GPU"]) == (0, 0)


def test_no_port_is_open_to_the_world(started: Any) -> None:
    ec2 = boto3.client("ec2", region_name="us-west-2")
    (group,) = {group for kind in started["available_node_types"].values() for group in kind["node_config"]["SecurityGroupIds"]}
    (found,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert found["GroupName"] == "raynas-gpu"
    addresses = [(rule.get("FromPort"), entry["CidrIp"]) for rule in found["IpPermissions"] for entry in rule["IpRanges"]]
    assert addresses == [(22, HOME)]
    assert not any(rule["Ipv6Ranges"] or rule["PrefixListIds"] for rule in found["IpPermissions"])
    assert [pair["GroupId"] for rule in found["IpPermissions"] for pair in rule["UserIdGroupPairs"]] == [group]


def test_each_role_has_the_least_rights(started: Any) -> None:
    iam = boto3.client("iam")
    rights = {}
    for kind in ("head", "gpu_worker"):
        name = started["available_node_types"][kind]["node_config"]["IamInstanceProfile"]["Name"]
        (role,) = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]
        assert iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"] == []
        (policy,) = iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]
        rights[kind] = iam.get_role_policy(RoleName=role["RoleName"], PolicyName=policy)["PolicyDocument"]["Statement"]
    assert rights["head"][: len(rights["gpu_worker"])] == rights["gpu_worker"]
    assert {action.partition(":")[0] for right in rights["gpu_worker"] for action in right["Action"]} == {"s3"}
    s3 = {resource for right in rights["gpu_worker"] for resource in [right["Resource"]]}
    assert s3 == {"arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"}
    for right in rights["head"]:  # only what is bound to a region, to a moment or to this cluster concerns every resource
        assert right["Resource"] != "*" or right["Action"] == ["ec2:Describe*"] or right["Condition"], json.dumps(right)
    (ending,) = [right for right in rights["head"] if "ec2:TerminateInstances" in right["Action"]]
    assert ending["Condition"] == {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": started["cluster_name"]}}
    (passing,) = [right for right in rights["head"] if "iam:PassRole" in right["Action"]]
    assert passing["Resource"].endswith(":role/raynas-gpu-worker")


def test_machines_start_and_end(started: Any) -> None:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    provider = AWSNodeProvider(started["provider"], started["cluster_name"])
    asked: list[dict[str, Any]] = []
    real = provider.ec2_fail_fast.create_instances

    def create(**request: Any) -> Any:
        asked.append(copy.deepcopy(request))
        return real(**request)

    provider.ec2_fail_fast.create_instances = create
    for kind in ("head", "gpu_worker"):
        provider.create_node(started["available_node_types"][kind]["node_config"], {"ray-node-type": kind}, 1)
    head, workers = asked
    assert workers["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in head
    for request in asked:
        assert request["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/ami/x86_64/")
        assert request["MetadataOptions"] == {"HttpTokens": "required"}
    nodes = provider.non_terminated_nodes({"ray-node-type": "gpu_worker"})
    (found,) = boto3.client("ec2", region_name="us-west-2").describe_instances(InstanceIds=nodes)["Reservations"]
    (machine,) = found["Instances"]
    assert (machine["InstanceType"], machine["InstanceLifecycle"]) == ("g5.xlarge", "spot")
    assert {"Key": "ray-cluster-name", "Value": "raynas-gpu"} in machine["Tags"]  # of which the head's rights speak
    provider.terminate_nodes(nodes)
    assert provider.non_terminated_nodes({"ray-node-type": "gpu_worker"}) == []


@pytest.mark.parametrize(("bucket", "said"), [("s3://other", "is s3://other there")])
def test_a_mistake_is_one_line(bucket: str, said: str, setup: Any, account: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["aws_setup.py", bucket, "--ssh-from", HOME])
    with pytest.raises(SystemExit, match=rf"^error: [^\n]*{said}[^\n]*$"):
        setup.main()
