"""A node provider of Ray's whose machines are folders of this one: `ray up` and its autoscaler work with it as with a cloud's.

A node is a loopback address (127.0.0.2 and up), a home folder, and the processes that carry its name in their environment. Nothing
opens a connection and nothing is installed: a command runs in a shell of this machine, with /home/ray read as the node's home, and with
the `ray` and `pip` of loopback_commands.py before those of the machine.

Keys of the provider in the cluster file: `folder` (of the nodes), `resources` (of each instance type), `environment` (of each node).
"""

import fcntl
import fnmatch
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray.autoscaler.command_runner import CommandRunnerInterface
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import NODE_KIND_HEAD, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

NODE = "RAYNAS_LOOPBACK_NODE"  # environment variable: which node a process belongs to
REMOTE_HOME = "/home/ray"  # of Ray's Docker images


class Loopback(NodeProvider):
    """Nodes are kept in a file, as `ray up` and the head's autoscaler are processes of their own."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self.folder = Path(provider_config["folder"])

    @contextmanager
    def nodes(self) -> Iterator[dict[str, dict[str, Any]]]:
        """All nodes that ever were, by name; changes are kept."""
        with (self.folder / "nodes.json").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            nodes = json.loads(file.read() or "{}")
            before = json.dumps(nodes)
            yield nodes
            if json.dumps(nodes) != before:
                file.truncate(0)
                json.dump(nodes, file)

    def node(self, node_id: str) -> dict[str, Any]:
        with self.nodes() as nodes:
            return nodes[node_id]

    @staticmethod
    def fillout_available_node_types_resources(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """What a cloud's provider reads off the instance types."""
        for kind in cluster_config["available_node_types"].values():
            kind["resources"] = cluster_config["provider"]["resources"][kind["node_config"]["InstanceType"]] | kind.get("resources", {})
        return cluster_config

    def prepare_for_head_node(self, cluster_config: dict[str, Any]) -> dict[str, Any]:
        """The head passes on what it has in its own home."""
        (head,) = self.non_terminated_nodes({TAG_RAY_NODE_KIND: NODE_KIND_HEAD})
        home = str(self.folder / head)
        return cluster_config | {"file_mounts": {path: path.replace(REMOTE_HOME, home) for path in cluster_config["file_mounts"]}}

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        created = {}
        with self.nodes() as nodes:
            for _ in range(count):
                name = f"{tags[TAG_RAY_USER_NODE_TYPE]}-{len(nodes)}"
                (self.folder / name).mkdir()
                created[name] = {"ip": f"127.0.0.{len(nodes) + 2}", "tags": dict(tags), "config": node_config, "alive": True}
                nodes[name] = created[name]
        return created

    def terminate_node(self, node_id: str) -> None:
        with self.nodes() as nodes:
            nodes[node_id]["alive"] = False
        end(NODE, f"{self.folder}/{node_id}")

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        with self.nodes() as nodes:
            return [name for name, node in nodes.items() if node["alive"] and tag_filters.items() <= node["tags"].items()]

    def is_running(self, node_id: str) -> bool:
        return bool(self.node(node_id)["alive"])

    def is_terminated(self, node_id: str) -> bool:
        return not self.is_running(node_id)

    def node_tags(self, node_id: str) -> dict[str, str]:
        return dict(self.node(node_id)["tags"])

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        with self.nodes() as nodes:
            nodes[node_id]["tags"] |= tags

    def internal_ip(self, node_id: str) -> str:
        return str(self.node(node_id)["ip"])

    external_ip = internal_ip

    def get_command_runner(self, log_prefix: str, node_id: str, *others: Any, **options: Any) -> CommandRunnerInterface:
        return Shell(self.folder / node_id, self.internal_ip(node_id), self.provider_config.get("environment", {}))


class Shell(CommandRunnerInterface):
    """Runs commands as one node would, in its home."""

    def __init__(self, home: Path, ip: str, environment: dict[str, str]) -> None:
        self.home, self.ip, self.environment = home, ip, environment

    def run(self, cmd: str | None = None, *others: Any, **options: Any) -> str:
        variables = {key: value if isinstance(value, str) else json.dumps(value) for key, value in self._variables(options).items()}
        with (self.home / "commands.log").open("a") as log:
            log.write(f"{cmd}\n")
        process = subprocess.run(
            ["bash", "-c", str(cmd).replace(REMOTE_HOME, str(self.home))],
            env=variables,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if options.get("with_output") else None,
        )
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, str(cmd))
        return process.stdout.decode() if options.get("with_output") else ""

    def _variables(self, options: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TMUX", "RAYNAS_LOOPBACK"))}
        tests = self.home / "checkout" / "tests"
        return (
            kept
            | {"HOME": str(self.home), "TMUX_TMPDIR": str(self.home), NODE: str(self.home), "NODE_IP": self.ip}
            | {"PATH": f"{self.home.parent}/commands:{Path(sys.executable).parent}:{kept['PATH']}"}
            | {"PYTHONPATH": f"{self.home}/installed:{tests}"}
            | self.environment
            | (options.get("environment_variables") or {})
        )

    def run_rsync_up(self, source: str, target: str, options: dict[str, Any] | None = None) -> None:
        here, there = Path(source).expanduser(), Path(str(target).replace(REMOTE_HOME, str(self.home)).replace("~", str(self.home)))
        there.parent.mkdir(parents=True, exist_ok=True)
        if here.is_dir():
            shutil.copytree(here, there, ignore=_left_out(here, options or {}), dirs_exist_ok=True)
        else:
            shutil.copy(here, there)

    def run_rsync_down(self, source: str, target: str, options: dict[str, Any] | None = None) -> None:
        raise NotImplementedError("nothing is fetched from a node")

    def remote_shell_command_str(self) -> str:
        return f"cd {self.home} && bash"


def _left_out(folder: Path, options: dict[str, Any]) -> Any:
    """What rsync leaves out, for plain names and patterns of them."""
    patterns = list(options.get("rsync_exclude") or [])
    for name in options.get("rsync_filter") or []:
        patterns += [line for line in (folder / name).read_text().splitlines() if line] if (folder / name).exists() else []
    return lambda path, names: [name for name in names for pattern in patterns if fnmatch.fnmatch(name, pattern.rstrip("/"))]


def processes(variable: str, value: str) -> list[int]:
    """The processes of this machine that have an environment variable of this value, but for this one."""
    wanted, found = f"{variable}={value}".encode(), []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended
            if folder.name.isdigit() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return [process for process in found if process != os.getpid()]


def end(variable: str, value: str) -> None:
    """Ends them at once, as a machine that is switched off does."""
    for process in processes(variable, value):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
