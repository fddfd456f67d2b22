"""Pictures of architectures: cells from left to right, one colour an operation, as their publications draw them.

Graphviz lays them out where its program `dot` is installed, else layers from left to right; matplotlib draws them in either case.
"""

import shutil
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import RaynasError
from raynas.spaces import Edge, Node, SearchSpace

Format = Literal["svg", "png"]
FORMATS: tuple[Format, ...] = ("svg", "png")

# Okabe and Ito (2008), which people who see few colours can tell apart, made lighter so that black can be read on them.
COLOURS = ("#7fc3ec", "#f2b84b", "#66c9a3", "#f3e76b", "#e79bc4", "#e8946a", "#8fa8d9", "#b9b9b9", "#c5b0f0", "#a8d08d")
_ENDS, _SUMS, _INK = "#e8e8e8", "#ffffff", "#202020"
_LONGEST = 24  # characters of a label
_HEIGHT, _LINE, _CHARACTER, _MARGIN = 0.34, 0.16, 0.088, 0.22  # inches: of a box, of each further line and a character in it, beside them
_GAP, _ROW, _PAD = 0.5, 0.52, 0.05  # inches between layers, from one node of a layer to the next, and around all of it
_EDGE, _TITLE, _COLUMNS = 0.15, 0.35, 4  # inches around the picture, and of a line of text; operations in a line of the legend
_DOT_SECONDS = 20


class Box(NamedTuple):
    """A node of a picture, or an operation on the way between two."""

    label: str
    operation: str | None  # by which it is coloured; None: an end or a sum
    end: bool

    @property
    def width(self) -> float:
        """In inches."""
        return max(_HEIGHT, _CHARACTER * max(map(len, self.label.split("\n"))) + _MARGIN)

    @property
    def height(self) -> float:
        """In inches."""
        return _HEIGHT + _LINE * self.label.count("\n")


class Layout(NamedTuple):
    """Where things are, in inches, from the lower left corner."""

    size: tuple[float, float]
    centres: NDArray[np.float64]  # (boxes, 2)
    curves: list[NDArray[np.float64]]  # (1 + 3 k, 2) for each line: its start, and cubic Bezier segments to its end


def picture(space: SearchSpace, arch: Arch, format: Format = "svg", graphviz: bool = True) -> bytes:
    """The cells of `arch` below one another, with a legend, as a whole SVG or PNG file; the same bytes each time.

    Args:
        graphviz: whether `dot` lays it out, where it is installed.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    cells = [(title, *_boxes(nodes, edges)) for title, nodes, edges in space.draw(arch)]
    layouts = [_layout(boxes, lines, graphviz) for _, boxes, lines in cells]
    colours = _colours(space, [boxes for _, boxes, _ in cells])
    width = max(4.6, *(layout.size[0] + 2 * _EDGE for layout in layouts))
    titles = sum(_TITLE for title, *_ in cells if title)
    height = sum(layout.size[1] for layout in layouts) + titles + _TITLE * -(-len(colours) // _COLUMNS) + 2 * _EDGE
    with rc_context({"svg.hashsalt": arch.id, "svg.fonttype": "none", "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(width, height), facecolor="white")
        top = height - _EDGE
        for (title, boxes, _), layout in zip(cells, layouts, strict=True):
            if title:
                figure.text(_EDGE / width, (top - _TITLE / 2) / height, _short(title), fontsize=10, va="center", parse_math=False)
                top -= _TITLE
            top -= layout.size[1]
            frame = (_EDGE / width, top / height, layout.size[0] / width, layout.size[1] / height)
            _draw(figure.add_axes(frame), layout, boxes, colours)
        _add_legend(figure, colours)
        file, title = BytesIO(), f"{space.name} {arch.id}"
        figure.savefig(file, format=format, dpi=110, metadata={"Title": title} | ({"Date": None} if format == "svg" else {}))
    if format == "svg":  # as a screen reader tells it
        return file.getvalue().replace(b"<svg ", f'<svg role="img" aria-label={quoteattr(title)} '.encode(), 1)
    return file.getvalue()


def write(space: SearchSpace, arch: Arch, path: str | Path) -> None:
    """Writes a picture of `arch` to a file, whose name says in which format.

    Raises:
        RaynasError: the name ends in neither .svg nor .png, or the file cannot be written.
    """
    format = Path(path).suffix.removeprefix(".").lower()
    if format not in FORMATS:
        raise RaynasError(f"a picture is an .svg or .png file, not {path}")
    try:
        Path(path).write_bytes(picture(space, arch, format))
    except OSError as error:
        raise RaynasError(f"cannot write the picture {path}: {error.strerror}") from error


def as_text(space: SearchSpace, arch: Arch, width: int = 60) -> str:
    """The cells of `arch` in words, a line a node: what it is made of, or reads; a block as its label says."""
    lines: list[str] = []
    for title, nodes, edges in space.draw(arch):
        lines += [f"{title}:"] if title else []
        if any(node.kind == "block" for node in nodes):
            for node in nodes[1:-1]:
                lines += textwrap.wrap(node.label, width, initial_indent="  ", subsequent_indent="      ")
            continue
        names = _told_apart([_short(node.label) for node in nodes])
        for index, node in enumerate(nodes):
            parts = [
                f"{_short(edge.operation)}({names[edge.source]})" if edge.operation else names[edge.source]
                for edge in edges
                if edge.target == index
            ]
            if parts or node.kind != "end":
                text = f"{names[index]} = {' + '.join(parts) or 'nothing'}"
                lines += textwrap.wrap(text, width - 2, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
    return "\n".join(lines)


def _told_apart(names: Sequence[str]) -> list[str]:
    """Names, each with a number where another is the same."""
    return [f"{name}#{names[: i + 1].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _short(label: str) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in label).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _boxes(nodes: Sequence[Node], edges: Sequence[Edge]) -> tuple[list[Box], list[tuple[int, int]]]:
    """The boxes of a picture, operations on edges among them, and the lines between boxes."""
    boxes = [
        Box("\n".join(map(_short, n.label.split("\n"))) if n.kind == "block" else _short(n.label), _coloured(n), n.kind == "end")
        for n in nodes
    ]
    lines = []
    for source, target, operation in edges:
        if operation:
            lines += [(source, len(boxes)), (len(boxes), target)]
            boxes.append(Box(_short(operation), operation, end=False))
        else:
            lines.append((source, target))
    return boxes, lines


def _coloured(node: Node) -> str | None:
    return node.label if node.kind == "operation" else None


def _colours(space: SearchSpace, boxes: Sequence[Sequence[Box]]) -> Mapping[str, str]:
    """The colour of each operation that occurs: that of its place in the space, so that it is the same in all pictures."""
    present = {box.operation for cell in boxes for box in cell if box.operation is not None}
    known = [op for op in space.graph_operations if "input" not in op and "output" not in op]
    order = {op: i for i, op in enumerate([*known, *sorted(present.difference(known))])}
    return {op: COLOURS[order[op] % len(COLOURS)] for op in sorted(present, key=order.__getitem__)}


def _draw(axes: Any, layout: Layout, boxes: Sequence[Box], colours: Mapping[str, str]) -> None:
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from matplotlib.path import Path as Curve

    axes.set(xlim=(0, layout.size[0]), ylim=(0, layout.size[1]))
    axes.axis("off")
    for points in layout.curves:
        line = Curve(points, [Curve.MOVETO] + [Curve.CURVE4] * (len(points) - 1))
        axes.add_patch(FancyArrowPatch(path=line, arrowstyle="-|>,head_length=4,head_width=2", color="#606060", linewidth=1, zorder=1))
    for box, (x, y) in zip(boxes, layout.centres, strict=True):
        colour = colours[box.operation] if box.operation is not None else _ENDS if box.end else _SUMS
        shape = f"round,pad=0,rounding_size={0.17 if box.operation is None else 0.05}"
        corner = (x - box.width / 2, y - box.height / 2)
        style: dict[str, Any] = {"facecolor": colour, "edgecolor": _INK, "linewidth": 0.8}
        axes.add_patch(FancyBboxPatch(corner, box.width, box.height, boxstyle=shape, zorder=2, **style))
        axes.text(
            x,
            y,
            box.label,
            ha="center",
            va="center_baseline" if "\n" not in box.label else "center",
            fontsize=8,
            color=_INK,
            zorder=3,
            parse_math=False,
        )


def _add_legend(figure: Any, colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    if colours:
        handles = [Patch(facecolor=colour, edgecolor=_INK, linewidth=0.8, label=_short(op)) for op, colour in colours.items()]
        legend = figure.legend(
            handles=handles, loc="lower center", ncols=min(_COLUMNS, len(handles)), fontsize=8, frameon=False, handlelength=1.2
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


# -- where things are


def _layout(boxes: Sequence[Box], lines: Sequence[tuple[int, int]], graphviz: bool) -> Layout:
    dot = shutil.which("dot") if graphviz else None
    return _by_layers(boxes, lines) if dot is None else _by_dot(dot, boxes, lines)


def _by_dot(dot: str, boxes: Sequence[Box], lines: Sequence[tuple[int, int]]) -> Layout:
    """As Graphviz places them; it is told numbers and sizes alone, so no label can mean anything to it.

    Raises:
        RaynasError: `dot` fails, as an installation without its plugins does.
    """
    nodes = "".join(
        f'{i} [width={box.width:.3f}, height={box.height:.3f}, fixedsize=true, label="", shape=box];' for i, box in enumerate(boxes)
    )
    edges = "".join(f"{v} -> {w};" for v, w in lines)
    text = f"digraph {{ rankdir=LR; nodesep=0.18; ranksep={_GAP}; edge [dir=none]; {nodes}{edges} }}"
    try:
        run = subprocess.run([dot, "-Tplain"], input=text, capture_output=True, text=True, timeout=_DOT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise RaynasError(f"{dot} of Graphviz fails ({' '.join(str(error).split())[-200:]}); mend it, or remove it") from error
    size, centres = (0.0, 0.0), np.zeros((len(boxes), 2))
    curves: dict[tuple[int, int], list[NDArray[np.float64]]] = {}
    for kind, *fields in (line.split() for line in run.stdout.splitlines()):
        if kind == "graph":
            size = float(fields[1]) + 2 * _PAD, float(fields[2]) + 2 * _PAD
        elif kind == "node":
            centres[int(fields[0])] = float(fields[1]) + _PAD, float(fields[2]) + _PAD
        elif kind == "edge":
            points = np.array(fields[3 : 3 + 2 * int(fields[2])], dtype=float).reshape(-1, 2) + _PAD
            curves.setdefault((int(fields[0]), int(fields[1])), []).append(points)
    return Layout(size, centres, [curves[line].pop() for line in lines])


def _by_layers(boxes: Sequence[Box], lines: Sequence[tuple[int, int]]) -> Layout:
    """In layers by the longest way from the left; a line that passes layers gets a place of its own in each, so it crosses no box."""
    layer = _depths(len(boxes), lines)
    chains, count, widths = [], len(boxes), [box.width for box in boxes]
    for v, w in lines:
        passed = range(layer[v] + 1, layer[w])
        chains.append([v, *range(count, count + len(passed)), w])
        layer += passed
        widths += [0.0] * len(passed)
        count += len(passed)
    links = [link for chain in chains for link in pairwise(chain)]
    rows = _ordered(layer, links)
    tallest, row_height = max(map(len, rows)), max(box.height for box in boxes) + _ROW - _HEIGHT
    places, columns, x = np.zeros((count, 2)), np.zeros((count, 2)), _PAD
    for row in rows:
        widest = max(widths[v] for v in row)
        for rank, v in enumerate(row):
            places[v] = x + widest / 2, _PAD + row_height * (rank + 0.5 + (tallest - len(row)) / 2)
            columns[v] = x, x + widest
        x += widest + _GAP
    curves = [_curve(places[chain, 1], columns[chain], widths[v], widths[w]) for chain, (v, w) in zip(chains, lines, strict=True)]
    return Layout((x - _GAP + _PAD, row_height * tallest + 2 * _PAD), places[: len(boxes)], curves)


def _curve(heights: NDArray[np.float64], columns: NDArray[np.float64], first: float, last: float) -> NDArray[np.float64]:
    """Level within the columns that it passes, so that it meets nothing there, and bent between them.

    Args:
        heights: (k,) in each column.
        columns: (k, 2) their left and right ends.
        first, last: widths of the boxes in the middle of the first and of the last column.
    """
    ends = columns.copy()
    ends[0, 0], ends[-1, 1] = columns[0].mean() + first / 2, columns[-1].mean() - last / 2
    stops = np.stack([ends.ravel(), heights.repeat(2)], axis=1)  # (2 k, 2)
    stops = stops[np.r_[True, np.abs(np.diff(stops, axis=0)).sum(axis=1) > 1e-9]]  # a box may fill its column
    middles = (stops[:-1, 0] + stops[1:, 0]) / 2
    bends = np.stack([np.stack([middles, stops[:-1, 1]], 1), np.stack([middles, stops[1:, 1]], 1), stops[1:]], 1)
    return np.concatenate([stops[:1], bends.reshape(-1, 2)])


def _depths(count: int, lines: Sequence[tuple[int, int]]) -> list[int]:
    """The longest way to each box."""
    depth = [0] * count
    for _ in range(count):  # as often as the longest way can be
        for v, w in lines:
            depth[w] = max(depth[w], depth[v] + 1)
    return depth


def _ordered(layer: Sequence[int], links: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The members of each layer from below, each near the mean place of its neighbours (barycentre method, Sugiyama et al. 1981)."""
    rows: list[list[int]] = [[v for v in range(len(layer)) if layer[v] == depth] for depth in range(max(layer) + 1)]
    for sweep in range(8):
        place = {v: rank - len(row) / 2 for row in rows for rank, v in enumerate(row)}
        for row in rows if sweep % 2 == 0 else reversed(rows):
            pull = {v: [place[a if b == v else b] for a, b in links if v in (a, b)] for v in row}
            row.sort(key=lambda v: float(np.mean(pull[v])) if pull[v] else place[v])
            place |= {v: rank - len(row) / 2 for rank, v in enumerate(row)}
    return rows
