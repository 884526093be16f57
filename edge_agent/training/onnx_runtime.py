"""ONNX Runtime as the seam in `lamina.edge_agent.training.engine` wants it, loaded when it is used for the first time.

Loading it takes 20 MiB and some tenths of a second. An agent that waits for a federation has no use for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.edge_agent.training.engine import AUTO, STANDARD, ExecutionMode, PathOf
from lamina.edge_agent.training.installed import engine_name, installed
from lamina.models.arrays import Vector
from lamina.models.errors import ConfigError, ModelError
from lamina.models.manifest import BLOCKS, ONNXRUNTIME, ONNXRUNTIME_TRAINING, PARALLEL, Manifest, SubModel

if TYPE_CHECKING:
    from lamina.edge_agent.training.trainer import FrozenForward, PartsTrainer, Trainer, WholeForward


class OnnxRuntime:
    """ONNX Runtime, as the seam in `training.engine` wants it; one of its two builds is installed, never both.

    Args:
        chosen: ``onnxruntime`` takes graphs of standard operators, which run on either build; ``onnxruntime-training``
            those with the training build's own operators; ``auto`` takes these where build and bundle have them.

    Raises:
        ConfigError: the training build is chosen and is not installed.
    """

    def __init__(self, chosen: str = AUTO) -> None:
        if chosen == ONNXRUNTIME_TRAINING and installed() != ONNXRUNTIME_TRAINING:
            raise ConfigError(
                f"engine: {ONNXRUNTIME_TRAINING} is not installed, but {engine_name()} is: install "
                "onnxruntime-training-cpu in its place, in an "
                f' environment of its own, or set engine = "{ONNXRUNTIME}"'
            )
        self._chosen = chosen

    @property
    def name(self) -> str:
        """The build and its version."""
        return engine_name()

    def suited(self, sub_model: SubModel) -> SubModel:
        """The sub-model with the graphs for this build and this choice.

        Raises:
            ModelError: the training build is chosen, and the bundle was not built for it.
        """
        if self._chosen == ONNXRUNTIME:
            return sub_model
        if self._chosen == ONNXRUNTIME_TRAINING and ONNXRUNTIME_TRAINING not in sub_model.of_engines:
            raise ModelError(
                f"the bundle has no graphs for {ONNXRUNTIME_TRAINING}: build it with "
                f'`lamina bundle --engine {ONNXRUNTIME_TRAINING}`, or set engine = "{AUTO}"'
            )
        return sub_model.on(installed())

    def warm_up(self) -> None:
        """Load the engine, and allocate what its first session costs: some 9 MB.

        Raises:
            ConfigError: it can't be loaded.
        """
        try:
            from lamina.edge_agent.training.trainer import warm_up
        except ImportError as error:
            raise ConfigError(f"{engine_name()} can't be loaded: {error}; install it anew") from error
        warm_up()

    def forms(self, sub_model: SubModel, threads: int) -> list[str]:
        """The forms of a sub-model's graphs that this build and this processor run, the standard one first."""
        from lamina.models.engine_facts import block_size

        if self.suited(sub_model) != sub_model:
            return [STANDARD]  # the training build's own operators
        others = [PARALLEL] if threads > 1 else []
        others += [form for form, block in BLOCKS.items() if block == block_size()]
        return [STANDARD, *(form for form in others if form in sub_model.forms)]

    def trainer(
        self, manifest: Manifest, cut: int, path: PathOf, *, threads: int = 1, mode: ExecutionMode | None = None
    ) -> Trainer:
        """A `Trainer` of the layers from ``cut`` onwards, in a mode: the standard one, unless it is given."""
        from lamina.edge_agent.training.trainer import Trainer

        mode = mode or ExecutionMode(threads=threads)
        graph = self.suited(manifest.sub_model(cut)).written(mode.form).graph
        return Trainer(manifest, cut, path(graph), threads=mode.threads, spinning=mode.spinning)

    def parts_trainer(
        self,
        manifest: Manifest,
        cut: int,
        path: PathOf,
        *,
        threads: int = 1,
        checkpoints: bool = False,
        mode: ExecutionMode | None = None,
    ) -> PartsTrainer:
        """A `PartsTrainer` of the layers from ``cut`` onwards; otherwise as `trainer`."""
        from lamina.edge_agent.training.trainer import PartsTrainer

        mode = mode or ExecutionMode(threads=threads)
        sub_model = self.suited(manifest.sub_model(cut)).written(mode.form)
        gather = sub_model.recomputing if checkpoints else sub_model.accumulating
        if gather is None or sub_model.updating is None:
            raise ModelError(f"the bundle has no graphs for training cut {cut} in parts: build it anew")
        graphs = path(gather), path(sub_model.updating)
        return PartsTrainer(manifest, cut, *graphs, threads=mode.threads, spinning=mode.spinning, ordered=checkpoints)

    def forward(self, graph: Path, values: Mapping[str, Vector], *, threads: int = 1) -> FrozenForward:
        """A `FrozenForward` of a piece's graph."""
        from lamina.edge_agent.training.trainer import FrozenForward

        return FrozenForward(graph, values, threads=threads)

    def graph(self, graph: Path, values: Mapping[str, Vector], *, threads: int = 1) -> WholeForward:
        """A `WholeForward` of a graph."""
        from lamina.edge_agent.training.trainer import WholeForward

        return WholeForward(graph, values, threads=threads)


def whole_forward(graph: Path, *, threads: int = 1) -> WholeForward:
    """A `WholeForward` of a graph, for which the engine is loaded if it isn't."""
    from lamina.edge_agent.training.trainer import WholeForward

    return WholeForward(graph, threads=threads)
