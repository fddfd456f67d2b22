"""What `python -m raynas.search --trainable train` answers to mistakes: one line, before the first trial; and trials that fail alone."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from logged_trial import LOG
from PIL import Image

from raynas import results, search, storage

SEARCH = ["--trainable", "train", "--set", "trainable_options.recipe=quick", "--trials", "2", "--out", "run"]


def folder(path: Path, classes: int = 2, sizes: tuple[int, ...] = (8, 8, 8)) -> None:
    """A folder `images` with a folder of images for each class."""
    (path / "images").mkdir()
    for label in range(classes):
        (path / "images" / f"class{label}").mkdir()
        for i, size in enumerate(sizes):
            Image.new("RGB", (size, size), (100 * label, 10 * i, 0)).save(path / "images" / f"class{label}" / f"{i}.png")


def damaged(path: Path) -> None:
    folder(path)
    (path / "images" / "class1" / "1.png").write_bytes(b"no image")


def function(returned: str) -> Callable[[Path], None]:
    """A module `own_data` whose function `load` returns this."""
    text = f"import torch\n\nimages, labels = torch.rand(30, 1, 8, 8), torch.arange(30) % 3\n\ndef load():\n    return {returned}\n"
    return lambda path: (path / "own_data.py").write_text(text) and None


def nothing(path: Path) -> None:
    pass


FOLDER = ["--dataset", "folder:images"]
OWN = ["--dataset", "own_data:load"]
BAD: dict[str, tuple[Callable[[Path], None], list[str], list[str]]] = {
    "no folder": (nothing, FOLDER, ["{path}/images does not exist"]),
    "empty folder": (lambda path: folder(path, 0), FOLDER, ["at least 2 classes", "it has 0 folders"]),
    "empty class": (lambda path: folder(path, sizes=()), FOLDER, ["class0 holds no images"]),
    "one class": (lambda path: folder(path, 1), FOLDER, ["at least 2 classes", "it has 1 folders"]),
    "mixed sizes": (lambda path: folder(path, sizes=(8, 9)), FOLDER, ["class0/1.png has 9x9, the first one 8x8; name one by --set"]),
    "damaged image": (damaged, FOLDER, ["class1/1.png cannot be read as an image"]),
    "no function": (nothing, OWN, ["data set 'own_data:load' cannot be imported"]),
    "labels out of range": (function("{'train': (images, labels), 'test': (images, labels + 1)}"), OWN, ["label 3 in test", "of 0 to 2"]),
    "class count": (function("{'train': (images, labels), 'classes': 4}"), OWN, ["all of 0 to 3", "they are 0, 1, 2"]),
    "normalised": (function("{'train': (images - 1, labels)}"), OWN, ["must lie in [0, 1]"]),
    "unknown data set": (nothing, ["--dataset", "cifar"], ["did you mean 'cifar10'", "folder:PATH", "module:function"]),
    "recipe of another space": (
        nothing,
        ["--dataset", "digits", "--space", "darts", "--set", "trainable_options.recipe=nasbench201"],
        ["'nasbench201' does not train architectures of space 'darts'", "darts-search"],
    ),
    "unknown recipe": (nothing, ["--dataset", "digits", "--set", "trainable_options.recipe=quik"], ["did you mean 'quick'"]),
    "unknown option": (nothing, ["--dataset", "digits", "--set", "trainable_options.batchsize=8"], ["did you mean 'batch_size'"]),
    "a table": (nothing, ["--dataset", "digits", "--table", "table.parquet"], ["a trial that trains reads no table"]),
    "no such device": (nothing, ["--dataset", "digits", "--set", "trainable_options.device=gpu"], ["no device 'gpu'", "cuda:0"]),
    "more GPUs than there are": (nothing, ["--dataset", "digits", "--gpus-per-trial", "99"], ["--gpus-per-trial 99", "ask for less"]),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_get_one_clear_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, arguments, words = BAD[case]
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_data", raising=False)
    if case.startswith("more GPUs"):  # Ray is started for this one
        done = subprocess.run(command(*arguments), cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        code, said = done.returncode, done.stderr
    else:
        code = search.main([*SEARCH, *arguments])
        said = capsys.readouterr().err
    assert code == 2, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    for word in words:
        assert word.format(path=tmp_path) in said
    assert not list(tmp_path.rglob("config.json"))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "raynas.search", *SEARCH, *arguments]


def test_without_a_network_the_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import urllib.request

    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.chdir(tmp_path)
    code = search.main([*SEARCH, "--dataset", "cifar10", "--set", "trainable_options.data_dir=data"])
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith(f"error: CIFAR10 cannot be downloaded to {tmp_path}/data/cifar10 (")
    assert said.count("\n") == 1
    assert "name another data_dir" in said


@pytest.mark.slow
def test_relative_paths_work_from_any_folder(tmp_path: Path) -> None:
    folder(tmp_path, sizes=(8,) * 12)
    one = command("--dataset", "folder:images", "--max-epochs", "1")
    done = subprocess.run(one, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    run = str(tmp_path / "run")
    assert storage.read_json(run, "config.json")["config"]["dataset"] == f"folder:{tmp_path}/images"
    assert f"--dataset folder:{tmp_path}/images" in storage.read_json(run, "best.json")["train"]
    more = [sys.executable, "-m", "raynas.search", "--resume", run, "--trials", "3"]
    done = subprocess.run(more, cwd="/", capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in results.read(run).trials.to_pylist()] == ["finished"] * 3


@pytest.mark.slow
def test_a_training_that_diverges_fails_alone(tmp_path: Path) -> None:
    environment = os.environ | {LOG: str(tmp_path / "log"), "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).resolve().parents[:2]))}
    options = ["--trainable", "logged_trial:DivergingTrial", "--dataset", "digits", "--max-epochs", "2"]
    options += ["--concurrency", "1", "--trials", "4"]  # one process trains all, one after another
    done = subprocess.run(command(*options), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tables = results.read(str(tmp_path / "run"))
    rows = tables.trials.to_pylist()
    assert [row["status"] for row in rows] == ["finished", "failed"] * 2
    for row in rows[1::2]:
        assert "the training diverged" in row["error"]
        assert (row["epochs"], row["valid_accuracy"] is None) == (1, False)
    assert storage.read_json(str(tmp_path / "run"), "best.json")["arch_id"] in {rows[0]["arch_id"], rows[2]["arch_id"]}
