"""What do the papers say, line by line? Slow twins of the algorithms, over plain floats and lists.

Nothing here imports the code that it judges.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

Values = list[list[float]]  # one list of parameters for each layer

GRID = 2**36  # grid steps in 1, as lamina.coordinator.folds.exact promises


# -- one aggregation -----------------------------------------------------------------------------------------------


def exact_mean(base: Sequence[float], deltas: Sequence[Sequence[float]], weights: Sequence[float]) -> np.ndarray:
    """base + weighted mean of deltas in rational arithmetic, its terms rounded to the grid; float32."""
    whole = float(sum(Fraction(weight) for weight in weights))
    value = []
    for k in range(len(base)):
        steps = sum(round(Fraction(w * delta[k]) * GRID) for w, delta in zip(weights, deltas, strict=True))
        value.append(base[k] + float(Fraction(steps, GRID)) / whole)
    return np.array(value, np.float32)


def mean(vectors: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """sum_i w_i x_i / sum_i w_i."""
    return [sum(w * x[k] for w, x in zip(weights, vectors, strict=True)) / sum(weights) for k in range(len(vectors[0]))]


def spread(centre: Sequence[float], vectors: Sequence[Sequence[float]], weights: Sequence[float]) -> float:
    """sum_i w_i ||u - x_i||^2 / sum_i w_i."""
    squares = [sum((u - x_k) ** 2 for u, x_k in zip(centre, x, strict=True)) for x in vectors]
    return sum(w * square for w, square in zip(weights, squares, strict=True)) / sum(weights)


def median(vectors: Sequence[Sequence[float]]) -> list[float]:
    """Coordinate by coordinate."""
    return [statistics.median(column) for column in zip(*vectors, strict=True)]


def trimmed_mean(vectors: Sequence[Sequence[float]], left_out: int) -> list[float]:
    """Coordinate by coordinate, without ``left_out`` values at either end."""
    columns = [sorted(column)[left_out : len(vectors) - left_out] for column in zip(*vectors, strict=True)]
    return [sum(column) / len(column) for column in columns]


# -- FedLAMA's adjustment ------------------------------------------------------------------------------------------


def adjust(d: Sequence[float], dim: Sequence[int], tau: int, phi: int) -> list[int]:
    """Algorithm 2 of arXiv 2110.10302, with the crossing of D and 1 - S."""
    intervals = [tau for _ in d]
    big_d = big_s = 0.0
    for layer in sorted(range(len(d)), key=lambda layer: d[layer]):
        big_d += d[layer] * dim[layer] / sum(d[k] * dim[k] for k in range(len(d)))
        big_s += dim[layer] / sum(dim)
        intervals[layer] = phi * tau
        if 1 - big_s < big_d:
            break
    return intervals


# -- whole federations ---------------------------------------------------------------------------------------------


@dataclass
class Quadratics:
    """Devices whose losses are 1/2 sum_k a_k (x_k - c_k)^2 + 1/2 (sum_k x_k - b)^2: layers pull on each other.

    Attributes:
        curvature: a, for each device and layer.
        centre: c, for each device and layer: devices differ in it, so they drift apart.
        target: b, for each device.
    """

    curvature: dict[str, Values]
    centre: dict[str, Values]
    target: dict[str, float]

    def gradient(self, device: str, x: Sequence[Sequence[float]]) -> Values:
        pull = sum(map(sum, x)) - self.target[device]
        return [
            [a * (x_k - c) + pull for a, x_k, c in zip(*rows, strict=True)]
            for rows in zip(self.curvature[device], x, self.centre[device], strict=True)
        ]


def quadratics(devices: int, sizes: Sequence[int], seed: int) -> Quadratics:
    """Random losses; devices agree on the first layers' centres, and differ more and more in the later ones'."""
    rng = np.random.default_rng(seed)
    names = [f"d{index}" for index in range(devices)]
    return Quadratics(
        curvature={name: [rng.uniform(0.5, 1.5, size).tolist() for size in sizes] for name in names},
        centre={name: [(1 + layer**2 * rng.normal(size=size)).tolist() for layer, size in enumerate(sizes)]
                for name in names},
        target={name: float(rng.normal()) for name in names},
    )  # fmt: skip


@dataclass
class Course:
    """What happened in a federation.

    Attributes:
        values: u of every layer at the end.
        intervals: tau_l of every layer, after each cycle.
        discrepancy: d_l of every layer, at each cycle's end.
        sent: for each aggregation, in order: step, layer, number of updates.
    """

    values: Values
    intervals: list[list[int]] = field(default_factory=list)
    discrepancy: list[list[float]] = field(default_factory=list)
    sent: list[tuple[int, int, int]] = field(default_factory=list)


def fedavg(
    losses: Quadratics,
    start: Values,
    *,
    local_steps: int,
    rounds: int,
    lr: float,
    cohort: Callable[[int], Sequence[str]],
) -> list[np.ndarray]:
    """FedAvg with devices that hold float32, and a server that adds in rational arithmetic: every bit is settled."""
    u = [np.array(values, np.float32) for values in start]
    for r in range(rounds):
        deltas = []
        for i in cohort(r):
            x = u
            for _ in range(local_steps):
                g = losses.gradient(i, [x_l.tolist() for x_l in x])
                x = [x_l - np.float32(lr) * np.array(g_l, np.float32) for x_l, g_l in zip(x, g, strict=True)]
            deltas.append([x_l - u_l for x_l, u_l in zip(x, u, strict=True)])
        ones = [1.0] * len(deltas)
        u = [exact_mean(u_l.tolist(), [delta[layer].tolist() for delta in deltas], ones) for layer, u_l in enumerate(u)]
    return u


def fedlama(
    losses: Quadratics,
    start: Values,
    *,
    local_steps: int,
    phi: int,
    steps: int,
    lr: float,
    cohort: Callable[[int], Sequence[str]],
    weights: Mapping[str, float],
    cuts: Mapping[str, int] | None = None,
) -> Course:
    """Algorithm 1 of arXiv 2110.10302, over float64; with cuts, active devices at layer l are those that train it."""
    cuts = cuts or {}
    layers = range(len(start))
    dim = [len(values) for values in start]
    tau = [local_steps for _ in layers]
    d = [0.0 for _ in layers]
    u = [list(values) for values in start]
    course = Course(u)
    for k in range(1, steps + 1):
        if (k - 1) % (phi * local_steps) == 0:
            active = cohort((k - 1) // (phi * local_steps))
            x = {i: [list(values) for values in u] for i in active}
        for i in active:
            g = losses.gradient(i, x[i])
            for layer in layers[cuts.get(i, 0) :]:
                x[i][layer] = [x_k - lr * g_k for x_k, g_k in zip(x[i][layer], g[layer], strict=True)]
        for layer in layers:
            if k % tau[layer] == 0:
                t_l = [i for i in active if cuts.get(i, 0) <= layer]
                if t_l:
                    locals_, w = [x[i][layer] for i in t_l], [weights[i] for i in t_l]
                    u[layer] = mean(locals_, w)
                    d[layer] = spread(u[layer], locals_, w) / (tau[layer] * dim[layer])
                for i in active:
                    x[i][layer] = list(u[layer])
                course.sent.append((k, layer, len(t_l)))
        if k % (phi * local_steps) == 0:
            course.discrepancy.append(list(d))
            tau = adjust(d, dim, local_steps, phi)
            course.intervals.append(tau)
    return course


def embracing(
    losses: Quadratics, start: Values, *, local_steps: int, rounds: int, lr: float, cuts: Mapping[str, int]
) -> Course:
    """EmbracingFL with every device active, over float64: layer l is averaged over those that train it."""
    u = [list(values) for values in start]
    course = Course(u)
    for r in range(1, rounds + 1):
        x = {i: [list(values) for values in u] for i in cuts}
        for i, cut in cuts.items():
            for _ in range(local_steps):
                g = losses.gradient(i, x[i])
                for layer in range(cut, len(u)):  # layers below the cut are frozen
                    x[i][layer] = [x_k - lr * g_k for x_k, g_k in zip(x[i][layer], g[layer], strict=True)]
        for layer in range(len(u)):
            t_l = [i for i, cut in cuts.items() if cut <= layer]
            if t_l:
                u[layer] = [sum(x[i][layer][k] for i in t_l) / len(t_l) for k in range(len(u[layer]))]
            course.sent.append((r * local_steps, layer, len(t_l)))
    return course
