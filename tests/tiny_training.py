"""The tiny model's bundle with graphs that run, written by hand, and its training step in numpy, as the slow twin."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from lamina.models.draft import Draft, drafted
from lamina.models.manifest import Manifest, Piece, SubModel
from lamina.models.values import encode_values
from tests.tiny_model import PARAMETERS, SPEC, STATISTICS, VALUES, inference_graph

HYPERPARAMETERS = {"lr": 0.1, "momentum": 0.0}

# logits = h @ w2 + b2, the mean cross entropy, and what it does to w2 and b2. Both training graphs contain it.
_HEAD = """
    shape_w2 = Constant <value = int64[2] {2, 3}> ()
    w2 = Reshape (flat_w2, shape_w2)
    product = MatMul (h, w2)
    logits = Add (product, b2)
    log_p = LogSoftmax <axis = 1> (logits)
    depth = Constant <value = int64[1] {3}> ()
    off_on = Constant <value = float[2] {0.0, 1.0}> ()
    target = OneHot (y, depth, off_on)
    picked = Mul (log_p, target)
    total = ReduceSum <keepdims = 0> (picked)
    shape_y = Shape (y)
    count_y = Squeeze (shape_y)
    n = Cast <to = 1> (count_y)
    mean = Div (total, n)
    loss = Neg (mean)
    guess = ArgMax <axis = 1, keepdims = 0> (logits)
    hits = Equal (guess, y)
    hits_int = Cast <to = 7> (hits)
    correct = ReduceSum <keepdims = 0> (hits_int)
    p = Exp (log_p)
    excess = Sub (p, target)
    d_logits = Div (excess, n)
    first_axis = Constant <value = int64[1] {0}> ()
    flat = Constant <value = int64[1] {-1}> ()
    h_t = Transpose (h)
    d_w2 = MatMul (h_t, d_logits)
    d_w2_flat = Reshape (d_w2, flat)
    d_b2 = ReduceSum <keepdims = 0> (d_logits, first_axis)
"""

_OPTIMISER = """
    kept = Mul (momentum_buffer, momentum)
    momentum_buffer_next = Add (kept, gradient)
    change = Mul (momentum_buffer_next, lr)
    parameters_next = Sub (parameters, change)
"""

_WHOLE = f"""
<ir_version: 10, opset_import: ["": 18]>
whole (float[N, 2] x, int64[N] y, float lr, float momentum,
       float[15] parameters, float[2] statistics, float[15] momentum_buffer)
    => (float loss, int64 correct, float[15] parameters_next, float[2] statistics_next, float[15] momentum_buffer_next)
{{
    sizes = Constant <value = int64[4] {{4, 2, 6, 3}}> ()
    flat_w1, b1, flat_w2, b2 = Split <axis = 0> (parameters, sizes)
    shape_w1 = Constant <value = int64[2] {{2, 2}}> ()
    w1 = Reshape (flat_w1, shape_w1)
    xw = MatMul (x, w1)
    dense = Add (xw, b1)
    h = Sub (dense, statistics)
{_HEAD}
    w2_t = Transpose (w2)
    d_h = MatMul (d_logits, w2_t)
    x_t = Transpose (x)
    d_w1 = MatMul (x_t, d_h)
    d_w1_flat = Reshape (d_w1, flat)
    d_b1 = ReduceSum <keepdims = 0> (d_h, first_axis)
    gradient = Concat <axis = 0> (d_w1_flat, d_b1, d_w2_flat, d_b2)
    mean_dense = ReduceMean <keepdims = 0> (dense, first_axis)
    half = Constant <value = float {{0.5}}> ()
    both = Add (statistics, mean_dense)
    statistics_next = Mul (both, half)
{_OPTIMISER}
}}
"""

_SECOND = f"""
<ir_version: 10, opset_import: ["": 18]>
second (float[N, 2] x, int64[N] y, float lr, float momentum, float[9] parameters, float[9] momentum_buffer)
    => (float loss, int64 correct, float[9] parameters_next, float[9] momentum_buffer_next)
{{
    h = Identity (x)
    sizes = Constant <value = int64[2] {{6, 3}}> ()
    flat_w2, b2 = Split <axis = 0> (parameters, sizes)
{_HEAD}
    gradient = Concat <axis = 0> (d_w2_flat, d_b2)
{_OPTIMISER}
}}
"""


def write_trainable_bundle(folder: Path, peaks_mib: tuple[float, float] = (3.0, 2.0)) -> Manifest:
    """The tiny model's bundle, cuts 0 and 1; every graph runs."""
    with drafted(folder) as draft:
        manifest = _manifest(draft, peaks_mib)
        draft.close(manifest)
    return manifest


def _manifest(draft: Draft, peaks_mib: tuple[float, float]) -> Manifest:
    return Manifest(
        spec=SPEC,
        batch_size=2,
        sub_models=(
            SubModel(0, draft.add(_parsed(_WHOLE), ".onnx"), 15, 5, 1.0, peaks_mib[0]),
            SubModel(1, draft.add(_parsed(_SECOND), ".onnx"), 9, 3, 0.6, peaks_mib[1]),
        ),
        pieces=(Piece(0, 1, draft.add(piece_graph(), ".onnx")),),
        inference=draft.add(inference_graph().SerializeToString(), ".onnx"),
        values=draft.add(encode_values(VALUES), ".safetensors"),
        optimiser="sgd",
        optimiser_state=("momentum_buffer",),
        hyperparameters=HYPERPARAMETERS,
    )


def piece_graph() -> bytes:
    """The first layer alone, forward only, its values external."""
    model = inference_graph()
    del model.graph.node[2]
    model.graph.node[1].output[0] = "boundary"
    model.graph.output[0].name = "boundary"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    kept = [tensor for tensor in model.graph.initializer if tensor.name.startswith("first")]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model.SerializeToString()


def _parsed(text: str) -> bytes:
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


@dataclass
class Twin:
    """The tiny model on a device, in float64 numpy; every layer's vector in `layers`.

    Attributes:
        parameters: (15,)
        shift: (2,) the statistic
        buffer: (15,) momentum
    """

    parameters: NDArray[np.float64]
    shift: NDArray[np.float64]
    buffer: NDArray[np.float64]

    @classmethod
    def start(cls) -> "Twin":
        return cls(PARAMETERS.astype(np.float64) / 10, STATISTICS.astype(np.float64) / 10, np.zeros(15))

    def step(
        self, x: NDArray[np.float32], y: NDArray[np.int64], hyperparameters: Mapping[str, float], cut: int = 0
    ) -> tuple[float, int]:
        """One step of SGD with momentum; returns the mean loss and the number of hits before it."""
        w1, b1, w2, b2 = np.split(self.parameters, [4, 6, 12])
        w1, w2 = w1.reshape(2, 2), w2.reshape(2, 3)
        dense = x @ w1 + b1
        h = dense - self.shift
        logits = h @ w2 + b2
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        d_logits = (p - np.eye(3)[y]) / len(y)
        d_h = d_logits @ w2.T
        gradient = np.concatenate([(x.T @ d_h).ravel(), d_h.sum(0), (h.T @ d_logits).ravel(), d_logits.sum(0)])
        first = 0 if cut == 0 else 6
        settings = {**HYPERPARAMETERS, **hyperparameters}
        self.buffer[first:] = settings["momentum"] * self.buffer[first:] + gradient[first:]
        self.parameters[first:] -= settings["lr"] * self.buffer[first:]
        if cut == 0:
            self.shift = (self.shift + dense.mean(0)) / 2
        return float(-np.log(p[np.arange(len(y)), y]).mean()), int((logits.argmax(1) == y).sum())
