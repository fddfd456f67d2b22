"""Whatever a file of a run holds, a command says in one line what is wrong, or goes on."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stranger import ARCH, CONFIG, SAVED, no_ray, write_run

from raynas import search, train
from raynas.cli import BAD_USAGE, DONE, FAILED, INTERRUPTED
from raynas.errors import RaynasError, ResultsError
from raynas.results import read
from raynas.run.resume import read_earlier
from raynas.run.session import Session
from raynas.storage import parse_json
from trainables.learning.model_file import load_model

__all__ = ["no_ray"]

RAW = [
    b"",
    b"null",
    b"[]",
    b"5",
    b'"x"',
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"config":' * 5000,
    b"1" * 5000,
    b'{"config": {"space": "\\ud800"}}',
]
VALUES: list[Any] = [None, [], {}, 0, -1, 2.5, 10**30, True, "", "x", "\ud800", [[]], {"a": {}}, ["x"], "a\nb", float("nan"), "tune/../x"]


def mutations(value: Any, seed: int, count: int) -> Iterator[Any]:
    """Copies of some JSON, each with one part replaced or missing."""
    rng = random.Random(seed)
    for _ in range(count):
        made = copy.deepcopy(value)
        holder, keys = made, [*range(len(made))] if isinstance(made, list) else [*made]
        while keys:
            key = rng.choice(keys)
            inner = holder[key]
            if isinstance(inner, (dict, list)) and inner and rng.random() < 0.7:
                holder, keys = inner, [*range(len(inner))] if isinstance(inner, list) else [*inner]
                continue
            if rng.random() < 0.2:
                del holder[key]
            else:
                holder[key] = rng.choice(VALUES)
            break
        yield made


def check(code: int, capsys: pytest.CaptureFixture[str], what: Any) -> None:
    error = capsys.readouterr().err
    assert code in (BAD_USAGE, INTERRUPTED, FAILED, DONE), what
    assert "Traceback" not in error, what
    if code == BAD_USAGE:
        assert error.startswith("error: "), what
        assert error.count("\n") == 1, (what, error)


ONESHOT = [
    {"seed": 0, "status": "running", "checkpoint": SAVED | {"path": "oneshot/s/t/c"}}
    | dict.fromkeys(("epoch", "valid_accuracy", "seconds", "arch", "error")),
    {"seed": 1, "status": "finished", "arch": {"space": "nasbench201", "arch": ARCH}, "epoch": 3, "valid_accuracy": 0.5, "seconds": 2.0}
    | dict.fromkeys(("error", "checkpoint")),
]
FILES: dict[str, tuple[Any, dict[str, Any]]] = {  # what it holds, and the configuration of the run
    "config.json": ({"config": CONFIG, "started_at": "2026-01-01"}, {}),
    "memory.json": ({"queue": [[{"space": "nasbench201", "arch": ARCH}, 3, 0.5]], "rungs": {"3": [0.5]}}, {}),
    "oneshot.json": (ONESHOT, {"space": "darts", "searcher": "darts", "trainable": "train", "trainable_options": {}, "trials": 2}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_search(name: str, tmp_path: Path, no_ray: list[Session], capsys: pytest.CaptureFixture[str]) -> None:
    value, config = FILES[name]
    run = write_run(tmp_path / "run", config)
    good = (tmp_path / "run" / "config.json").read_bytes()
    texts = [*RAW, *(json.dumps(made).encode() for made in mutations(value, 1, 12))]
    for text in texts:
        (tmp_path / "run" / "config.json").write_bytes(good)
        (tmp_path / "run" / name).write_bytes(text)
        check(search.main(["--resume", run]), capsys, text)
        if name == "config.json":
            check(search.main(["--warm-start", run, "--trials", "2", "--out", str(tmp_path / "new"), "--searcher", "random"]), capsys, text)
            check(train.main(["--resume", run]), capsys, text)
    if name != "oneshot.json":
        (tmp_path / "run" / "config.json").write_bytes(good)
        (tmp_path / "run" / name).write_text(json.dumps(value))
        assert search.main(["--resume", run]) == INTERRUPTED
        assert no_ray


@pytest.mark.parametrize("column", ["arch", "checkpoint"])
def test_damaged_json_in_rows(column: str, tmp_path: Path, no_ray: list[Session], capsys: pytest.CaptureFixture[str]) -> None:
    value = {"space": "nasbench201", "id": ARCH, "arch": ARCH} if column == "arch" else SAVED
    texts = [*(text.decode("latin-1") for text in RAW), *(json.dumps(made) for made in mutations(value, 2, 12))]
    for i, text in enumerate(texts):
        run = write_run(tmp_path / str(i), **{column: text})
        check(search.main(["--resume", run]), capsys, text)
    assert search.main(["--resume", write_run(tmp_path / "good")]) == INTERRUPTED


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": ["done"]}, "status 'done'"),
        ({"order": [1]}, "the order 1"),
        ({"ended_at": [None]}, "when is missing"),
        ({"trial_id": [None]}, ""),
        ({"arch": [None]}, ""),
        ({"order": [None]}, ""),
        ({"status": [None]}, ""),
        ({"epochs": [-1]}, None),
    ],
)
def test_rows_that_no_run_writes(
    change: dict[str, Any], said: str | None, tmp_path: Path, no_ray: list[Session], capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path)
    (file,) = (tmp_path / "parts").glob("trials-*")
    table = pq.read_table(file)
    for name, values in change.items():
        i = table.column_names.index(name)
        field = table.schema.field(name).with_nullable(True)
        table = table.set_column(i, field, pa.array(values, field.type))
    pq.write_table(table, file)
    code = search.main(["--resume", run])
    if said is None:
        assert code == INTERRUPTED
        return
    error = capsys.readouterr().err
    assert code == BAD_USAGE
    assert said in error
    assert error.count("\n") == 1
    with pytest.raises(RaynasError):
        read_earlier(run)


def test_a_damaged_best_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arch = {"space": "nasbench201", "id": ARCH, "arch": ARCH}
    good = {"arch": arch, "recommended": arch, "space": "nasbench201", "space_options": {}, "valid_accuracy": 0.9}
    for text in [*RAW, *(json.dumps(made).encode() for made in mutations(good, 3, 80))]:
        (tmp_path / "best.json").write_bytes(text)
        try:
            train.read_subject(str(tmp_path))
        except RaynasError as error:
            assert "\n" not in str(error), text  # noqa: PT017
    (tmp_path / "best.json").write_bytes(b"[" * 100_000)
    check(train.main(["--arch", str(tmp_path)]), capsys, "deep")


def test_a_damaged_model(tmp_path: Path) -> None:
    arch = {"space": "nasbench201", "id": ARCH, "arch": ARCH}
    sizes = {"classes": 10, "image_size": 8, "image_channels": 1, "mean": [0.5], "std": [0.5]}
    good = {"space": "nasbench201", "space_options": None, "arch": arch, "network": {"cells": 1, "channels": 4}} | sizes
    for text in [*RAW, *(json.dumps(made).encode() for made in mutations(good, 4, 60))]:
        (tmp_path / "model.json").write_bytes(text)
        with pytest.raises(RaynasError):
            load_model(tmp_path)


@pytest.mark.parametrize("text", [*RAW[5:10], b'["\\ud800"]'])
def test_json_that_is_none(text: bytes) -> None:
    with pytest.raises(ResultsError, match=r"^the file is (damaged|not valid JSON): [^\n]*$"):
        parse_json(text, "the file")


def test_what_is_read_without_being_believed(tmp_path: Path) -> None:
    """`results.read` parses no JSON in rows: what is damaged there is still shown."""
    assert read(write_run(tmp_path, checkpoint="[")).started["checkpoint"].to_pylist() == ["["]
