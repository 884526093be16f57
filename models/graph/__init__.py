"""The graphs that devices run, as ONNX models of standard operators: training steps, frozen sections, inference."""

from lamina.models.graph.forward import forward_graph, inference_graph
from lamina.models.graph.optimisers import Recipe
from lamina.models.graph.training import TrainingGraph, accumulating_graph, training_graph, updating_graph

__all__ = [
    "Recipe",
    "TrainingGraph",
    "accumulating_graph",
    "forward_graph",
    "inference_graph",
    "training_graph",
    "updating_graph",
]
