"""The deployed model for a program on a board, in three lines:

    import lamina.edge
    model = lamina.edge.load()
    print(model.predict("photo.png"))

It needs neither torch nor onnx. Whenever another model is deployed, the next prediction is that one's.
"""

from lamina.edge_agent.serving.loading import load
from lamina.edge_agent.serving.predictor import Predictor

__all__ = ["Predictor", "load"]
