"""Architectures as numbers. n: architectures, P: paths of the space, A: variables of its adjacency encoding, d: features.

An encoder sees the space and the architectures, nothing else: no label can leak into an encoding. The encodings are those of
White et al., "A Study on Encodings for Neural Architecture Search" (arXiv 2007.04965), and the path encoding of BANANAS
(arXiv 1910.11858, section 4.1). Names joined by `+` are concatenated, and may be weighted:
`trunc_path_counts*0.15+scalars`.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import UnknownNameError
from raynas.model.graphs import graph_counts
from raynas.registry import resolve
from raynas.spaces.base import SearchSpace

Array = NDArray[np.float32]
Encoder = Callable[[SearchSpace, Sequence[Arch], int | None], Array]  # (space, n archs, paths kept) -> (n, d)

_FREQUENCY_SAMPLE = 2000  # random architectures whose paths are counted to find the frequent ones


def kept_by_length(space: SearchSpace, cutoff: int | None = None) -> NDArray[np.int64]:
    """(min(cutoff, P),) indices of the shortest paths, ascending; ties go to the lower index (BANANAS, section 4.1)."""
    cutoff = cutoff or space.truncation or space.num_paths
    return np.sort(np.argsort(space.path_lengths(), kind="stable")[:cutoff])


def kept_by_frequency(space: SearchSpace, cutoff: int | None = None) -> NDArray[np.int64]:
    """(min(cutoff, P),) indices of the paths that random architectures have most often, ascending; ties go to the shorter path."""
    rng = np.random.default_rng(0)
    counts = np.zeros(space.num_paths)
    for _ in range(_FREQUENCY_SAMPLE):
        counts[list(set(space.paths(space.sample(rng))))] += 1
    cutoff = cutoff or space.truncation or space.num_paths
    return np.sort(np.lexsort((space.path_lengths(), -counts))[:cutoff])


@lru_cache(maxsize=32)
def _columns(
    space: SearchSpace, kept: Callable[[SearchSpace, int | None], NDArray[np.int64]] | None, cutoff: int | None
) -> NDArray[np.int64]:
    """(P,) the column of each path, -1 where it is cut off."""
    if kept is None:
        return np.arange(space.num_paths)
    columns = np.full(space.num_paths, -1)
    indices = kept(space, cutoff)
    columns[indices] = np.arange(len(indices))
    return columns


def _path_encoder(kept: Callable[[SearchSpace, int | None], NDArray[np.int64]] | None, counts: bool) -> Encoder:
    def encode_paths(space: SearchSpace, archs: Sequence[Arch], cutoff: int | None = None) -> Array:
        columns = _columns(space, kept, cutoff)
        paths = [space.paths(arch) for arch in archs]
        rows = np.repeat(np.arange(len(archs)), [len(p) for p in paths])
        cells = columns[np.fromiter((i for p in paths for i in p), dtype=np.int64, count=len(rows))]
        encoded = np.zeros((len(archs), columns.max() + 1), dtype=np.float32)
        np.add.at(encoded, (rows[cells >= 0], cells[cells >= 0]), 1)
        return encoded if counts else np.minimum(encoded, 1)

    return encode_paths


def _adjacency(space: SearchSpace, archs: Sequence[Arch]) -> NDArray[np.int64]:
    return np.array([space.adjacency(arch) for arch in archs], dtype=np.int64).reshape(len(archs), -1)  # (n, A)


def adjacency_one_hot(space: SearchSpace, archs: Sequence[Arch], cutoff: int | None = None) -> Array:
    """(n, d): one bit for a variable with two values (an edge), a one-hot block for any other."""
    values = _adjacency(space, archs)
    blocks = [
        values[:, i : i + 1] if size == 2 else np.eye(size, dtype=np.int64)[values[:, i]] for i, size in enumerate(space.adjacency_sizes)
    ]
    return np.concatenate(blocks, axis=1).astype(np.float32)


def adjacency_categorical(space: SearchSpace, archs: Sequence[Arch], cutoff: int | None = None) -> Array:
    """(n, A): the numbers (from 1) of the edges that are present, packed to the left and padded with 0, then the other variables."""
    values, edge = _adjacency(space, archs), np.array(space.adjacency_sizes) == 2
    numbers = values[:, edge] * np.arange(1, edge.sum() + 1)
    packed = np.take_along_axis(numbers, np.argsort(numbers == 0, axis=1, kind="stable"), axis=1)
    return np.concatenate([packed, values[:, ~edge]], axis=1).astype(np.float32)


def adjacency_continuous(space: SearchSpace, archs: Sequence[Arch], cutoff: int | None = None) -> Array:
    """(n, A + 1): every variable scaled to [0, 1], and the number of edges that are present."""
    values, sizes = _adjacency(space, archs), np.array(space.adjacency_sizes)
    edges = values[:, sizes == 2].sum(axis=1, keepdims=True)
    return np.concatenate([values / np.maximum(sizes - 1, 1), edges], axis=1).astype(np.float32)


def scalars(space: SearchSpace, archs: Sequence[Arch], cutoff: int | None = None) -> Array:
    """(n, d): what the space knows of cost and shape without training (`SearchSpace.scalars`)."""
    return np.array([space.scalars(arch) for arch in archs], dtype=np.float32).reshape(len(archs), -1)


def operation_pairs(space: SearchSpace, archs: Sequence[Arch], cutoff: int | None = None) -> Array:
    """(n, d): how often each operation feeds each other directly (`SearchSpace.operation_pairs`)."""
    return np.array([space.operation_pairs(arch) for arch in archs], dtype=np.float32).reshape(len(archs), -1)


ENCODINGS: dict[str, Encoder] = {
    "path": _path_encoder(None, counts=False),
    "path_counts": _path_encoder(None, counts=True),
    "trunc_path": _path_encoder(kept_by_length, counts=False),
    "trunc_path_counts": _path_encoder(kept_by_length, counts=True),
    "frequent_path": _path_encoder(kept_by_frequency, counts=False),
    "frequent_path_counts": _path_encoder(kept_by_frequency, counts=True),
    "adjacency": adjacency_one_hot,
    "categorical_adjacency": adjacency_categorical,
    "continuous_adjacency": adjacency_continuous,
    "graph_counts": graph_counts,
    "operation_pairs": operation_pairs,
    "scalars": scalars,
}


class Part(NamedTuple):
    """One of the encodings that a text names."""

    encoder: Encoder
    paths: int | None  # kept; None: as many as the space says
    weight: float  # of its features, next to those of the other parts


def parse_encoding(text: str) -> list[Part]:
    """The encodings that `text` names; `trunc_path:100*0.2` keeps 100 paths and gives their features the weight 0.2 instead of 1.

    Raises:
        UnknownNameError: a name is not in ENCODINGS, what follows the colon is no positive number, or the weight is none.
    """
    parts = []
    for part in text.split("+"):
        head, star, factor = part.partition("*")
        name, colon, number = head.partition(":")
        encoder = resolve(ENCODINGS, name, "encoding")
        if colon and not (number.isdigit() and int(number) > 0):
            raise UnknownNameError(f"encoding {part!r}: a positive number of paths must follow the colon, as in 'trunc_path:40'")
        if star and not (re.fullmatch(r"\d+(\.\d+)?", factor) and float(factor) > 0):
            raise UnknownNameError(f"encoding {part!r}: a positive number must follow the asterisk, as in 'trunc_path*0.2'")
        parts.append(Part(encoder, int(number) if colon else None, float(factor) if star else 1.0))
    return parts


def unweighted(text: str) -> str:
    """The same encodings, all features of which count the same."""
    return re.sub(r"\*[^+]*", "", text)


def encode(encoding: str, space: SearchSpace, archs: Sequence[Arch]) -> Array:
    """(n, d) the encodings that `encoding` names, side by side; weights do not change them (see `feature_weights`)."""
    return np.concatenate([part.encoder(space, archs, part.paths) for part in parse_encoding(encoding)], axis=1)


def encode_again(encoding: str, space: SearchSpace, archs: Sequence[Arch]) -> Array:
    """As `encode`, which is not asked again for an id that it has seen: a search fits what it knows over and over."""
    rows = _known_rows(encoding, space)
    new = {arch.id: arch for arch in archs if arch.id not in rows}
    if new:
        rows.update(zip(new, encode(encoding, space, list(new.values())), strict=True))
    return np.stack([rows[arch.id] for arch in archs])


@lru_cache(maxsize=4)
def _known_rows(encoding: str, space: SearchSpace) -> dict[str, Array]:
    return {}  # id -> (d,)


def feature_weights(encoding: str, space: SearchSpace) -> NDArray[np.float64]:
    """(d,) how much each feature of `encode` counts next to the others, 1 the largest; for `Predictor.fit`."""
    arch, parts = [space.sample(np.random.default_rng(0))], parse_encoding(encoding)
    widths = [part.encoder(space, arch, part.paths).shape[1] for part in parts]
    weights = np.repeat(np.array([part.weight for part in parts]), widths)
    return weights / max(part.weight for part in parts)
