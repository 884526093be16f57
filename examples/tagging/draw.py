"""Draws messages and their tags as ``messages.npz``: ``python draw.py``. Word 0 fills up; its tag, -100, is ignored."""

from __future__ import annotations

from pathlib import Path

import numpy as np

WORDS, TAGS, LENGTH, WRITERS = 30, 4, 12, 4


def draw(path: Path, messages: int = 1200) -> None:
    """Every word has a tag, which some words before it change. Each writer likes words of their own."""
    rng = np.random.default_rng(0)
    tag, turns = rng.integers(0, TAGS, WORDS), rng.random(WORDS) < 0.3
    liked = rng.dirichlet(np.full(WORDS - 1, 0.5), WRITERS)
    writers = rng.integers(0, WRITERS, messages)
    x, y = np.zeros((messages, LENGTH), np.int64), np.full((messages, LENGTH), -100, np.int64)
    for message, writer in enumerate(writers):
        length = rng.integers(5, LENGTH + 1)
        words = rng.choice(np.arange(1, WORDS), length, p=liked[writer])
        before = np.concatenate([[0], words[:-1]])
        x[message, :length], y[message, :length] = words, (tag[words] + turns[before]) % TAGS
    cut = messages * 4 // 5
    np.savez(path, x_train=x[:cut], y_train=y[:cut], x_test=x[cut:], y_test=y[cut:], ids=writers[:cut])


if __name__ == "__main__":
    draw(Path("messages.npz"))
