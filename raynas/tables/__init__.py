"""Benchmark tables: what is known of architectures without training them."""

from collections.abc import Sequence

import numpy as np

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError, TableError
from raynas.registry import resolve
from raynas.spaces import SearchSpace, Subset, space_name
from raynas.tables.table import Record, Repeat, Table

INSTALLED = {"nasbench201": "raynas.tables.nasbench201:load"}  # space -> function of the dataset, for tables that come with raynas


def open_table(path: str | None, space: SearchSpace | str, dataset: str) -> Table:
    """The table in the file `path`, which must be of `space`; without a path the installed table of `space` for `dataset`.

    Args:
        space: the space itself, its name or its `module:Class`.

    Raises:
        UnknownNameError: the installed table does not have the dataset.
        TableError: there is no such table, it is damaged, or of another space.
    """
    name = space_name(space)
    if path is None:
        if name not in INSTALLED:
            raise TableError(f"no table of {name} comes with raynas; make one with `python -m raynas.convert` and pass --table PATH")
        installed: Table = resolve(INSTALLED, name, "table")(dataset)
        return installed
    table = Table.open(path)
    if table.space != name:
        raise TableError(f"{path} is a table of the space {table.space}, but the space asked for is {name}; change --space or --table")
    return table


def searchable(table: Table, space: SearchSpace, budgets: Sequence[int] | None = None, repeat: Repeat = "mean") -> SearchSpace:
    """What a search in `space` may propose so that `table` answers it: the space itself, or the `Subset` of what the table knows.

    An architecture is known where it has a valid_accuracy at each of `budgets` (None: at all of the table). A row that is not in
    `space`, which its settings may have made narrower, is left out.

    Raises:
        TableError: the table knows no architecture of the space, does not say which they are, or lacks a budget or the repeat.
    """
    known = table.known(budgets, repeat)
    if space.size == np.count_nonzero(known):
        return space
    wanted = ", ".join(map(str, table.budgets if budgets is None else budgets))
    if not known.any():
        raise TableError(f"{table.origin} has no architecture with a valid_accuracy at each budget of {wanted} epochs, repeat {repeat}")
    archs, problem = _architectures(table, space, np.flatnonzero(known).tolist())
    if not archs:
        raise TableError(f"{table.origin} has no architecture of the space {space.name} as it is set: {problem}")
    return Subset(space, archs)


def _architectures(table: Table, space: SearchSpace, rows: Sequence[int]) -> tuple[list[Arch], OutOfSpaceError | None]:
    """The architectures of some rows, without those that are not in the space; and why the last of these is not."""
    found, problem = list[Arch](), None
    columns, ids = _descriptions(table, space), table.ids
    for row in rows:
        texts = [column[row] for column in columns]
        if None in texts:
            raise TableError(
                f"row {row + 1} of {table.origin} does not say which architecture it is: a text in {_and(space.columns)} is missing"
            )
        try:
            arch = space.from_columns(*texts)
        except OutOfSpaceError as error:
            problem = error
            continue
        if arch.id != ids[row]:
            described = f"row {row + 1} of {table.origin} describes the architecture {arch.id} under the id {ids[row]}"
            raise TableError(f"{described}; convert it anew with `python -m raynas.convert`")
        found.append(arch)
    return found, problem


def _descriptions(table: Table, space: SearchSpace) -> list[list[str]]:
    """(columns of the space) x (n,) the texts that describe the architectures."""
    missing = [name for name in space.columns if name not in table.names]
    if not missing:
        return [table.extra(name) for name in space.columns]
    if len(space.columns) == 1 and _tells(space, table.extra_at(0, "arch_id")):
        return [table.ids]
    raise TableError(
        f"{table.origin} does not hold every architecture of {space.name}, and without the column {_and(missing)} it does not say which "
        "it holds; make it anew with `python -m raynas.convert`"
    )


def _tells(space: SearchSpace, arch_id: str) -> bool:
    """Whether an id of this space describes its architecture, so that no column is needed beside it."""
    try:
        return space.from_columns(arch_id).id == arch_id
    except OutOfSpaceError:
        return False


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)


__all__ = ["INSTALLED", "Record", "Table", "open_table", "searchable"]
