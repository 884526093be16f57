"""Windows of time series, against a slow and obvious twin; and that they take no memory of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.models.errors import DataError
from lamina.models.readers.kinds import read
from lamina.models.readers.rows import Windows
from lamina.models.readers.settings import DataSettings

HOURS = "load,price\n" + "".join(f"{hour},{hour * 10}\n" for hour in range(6))


def put(folder: Path, content: str) -> str:
    (folder / "series.csv").write_text(content)
    return str(folder / "series.csv")


def test_a_window_and_what_follows_it(tmp_path: Path) -> None:
    found = read(DataSettings(put(tmp_path, HOURS), target="price", window=2, horizon=3))
    x, y = np.asarray(found.x), np.asarray(found.y)
    assert x.tolist() == [[[0, 0], [1, 10]], [[1, 10], [2, 20]]]  # (N, window, inputs)
    assert y.tolist() == [[[20], [30], [40]], [[30], [40], [50]]]  # (N, horizon, targets)
    assert (x.dtype, y.dtype) == (np.float32, np.float32)


def test_without_a_target_the_inputs_are_foretold(tmp_path: Path) -> None:
    found = read(DataSettings(put(tmp_path, HOURS), window=2, horizon=1, stride=3))
    assert np.asarray(found.y).tolist() == [[[2, 20]], [[5, 50]]]


def test_a_window_has_the_class_of_its_last_row(tmp_path: Path) -> None:
    content = "a,state\n0,ok\n1,ok\n2,hot\n3,hot\n4,ok\n"
    found = read(DataSettings(put(tmp_path, content), target="state", window=2, stride=2))
    assert np.asarray(found.x).tolist() == [[[0], [1]], [[2], [3]]]
    assert (np.asarray(found.y).tolist(), found.classes) == ([1, 0], ("hot", "ok"))


def test_no_window_spans_two_series_and_rows_of_one_may_lie_apart(tmp_path: Path) -> None:
    content = "m,a\nx,0\ny,100\nx,1\ny,101\nx,2\nz,7\n"
    found = read(DataSettings(put(tmp_path, content), window=2, group="m"))
    assert np.asarray(found.x)[..., 0].tolist() == [[0, 1], [1, 2], [100, 101]]


@pytest.mark.parametrize(("horizon", "span"), [(0, "a window of 7"), (2, "a window of 7 and a horizon of 2")])
def test_a_window_longer_than_the_series(tmp_path: Path, horizon: int, span: str) -> None:
    with pytest.raises(DataError, match=rf"series\.csv: its longest series has 6 rows, too few for {span}"):
        read(DataSettings(put(tmp_path, HOURS), window=7, horizon=horizon))


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    window=st.integers(1, 4),
    horizon=st.integers(0, 3),
    stride=st.integers(0, 3),
    shuffled=st.randoms(use_true_random=False),
)
def test_windows_are_those_of_a_slow_twin(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    window: int,
    horizon: int,
    stride: int,
    shuffled: object,
) -> None:
    rows = [(f"g{group}", 100 * group + at) for group, length in enumerate(lengths) for at in range(length)]
    order = sorted(range(len(rows)), key=lambda _: shuffled.random())  # type: ignore[attr-defined]
    taken = {name: sorted(value for group, value in rows if group == name) for name, _ in rows}
    left = {name: iter(values) for name, values in taken.items()}
    mixed = [(rows[at][0], next(left[rows[at][0]])) for at in order]  # series are mixed, each keeps its order
    path = put(tmp_path_factory.mktemp("twin"), "g,a\n" + "".join(f"{name},{value}\n" for name, value in mixed))
    settings = DataSettings(path, window=window, horizon=horizon, stride=stride, group="g")
    expected = []
    for name in dict.fromkeys(name for name, _ in mixed):
        series = taken[name]
        for start in range(0, len(series) - window - horizon + 1, stride or 1):
            stop = start + window
            expected.append((series[start:stop], series[stop : stop + horizon]))
    if not expected:
        with pytest.raises(DataError, match="too few"):
            read(settings)
        return
    found = read(settings)
    assert np.asarray(found.x)[..., 0].tolist() == [before for before, _ in expected]
    if horizon:
        assert np.asarray(found.y)[..., 0].tolist() == [after for _, after in expected]


def test_windows_are_views_until_they_are_asked_for() -> None:
    series = np.arange(10, dtype=np.float32)[:, np.newaxis]
    windows = Windows(series, np.arange(8), 3)
    assert (windows.shape, windows.ndim, len(windows)) == ((8, 3, 1), 3, 8)
    assert windows[np.array([7, 0])][..., 0].tolist() == [[7, 8, 9], [0, 1, 2]]
    assert windows[2:4][..., 0].tolist() == [[2, 3, 4], [3, 4, 5]]
    series[0] = 50
    assert windows[np.array([0])][0, 0, 0] == 50


MEASURED = """
import sys, resource, numpy as np
from lamina.models.readers.kinds import read
from lamina.models.readers.settings import DataSettings
def high(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
read(DataSettings(sys.argv[1], window=96, horizon=24))  # what is imported and allocated once
before = high()
found = read(DataSettings(sys.argv[2], window=96, horizon=24))
print(high() - before, found.x.shape[0])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are in kilobytes there")
def test_a_csv_is_never_held_as_python_objects(tmp_path: Path) -> None:
    rows, columns = 100_000, 8
    (tmp_path / "small.csv").write_text("a,b\n" + "1.5,2.5\n" * 9_000)
    line = ",".join(["0.123"] * columns) + "\n"
    (tmp_path / "large.csv").write_text(",".join("abcdefgh") + "\n" + line * rows)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "small.csv"), str(tmp_path / "large.csv")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    above, windows = map(int, done.stdout.split())
    series = rows * columns * 4
    assert windows == rows - 119
    assert above < 4 * series  # as lists of floats it would be 14 times, as windows 120 times
