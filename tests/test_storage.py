"""Storage: a file is replaced as a whole, the simulated disk behaves as the real one, and one program has a folder."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.emulation.faults.simulated_disk import SimulatedDisk, Stopped
from lamina.models.errors import ConfigError
from lamina.models.storage.disk import Disk, RealDisk, read
from lamina.models.storage.folder_lock import held
from lamina.models.storage.replace import remove_drafts, replace_file
from tests.test_activation_cache import room_of

HERE = Path("/run")  # of the simulated disk


@pytest.fixture(params=[RealDisk, lambda: SimulatedDisk(1)], ids=["real", "simulated"])
def disk(request: pytest.FixtureRequest) -> Disk:
    made: Disk = request.param()
    return made


def test_both_disks_keep_files_alike(disk: Disk, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert disk.names(folder) == []
    disk.make_folder(folder)
    disk.write(folder / "x", [b"one ", memoryview(b"two")])
    disk.append(folder / "x", b" three")
    disk.append(folder / "new", b"begun")
    assert read(folder / "x", disk) == b"one two three"
    disk.write(folder / "x", [b"shorter"])
    disk.sync(folder / "x")
    disk.rename(folder / "x", folder / "y")
    disk.sync_folder(folder)
    disk.remove(folder / "new")
    disk.remove(folder / "never there")
    assert disk.names(folder) == ["y"]
    assert disk.names(tmp_path / "a") == ["b"]
    assert read(folder / "y", disk) == b"shorter"
    disk.remove_folder(folder)
    disk.remove_folder(folder)
    assert disk.names(folder) == []


def test_both_disks_name_the_path_in_an_error(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "not" / "there"
    attempts: list[Callable[[], object]] = [
        lambda: read(path, disk),
        lambda: disk.write(path, [b"x"]),
        lambda: disk.append(path, b"x"),
        lambda: disk.sync(path),
        lambda: disk.sync_folder(path),
        lambda: disk.rename(path, path.with_name("y")),
    ]
    for attempt in attempts:
        with pytest.raises(FileNotFoundError) as raised:
            attempt()
        assert str(tmp_path / "not") in str(raised.value.filename)


def test_a_file_is_replaced_as_a_whole_or_not_at_all() -> None:
    found = set()
    for seed in range(300):
        disk = SimulatedDisk(seed)
        replace_file(HERE / "file", b"old" * 1000, disk)
        disk.stop_after(seed % 8)
        try:
            replace_file(HERE / "file", [b"new" * 1000, b"!"], disk)
            finished = True
        except Stopped:
            finished = False
        disk = disk.after_power_cut()
        content = read(HERE / "file", disk)
        assert content in ((b"new" * 1000 + b"!",) if finished else (b"old" * 1000, b"new" * 1000 + b"!"))
        found.add((finished, content[:3]))
        remove_drafts(HERE, disk)
        assert disk.names(HERE) == ["file"]
    assert found == {(True, b"new"), (False, b"old"), (False, b"new")}


def test_what_is_not_synced_may_be_lost_torn_and_reordered() -> None:
    kinds = set()
    for seed in range(200):
        disk = SimulatedDisk(seed)
        replace_file(HERE / "file", b"old" * 1000, disk)
        replace_file(HERE / "file", b"new" * 1000, disk, durable=False)
        disk.append(HERE / "log", b"line\n")
        disk = disk.after_power_cut()
        content = read(HERE / "file", disk)
        kinds.add({b"old" * 1000: "old", b"new" * 1000: "new"}.get(content, "torn"))
        kinds.add("log" if "log" in disk.names(HERE) else "no log")
    assert kinds == {"old", "new", "torn", "log", "no log"}


def test_a_full_disk_leaves_the_file_before_and_no_draft(tmp_path: Path) -> None:
    replace_file(tmp_path / "file", b"old")
    with room_of(100), pytest.raises(OSError, match="File too large") as raised:
        replace_file(tmp_path / "file", b"new" * 1000)
    assert str(tmp_path) in str(raised.value.filename)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_a_full_simulated_disk_does_the_same() -> None:
    disk = SimulatedDisk(1)
    replace_file(HERE / "file", b"old", disk)
    disk.room_bytes = 100
    with pytest.raises(OSError, match="No space left"):
        replace_file(HERE / "file", b"new" * 1000, disk)
    assert disk.names(HERE) == ["file"]
    assert disk.room_bytes == 100
    disk.read_only = True
    with pytest.raises(OSError, match="Read-only"):
        replace_file(HERE / "file", b"new", disk)
    assert read(HERE / "file", disk) == b"old"


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from lamina.models.storage.folder_lock import held\n"
        "with held(Path(sys.argv[1]), 'lamina run'):\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        words = rf"{tmp_path}: lamina run \(process {holder.pid} on .*\) has used it since 20.*: end it first"
        with pytest.raises(ConfigError, match=words), held(tmp_path, "lamina rollback"):
            pass
        holder.kill()
    with held(tmp_path, "lamina rollback"):
        pass
    with held(tmp_path, "lamina rollback"):
        pass


def test_a_folder_that_cannot_be_made_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file.*can't be written to: "), held(tmp_path / "file", "lamina run"):
        pass
