"""Folders as samples: images, sound, and archives that come while an agent runs."""

from __future__ import annotations

import os
import struct
import wave
from pathlib import Path

import numpy as np
import pytest

from lamina.models.errors import ConfigError, DataError
from lamina.models.readers import images, sound
from lamina.models.readers.kinds import read
from lamina.models.readers.rows import Rows
from lamina.models.readers.settings import DataSettings
from lamina.models.readers.sound import samples_of


def picture(path: Path, pixels: np.ndarray) -> Path:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(pixels).save(path)
    return path


def recording(path: Path, frames: list[list[int]], *, rate: int = 8000, width: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(frames[0]))
        file.setsampwidth(width)
        file.setframerate(rate)
        for frame in frames:
            for value in frame:
                file.writeframesraw(value.to_bytes(width, "little", signed=width > 1))
    return path


def mono(*values: int) -> list[list[int]]:
    return [[value] for value in values]


RED = np.zeros((2, 3, 3), np.uint8) + np.array([255, 0, 0], np.uint8)  # (H, W, C)


def test_images_by_class(tmp_path: Path) -> None:
    picture(tmp_path / "dog" / "1.png", RED)
    picture(tmp_path / "cat" / "2.PNG", 255 - RED)
    (tmp_path / "cat" / ".hidden.png").write_bytes(b"being written")
    found = read(DataSettings(str(tmp_path)))
    x = np.asarray(found.x)
    assert (x.shape, x.dtype) == ((2, 3, 2, 3), np.uint8)  # (N, C, H, W), scaled where a batch is made
    assert x[1, :, 0, 0].tolist() == [255, 0, 0]
    assert (np.asarray(found.y).tolist(), found.classes) == ([0, 1], ("cat", "dog"))


def test_images_in_grey_and_of_a_size(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", np.full((4, 4), 200, np.uint8))
    picture(tmp_path / "b.png", RED)
    found = read(DataSettings(str(tmp_path), colour="grey", size=(2, 2)))
    assert np.asarray(found.x).shape == (2, 1, 2, 2)
    assert np.asarray(found.x)[0].tolist() == [[[200, 200], [200, 200]]]
    assert found.y is None


def test_images_with_a_table(tmp_path: Path) -> None:
    picture(tmp_path / "raw" / "b.png", RED)
    picture(tmp_path / "raw" / "a.png", 255 - RED)
    (tmp_path / "labels.csv").write_text("file,class\nraw/b.png,ripe\nraw/a.png,green\n")
    found = read(DataSettings(str(tmp_path), labels="labels.csv"))
    assert np.asarray(found.x)[0, :, 0, 0].tolist() == [255, 0, 0]
    assert (np.asarray(found.y).tolist(), found.classes) == ([1, 0], ("green", "ripe"))
    (tmp_path / "labels.csv").write_text("file,target\nraw/b.png,0.5\nraw/a.png,1.5\n")
    assert np.asarray(read(DataSettings(str(tmp_path), labels="labels.csv")).y).tolist() == [0.5, 1.5]
    (tmp_path / "labels.csv").write_text("file,class\nraw/c.png,ripe\n")
    with pytest.raises(DataError, match=r"labels\.csv, line 2: there is no file .*raw/c\.png"):
        read(DataSettings(str(tmp_path), labels="labels.csv"))
    (tmp_path / "labels.csv").write_text("name,class\nx,y\n")
    with pytest.raises(DataError, match="needs a column 'file'; there are name, class"):
        read(DataSettings(str(tmp_path), labels="labels.csv"))


def test_images_that_can_not_be_used(tmp_path: Path) -> None:
    one = picture(tmp_path / "a" / "1.png", RED)
    other = picture(tmp_path / "a" / "2.png", RED[:1])
    with pytest.raises(DataError, match=r"2\.png: it is 3 x 1, and .*1\.png is 3 x 2; give data\.size"):
        read(DataSettings(str(tmp_path)))
    other.write_bytes(one.read_bytes()[:40])  # still being written
    with pytest.raises(DataError, match=r"2\.png: can't be read as an image"):
        read(DataSettings(str(tmp_path)))
    other.unlink()
    picture(tmp_path / "stray.png", RED)
    with pytest.raises(DataError, match=r"stray\.png: it is in no class's folder"):
        read(DataSettings(str(tmp_path)))
    (tmp_path / "stray.png").unlink()
    with pytest.raises(DataError, match=r"1\.png, column 'class': 'a' is not in data\.classes"):
        read(DataSettings(str(tmp_path), classes=("b", "c")))
    with pytest.raises(ConfigError, match=r"data\.window means nothing for images"):
        read(DataSettings(str(tmp_path), window=2))


def test_many_images_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        picture(tmp_path / f"{index}.png", np.full((2, 2, 3), index, np.uint8))
    monkeypatch.setattr(images, "HELD_BYTES", 35)
    x = read(DataSettings(str(tmp_path))).x
    assert isinstance(x, Rows)
    assert x[np.array([2, 0, 2])][:, 0, 0, 0].tolist() == [2, 0, 2]


def test_images_need_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ConfigError, match=r"pip install 'lamina-fl\[images\]'"):
        read(DataSettings(str(tmp_path)))


def test_recordings_by_class(tmp_path: Path) -> None:
    recording(tmp_path / "yes" / "a.wav", mono(0, 16384, -32768))
    recording(tmp_path / "no" / "b.wav", mono(1, 2, 3))
    found = read(DataSettings(str(tmp_path)))
    assert np.asarray(found.x).shape == (2, 1, 3)  # (N, channels, samples)
    assert np.asarray(found.x)[1, 0].tolist() == [0, 0.5, -1]
    assert (np.asarray(found.y).tolist(), found.classes) == ([0, 1], ("no", "yes"))


def test_recordings_are_cut_into_windows(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", mono(*range(0, 7 * 1024, 1024)))
    whole = read(DataSettings(str(tmp_path), window=3)).x
    assert (np.asarray(whole)[:, 0] * 32).tolist() == [[0, 1, 2], [3, 4, 5]]
    padded = read(DataSettings(str(tmp_path), window=3, pad=True)).x
    assert (np.asarray(padded)[:, 0] * 32).tolist() == [[0, 1, 2], [3, 4, 5], [6, 0, 0]]
    overlapping = read(DataSettings(str(tmp_path), window=3, stride=2)).x
    assert (np.asarray(overlapping)[:, 0] * 32).tolist() == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_of_whole_numbers(tmp_path: Path, width: int) -> None:
    top = 1 << (8 * width - 1)
    values = [0, top // 2, -top, top - 1]
    shift = top if width == 1 else 0  # one byte is unsigned
    recording(tmp_path / "a.wav", mono(*(value + shift for value in values)), width=width)
    heard = np.asarray(read(DataSettings(str(tmp_path))).x)[0, 0]
    np.testing.assert_allclose(heard, [value / top for value in values], atol=2e-7)


def test_stereo_is_two_channels() -> None:
    content = struct.pack("<6h", 0, 16384, 0, 16384, 0, 16384)
    assert samples_of(content, 2, 2).tolist() == [[0, 0, 0], [0.5, 0.5, 0.5]]


def test_recordings_that_can_not_be_used(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", mono(1, 2, 3))
    other = recording(tmp_path / "b.wav", mono(1, 2, 3), rate=16000)
    with pytest.raises(DataError, match=r"b\.wav: it has 16000 samples a second, and .*a\.wav has 8000; convert"):
        read(DataSettings(str(tmp_path)))
    recording(other, [[1, 1], [2, 2]])
    with pytest.raises(DataError, match=r"b\.wav: it has 2 channels, and .*a\.wav has 1"):
        read(DataSettings(str(tmp_path)))
    recording(other, mono(1, 2))
    with pytest.raises(DataError, match=r"b\.wav: it has 2 samples, and .*a\.wav has 3; give data\.window"):
        read(DataSettings(str(tmp_path)))
    with pytest.raises(DataError, match=r"b\.wav: it has 2 samples, fewer than data\.window = 3; set data\.pad"):
        read(DataSettings(str(tmp_path), window=3))
    recording(other, mono(*range(900)))
    os.truncate(other, 200)
    with pytest.raises(DataError, match=r"b\.wav: it is cut off; if it is being written"):
        read(DataSettings(str(tmp_path)))
    other.write_bytes(b"RIFF no sound")
    with pytest.raises(DataError, match=r"b\.wav: can't be read as WAV"):
        read(DataSettings(str(tmp_path)))


def test_many_recordings_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording(tmp_path / "a.wav", mono(*range(0, 8192, 1024)))
    monkeypatch.setattr(sound, "HELD_BYTES", 10)
    x = read(DataSettings(str(tmp_path), window=2)).x
    assert isinstance(x, Rows)
    assert (x[np.array([3, 1])][:, 0] * 32).tolist() == [[6, 7], [2, 3]]


def archive(folder: Path, name: str, first: int, count: int = 2, *, age_s: float = 0.0) -> Path:
    path = folder / f"{name}.npz"
    values = np.arange(first, first + count)
    np.savez(path, x=values[:, np.newaxis].astype(np.float32), y=values % 2)
    os.utime(path, (1e9 - age_s, 1e9 - age_s))
    return path


def test_archives_are_joined_the_oldest_first(tmp_path: Path) -> None:
    archive(tmp_path, "a", 4)
    archive(tmp_path, "b", 0, age_s=60)
    found = read(DataSettings(str(tmp_path)))
    assert np.asarray(found.x)[:, 0].tolist() == [0, 1, 4, 5]
    assert np.asarray(found.y).tolist() == [0, 1, 0, 1]


def test_an_archive_that_is_being_written_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive(tmp_path, "a", 0)
    whole = archive(tmp_path, "b", 2).read_bytes()
    for stop in (0, 10, len(whole) // 2, len(whole) - 5):
        (tmp_path / "b.npz").write_bytes(whole[:stop])
        assert np.asarray(read(DataSettings(str(tmp_path))).x)[:, 0].tolist() == [0, 1]
        assert "b.npz is passed over" in caplog.text
        assert "rename" in caplog.text
        caplog.clear()
    (tmp_path / "a.npz").unlink()
    with pytest.raises(DataError, match=r"none of its 1 \.npz files can be read; are they being written\?"):
        read(DataSettings(str(tmp_path)))


def test_the_newest_archives_that_fit_are_used(tmp_path: Path) -> None:
    for age in range(6):
        archive(tmp_path, f"at-{age}", 10_000 * age, 10_000, age_s=age)
    found = read(DataSettings(str(tmp_path), limit_mib=0.25))  # an archive takes 0.114 MiB
    assert sorted(set((np.asarray(found.x)[:, 0] // 10_000).tolist())) == [0, 1]
    with pytest.raises(DataError, match=r"it alone takes more than data\.limit_mib = 0\.1"):
        read(DataSettings(str(tmp_path), limit_mib=0.1))


def test_archives_that_do_not_go_together(tmp_path: Path) -> None:
    archive(tmp_path, "a", 0, age_s=9)
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 3), np.float32), y=np.zeros(2, int))
    with pytest.raises(
        DataError, match=r"b\.npz: its x is float32 \(3,\) a sample, and that of .*a\.npz float32 \(1,\)"
    ):
        read(DataSettings(str(tmp_path)))
    np.savez(tmp_path / "b.npz", z=np.zeros(2))
    with pytest.raises(DataError, match=r"b\.npz: it has no array 'x', only z"):
        read(DataSettings(str(tmp_path)))
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 1), np.float32), y=np.zeros(3, int))
    with pytest.raises(DataError, match=r"b\.npz: its numbers of samples differ: x 2, y 3"):
        read(DataSettings(str(tmp_path)))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"it is empty; data\.kind says what will be there"):
        read(DataSettings(str(tmp_path)))
    with pytest.raises(DataError, match=r"there is no \.npz file in it yet"):
        read(DataSettings(str(tmp_path), kind="npz"))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="neither images, nor"):
        read(DataSettings(str(tmp_path)))
    for kind in ("images", "wav"):
        with pytest.raises(DataError, match="there is no file in it that ends in"):
            read(DataSettings(str(tmp_path), kind=kind))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="there is no such folder"):
        read(DataSettings(str(tmp_path / "gone"), kind="wav"))
