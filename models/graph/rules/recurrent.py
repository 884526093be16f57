"""Rules for recurrent layers, the operators of `lamina.models.graph.recurrent`: Scans along the sequence.

Inside a Scan stands only what depends on the step before. The rest is written for all steps at once: before the Scan
that computes gradients, the factors by which they pass through each gate.
"""

from __future__ import annotations

from lamina.models.graph.registry import rule
from lamina.models.graph.values import Call, Value, static
from lamina.models.graph.writer import GraphWriter


@rule("lstm.default")
def lstm(g: GraphWriter, call: Call, z: Value, h: Value, c: Value, kernel: Value) -> tuple[str, ...]:
    """See `lamina.models.graph.recurrent`: outputs, last cell, gates, candidates, cells."""
    body = GraphWriter(f"lstm_{z}", around=g)
    before, cell, step = (body.input(name, "float32", None) for name in ("h", "c", "z"))
    product = body.Gemm(before, kernel, step, transB=1)  # (N, 4 H)
    _, width = static(kernel.shape)
    for_gates, for_candidates = body.many("Split", 2, product, [3 * width, width], axis=1)
    gates, candidates = body.Sigmoid(for_gates), body.Tanh(for_candidates)
    into, forget, out = body.many("Split", 3, gates, axis=1, num_outputs=3)
    next_cell = body.Add(body.Mul(forget, cell), body.Mul(into, candidates))
    y = body.Mul(out, body.Tanh(next_cell))
    for name, value in {"h_next": y, "c_next": next_cell, "y": y, "gates": gates, "candidates": candidates}.items():
        body.output(name, value, "float32", None)
    body.output("cells", next_cell, "float32", None)
    _, last, *collected = g.scan(body, [h, c], [z], backwards=False)
    outputs, all_gates, all_candidates, cells = collected
    return outputs, last, all_gates, all_candidates, cells


@rule("lstm_backward")
def lstm_backward(
    g: GraphWriter,
    call: Call,
    dy: Value,
    dcell: Value,
    gates: Value,
    candidates: Value,
    cells: Value,
    c: Value,
    kernel: Value,
) -> tuple[str, ...]:
    """Gradients of z, h and c.

    With dh and dc what reaches the output and the cell of a step: dc takes up dh * out * (1 - tanh(cell)^2), and the
    gradient of z is dc or dh times the factor of each gate.
    """
    into, forget, out = g.many("Split", 3, gates, axis=2, num_outputs=3)
    squashed = g.Tanh(cells)
    before = g.Concat(g.Unsqueeze(c, [0]), g.Slice(cells, [0], [-1], [0]), axis=0)
    factors = g.Concat(
        g.Mul(candidates, _slope(g, into)),
        g.Mul(before, _slope(g, forget)),
        g.Mul(squashed, _slope(g, out)),
        g.Mul(into, _slope_of_tanh(g, candidates)),
        axis=2,
    )
    body = GraphWriter(f"lstm_backward_{dy}", around=g)
    names = ("dh", "dc", "dy", "to_cell", "factors", "forget")
    dh, dc, step_dy, to_cell, step_factors, step_forget = (body.input(name, "float32", None) for name in names)
    reaching = body.Add(dh, step_dy)
    in_cell = body.Add(dc, body.Mul(reaching, to_cell))
    dz = body.Mul(body.Concat(in_cell, in_cell, reaching, in_cell, axis=1), step_factors)
    body.output("dh_next", body.MatMul(dz, kernel), "float32", None)
    body.output("dc_next", body.Mul(in_cell, step_forget), "float32", None)
    body.output("dz", dz, "float32", None)
    nothing = g.Mul(dcell, 0.0)  # reaches the last output from beyond
    sequences = [dy, g.Mul(out, _slope_of_tanh(g, squashed)), factors, forget]
    first_dh, first_dc, all_dz = g.scan(body, [nothing, dcell], sequences, backwards=True)
    return all_dz, first_dh, first_dc


@rule("gru.default")
def gru(g: GraphWriter, call: Call, z: Value, h: Value, kernel: Value, bias: Value) -> tuple[str, ...]:
    """See `lamina.models.graph.recurrent`: outputs, gates, candidates, and their part from h before the reset."""
    _, width = static(kernel.shape)
    sizes = [2 * width, width]
    body = GraphWriter(f"gru_{z}", around=g)
    before, step = (body.input(name, "float32", None) for name in ("h", "z"))
    product = body.Gemm(before, kernel, bias, transB=1)  # (N, 3 H)
    from_h, remembered = body.many("Split", 2, product, sizes, axis=1)
    from_x, fresh = body.many("Split", 2, step, sizes, axis=1)
    gates = body.Sigmoid(body.Add(from_x, from_h))
    reset, update = body.many("Split", 2, gates, axis=1, num_outputs=2)
    candidates = body.Tanh(body.Add(fresh, body.Mul(reset, remembered)))
    y = body.Add(candidates, body.Mul(update, body.Sub(before, candidates)))
    for name, value in {"h_next": y, "y": y, "gates": gates, "candidates": candidates, "kept": remembered}.items():
        body.output(name, value, "float32", None)
    _, *collected = g.scan(body, [h], [z], backwards=False)
    return tuple(collected)


@rule("gru_backward")
def gru_backward(
    g: GraphWriter,
    call: Call,
    dy: Value,
    gates: Value,
    candidates: Value,
    remembered: Value,
    before: Value,
    kernel: Value,
) -> tuple[str, ...]:
    """Gradients of z, of the product with h, and of h.

    With dh what reaches the output of a step, the gradients of update, candidate and reset before their activations are
    dh times a factor each; the reset's factor takes in the candidate's.
    """
    reset, update = g.many("Split", 2, gates, axis=2, num_outputs=2)
    for_update = g.Mul(g.Sub(before, candidates), _slope(g, update))
    for_candidate = g.Mul(g.Sub(1.0, update), _slope_of_tanh(g, candidates))
    for_reset = g.Mul(g.Mul(for_candidate, remembered), _slope(g, reset))
    factors = g.Concat(for_reset, for_update, for_candidate, axis=2)
    body = GraphWriter(f"gru_backward_{dy}", around=g)
    names = ("dh", "dy", "factors", "through_reset", "update")
    dh, step_dy, step_factors, through_reset, step_update = (body.input(name, "float32", None) for name in names)
    reaching = body.Add(dh, step_dy)
    dz = body.Mul(body.Concat(reaching, reaching, reaching, axis=1), step_factors)
    dproduct = body.Mul(dz, through_reset)
    from_h = body.Add(body.MatMul(dproduct, kernel), body.Mul(reaching, step_update))
    for name, value in {"dh_next": from_h, "dz": dz, "dproduct": dproduct}.items():
        body.output(name, value, "float32", None)
    ones = g.Add(g.Mul(gates, 0.0), 1.0)
    nothing = g.Mul(g.Gather(dy, 0, axis=0), 0.0)
    first_dh, all_dz, all_dproduct = g.scan(
        body, [nothing], [dy, factors, g.Concat(ones, reset, axis=2), update], backwards=True
    )
    return all_dz, all_dproduct, first_dh


def _slope(g: GraphWriter, activated: str) -> str:
    """The derivative of a sigmoid, from its result."""
    return g.Mul(activated, g.Sub(1.0, activated))


def _slope_of_tanh(g: GraphWriter, activated: str) -> str:
    """The derivative of tanh, from its result."""
    return g.Sub(1.0, g.Mul(activated, activated))
