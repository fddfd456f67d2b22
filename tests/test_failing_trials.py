"""A search in which trials fail, as its user sees it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from raynas import results


def test_a_failing_trial_is_one_line_and_a_file(tmp_path: Path) -> None:
    flags = ["--trainable", "failing_trial:FailingTrial", "--searcher", "random", "--trials", "10", "--max-failures", "1", "--out", "run"]
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, "-m", "raynas.search", *flags],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = results.read(str(tmp_path / "run")).trials.to_pylist()
    assert {row["status"] for row in rows} == {"failed", "finished"}
    lines = (done.stdout + done.stderr).splitlines()
    for row in rows:
        said = [line for line in lines if row["trial_id"] in line]
        if row["status"] == "finished":
            assert (said, row["latency"], row["epochs"], row["error_file"], row["fault"]) == ([], 2.5, 1, None, None)
            continue
        reason = "RuntimeError: CUDA error: device-side assert triggered"
        assert (row["error"], row["fault"]) == (reason, "architecture")
        again = f"trial {row['trial_id']} failed (architecture): {reason}; tried again in 1 s (1 of 1)"
        assert said == [again] * row["retries"] + [f"trial {row['trial_id']} failed: {reason}; see run/{row['error_file']}"]
        text = (tmp_path / "run" / row["error_file"]).read_text()
        assert text.count("For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n") == 1 + row["retries"]
        assert "KeyError: 'key'" in text
    # What several trials failed with before any report is no accident.
    assert [row["retries"] for row in rows if row["status"] == "failed"][:2] == [1, 1]
    assert not any("Traceback" in line or "Trials did not complete" in line for line in lines)
    assert json.loads((tmp_path / "run" / "best.json").read_text())["latency"] == 2.5
