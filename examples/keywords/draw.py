"""Draws recordings of three words, as WAV files in a folder for each device: ``python draw.py FOLDER``.

They are no speech: ``up`` is a tone that rises, ``down`` one that falls, ``stop`` a tone that ends after half the time.
Each has a pitch, a loudness and noise of its own.
"""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import numpy as np

RATE = 8000
WORDS = ("up", "down", "stop")


def sound(word: str, rng: np.random.Generator) -> np.ndarray:
    """A second of a word, (RATE,) from -1 to 1."""
    time = np.arange(RATE) / RATE
    low, high = rng.uniform(300, 500), rng.uniform(900, 1400)
    begin, end = {"up": (low, high), "down": (high, low), "stop": (low, low)}[word]
    tone = np.sin(2 * np.pi * (begin * time + (end - begin) * time**2 / 2))
    if word == "stop":
        tone *= time < rng.uniform(0.3, 0.6)
    return rng.uniform(0.2, 0.8) * tone + rng.normal(0, 0.05, RATE)


def draw(folder: Path, devices: int = 4, clips: int = 12) -> None:
    """Write ``device-1`` and so on, and ``test``, each with a folder a word. No device has all words alike."""
    for device, name in enumerate([*(f"device-{number}" for number in range(1, devices + 1)), "test"]):
        rng = np.random.default_rng(device)
        for index, word in enumerate(WORDS):
            for number in range(clips if name == "test" else clips // (1 + (index + device) % len(WORDS))):
                write(folder / name / word / f"{number}.wav", sound(word, rng))


def write(path: Path, samples: np.ndarray) -> None:
    """Write a recording with 16 bits a sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
