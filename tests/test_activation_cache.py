"""Activations on disk: rows go in and come out, a full disk is an error, nothing is left behind."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lamina.edge_agent.training.activation_cache import ActivationCache, ActivationCacheFull
from lamina.models.errors import ConfigError

ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)


@contextmanager
def room_of(size_bytes: int) -> Iterator[None]:
    """A disk that takes no larger file; to a writer it looks full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_half_precision_takes_half_the_room_and_keeps_three_digits(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
    rows[0, 0, 0] = 1e9  # larger than any half
    with ActivationCache(tmp_path, (3, 4), "float16") as cache:
        cache.append(rows)
        assert os.fstat(cache._file.fileno()).st_size == rows.nbytes // 2
        found = cache.read(np.arange(5)[::-1])[::-1]
    assert found.dtype == np.float32
    assert found[0, 0, 0] == 65504
    np.testing.assert_allclose(found.ravel()[1:], rows.ravel()[1:], rtol=1e-3, atol=1e-6)


def test_rows_come_out_as_they_went_in(tmp_path: Path) -> None:
    with ActivationCache(tmp_path, (2,)) as cache:
        cache.append(ROWS[:4])
        assert cache.read(np.array([3, 0])).tolist() == [[6, 7], [0, 1]]
        cache.append(ROWS[4:])
        assert len(cache) == 6
        assert cache.read(np.array([5, 5, 1])).tolist() == [[10, 11], [10, 11], [2, 3]]


def test_rows_may_have_any_shape(tmp_path: Path) -> None:
    rows = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    with ActivationCache(tmp_path, (3, 2, 2)) as cache:
        cache.append(rows)
        np.testing.assert_array_equal(cache.read(np.array([1, 0])), rows[::-1])


def test_what_is_read_stays_when_the_cache_is_cleared(tmp_path: Path) -> None:
    with ActivationCache(tmp_path, (2,)) as cache:
        cache.append(ROWS)
        read = cache.read(np.arange(6))
        cache.clear()
        assert len(cache) == 0
        np.testing.assert_array_equal(read, ROWS)
        cache.append(ROWS[5:])
        assert cache.read(np.array([0])).tolist() == [[10, 11]]


def test_a_full_disk_says_so_and_harms_nothing(tmp_path: Path) -> None:
    with ActivationCache(tmp_path, (2,)) as cache:
        cache.append(ROWS[:1])
        with room_of(20), pytest.raises(ActivationCacheFull, match=rf"folder {tmp_path}: the disk is full"):
            cache.append(ROWS[1:])  # 8 bytes are there, 40 more are too many
        assert len(cache) == 1
        assert cache.read(np.array([0])).tolist() == [[0, 1]]
        cache.append(ROWS[3:])
        assert cache.read(np.array([1])).tolist() == [[6, 7]]


def test_a_folder_that_can_not_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't keep activations there"):
        ActivationCache(tmp_path / "file" / "folder", (2,))


def test_the_file_has_no_name(tmp_path: Path) -> None:
    with ActivationCache(tmp_path / "activations", (2,)) as cache:
        cache.append(ROWS)
        assert list((tmp_path / "activations").iterdir()) == []


def test_nothing_is_left_of_a_killed_process(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, numpy as np; from pathlib import Path\n"
        "from lamina.edge_agent.training.activation_cache import ActivationCache\n"
        "cache = ActivationCache(Path(sys.argv[1]), (1000,)); cache.append(np.ones((100, 1000), np.float32))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(__file__).parent.parent,
        env={**os.environ},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []
