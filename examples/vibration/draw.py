"""Draws how machines vibrate: ``python draw.py`` writes ``healthy.npz``, and ``faulty.npz`` to try the model on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

MACHINES, STRETCHES, SAMPLES = 4, 300, 64


def vibration(rng: np.random.Generator, count: int, speed: float, *, faulty: bool = False) -> np.ndarray:
    """Stretches of a machine that turns at a speed, (count, SAMPLES); a worn bearing knocks once a turn."""
    time = np.arange(SAMPLES)
    phase = rng.uniform(0, 2 * np.pi, (count, 1))
    turn = speed * time + phase  # (count, SAMPLES)
    found = np.sin(turn) + 0.4 * np.sin(2 * turn + 0.5) + rng.normal(0, 0.05, turn.shape)
    if faulty:
        found += 1.2 * (np.mod(turn, 2 * np.pi) < 2 * speed)
    return found.astype(np.float32)


def draw(folder: Path) -> None:
    """Write both archives."""
    rng = np.random.default_rng(0)
    speeds = np.linspace(0.35, 0.5, MACHINES)
    healthy = [vibration(rng, STRETCHES, speed) for speed in speeds]
    np.savez(
        folder / "healthy.npz",
        x_train=np.concatenate([part[:-40] for part in healthy]),
        x_test=np.concatenate([part[-40:] for part in healthy]),
        ids=np.repeat(np.arange(MACHINES), STRETCHES - 40),
    )
    np.savez(folder / "faulty.npz", x=np.concatenate([vibration(rng, 40, speed, faulty=True) for speed in speeds]))


if __name__ == "__main__":
    draw(Path())
