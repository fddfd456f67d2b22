"""Pictures of cells: what they show, and that nothing in them covers anything else."""

import struct
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from raynas import drawing
from raynas.drawing import as_text, picture, write
from raynas.errors import RaynasError
from raynas.spaces import Drawing, SearchSpace, make_space
from raynas.spaces.darts import DARTSSpace
from raynas.spaces.nasbench101 import NASBench101Space
from raynas.spaces.nasbench201 import NASBench201Space

NB101, NB201, DARTS = NASBench101Space(), NASBench201Space(), DARTSSpace()
SPACES = [NB101, NB201, DARTS]
HOSTILE = '<script>alert("1")</script> $x^{$\n' + "long " * 40


class Odd(NASBench201Space):
    graph_operations = ("in", HOSTILE, "&amp;", "", "ünïcode", "e", "out")
    draw = SearchSpace.draw


def texts(svg: bytes) -> list[str]:
    root = ET.fromstring(svg)
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def operations(drawings: list[Drawing]) -> Counter[str]:
    nodes = Counter(node.label for d in drawings for node in d.nodes if node.kind == "operation")
    return nodes + Counter(edge.operation for d in drawings for edge in d.edges if edge.operation)


@pytest.mark.parametrize("graphviz", [True, False])
@pytest.mark.parametrize("space", SPACES, ids=lambda space: str(space.name))
def test_a_picture_shows_each_operation_where_it_is_and_once_in_the_legend(space: SearchSpace, graphviz: bool) -> None:
    arch = space.sample(np.random.default_rng(3))
    found, shown = operations(space.draw(arch)), Counter(texts(picture(space, arch, graphviz=graphviz)))
    assert {op: shown[op] for op in found} == {op: count + 1 for op, count in found.items()}
    root = ET.fromstring(picture(space, arch, graphviz=graphviz))
    assert (root.get("role"), root.get("aria-label")) == ("img", f"{space.name} {arch.id}")


def test_darts_v2_is_drawn_as_in_its_paper() -> None:
    normal, reduction = DARTS.draw(DARTS.from_config(DARTS.published["DARTS_V2"].config))
    assert (normal.title, reduction.title) == ("normal cell", "reduction cell")
    assert [node.label for node in normal.nodes] == ["c_k-2", "c_k-1", "0", "1", "2", "3", "c_k"]
    assert Counter(edge.operation for edge in normal.edges) == {"sep_conv_3x3": 5, "skip_connect": 2, "dil_conv_3x3": 1, "": 4}
    assert Counter(edge.operation for edge in reduction.edges) == {"max_pool_3x3": 5, "skip_connect": 3, "": 4}
    assert [edge.source for edge in normal.edges if not edge.operation] == [2, 3, 4, 5]


def test_none_is_no_edge_in_nasbench201() -> None:
    (cell,) = NB201.draw(NB201.make(["none"] * 5 + ["skip_connect"]))
    assert cell.edges == ((2, 3, "skip_connect"),)
    assert picture(NB201, NB201.make(["none"] * 6)).startswith(b"<?xml")


def points_of(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """(k, 2) points on cubic Bezier segments."""
    t = np.linspace(0, 1, 40)[:, None]
    segments = [curve[i : i + 4] for i in range(0, len(curve) - 1, 3)]
    return np.concatenate([(1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d for a, b, c, d in segments])


@pytest.mark.parametrize("graphviz", [True, False])
@pytest.mark.parametrize("space", [*SPACES, make_space("darts", {"with_none": True})], ids=["nb101", "nb201", "darts", "darts with none"])
def test_no_line_crosses_a_label_and_no_box_covers_another(space: SearchSpace, graphviz: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(8 if graphviz else 30):
        for cell in space.draw(space.sample(rng)):
            boxes, lines = drawing._boxes(*cell[1:])
            layout = drawing._layout(boxes, lines, graphviz)
            half = np.array([(box.width / 2, 0.17) for box in boxes])
            assert (layout.centres - half >= 0).all()
            assert (layout.centres + half <= layout.size).all()
            for i, centre in enumerate(layout.centres):
                apart = np.abs(layout.centres - centre) >= half + half[i] - 1e-6
                assert apart.any(axis=1).sum() == len(boxes) - 1  # all but itself
                for ends, curve in zip(lines, layout.curves, strict=True):
                    if i not in ends:
                        assert not (np.abs(points_of(curve) - centre) < half[i] - 0.02).all(axis=1).any()


def test_lines_end_where_their_boxes_begin() -> None:
    (cell,) = NB101.draw(NB101.sample(np.random.default_rng(1)))
    boxes, lines = drawing._boxes(*cell[1:])
    for graphviz in (True, False):
        layout = drawing._layout(boxes, lines, graphviz)
        for (source, target), curve in zip(lines, layout.curves, strict=True):
            for end, point in ((source, curve[0]), (target, curve[-1])):
                distance = np.abs(point - layout.centres[end]) - (boxes[end].width / 2, 0.17)
                assert np.abs(distance.max()) < 0.03


def test_an_operation_has_one_colour_in_all_pictures_of_a_space() -> None:
    archs = [NB201.sample(np.random.default_rng(seed)) for seed in range(6)]
    colours = [drawing._colours(NB201, [drawing._boxes(*cell[1:])[0] for cell in NB201.draw(arch)]) for arch in archs]
    merged: dict[str, set[str]] = {}
    for each in colours:
        for op, colour in each.items():
            merged.setdefault(op, set()).add(colour)
    assert all(len(found) == 1 for found in merged.values())
    assert len(set.union(*merged.values())) == len(merged)


@pytest.mark.parametrize("graphviz", [True, False])
def test_labels_of_others_can_do_nothing(graphviz: bool) -> None:
    space = Odd()
    arch = space.make(["avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3", "none", "skip_connect", "skip_connect"])
    svg = picture(space, arch, graphviz=graphviz)
    assert b"<script" not in svg
    shown = texts(svg)
    assert all(len(text) <= 24 for text in shown)
    assert {'<script>alert("1")</scr…', "&amp;", "ünïcode", "in", "out"} <= set(shown)
    assert picture(space, arch, "png", graphviz=graphviz).startswith(b"\x89PNG")
    assert all(line.isprintable() for line in as_text(space, arch).splitlines())


def test_pictures_are_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = DARTS.sample(np.random.default_rng(5))
    assert picture(DARTS, arch) == picture(DARTS, arch)
    monkeypatch.setenv("PATH", "")  # no dot
    assert picture(DARTS, arch) == picture(DARTS, arch, graphviz=False)


def test_a_picture_is_written_to_the_kind_of_file_that_is_asked_for(tmp_path: Path) -> None:
    arch = NB201.sample(np.random.default_rng(0))
    write(NB201, arch, tmp_path / "cell.svg")
    write(NB201, arch, tmp_path / "cell.PNG")
    assert ET.parse(tmp_path / "cell.svg").getroot().tag.endswith("svg")
    width, height = struct.unpack(">II", (tmp_path / "cell.PNG").read_bytes()[16:24])
    assert width > 400
    assert height > 100
    with pytest.raises(RaynasError, match=r"an \.svg or \.png file, not .*cell\.jpg"):
        write(NB201, arch, tmp_path / "cell.jpg")
    with pytest.raises(RaynasError, match="cannot write the picture"):
        write(NB201, arch, tmp_path / "nowhere" / "cell.svg")


def test_a_dot_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dot").write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    (tmp_path / "dot").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(RaynasError, match=r"dot of Graphviz fails .*mend it, or remove it"):
        picture(NB201, NB201.sample(np.random.default_rng(0)))


class TestText:
    cells: ClassVar = [(space, space.sample(np.random.default_rng(seed))) for space in SPACES for seed in range(5)]

    @pytest.mark.parametrize("width", [60, 40])
    def test_fits(self, width: int) -> None:
        for space, arch in self.cells:
            assert max(map(len, as_text(space, arch, width).splitlines())) <= width

    def test_says_what_each_node_reads(self) -> None:
        arch = NB201.parse("|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|")
        assert as_text(NB201, arch).splitlines() == [
            "  1 = nor_conv_3x3(input)",
            "  2 = nor_conv_3x3(input) + nor_conv_3x3(1)",
            "  output = skip_connect(input) + nor_conv_1x1(2)",
        ]

    def test_tells_equal_operations_apart(self) -> None:
        text = as_text(NB101, NB101.from_config(NB101.published["inception-like"].config))
        assert "  conv3x3-bn-relu#3 = conv3x3-bn-relu#2" in text.splitlines()
