"""Shows in which layers devices drift apart in what they represent: similarity of activations, pair by pair of a
cohort.

After a run, every device of one more cohort makes its local steps; before anything is averaged, all of them see the
same held-out samples, and each layer's activations are compared between every two devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lamina.coordinator.algorithms.selection import draw
from lamina.emulation.similarity import linear_cka, svcca
from lamina.emulation.simulator.backends.loop import one_thread
from lamina.emulation.simulator.backends.network import Network
from lamina.emulation.simulator.backends.run_arrays import private_arrays
from lamina.emulation.simulator.backends.task_runner import TaskRunner
from lamina.emulation.simulator.backends.tasks import TrainingTask
from lamina.emulation.simulator.rows import Row, Rows, places
from lamina.emulation.simulator.run_context import RunContext
from lamina.models.definition import load_definition
from lamina.models.spec import ModelSpec

SAMPLES = 256
MEASURES = {"linear CKA": linear_cka, "SVCCA": svcca}


@dataclass(frozen=True, eq=False)
class LayerSimilarity:
    """How alike a cohort's devices are, layer by layer.

    Attributes:
        layers: names, in forward order.
        devices: of the cohort.
        matrices: by measure: (layers, devices, devices), symmetric, ones on the diagonal.
    """

    layers: tuple[str, ...]
    devices: tuple[str, ...]
    matrices: Mapping[str, NDArray[np.float64]]

    def pairs(self, measure: str) -> NDArray[np.float64]:
        """The similarity of every two devices, (layers, pairs)."""
        first, second = np.triu_indices(len(self.devices), 1)
        values: NDArray[np.float64] = self.matrices[measure][:, first, second]
        return values

    def curve(self, measure: str) -> NDArray[np.float64]:
        """The mean over all pairs, (layers,)."""
        mean: NDArray[np.float64] = self.pairs(measure).mean(1)
        return mean


def layer_similarity(context: RunContext, values: Row, samples: int = SAMPLES) -> LayerSimilarity:
    """Return the similarity within a cohort that made a round's local steps from one global state.

    Args:
        context: of the run.
        values: the global state, (row_size,).
        samples: held-out ones to compare on, at most.
    """
    devices, rows = _local_rows(context, values)
    x = torch.from_numpy(context.data[2][: min(samples, context.judged)])
    seen = [_activations(context, row, x) for row in rows]
    names = tuple(seen[0])
    matrices = {name: np.ones((len(names), len(devices), len(devices))) for name in MEASURES}
    for layer, name in enumerate(names):
        for a, b in combinations(range(len(devices)), 2):
            for measure, compare in MEASURES.items():
                found = compare(seen[a][name], seen[b][name])
                matrices[measure][layer, a, b] = matrices[measure][layer, b, a] = found
    return LayerSimilarity(names, devices, matrices)


def _local_rows(context: RunContext, values: Row) -> tuple[tuple[str, ...], Rows]:
    """A cohort's devices, and their states after a round's local steps from ``values``."""
    setting = context.setting
    cohort = draw(setting.names, setting.cohorts.active, setting.seed, setting.rounds)
    arrays = private_arrays(len(cohort), len(values), context.data)
    arrays.rows[:] = arrays.base[:] = values
    runner = TaskRunner(context.common, arrays)
    last = setting.rounds - 1
    with one_thread():
        for slot, device in enumerate(cohort):
            steps, lr = setting.training.local_steps, setting.lr(last)
            runner.carry_out(TrainingTask(slot, device, context.variants[device], last, steps, lr))
    return cohort, arrays.rows


@torch.inference_mode()
def _activations(context: RunContext, row: Row, x: Tensor) -> dict[str, NDArray[np.float64]]:
    """What every layer hands over for ``x``, (N, features) by its name; positions of an image or a text are averaged,
    so that there are more samples than features.
    """
    module = load_definition(context.common.model, seed=context.common.seed).module
    network = Network(module, context.spec)
    network.row.copy_(torch.from_numpy(row))
    seen: dict[str, NDArray[np.float64]] = {}

    def hook_for(name: str) -> Any:
        def keep(part: object, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            seen[name] = _pooled(tensor).double().numpy()

        return keep

    for name, path in _last_modules(context.spec).items():
        module.get_submodule(path).register_forward_hook(hook_for(name))
    module.eval()
    module(x)
    return {name: seen[name] for name in _last_modules(context.spec)}


def _last_modules(spec: ModelSpec) -> dict[str, str]:
    """Return, by layer's name, the module of its last tensor: the norm, where a convolution has one."""
    owner = {tensor.name: tensor.name.rpartition(".")[0] for tensor, _ in places(spec)}
    return {layer.name: owner[(*layer.parameters, *layer.statistics)[-1].name] for layer in spec.layers}


def _pooled(output: Tensor) -> Tensor:
    if output.dim() == 4:  # (N, C, H, W)
        return output.mean((2, 3))
    return output.mean(1) if output.dim() == 3 else output  # (N, L, C)
