"""Makes what cluster/gpu.yaml names in an AWS account: `python cluster/aws_setup.py s3://BUCKET [--ssh-from 192.0.2.7/32]`.

- a security group: SSH from your own address (as checkip.amazonaws.com sees it, or `--ssh-from`), everything among the nodes, no more;
- a role for the workers, which may use the bucket; one for the head, which may also start machines in that group's region with the workers'
  role, and end those of this cluster; and an instance profile for each;
- the role with which AWS itself runs spot machines, where the account has none yet.

It costs nothing, and may be run again, for instance when your address has changed or for another bucket. Needs boto3, and credentials that
may do this (those of an administrator).
"""

import argparse
import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.exceptions import BotoCoreError, ClientError

CLUSTER = Path(__file__).with_name("gpu.yaml")
TRUST = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def allow(actions: str, resources: str | list[str], **conditions: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions.split(), "Resource": resources} | ({"Condition": conditions} if conditions else {})


def storage(bucket: str) -> list[dict[str, Any]]:
    """What a run folder needs: read, write, list, and clean up."""
    return [
        allow("s3:ListBucket s3:GetBucketLocation", f"arn:aws:s3:::{bucket}"),
        allow("s3:GetObject s3:PutObject s3:DeleteObject s3:AbortMultipartUpload s3:ListMultipartUploadParts", f"arn:aws:s3:::{bucket}/*"),
    ]


def launching(cluster: str, region: str, account: str, worker_role: str) -> list[dict[str, Any]]:
    """What Ray's autoscaler on the head needs."""
    machines = f"arn:aws:ec2:{region}:{account}:instance/*"
    own = {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": cluster}}
    return [
        allow("ec2:Describe*", "*"),
        allow("ec2:RunInstances", "*", StringEquals={"aws:RequestedRegion": region}),
        allow("ec2:CreateTags", "*", StringEquals={"ec2:CreateAction": "RunInstances"}),
        allow("ec2:CreateTags ec2:TerminateInstances", machines, **own),
        allow("ssm:GetParameters", f"arn:aws:ssm:{region}::parameter/aws/service/deeplearning/*"),  # the newest machine image
        allow("iam:PassRole", f"arn:aws:iam::{account}:role/{worker_role}"),
    ]


def make_role(iam: Any, name: str, statements: list[dict[str, Any]]) -> bool:
    """A role with these rights and no others, and an instance profile of the same name that holds it; whether it is new."""
    if not _found(iam.get_role, RoleName=name):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy(TRUST))
    iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=policy(*statements))
    if _found(iam.get_instance_profile, InstanceProfileName=name):
        return False
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return True


def _found(get: Any, **named: str) -> bool:
    try:
        get(**named)
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchEntity":
            raise
        return False
    return True


def make_security_group(ec2: Any, name: str, ssh_from: str) -> None:
    """The group in the account's default network, with just these rules."""
    networks = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not networks:
        sys.exit("error: the region has no default VPC; make one with `aws ec2 create-default-vpc`")
    vpc = networks[0]["VpcId"]
    there = ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [vpc]}, {"Name": "group-name", "Values": [name]}])
    if there["SecurityGroups"]:
        group, rules = there["SecurityGroups"][0]["GroupId"], there["SecurityGroups"][0]["IpPermissions"]
        if rules:
            ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rules)
    else:
        group = ec2.create_security_group(GroupName=name, Description="raynas: SSH from one address, all among nodes", VpcId=vpc)["GroupId"]
    among = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": ssh_from}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[among, ssh])


def make(bucket: str, ssh_from: str) -> None:
    """Makes all of it; what is there already is brought up to date."""
    config = yaml.safe_load(CLUSTER.read_text())
    region, kinds = config["provider"]["region"], config["available_node_types"]
    head, worker = (kinds[kind]["node_config"]["IamInstanceProfile"]["Name"] for kind in ("head", "gpu_worker"))
    boto3.client("s3", region_name=region).head_bucket(Bucket=bucket)
    iam, account = boto3.client("iam"), boto3.client("sts", region_name=region).get_caller_identity()["Account"]
    new = make_role(iam, worker, storage(bucket))
    new |= make_role(iam, head, storage(bucket) + launching(config["cluster_name"], region, account, worker))
    if not iam.list_roles(PathPrefix="/aws-service-role/spot.amazonaws.com/")["Roles"]:
        iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")
    group = config["provider"]["security_group"]["GroupName"]
    make_security_group(boto3.client("ec2", region_name=region), group, ssh_from)
    if new:
        time.sleep(15)  # until EC2 knows a new profile, which IAM does not tell; Ray waits as long
    print(f"{region}: roles {head} and {worker} may use s3://{bucket}; security group {group} lets in SSH from {ssh_from}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python cluster/aws_setup.py", description="Makes what cluster/gpu.yaml names in an AWS account.")
    parser.add_argument("bucket", help="where runs are kept, as s3://BUCKET; it must be there")
    parser.add_argument("--ssh-from", metavar="CIDR", help="addresses that may use SSH (default: your own, of now)")
    given = parser.parse_args()
    bucket = given.bucket.removeprefix("s3://").partition("/")[0]
    try:
        if given.ssh_from is None:
            with urllib.request.urlopen("https://checkip.amazonaws.com", timeout=20) as answer:
                given.ssh_from = answer.read().decode().strip() + "/32"
        make(bucket, given.ssh_from)
    except ClientError as error:
        sys.exit(f"error: {error}; is s3://{bucket} there, and may these credentials do this?")
    except (BotoCoreError, OSError) as error:
        sys.exit(f"error: {error}; see `aws configure`, and --ssh-from where checkip.amazonaws.com cannot be reached")


if __name__ == "__main__":
    main()
