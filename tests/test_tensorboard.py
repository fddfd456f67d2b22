"""Event files: TensorBoard's own reader sees what was written, after a kill, a resume, and through a URI."""

import json
import math
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import urllib.request
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from browser import browser as browser
from browser import complaints
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from waiting import until

from raynas.config import RunConfig
from raynas.errors import ResultsError
from raynas.run.tensorboard import RunSummary, SummaryWriter, hyperparameters
from raynas.spaces import make_space


def load(folder: Path) -> EventAccumulator:
    """Everything in the event files of one folder."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value)) for event in load(folder).Scalars(tag)]


def png(height: int, width: int) -> bytes:
    """A black RGB picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes((1 + 3 * width) * height))) + chunk(b"IEND", b"")


@pytest.fixture
def memory() -> str:
    return f"memory://{uuid.uuid4().hex}"


def test_scalars_texts_and_pictures_come_back(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    writer.scalar("a/b", 0.5, 3, wall_time=1000.0)
    writer.scalar("a/b", 0.75, 4)
    writer.text("best", "| op |\n|---|\n| conv |", 4)
    writer.image("cell", png(2, 5), 2, 5, 4)
    writer.close()
    events = load(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("a/b")] == [(3, 0.5), (4, 0.75)]
    assert events.Scalars("a/b")[0].wall_time == 1000.0
    assert events.Tensors("best")[0].tensor_proto.string_val[0].startswith(b"| op |")
    assert events.SummaryMetadata("best").plugin_data.plugin_name == "text"
    (image,) = events.Images("cell")
    assert (image.height, image.width, image.encoded_image_string) == (2, 5, png(2, 5))


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_missing_value_is_not_written(tmp_path: Path, value: float | None) -> None:
    writer = SummaryWriter(str(tmp_path))
    writer.scalar("a", value, 1)
    writer.scalar("a", 0.5, 2)
    writer.close()
    assert curve(tmp_path, "a") == [(2, 0.5)]


def test_an_event_is_readable_before_close(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    writer.scalar("a", 0.5, 1)
    writer.flush()
    assert curve(tmp_path, "a") == [(1, 0.5)]
    writer.close()


def test_the_summary_run_has_the_incumbent_over_three_axes(tmp_path: Path) -> None:
    run = RunSummary(str(tmp_path))
    run.trial_done(10, 12.7, 3000.2, {"valid_accuracy": 0.8, "test_accuracy": None, "latency": 3.5})
    run.trial_done(11, 13.9, 3100.0, {"valid_accuracy": 0.9, "test_accuracy": 0.88})
    run.close()
    folder = tmp_path / "summary"
    assert curve(folder, "incumbent/valid_accuracy") == [(10, 0.8), (11, 0.9)]
    assert curve(folder, "incumbent/valid_accuracy_by_seconds") == [(12, 0.8), (13, 0.9)]
    assert curve(folder, "incumbent/valid_accuracy_by_train_seconds") == [(3000, 0.8), (3100, 0.9)]
    assert curve(folder, "incumbent/latency") == [(10, 3.5)]
    assert curve(folder, "incumbent/test_accuracy") == [(11, 0.88)]
    assert curve(folder, "incumbent/test_accuracy_by_seconds") == [(13, 0.88)]
    assert curve(folder, "incumbent/test_accuracy_by_train_seconds") == [(3100, 0.88)]


def test_the_summary_run_has_the_predictor(tmp_path: Path) -> None:
    run = RunSummary(str(tmp_path))
    run.refit(20, 1.5, None, math.nan)
    run.refit(30, 2.5, 0.01, 0.7)
    run.close()
    folder = tmp_path / "summary"
    assert curve(folder, "predictor/mae") == [(30, 0.01)]
    assert curve(folder, "predictor/rank_correlation") == [(30, 0.7)]
    assert curve(folder, "predictor/refit_seconds") == [(20, 1.5), (30, 2.5)]
    assert not any("observations" in tag for tag in load(folder).Tags()["scalars"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a TensorBoard that shows a search of 1,000 trials."""
    folder = tmp_path_factory.mktemp("board")
    run, best = RunSummary(str(folder), settings={"searcher": "bananas", "seed": 3}), 0.0
    for number in range(1, 1001):
        value = 0.9 - 0.3 / number + 0.001 * (number % 7)
        best = max(best, value)
        run.trial_ended(number, "failed" if number % 50 == 0 else "finished", {"valid_accuracy": value}, failed=number // 50)
        run.trial_done(number, number, 60 * number, {"valid_accuracy": best})
        if number % 10 == 0:
            run.refit(number, 0.3, 0.01, 0.7)
    run.close()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "http://" in line)
        address = re.search(r"http://\S+?/", line)
        assert address is not None
        yield address[0]
        process.terminate()


def asked(address: str, path: str) -> Any:
    """What the server answers, once it has read the events."""

    def answer() -> Any:
        with urllib.request.urlopen(f"{address}data/plugin/{path}") as response:
            return json.load(response)

    until(lambda: answer() not in ({}, []), 60)
    return answer()


@pytest.mark.slow
def test_the_server_calls_curves_by_names_that_explain_themselves(server: str) -> None:
    until(lambda: "predictor/mae" in asked(server, "scalars/tags").get("summary", {}), 60)
    tags = asked(server, "scalars/tags")["summary"]
    assert {tag for tag, about in tags.items() if not (about["displayName"] and about["description"])} == set()
    assert tags["predictor/mae"]["displayName"] == "predictor: mean absolute error"
    assert "jumps" in tags["predictor/mae"]["description"]
    points = asked(server, "scalars/scalars?run=summary&tag=predictor%2Fmae")
    assert {step for _, step, _ in points} == set(range(10, 1001, 10))


@pytest.mark.slow
def test_a_browser_shows_the_curves(server: str, browser: Any) -> None:
    complaints(browser)
    for page, shows in (("custom_scalars", "every trial, by how it ended"), ("timeseries", "predictor"), ("hparams", "bananas")):
        browser.get(f"{server}#{page}")
        until(lambda shows=shows: shows in all_text(browser), 60)  # type: ignore[misc]
    assert not [line for line in complaints(browser) if "SEVERE" in line]


def all_text(browser: Any) -> str:
    """What a page shows, its shadow trees included."""
    script = """
        const inner = n => [...n.childNodes, ...(n.shadowRoot ? [n.shadowRoot] : [])];
        const walk = n => inner(n).map(c => c.nodeType === 3 ? c.data : walk(c)).join(" ");
        return walk(document.body);"""
    return str(browser.execute_script(script))


def test_pictures_show_the_best_architecture_and_the_predictor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    space = make_space("nasbench201")
    arch = {"arch": "|skip_connect~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"}
    run = RunSummary(str(tmp_path))
    run.pictures(10, space, arch, [(0.5, 0.6)])
    run.pictures(20, space, arch, [(0.5, 0.6), (0.6, 0.5), (0.7, 0.7)])
    run.pictures(30, space, {"arch": "of another space"}, [])
    run.pictures(40, space, {"arch": "of another space"}, [])
    run.close()
    events = load(tmp_path / "summary")
    assert [event.step for event in events.Images("incumbent/architecture")] == [10, 20]
    (scatter,) = events.Images("predictor/predicted and observed")
    assert (scatter.step, scatter.width, scatter.height) == (20, 500, 400)
    assert caplog.text.count("cannot be drawn") == 1


def test_every_trial_is_a_point_in_the_run_of_its_status(tmp_path: Path) -> None:
    run = RunSummary(str(tmp_path))
    run.trial_ended(1, "finished", {"valid_accuracy": 0.8}, failed=0)
    run.trial_ended(2, "failed", {}, failed=1)
    run.trial_ended(3, "stopped", {"valid_accuracy": 0.5}, failed=1)
    run.trial_ended(4, "failed", {"valid_accuracy": 0.1}, failed=2)
    run.close()
    assert curve(tmp_path / "finished", "trial/valid_accuracy") == [(1, 0.8)]
    assert curve(tmp_path / "stopped", "trial/valid_accuracy") == [(3, 0.5)]
    assert curve(tmp_path / "failed", "trial/valid_accuracy") == [(4, 0.1)]
    assert curve(tmp_path / "summary", "trials/failed") == [(1, 0), (2, 1), (3, 1), (4, 2)]


def test_the_layout_finds_every_curve(tmp_path: Path) -> None:
    run = RunSummary(str(tmp_path))
    run.trial_ended(1, "finished", {"valid_accuracy": 0.8}, failed=0)
    run.trial_done(1, 1.0, 1.0, {"valid_accuracy": 0.8})
    run.refit(1, 1.0, 0.1, 0.5)
    run.close()
    (event,) = load(tmp_path / "summary").Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == ["Search", "Predictor", "Time"]
    found = {chart.title: set[str]() for category in layout.category for chart in category.chart}
    tags = [tag for folder in ("summary", "finished") for tag in load(tmp_path / folder).Tags()["scalars"]]
    for category in layout.category:
        for chart in category.chart:
            found[chart.title] |= {tag for tag in tags for pattern in chart.multiline.tag if re.match(pattern, tag)}
    assert found["best so far"] == {"incumbent/valid_accuracy"}
    assert set().union(*found.values()) == set(tags)
    assert all(found.values())


def test_the_settings_and_the_best_values_are_a_session_of_hparams(tmp_path: Path) -> None:
    run = RunSummary(str(tmp_path), settings={"searcher": "bananas", "seed": 3, "max_epochs": None, "searcher_options.sizes": [1, 2]})
    run.trial_done(1, 1.0, 1.0, {"valid_accuracy": 0.8})
    run.trial_done(2, 2.0, 2.0, {"valid_accuracy": 0.8})
    run.trial_done(3, 3.0, 3.0, {"valid_accuracy": 0.9})
    run.close()
    assert curve(tmp_path / "settings", "best/valid_accuracy") == [(1, 0.8), (3, 0.9)]
    content = load(tmp_path / "settings").PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info
    assert start.hparams["searcher"].string_value == "bananas"
    assert start.hparams["seed"].number_value == 3
    assert start.hparams["searcher_options.sizes"].string_value == "[1, 2]"
    assert "max_epochs" not in start.hparams
    assert "_hparams_/session_end_info" in content


def test_the_settings_of_a_configuration() -> None:
    config = RunConfig(searcher="evolution", searcher_options={"population": 7}, seed=3)
    settings = hyperparameters(config.model_dump())
    assert (settings["searcher"], settings["seed"], settings["searcher_options.population"]) == ("evolution", 3, 7)


def test_a_trial_gets_a_run_of_its_own_only_where_asked_for(tmp_path: Path) -> None:
    metrics = {"valid_accuracy": 0.5, "latency": 3, "test_accuracy": None, "train_loss": math.nan, "note": "text"}
    for per_trial in (False, True):
        run = RunSummary(str(tmp_path / str(per_trial)), per_trial)
        run.report("t1", 1, metrics)
        run.report("t1", 2, metrics | {"valid_accuracy": 0.6})
        run.trial_closed("t1")
        run.trial_closed("t1")
        run.close()
    assert list(tmp_path.iterdir()) == [tmp_path / "True"]
    assert curve(tmp_path / "True" / "trials" / "t1", "valid_accuracy") == [(1, 0.5), (2, 0.6)]
    assert set(load(tmp_path / "True" / "trials" / "t1").Tags()["scalars"]) == {"valid_accuracy", "latency"}


def test_a_fresh_summary_can_be_pickled_and_a_closed_one_used_again(tmp_path: Path) -> None:
    run = pickle.loads(pickle.dumps(RunSummary(str(tmp_path))))
    run.summary.scalar("a", 0.5, 1)
    run.close()
    run.summary.scalar("a", 0.6, 2)
    run.close()
    # Sorted: files of one second are read in the order of their names.
    assert sorted(step for step, _ in curve(tmp_path / "summary", "a")) == [1, 2]


def test_a_killed_search_and_its_resumption_are_read_together(tmp_path: Path) -> None:
    code = f"""
import os, signal
from raynas.run.tensorboard import RunSummary
run = RunSummary({str(tmp_path)!r})
for n in range(1, 6):
    run.trial_done(n, n, n, {{"valid_accuracy": n / 10}})
run.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    run = RunSummary(str(tmp_path))
    for n in range(4, 8):  # the last trials before the kill are evaluated again
        run.trial_done(n, n, n, {"valid_accuracy": n / 10})
    run.close()
    assert len(os.listdir(tmp_path / "summary")) == 2
    points = curve(tmp_path / "summary", "incumbent/valid_accuracy")
    assert sorted(step for step, _ in points) == [1, 2, 3, 4, 4, 5, 5, 6, 7]


def test_event_files_reach_a_uri_on_flush(memory: str, tmp_path: Path) -> None:
    run = RunSummary(memory)
    run.trial_done(1, 1.0, 1.0, {"valid_accuracy": 0.5})
    run.flush()
    run.flush()
    run.trial_done(2, 2.0, 2.0, {"valid_accuracy": 0.6})
    run.close()
    names = fsspec.filesystem("memory").find(memory)
    assert len(names) == 1
    assert "/summary/events.out.tfevents." in names[0]
    fsspec.filesystem("memory").get(names[0], str(tmp_path / "events.out.tfevents.1"))
    assert curve(tmp_path, "incumbent/valid_accuracy") == [(1, 0.5), (2, 0.6)]


def test_what_was_not_flushed_is_not_at_the_uri(memory: str) -> None:
    writer = SummaryWriter(memory)
    writer.scalar("a", 0.5, 1)
    assert fsspec.filesystem("memory").find(memory) == []
    writer.close()
    assert len(fsspec.filesystem("memory").find(memory)) == 1


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match=r"^cannot create the folder .*file/summary.*$"):
        RunSummary(str(tmp_path / "file")).trial_done(1, 1.0, 1.0, {"valid_accuracy": 0.5})


def test_the_module_imports_neither_torch_nor_ray() -> None:
    code = "import sys, raynas.run.tensorboard; assert not {'torch', 'ray', 'tensorflow', 'tensorboardX'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
