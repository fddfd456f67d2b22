"""`python -m raynas.predict`: what a trained network takes images for; and the way there from a folder of photographs."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import load_model_from_string
from onnx.reference import ReferenceEvaluator
from PIL import Image

from raynas import predict, train
from raynas.cli import BAD_USAGE, DONE, FAILED
from tests.photographs import CLASSES, write_photographs
from trainables.learning.augmentation import middle
from trainables.learning.model_file import read_model
from trainables.learning.photos import pixels
from trainables.learning.trainer import device_name, make_device

ROOT = Path(__file__).resolve().parents[1]
CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on photographs; its folder stands beside theirs."""
    root = tmp_path_factory.mktemp("predict")
    write_photographs(root / "photos", 30)
    sizes = ["--set", "recipe.image_size=24", "--set", "recipe.crop_area=0.6", "--epochs", "6"]
    assert train.main(["--arch", CELL, "--dataset", f"folder:{root}/photos", "--recipe", "quick", *sizes, "--out", f"{root}/run"]) == DONE
    write_photographs(root / "new", 4, seed=1)
    return root / "run"


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = predict.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_it_recognises_what_it_has_learned(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, trained, trained.parent / "new", "--json", "--top", 3)
    found = json.loads(out)
    assert (code, len(found)) == (DONE, 12)
    right = [entry["classes"][0]["class"] == Path(entry["path"]).parent.name for entry in found]
    assert np.mean(right) >= 0.75
    for entry in found:
        values = [likely["probability"] for likely in entry["classes"]]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-4)
        assert {likely["class"] for likely in entry["classes"]} == set(CLASSES)


def test_the_report_counts_what_predict_says(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, result = (json.loads((trained / name).read_text()) for name in ("test.json", "result.json"))
    confusion = np.array(report["confusion"])
    assert confusion.sum() == 18
    assert np.trace(confusion) / 18 == result["test_accuracy"]
    for i, entry in enumerate(report["classes"]):
        assert entry["name"] == CLASSES[i]
        assert entry["images"] == confusion[i].sum()
        assert entry["accuracy"] == pytest.approx(confusion[i, i] / confusion[i].sum())
    assert 0 < result["latency_ms"] < 1000
    assert result["model_bytes"] == (trained / "model.pt").stat().st_size
    assert result["device"] == device_name(make_device("auto"))


def test_the_table(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = sorted((trained.parent / "new" / "fine").iterdir())
    code, out, _ = told(capsys, trained / "model.pt", *images, "--top", 1)
    assert code == DONE
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [str(image) for image in images]
    assert all(re.fullmatch(r"\S+ +(coarse|fine|plain) \d+\.\d %", line) for line in lines)


def test_what_cannot_be_read_is_named_and_the_rest_is_told(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    Image.new("L", (700, 3)).save(tmp_path / "thin.png")
    code, out, _ = told(capsys, trained, tmp_path / "bad.jpg", tmp_path / "thin.png", "--json")
    assert (code, [entry["path"] for entry in json.loads(out)]) == (FAILED, [str(tmp_path / "thin.png")])
    code, out, _ = told(capsys, trained, tmp_path / "bad.jpg", "--json")
    assert (code, json.loads(out)) == (FAILED, [])


def test_mistakes_are_one_line(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = next((trained.parent / "new").rglob("*.png"))
    (tmp_path / "nothing").mkdir()
    for arguments, message in {
        (trained, tmp_path / "nowhere.jpg"): "there is no file",
        (trained, tmp_path / "nothing"): "holds no images",
        (tmp_path, image): "raynas.train",
        (tmp_path / "nowhere", image): "raynas.train",
        (trained, image, "--top", "0"): "--top must be at least 1",
        (trained, image, "--device", "abacus"): "'abacus' cannot be used here",
    }.items():
        code, out, err = told(capsys, *arguments)
        assert (code, out) == (BAD_USAGE, "")
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("class_names", ["a"], "class_names must be 3 texts"),
        ("class_names", "abc", "class_names must be 3 texts"),
        ("view", {"image_size": 24}, "view must hold image_size, resize and fit"),
        ("view", {"image_size": 24, "resize": 1 << 40}, "no image of 24 pixels"),
        ("view", {"image_size": 48, "resize": 50}, "no image of 48 pixels, for a network of 24"),
    ],
)
def test_a_description_that_cannot_be_true(
    trained: Path, tmp_path: Path, key: str, value: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    described = json.loads((trained / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(described | {key: value}))
    (tmp_path / "model.pt").write_bytes((trained / "model.pt").read_bytes())
    code, _, err = told(capsys, tmp_path, next((trained.parent / "new").rglob("*.png")))
    assert code == BAD_USAGE
    assert message in err


def test_names_of_classes_do_not_steer_the_terminal(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described = json.loads((trained / "model.json").read_text()) | {"class_names": ["\x1b[31mred", "[bold]", "c\nd"]}
    (tmp_path / "model.json").write_text(json.dumps(described))
    (tmp_path / "model.pt").write_bytes((trained / "model.pt").read_bytes())
    code, out, _ = told(capsys, tmp_path, next((trained.parent / "new").rglob("*.png")))
    assert code == DONE
    assert "\x1b" not in out
    assert out.count("\n") == 1
    assert "[bold]" in out


def test_networks_for_grey_images_and_those_of_version_0_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--arch", CELL, "--dataset", "digits", "--epochs", "1", "--out", str(tmp_path / "run")]) == DONE
    described = json.loads((tmp_path / "run" / "model.json").read_text())
    del described["class_names"], described["view"]
    (tmp_path / "run" / "model.json").write_text(json.dumps(described))
    Image.new("RGB", (20, 30), (200, 100, 0)).save(tmp_path / "a.png")
    code, out, _ = told(capsys, tmp_path / "run", tmp_path / "a.png", "--json", "--top", 99)
    assert code == DONE
    (entry,) = json.loads(out)
    assert {likely["class"] for likely in entry["classes"]} == set(map(str, range(10)))


@pytest.mark.slow  # a search that trains
def test_from_a_folder_of_photographs_to_an_exported_network(tmp_path: Path) -> None:
    """The commands of images.md, of which README.md shows two, with less of everything."""
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("docs/images.md", "README.md")]
    commands, shown = (re.findall(r"^python -m (raynas\.(\w+) .*?)(?:\s+#.*)?$", page, re.M) for page in pages)
    assert [name for _, name in commands] == ["search", "train", "predict", "predict"]
    assert shown == commands[:2]
    small = ["--set", "recipe.image_size=32", "--set", "recipe.batch_size=16"]
    less = {"search": ["--trials", "3", "--max-epochs", "1", *small], "train": ["--epochs", "2", *small], "predict": []}
    write_photographs(tmp_path / "photos", 12)
    (tmp_path / "photos" / "plain" / "2.jpg").write_bytes(b"")
    output = ""
    for text, name in commands:
        line = shlex.join([sys.executable, "-m"]) + f" {text} {shlex.join(less[name])}"
        done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == (FAILED if name == "predict" else DONE), done.stderr
        assert "Traceback" not in done.stderr
        assert "plain/2.jpg" in done.stderr  # the damaged one, each time
        output = done.stdout
    assert len(json.loads(output)) == 35

    model = read_model(tmp_path / "trained")
    assert model.class_names == CLASSES
    image = torch.from_numpy(pixels(tmp_path / "photos" / "fine" / "0.jpg", model.view).copy()).permute(2, 0, 1)[None] / 255
    image = middle(image, model.view.image_size)
    with torch.inference_mode():
        expected = model.network(image).numpy()
    exported = load_model_from_string((tmp_path / "trained" / "model.onnx").read_bytes())
    (logits,) = ReferenceEvaluator(exported).run(None, {"images": image.numpy()})
    assert np.allclose(logits, expected, atol=1e-4)
