"""The reader of the published files of NAS-Bench-101."""

import hashlib
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nasbench_files import NUMBERS, crc32c, entry, expected_values, message, model_metrics, official_records, record, refused, run

from raynas.errors import TableError
from raynas.spaces import make_space
from raynas.tables import Table, tfrecord
from raynas.tables.tfrecord import VALUES, decode, parse_metrics, read_table


def test_crc32c_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_every_value_of_the_sample_is_in_the_table(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = shared_data / "nasbench101_sample.tfrecord", tmp_path / "table.parquet"
    code, printed, _ = run(capsys, path, target)
    assert code == 0
    assert "800 architectures of nasbench101 on cifar10, epochs 4, 12, 36, 108, repeats 3" in printed
    assert [file.name for file in tmp_path.iterdir()] == ["table.parquet"]
    table = Table.open(target)
    assert (len(table), table.budgets, table.repeats, table.space) == (800, (4, 12, 36, 108), 3, "nasbench101")
    assert table.metadata["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert table.metadata["source"] == "nasbench101_sample.tfrecord"
    seen: dict[tuple[str, int], int] = defaultdict(int)
    for name, epochs, adjacency, operations, metrics in official_records(path):
        row, repeat = table.row(name), seen[name, epochs]
        assert row is not None
        seen[name, epochs] += 1
        assert table.extra_at(row, "adjacency") == adjacency
        assert table.extra_at(row, "operations") == operations
        assert table.extra_at(row, "trainable_parameters") == metrics.trainable_parameters
        for metric, value in zip(VALUES, expected_values(metrics), strict=True):
            found = table.at(row, metric, epochs, repeat)
            assert found == (None if math.isnan(value) else value)
    assert set(seen.values()) == {3}
    assert len(seen) == 3200


def test_the_hashes_of_the_sample_are_those_of_the_space(shared_data: Path) -> None:
    table, space = read_table(str(shared_data / "nasbench101_sample.tfrecord")), make_space("nasbench101")
    for name, adjacency, operations in list(zip(table.ids, table.extra("adjacency"), table.extra("operations"), strict=True))[:200]:
        assert space.from_strings(adjacency, operations).id == name  # type: ignore[attr-defined]


def test_a_published_file_is_recognised(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shared_data / "nasbench101_sample.tfrecord"
    monkeypatch.setitem(tfrecord.PUBLISHED, hashlib.sha256(path.read_bytes()).hexdigest(), tfrecord.FULL)
    _, printed, _ = run(capsys, path, tmp_path / "table.parquet")
    assert "this is the published nasbench_full.tfrecord" in printed
    metadata = Table.open(tmp_path / "table.parquet").metadata
    assert metadata["source"] == "https://storage.googleapis.com/nasbench/nasbench_full.tfrecord"
    assert (metadata["licence"], "nasbench_full.tfrecord" in metadata["description"]) == ("Apache-2.0", True)


def test_repeats_keep_their_order_also_where_cells_mix(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "mixed.tfrecord"
    cells = {f"cell-{i}": [("0100", "input,output"), ("010001000", "input,maxpool3x3,output")][i % 2] for i in range(40)}
    order = [(name, epochs) for name in cells for epochs in (4, 108) for _ in range(3)]
    valid, content, written = rng.random(len(order)).tolist(), b"", defaultdict(list)
    for place, value in zip(rng.permutation(len(order)), valid, strict=True):
        name, epochs = order[place]
        content += record(entry(name, epochs, *cells[name], metrics=message(value, parameters=1 + len(name))))
        written[name, epochs].append(value)
    path.write_bytes(content)
    table = read_table(str(path))
    for (name, epochs), values in written.items():
        assert [table.query(name, epochs, repeat).valid_accuracy for repeat in range(3)] == values


def test_cells_may_lack_a_repeat_or_a_budget(tmp_path: Path) -> None:
    path = tmp_path / "few.tfrecord"
    path.write_bytes(b"".join(map(record, [entry("a", 4), entry("a", 108), entry("b", 108), entry("b", 108)])))
    table = read_table(str(path))
    assert (table.budgets, table.repeats) == ((4, 108), 2)
    assert table.query("b", 108, 1).valid_accuracy == 0.5
    for arguments in (("b", 4, 0), ("a", 108, 1)):
        with pytest.raises(TableError, match="no valid_accuracy"):
            table.query(*arguments)


@pytest.mark.parametrize(("value", "dtype"), [(0.9375, "float"), (0.1, "double"), (float(np.float32(0.1)), "float")])
def test_floats_are_short_where_that_is_exact(tmp_path: Path, value: float, dtype: str) -> None:
    path = tmp_path / "one.tfrecord"
    path.write_bytes(record(entry("a", metrics=message(0.5))) + record(entry("b", metrics=message(value))))
    table = read_table(str(path))
    table.write(tmp_path / "one.parquet")
    assert table.query("b").valid_accuracy == value
    assert table.query("a").valid_accuracy == 0.5
    assert str(pq.read_schema(tmp_path / "one.parquet").field("valid_accuracy_e108_r0").type) == dtype


evaluations = st.fixed_dictionaries(
    {}, optional={name: st.floats(allow_nan=False) for name in NUMBERS} | {"checkpoint_path": st.text(max_size=200)}
)


@given(
    st.lists(
        st.tuples(
            st.lists(evaluations, min_size=3, max_size=3),
            st.integers(0, 2**31 - 1) | st.none(),
            st.floats(allow_nan=False) | st.none(),
        ),
        max_size=8,
    )
)
@settings(max_examples=200, deadline=None)
def test_metrics_are_read_as_the_official_runtime_reads_them(messages: list[Any]) -> None:
    made = []
    for parts, parameters, seconds in messages:
        one = model_metrics()()
        for part in parts:
            one.evaluation_data.add(**part)
        if parameters is not None:
            one.trainable_parameters = parameters
        if seconds is not None:
            one.total_time = seconds
        made.append(one)
    contents = [one.SerializeToString() for one in made]
    contents.append(message(0.75))  # one of the usual layout among them
    made.append(model_metrics().FromString(contents[-1]))
    for one, content in zip(made, contents, strict=True):
        assert parse_metrics(content) == (one.trainable_parameters, expected_values(one))
    parameters, values = decode(contents, range(len(contents)), "file")
    assert parameters.tolist() == [one.trainable_parameters for one in made]
    assert values.tolist() == list(map(expected_values, made))


@given(st.binary(max_size=200) | st.tuples(st.integers(0, 153), st.integers(0, 255)))
@settings(max_examples=500, deadline=None)
def test_metrics_that_are_none_raise_value_errors_only(content: Any) -> None:
    if isinstance(content, tuple):  # one byte of a message replaced: the fast way and the general one must agree
        at, byte = content
        good = message(0.75)
        content = good[:at] + bytes([byte]) + good[at + 1 :]
    try:
        expected = parse_metrics(content)
    except ValueError:
        try:
            decode([content], [7], "file")
        except TableError as error:
            assert "record 7" in str(error)  # noqa: PT017
        return
    parameters, values = decode([content], [7], "file")
    assert parameters.tolist() == [expected[0]]
    np.testing.assert_array_equal(values, [expected[1]])


def three_records() -> bytes:
    return b"".join(record(entry(name)) for name in "abc")


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, path = three_records(), tmp_path / "cut.tfrecord"
    size = len(content) // 3
    for length in range(size + 1, 2 * size, 7):
        path.write_bytes(content[:length])
        assert "is cut off in record 2" in refused(capsys, path, tmp_path / "table.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["cut.tfrecord"]


def test_a_flipped_byte_is_refused_with_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, path = three_records(), tmp_path / "damaged.tfrecord"
    size = len(content) // 3
    for at in range(size, len(content), 5):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        problem = refused(capsys, path, tmp_path / "table.parquet")
        assert f"is damaged at record {at // size + 1}:" in problem
        assert "checksum" in problem


@pytest.mark.parametrize(
    ("content", "message_part"),
    [
        (b"", "is empty"),
        (b"PAR1" * 10, "is not a TFRecord file"),
        (record(b"{"), "at record 1: "),
        (record(b"\xff\xfe"), "at record 1: "),
        (record(b'["a", 108]'), "at record 1: it is not a list of hash, epochs, adjacency, operations and metrics"),
        (record(entry()) + record(entry("b", "108")), "at record 2: it is not a list of"),
        (record(entry()) + record(entry("b", True)), "at record 2: it is not a list of"),
        (record(entry() + b"1"), "at record 1: it is not a list of"),
        (record(entry(["a"])), "at record 1: it is not a list of"),
        (record(entry(adjacency=5)), "at record 1: 5 and 'input,output' are no adjacency and operations"),
        (record(entry(adjacency="010")), "at record 1: for the operations input,output the adjacency cannot be '010'"),
        (record(entry(adjacency="0200")), "at record 1: for the operations"),
        (record(entry()) + record(entry(metrics=message(evaluations=2))), "at record 2: its metrics have 2 evaluations"),
        (record(entry()) + record(entry("b", metrics=b"\x0a\xff")), "at record 2: its metrics are no ModelMetrics message"),
        (record(entry(metrics=message(93.75))), "valid_accuracy has values outside [0, 1]"),
    ],
)
def test_what_is_no_nasbench_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message_part: str) -> None:
    path = tmp_path / "other.tfrecord"
    path.write_bytes(content)
    assert message_part in refused(capsys, path, tmp_path / "table.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["other.tfrecord"]
