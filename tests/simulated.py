"""A small setting, its data, and a slow twin of the simulator: one model a device, torch's own optimiser, no rows."""

import copy
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lamina.coordinator.records.records import RoundRecord
from lamina.emulation.simulator.backends.choosing import open_backend
from lamina.emulation.simulator.checkpoint import RunHistory
from lamina.emulation.simulator.rows import layer_offsets, to_row
from lamina.emulation.simulator.run_context import RunContext, prepare_run
from lamina.emulation.simulator.setting import Setting
from lamina.emulation.simulator.simulation import Simulation, SimulationState
from lamina.emulation.simulator.studies.study import Tree, merged
from lamina.models.definition import load_definition
from tests import twins

torch.set_num_threads(1)  # with more, torch divides sums by how many there are, and no two backends agree to the bit
NETS = Path(__file__).with_name("small_nets.py")
COURSE = RunHistory("loop")


def data_file(folder: Path) -> Path:
    """60 images of 4x4 in three classes that a small network can tell, and 30 held out."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, 1, 4, 4))
    y = np.arange(90) % 3
    x = (centres[y] + 0.7 * rng.standard_normal((90, 1, 4, 4))).astype(np.float32)
    path = folder / "small.npz"
    np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return path


def setting(folder: Path, net: str = "convolutional", **changes: Any) -> Setting:
    """Four devices, two rounds of two steps a cycle, four rounds."""
    tree: Tree = {
        "data": str(data_file(folder)),
        "model": f"{NETS}:{net}",
        "batch_size": 5,
        "fleet": {"strong": 4},
        "partition": {"kind": "dirichlet", "alpha": 1.0, "least": 3},
        "training": {"rounds": 4, "local_steps": 2, "lr": 0.05, "hyperparameters": {"weight_decay": 0.01}},
        "aggregation": {"phi": 1},
        "evaluation": {"every": 2, "batch_size": 7},
    }
    return msgspec.convert(merged(tree, changes), Setting)


def simulate(
    chosen: Setting | RunContext,
    backend: str = "loop",
    processes: int = 0,
    rounds: int | None = None,
    state: SimulationState | None = None,
) -> SimulationState:
    """The state after so many rounds; after all of them by default."""
    context = prepare_run(chosen) if isinstance(chosen, Setting) else chosen
    with open_backend(backend, context, processes) as opened:
        simulation = Simulation(context, opened, state)
        while not simulation.finished and (rounds is None or simulation.run_state.round < rounds):
            simulation.advance()
        return simulation.state()


def twin(context: RunContext) -> tuple[NDArray[np.float32], list[int]]:
    """The global row and the intervals at the end, by the papers' pseudocode."""
    chosen, spec, common = context.setting, context.spec, context.common
    phi, steps = chosen.aggregation.phi, chosen.training.local_steps
    offsets, layers = layer_offsets(spec), range(len(spec.layers))
    u = context.initial.astype(np.float64)
    tau, drift = [steps for _ in layers], [0.0 for _ in layers]
    devices: dict[str, Device] = {}
    for round_ in range(chosen.rounds):
        if round_ % phi == 0:
            devices = {name: Device(context, name, u) for name in chosen.names}
        for name, device in devices.items():
            device.train(round_, common.held[name], u)
        for layer in layers:
            if (round_ + 1) * steps % tau[layer]:
                continue
            place = slice(offsets[layer], offsets[layer + 1])
            trained = slice(place.start, place.start + spec.layers[layer].size)
            trains = [device for device in devices.values() if device.cut <= layer]
            mean = np.mean([device.row()[place] for device in trains], 0, dtype=np.float64)
            u[place] = mean.astype(np.float32)
            spread = twins.spread(
                u[trained].tolist(), [device.row()[trained].tolist() for device in trains], [1.0] * len(trains)
            )
            drift[layer] = spread / (tau[layer] * spec.layers[layer].size)
            for device in devices.values():
                device.take(place, u)
        if (round_ + 1) % phi == 0:
            tau = twins.adjust(drift, spec.sizes, steps, phi)
    return u.astype(np.float32), tau


class Device:
    """A model of its own, and torch's own SGD."""

    def __init__(self, context: RunContext, name: str, u: NDArray[np.float64]) -> None:
        common = context.common
        self.name, self.spec, self.common, self.context = name, context.spec, common, context
        self.cut = context.cuts[name]
        self.module = load_definition(common.model, seed=common.seed).module
        self.load(u)
        kind = {t.name: t.kind for layer in self.spec.layers for t in layer.parameters}
        index = {t.name: i for i, layer in enumerate(self.spec.layers) for t in (*layer.parameters, *layer.statistics)}
        trained = [(n, p) for n, p in self.module.named_parameters() if index[n] >= self.cut]
        self.optimiser = torch.optim.SGD(
            [{"params": [p], "weight_decay": common.weight_decay if kind[n] == "kernel" else 0.0} for n, p in trained],
            lr=1.0,
            momentum=common.momentum,
        )
        self.trained = [p for _, p in trained]
        self.frozen = [
            part
            for path, part in self.module.named_modules()
            if isinstance(part, torch.nn.BatchNorm2d) and index[f"{path}.weight"] < self.cut
        ]

    def train(self, round_: int, held: NDArray[np.int64], u: NDArray[np.float64]) -> None:
        from lamina.edge_agent.data import sample_order

        chosen = self.context.setting
        steps, size = chosen.training.local_steps, chosen.batch_size
        order = held[sample_order(chosen.seed, self.name, round_, len(held), steps * size)]
        self.module.train()
        for part in self.frozen:
            part.eval()
        start = copy.deepcopy(self.trained)
        for step in range(steps):
            indices = order[step * size : (step + 1) * size]
            x, y = (torch.from_numpy(part[indices]) for part in self.context.data[:2])
            self.optimiser.zero_grad()
            loss = F.cross_entropy(self.module(x), y)
            if self.common.mu:
                pulls = (((p - p0) ** 2).sum() for p, p0 in zip(self.trained, start, strict=True))
                loss = loss + self.common.mu / 2 * sum(pulls)
            loss.backward()
            for group in self.optimiser.param_groups:
                group["lr"] = chosen.lr(round_)
            self.optimiser.step()

    def row(self) -> NDArray[np.float32]:
        return to_row(self.spec, {name: tensor.detach().numpy() for name, tensor in self.module.state_dict().items()})

    def load(self, row: NDArray[np.float64]) -> None:
        state, start = self.module.state_dict(), 0
        for layer in self.spec.layers:
            for tensor in (*layer.parameters, *layer.statistics):
                part = torch.tensor(row[start : start + tensor.size].reshape(tensor.shape), dtype=torch.float32)
                state[tensor.name].copy_(part)
                start += tensor.size

    def take(self, place: slice, u: NDArray[np.float64]) -> None:
        row = self.row().astype(np.float64)
        row[place] = u[place]
        self.load(row)


def simulated_records(context: RunContext) -> tuple[SimulationState, list[RoundRecord]]:
    """The state after all rounds, and their records."""
    records = []
    with open_backend("loop", context, 0) as opened:
        simulation = Simulation(context, opened)
        while not simulation.finished:
            records.append(simulation.advance()[0])
        return simulation.state(), records
