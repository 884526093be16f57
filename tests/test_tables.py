"""Tables as samples: CSV, Parquet and SQLite with named columns, and what is said of cells that can't be used."""

from __future__ import annotations

import csv
import gzip
import io
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.models.errors import ConfigError, DataError
from lamina.models.readers.kinds import read
from lamina.models.readers.settings import DataSettings, source_of

READINGS = "time,temperature,humidity,state\n8:00,20.5,40,dry\n8:01,21,41.5,wet\n8:02,22,43,dry\n"


def put(folder: Path, content: str | bytes, name: str = "a.csv") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def sqlite(path: Path, header: list[str], rows: list[list[object]]) -> str:
    with closing(sqlite3.connect(path)) as base:
        base.execute(f"CREATE TABLE readings ({', '.join(header)})")
        base.executemany(f"INSERT INTO readings VALUES ({', '.join('?' * len(header))})", rows)
        base.commit()
    return str(path)


def parquet(path: Path, header: list[str], rows: list[list[object]]) -> str:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(arrow.table({name: [row[at] for row in rows] for at, name in enumerate(header)}), path)
    return str(path)


def in_csv(path: Path, header: list[str], rows: list[list[object]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


Writer = Callable[[Path, list[str], list[list[object]]], str]
EVERY_KIND = pytest.mark.parametrize(
    ("write", "name"), [(in_csv, "a.csv"), (sqlite, "a.db"), (parquet, "a.parquet")], ids=["csv", "sqlite", "parquet"]
)


@EVERY_KIND
def test_named_columns_become_inputs_and_labels(tmp_path: Path, write: Writer, name: str) -> None:
    path = write(tmp_path / name, ["t", "a", "b", "state"], [["x", 1.5, 2, "wet"], ["y", 3, 4, "dry"]])
    found = read(DataSettings(path, inputs=("b", "a"), target="state"))
    assert np.asarray(found.x).dtype == np.float32
    assert np.asarray(found.x).tolist() == [[2, 1.5], [4, 3]]
    assert (np.asarray(found.y).tolist(), found.classes, found.numbered) == ([1, 0], ("dry", "wet"), False)


@EVERY_KIND
def test_every_kind_tells_of_the_cell_that_is_missing(tmp_path: Path, write: Writer, name: str) -> None:
    rows: list[list[object]] = [[1.5, 2.0], [2.5, None], [3.5, 4.0]]
    path = write(tmp_path / name, ["a", "b"], rows)
    row = "line 3" if name == "a.csv" else "row 2"
    with pytest.raises(DataError, match=rf"{name}.*{row}, column 'b': .*(the cell is empty|nan is not a finite)"):
        read(DataSettings(path, inputs=("a", "b")))


def test_inputs_left_out_are_all_columns_but_the_target_and_the_group(tmp_path: Path) -> None:
    path = put(tmp_path, "machine,a,b,y\nm1,1,2,0\nm2,3,4,1\n")
    found = read(DataSettings(path, target="y", group="machine"))
    assert np.asarray(found.x).tolist() == [[1, 2], [3, 4]]
    assert np.asarray(found.y).dtype == np.int64


def test_numbers_stay_numbers_and_several_targets_stay_apart(tmp_path: Path) -> None:
    path = put(tmp_path, "a,p,q\n1,0.5,7\n2,1.5,8\n")
    one = read(DataSettings(path, inputs=("a",), target="p"))
    assert (np.asarray(one.y).dtype, np.asarray(one.y).tolist()) == (np.float32, [0.5, 1.5])
    both = read(DataSettings(path, inputs=("a",), target=("p", "q")))
    assert np.asarray(both.y).tolist() == [[0.5, 7], [1.5, 8]]
    assert read(DataSettings(path, inputs=("a",))).y is None


def test_classes_are_numbered_as_the_operator_says(tmp_path: Path) -> None:
    path = put(tmp_path, READINGS)
    found = read(DataSettings(path, inputs=("humidity",), target="state", classes=("wet", "dry")))
    assert (np.asarray(found.y).tolist(), found.classes, found.numbered) == ([1, 0, 1], ("wet", "dry"), True)
    with pytest.raises(DataError, match=r"a\.csv, line 3, column 'state': 'wet' is not in data\.classes; did you mean"):
        read(DataSettings(path, inputs=("humidity",), target="state", classes=("dry", "west")))


def test_classes_may_be_called_by_numbers(tmp_path: Path) -> None:
    path = put(tmp_path, "a,y\n1,3\n2,5\n")
    assert np.asarray(read(DataSettings(path, target="y", classes=("5", "3"))).y).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("content", "fine"),
    [
        (b"\xef\xbb\xbfa,b\n1,2\n", True),  # a byte order mark
        (b"a;b\n1;2\n", True),
        (b"a\tb\r\n1\t2\r\n", True),
        (b'"a", b \n"1","2"\n\n', True),
        (gzip.compress(b"a,b\n1,2\n"), True),
    ],
    ids=["mark", "semicolon", "tab", "quotes", "gzip"],
)
def test_dialects(tmp_path: Path, content: bytes, fine: bool) -> None:
    found = read(DataSettings(put(tmp_path, content), inputs=("a", "b")))
    assert np.asarray(found.x).tolist() == [[1, 2]]


def test_a_cell_may_hold_a_line_break_and_lines_are_counted_with_it(tmp_path: Path) -> None:
    path = put(tmp_path, 'a,note\n1,"two\nlines"\n2,x\nq,y\n')
    with pytest.raises(DataError, match=r"line 5, column 'a': 'q' is not a number"):
        read(DataSettings(path, inputs=("a",)))


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (READINGS, {"inputs": ("temprature",)}, r"no column 'temprature'; did you mean 'temperature'\?"),
        (READINGS, {"target": "state", "group": "x"}, r"no column 'x'; there are time, temperature"),
        ("a,a\n1,2\n", {"inputs": ("a",)}, "2 columns are named 'a'"),
        ("y\n1\n", {"target": "y"}, "no column is left for the inputs"),
        (READINGS, {"target": "state"}, r"line 2, column 'time': '8:00' is not a number; name the columns"),
        ("a;b\n1,5;2\n", {}, r"line 2, column 'a': '1,5' has a decimal comma; write numbers with a point"),
        ("a,b\n1,5,2,5\n", {}, r"line 2: it has 4 cells, and the first line 2; numbers with decimal commas"),
        ("a,b\n1\n", {}, r"line 2: it has 1 cells, and the first line 2, which are separated by ','"),
        ("a,b\n1,2\n3,nan\n", {}, r"line 3, column 'b': nan is not a finite float32 number; fill the gap"),
        ("a\n1e39\n", {}, r"line 2, column 'a': 1e\+39 is not a finite"),
        ("a\n1_000\n", {}, "'1_000' is not a number"),
        ("a,b\n1,\n", {}, r"line 2, column 'b': the cell is empty"),
        ("a,y\n1,wet\n2,\n", {"target": "y"}, r"line 3, column 'y': the cell is empty; give its class"),
        ("a\n" + "z" * 500 + "\n", {}, r"'z{40}\.\.\. \(500 characters\)' is not a number"),
        ("", {}, "it is empty; its first line must name the columns"),
        ("a,b\n", {}, "there are no rows in it"),
        (b"a\n\xff\xfe1\n", {}, "it is not UTF-8 .*; save it as UTF-8"),
        (b"\xff\xfea\x00\n\x00", {}, "it is UTF-16; save it as UTF-8"),
        (gzip.compress(b"a\n" + b"1\n" * 9999, mtime=0)[:40], {}, "can't be read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, content: str | bytes, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=rf"a\.csv.*{message}"):
        read(DataSettings(put(tmp_path, content), **settings))  # type: ignore[arg-type]


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    for name in ("no.csv", "no.db", "no.parquet"):
        with pytest.raises(DataError, match=rf"{name}: no such file"):
            read(DataSettings(str(tmp_path / name)))
    with pytest.raises(DataError, match="no such file or folder"):
        read(DataSettings(str(tmp_path / "nothing")))
    with pytest.raises(DataError, match=r"set data\.kind"):
        read(DataSettings(put(tmp_path, "a\n1\n", "a.dat")))
    assert np.asarray(read(DataSettings(put(tmp_path, "a\n1\n", "a.dat"), kind="csv")).x).tolist() == [[1]]


def test_the_table_of_an_sqlite_file_is_named_where_there_are_several(tmp_path: Path) -> None:
    path = sqlite(tmp_path / "a.db", ["a"], [[1]])
    with closing(sqlite3.connect(path)) as base:
        base.execute("CREATE VIEW recent AS SELECT a + 1 AS b FROM readings")
        base.commit()
    with pytest.raises(DataError, match=r"name the table in data\.table; there are readings, recent"):
        read(DataSettings(path))
    with pytest.raises(DataError, match=r"no table 'reading'; did you mean 'readings'"):
        read(DataSettings(path, table="reading"))
    assert np.asarray(read(DataSettings(path, table="recent")).x).tolist() == [[2]]
    with pytest.raises(DataError, match="can't be read as SQLite"):
        read(DataSettings(put(tmp_path, "no database, but long enough to look like one" * 9, "b.db")))


def test_parquet_says_which_package_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"pip install 'lamina-fl\[parquet\]'"):
        read(DataSettings(str(tmp_path / "a.parquet")))


def test_settings_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.labels means nothing for csv"):
        read(DataSettings(put(tmp_path, "a\n1\n"), labels="x.csv"))
    with pytest.raises(ConfigError, match=r"data\.table means nothing for csv"):
        read(DataSettings(put(tmp_path, "a\n1\n"), table="x"))
    for wrong, message in (
        ({"horizon": 2}, "needs data.window"),
        ({"window": -1}, "can't be negative"),
        ({"classes": ("a", "a")}, "names a class twice"),
        ({"stride": 1}, "needs data.window"),
        ({"delimiter": "ab"}, "one character"),
    ):
        with pytest.raises(ConfigError, match=message):
            DataSettings("a.csv", **wrong)  # type: ignore[arg-type]


def test_a_flag_may_be_a_table() -> None:
    assert source_of("a.npz") == "a.npz"
    assert source_of('{path = "a.csv", window = 3}') == DataSettings("a.csv", window=3)
    for wrong in ("{path = 'a.csv', windw = 3}", "{path"):
        with pytest.raises(ConfigError, match="--data"):
            source_of(wrong)


CELLS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    rows=st.lists(st.tuples(CELLS, CELLS, st.text(st.characters(categories=("L", "N")), min_size=1)), min_size=1),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, float, str]], delimiter: str, end: str
) -> None:
    """The slow twin is a list of lists; names that all look like numbers are numbers, so each gets a letter."""
    text = io.StringIO()
    named = [(a, b, "n" + name) for a, b, name in rows]
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end)
    writer.writerows([("a", "b", "name"), *named])
    path = put(tmp_path_factory.mktemp("round"), text.getvalue())
    found = read(DataSettings(path, inputs=("b", "a"), target="name"))
    assert np.asarray(found.x).tolist() == [[b, a] for a, b, _ in named]
    assert [found.classes[label] for label in np.asarray(found.y)] == [name for _, _, name in named]
    assert list(found.classes) == sorted({name for _, _, name in named})
