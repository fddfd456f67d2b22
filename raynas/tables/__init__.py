"""Benchmark tables: what is known of architectures without training them."""

from raynas.errors import TableError
from raynas.registry import resolve
from raynas.tables.table import Record, Table

INSTALLED = {"nasbench201": "raynas.tables.nasbench201:load"}  # space -> function of the dataset, for tables that come with raynas


def open_table(path: str | None, space: str, dataset: str) -> Table:
    """The table in the file `path`, which must be of `space`; without a path the installed table of `space` for `dataset`.

    Raises:
        UnknownNameError: the installed table does not have the dataset.
        TableError: there is no such table, it is damaged, or of another space.
    """
    if path is None:
        if space not in INSTALLED:
            raise TableError(f"no table of {space} comes with raynas; make one with `python -m raynas.convert` and pass --table PATH")
        installed: Table = resolve(INSTALLED, space, "table")(dataset)
        return installed
    table = Table.open(path)
    if table.space != space:
        raise TableError(f"{path} is a table of the space {table.space}, but the space asked for is {space}; change --space or --table")
    return table


__all__ = ["INSTALLED", "Record", "Table", "open_table"]
