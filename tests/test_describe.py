"""Architectures by what describes them on a command line: names, JSON, texts; and the space that they belong to."""

import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from test_user_space import ChainSpace

from raynas.errors import ConfigError, OutOfSpaceError, RaynasError, UnknownNameError
from raynas.spaces import SPACES, Published, describe, make_space, published, space_name
from raynas.spaces.darts import GENOTYPES

STRING = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|"
CHAIN = f"{__name__}:NamedChain"


class NamedChain(ChainSpace):
    """A chain with a published architecture and a form of its own for a command line: `conv>pool>skip`."""

    published = {"all-conv": Published({"layers": ["conv"] * 3}, "nobody")}  # noqa: RUF012
    published_options = {"depth": 3}  # noqa: RUF012

    def from_text(self, text: str) -> Any:
        return self.from_config({"layers": text.split(">")}) if ">" in text else super().from_text(text)


def test_published_architectures_of_all_spaces() -> None:
    cells = published()
    assert cells.keys() == {*GENOTYPES, "inception-like", "MobileNetV2", "EfficientNet-B0"}
    for name, cell in cells.items():
        arch = describe(name)
        assert arch == describe(cell.config) == describe(json.dumps(cell.config)) == describe(name, cell.config["space"])
        assert arch.space == cell.config["space"]
        assert "https://arxiv.org/abs/" in cell.source


@pytest.mark.parametrize("name", ["nasbench101", "nasbench201", "darts"])
def test_json_finds_its_space(name: str) -> None:
    arch = make_space(name).sample(np.random.default_rng(0))
    config = arch.to_config()
    fields = {key: value for key, value in config.items() if key not in ("space", "id")}
    for value in (config, {"arch": config, "valid_accuracy": 0.9}, fields):
        for given in (None, name):
            assert describe(value, given) == describe(json.dumps(value), given) == arch
    assert describe(fields).spec == arch.spec


def test_a_text_of_the_spaces_own() -> None:
    assert describe(STRING) == describe(STRING, "nasbench201") == describe({"arch": STRING})
    assert describe("conv>pool>skip", CHAIN).id == "conv-pool-skip"


def test_a_space_of_ones_own_is_named_by_its_class() -> None:
    arch = describe({"layers": ["conv", "pool", "skip"]}, CHAIN)
    assert arch.space == "chain"
    assert describe(arch.to_config(), CHAIN) == describe({"arch": arch.to_config()}, CHAIN) == arch
    assert describe({**arch.to_config(), "space": CHAIN}, CHAIN) == arch
    assert describe("all-conv", CHAIN).id == "conv-conv-conv"
    assert describe({"layers": ["conv"] * 5}, CHAIN, {"depth": 5}).id == "conv-conv-conv-conv-conv"
    assert space_name(CHAIN) == space_name(ChainSpace()) == "chain"
    assert space_name("nasbench201") == "nasbench201"


def test_published_cells_may_hold_more_than_is_searched() -> None:
    assert "none" in str(describe("BANANAS", options={"channels": 16}))
    with pytest.raises(OutOfSpaceError, match="'none' is left out"):
        describe("BANANAS", options={"with_none": False})


@pytest.mark.parametrize(
    ("value", "space", "error", "message"),
    [
        ("DARTS_V3", None, UnknownNameError, "unknown architecture 'DARTS_V3'; did you mean 'DARTS_V2'\\? Known: .*JSON"),
        ("nowhere", "nasbench101", OutOfSpaceError, "the architecture is not JSON: .*: 'nowhere'"),
        ("|none~0|", None, OutOfSpaceError, "the form is"),
        ("{", None, OutOfSpaceError, "the architecture is not JSON"),
        ([1], None, OutOfSpaceError, "is described by a JSON object, not by"),
        ({"layers": ["conv"]}, None, OutOfSpaceError, "needs the field 'space' and one of adjacency, operations, arch, normal, reduce"),
        ({"normal": []}, None, OutOfSpaceError, "needs the field 'normal' with 8 pairs"),
        ({"adjacency": []}, None, OutOfSpaceError, "needs the fields 'adjacency' and 'operations'"),
        (
            {"space": "dart"},
            None,
            UnknownNameError,
            "unknown space 'dart'; did you mean 'darts'\\? Known: .*; a space of your own is named by",
        ),
        ({"space": ["darts"]}, None, UnknownNameError, "unknown space"),
        ({"space": "chain", "layers": []}, None, UnknownNameError, "--space module:Class"),
        ({"space": "chain", "layers": ["conv"] * 3}, "darts", OutOfSpaceError, "of space 'chain' does not belong to 'darts'"),
        ({"space": "darts", "layers": ["conv"] * 3}, CHAIN, OutOfSpaceError, "of space 'darts' does not belong to"),
        ({"layers": ["conv"] * 4}, CHAIN, OutOfSpaceError, "a chain has 3 layers"),
        (STRING, "dart", UnknownNameError, "unknown space 'dart'"),
        (STRING, "json:dumps", ConfigError, "json:dumps"),
    ],
)
def test_what_describes_nothing(value: Mapping[str, Any] | str, space: str | None, error: type[RaynasError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        describe(value, space)
    assert "\n" not in str(caught.value)


def test_a_file_imports_no_module() -> None:
    with pytest.raises(UnknownNameError, match="unknown space 'antigravity:Space'"):
        describe({"space": "antigravity:Space"})
    assert "antigravity" not in sys.modules


def test_what_is_registered_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "chain", NamedChain)
    assert describe("all-conv").space == "chain"
    assert describe({"space": "chain", "layers": ["pool"] * 3}).id == "pool-pool-pool"
    monkeypatch.setitem(SPACES, "made", lambda depth=2: ChainSpace(depth))  # a function has no facts to be found by
    assert "all-conv" in published()
    assert describe({"layers": ["pool"] * 2}, "made").id == "pool-pool"
