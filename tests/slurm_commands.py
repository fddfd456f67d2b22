"""What a batch job of SLURM sees, on this machine: two nodes, node1 and node2, at 127.0.0.2 and 127.0.0.3, for test_cluster_slurm.py.

srun       runs the command on each of the chosen nodes, passes SIGTERM on, and ends as the worst of them does
scontrol   `show hostnames` lists the nodes; what else it is told is written to $SLURM_TOLD
hostname   `--ip-address` gives the address of the node that it runs on
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

ADDRESSES = {"node1": "127.0.0.2", "node2": "127.0.0.3"}


def srun(words: list[str]) -> int:
    flags = [word for word in words if word.startswith("--")]
    options = dict(flag.removeprefix("--").partition("=")[::2] for flag in flags[: _leading(words)])
    command = words[_leading(words) :]
    chosen = [options["nodelist"]] if "nodelist" in options else [node for node in ADDRESSES if node != options.get("exclude")]
    assert len(chosen) == int(options["nodes"]) == int(options["ntasks"]), words
    steps = [subprocess.Popen(command, env=os.environ | {"SLURMD_NODENAME": node, "SLURM_GPUS_ON_NODE": "1"}) for node in chosen]

    def stop(number: int, frame: FrameType | None) -> None:
        for step in steps:
            step.send_signal(number)

    signal.signal(signal.SIGTERM, stop)
    return max(step.wait() for step in steps)


def _leading(words: list[str]) -> int:
    """How many flags stand before the command."""
    return next(i for i, word in enumerate(words) if not word.startswith("--"))


def scontrol(words: list[str]) -> int:
    if words[:2] == ["show", "hostnames"]:
        print("\n".join(ADDRESSES))
    else:
        with Path(os.environ["SLURM_TOLD"]).open("a") as told:
            told.write(" ".join(words) + "\n")
    return 0


def hostname(words: list[str]) -> int:
    assert words == ["--ip-address"], words
    print(ADDRESSES[os.environ["SLURMD_NODENAME"]])
    return 0


if __name__ == "__main__":
    sys.exit({"srun": srun, "scontrol": scontrol, "hostname": hostname}[Path(sys.argv[1]).name](sys.argv[2:]))
