"""What `python -m raynas.train` says to mistakes of its user, and that docs/training.md is right about it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from raynas import train
from raynas.cli import BAD_USAGE, DONE
from raynas.errors import OutOfSpaceError, ResultsError, ResumeError
from raynas.spaces import make_space
from trainables.learning.data import load
from trainables.learning.recipes import make_recipe
from trainables.learning.team import dumped
from trainables.learning.trainer import Trainer

STRING = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
POOR = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
QUICK = ("--dataset", "digits", "--recipe", "quick", "--device", "cpu")


def run(*arguments: object) -> int:
    return train.main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--arch is missing"),
        (["--arch", "DARTS_V3", *QUICK], "unknown architecture 'DARTS_V3'; did you mean 'DARTS_V"),
        (["--arch", "{}", *QUICK], "describes no architecture"),
        (["--arch", "{", *QUICK], "JSON: Expecting property name"),
        (["--arch", STRING, "--dataset", "digit"], "unknown data set 'digit'; did you mean 'digits'"),
        (["--arch", STRING, "--dataset", "folder:nowhere"], "the folder nowhere does not exist"),
        (["--arch", STRING, "--recipe", "darts-final"], "recipe 'darts-final' does not train architectures of space 'nasbench201'; use"),
        (["--arch", STRING, "--recipe", "fast"], "unknown recipe 'fast'"),
        (["--arch", STRING, *QUICK[:2], "--recipe", "nowhere.yaml"], "cannot read nowhere.yaml: No such file"),
        (["--arch", STRING, *QUICK, "--set", "recipe.learning_rate=0"], "learning_rate of a recipe cannot be 0: input should be greater"),
        (["--arch", STRING, *QUICK, "--set", "recipe.lr=0.1"], "unknown field of a recipe 'lr'"),
        (["--arch", STRING, *QUICK, "--set", "recipe.network.depth=3"], "unknown option of the network of space 'nasbench201' 'depth'"),
        (["--arch", STRING, *QUICK, "--set", "epoch=3"], "unknown configuration key 'epoch'; did you mean 'epochs'"),
        (["--arch", "nowhere/best.json", *QUICK], "nowhere/best.json does not exist"),
        (["--arch", STRING, *QUICK, "--device", "cuda:99"], "the device 'cuda:99' cannot be used here"),
        (["--arch", STRING, *QUICK, "--epochs", "0"], "epochs = 0 is not allowed"),
        (["--arch", STRING, *QUICK, "--batch-size", "1"], "batch_size = 1 is not allowed"),
        (["--arch", STRING, *QUICK, "--workers", "0"], "workers = 0 is not allowed"),
        (
            ["--arch", STRING, *QUICK, "--workers", "3"],
            "3 workers cannot share batches of 64 images, at least 2 each; choose a batch size such as 66",
        ),
        (["--arch", STRING, *QUICK, "--workers", "2", "--batch-size", "2"], "choose a batch size such as 4"),
        (["--arch", STRING, *QUICK[:4], "--workers", "2", "--device", "cuda:1"], "not on 'cuda:1'"),
        (["--arch", STRING, *QUICK, "--address", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
        (["--arch", STRING, *QUICK, "--export", "onx"], "unknown export format 'onx'; did you mean 'onnx'"),
        (["--arch", STRING, *QUICK, "--label-smoothing", "1"], "label_smoothing = 1"),
        (["--arch", "DARTS_V2", "--dataset", "digits", "--recipe", "darts-final"], "the auxiliary head needs a feature map"),
        (["--resume", "nowhere"], "nowhere/config.json does not exist"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(*arguments, *([] if "--resume" in arguments else ["--out", tmp_path / "run"])) == BAD_USAGE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of one epoch."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run("--arch", POOR, *QUICK, "--epochs", 1, "--out", out) == DONE
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_checkpoint_that_does_not_fit_is_one_line_and_stays(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = copy / train.CHECKPOINT
    space = make_space("nasbench201")
    arch = space.from_config({"arch": STRING})
    other = Trainer(space, arch, load("digits", 0), make_recipe("quick", space), torch.device("cpu"), 0, epochs=1)
    for content, message in (
        (dumped(other.state_dict()), "is of another training: its architecture is"),
        (checkpoint.read_bytes()[:1000], "checkpoint.pt is missing or damaged"),
        ((copy / train.MODEL).read_bytes(), "is of another training: its format is None"),
    ):
        checkpoint.write_bytes(content)
        assert run("--resume", copy) == BAD_USAGE
        assert message in complaint(capsys)
        assert checkpoint.read_bytes() == content
    (tmp_path / "config.json").write_text('{"config": {"space": "darts"}}')
    assert run("--resume", tmp_path) == BAD_USAGE
    assert "holds no training" in complaint(capsys)


def test_a_data_set_that_got_another_class_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def draw(name: str) -> None:
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (8, 8), (16 * i, 0, len(name))).save(tmp_path / "images" / name / f"{i}.png")

    draw("cats")
    draw("dogs")
    own = ("--dataset", f"folder:{tmp_path / 'images'}", "--recipe", "quick", "--device", "cpu", "--epochs", 1)
    assert run("--arch", POOR, *own, "--out", tmp_path / "run") == DONE
    draw("mice")
    before = (tmp_path / "run" / train.CHECKPOINT).read_bytes()
    assert run("--resume", tmp_path / "run") == BAD_USAGE
    assert "its classes is 2, here it is 3" in complaint(capsys)
    assert (tmp_path / "run" / train.CHECKPOINT).read_bytes() == before


def test_a_model_file_that_does_not_fit_is_an_error(copy: Path) -> None:
    described = json.loads((copy / "model.json").read_text())
    for change, error, message in (
        ({"classes": 11, "class_names": None}, ResumeError, "not those of the network in model.json"),
        (
            {"arch": {"space": "nasbench201", "arch": STRING}},
            ResumeError,
            "not those of the network in model.json",
        ),
        ({"arch": {"space": "nasbench201", "arch": "|none~0|"}}, OutOfSpaceError, "none~0"),
    ):
        (copy / "model.json").write_text(json.dumps(described | change))
        with pytest.raises(error, match=message):
            train.load_model(copy)
    for text, message in (('{"classes": 10}', "model.json is damaged: it lacks arch, image_channels"), ("[]", "must hold a mapping")):
        (copy / "model.json").write_text(text)
        with pytest.raises(ResultsError, match=message):
            train.load_model(copy)


def test_a_folder_of_an_earlier_version_is_read(copy: Path) -> None:
    """Which did not say whose space the architecture is of."""
    weights = train.load_model(copy).state_dict()
    for name, inner in (("config.json", "config"), ("model.json", None)):
        value = json.loads((copy / name).read_text())
        for key in ("space", "space_options"):
            del (value[inner] if inner else value)[key]
        (copy / name).write_text(json.dumps(value))
    assert all(torch.equal(tensor, weights[key]) for key, tensor in train.load_model(copy).state_dict().items())
    assert run("--resume", copy, "--arch", POOR) == DONE


def test_the_page_is_true(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python runs where a training has ended."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "training.md").read_text()
    blocks = re.findall(r"(?s)```python\n(.*?)```", page)
    names = {name for block in blocks for name in re.findall(r'load_model\("([^"]+)"\)', block)}
    assert names
    for name in names:
        shutil.copytree(finished, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    variables: dict[str, Any] = {}
    for block in blocks:
        exec(block, variables)
    with torch.inference_mode():
        assert variables["network"](torch.rand(2, 1, 8, 8)).shape == (2, 10)
