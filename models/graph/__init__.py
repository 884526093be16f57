"""The graphs that devices run, as ONNX models of standard operators: training steps, frozen sections, inference."""

from models.graph.forward import forward_graph, inference_graph
from models.graph.optimisers import Recipe
from models.graph.training import TrainingGraph, accumulating_graph, training_graph, updating_graph

__all__ = [
    "Recipe",
    "TrainingGraph",
    "accumulating_graph",
    "forward_graph",
    "inference_graph",
    "training_graph",
    "updating_graph",
]
