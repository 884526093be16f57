"""How much memory a step takes, told from its graph: the engine's order, what lives at once, the arena, the peak."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import load_definition
from lamina.models.graph.arena import Arena
from lamina.models.graph.liveness import Allocation, allocations, engine_order, highest_bytes, tensor_bytes
from lamina.models.graph.writer import GraphWriter
from lamina.models.manifest import BLOCKS, PARALLEL
from lamina.models.peaks import batches

ROOT = Path(__file__).parent.parent
KIB, MIB = 1024, 1024 * 1024

# h and g are read by the last operator, so both live when it runs; r is h, seen otherwise.
GRAPH = onnx.parser.parse_model("""
<ir_version: 10, opset_import: ["": 18]>
g (float[N, 4] x) => (float[N, 4] y)
{
    h = Exp (x)
    shape = Shape (h)
    two = Constant <value = int64 {2}> ()
    rows = Mul (shape, two)
    zero = Constant <value = float[1] {0.0}> ()
    large = Expand (zero, rows)
    total = ReduceSum <keepdims = 0> (large)
    flat = Constant <value = int64[1] {-1}> ()
    r = Reshape (h, flat)
    again = Reshape (r, shape)
    g = Add (again, total)
    y = Mul (g, h)
}
""")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bundle") / "digits"
    build_bundle(load_definition("digits_cnn"), folder, batch_size=32)
    return read_bundle(folder)


def test_shapes_that_are_computed_are_known() -> None:
    sizes = tensor_bytes(GRAPH, 3)
    assert {name: sizes[name] for name in ("h", "large", "r", "again", "y")} == {
        "h": 48, "large": 4 * 6 * 8, "r": 48, "again": 48, "y": 48,
    }  # fmt: skip


SQUARE = onnx.parser.parse_model("""
<ir_version: 10, opset_import: ["": 18]>
g (float[N, 4] x) => (float[N, N] y)
{
    t = Transpose <perm = [1, 0]> (x)
    h = MatMul (x, t)
    y = Exp (h)
}
""")


@pytest.mark.parametrize("graph", [GRAPH, SQUARE], ids=["on lines", "N by N"])
def test_sizes_for_many_batches_are_those_of_each_alone(graph: onnx.ModelProto) -> None:
    sizes = [1, 2, 4, 8, 11]
    assert list(allocations(graph, *sizes)) == [next(allocations(graph, size)) for size in sizes]


def test_a_tensor_lives_to_its_last_reader_and_a_view_is_no_tensor_of_its_own() -> None:
    (found,) = allocations(GRAPH, 3)
    named = {each.tensor for each in found}
    assert {"h", "large", "g"} < named
    assert not named & {"r", "again", "x", "y"}
    ends = [each.tensor for each in found if each.size_bytes is None]
    assert ends.index("large") < ends.index("h")
    assert highest_bytes(found) >= 48 + 192


def _zeros(place: ort.NodeArg) -> np.ndarray:
    shape = [2 if isinstance(extent, str) else extent for extent in place.shape]
    return np.zeros(shape, np.float32 if "float" in place.type else np.int64)


def test_two_transposes_that_undo_each_other_take_nothing() -> None:
    """As a dense layer has them: its weight goes transposed into a product, and turned back into the gradient's."""
    g = GraphWriter("transposes")
    x, weight = g.input("x", "float32", ("N", 3)), g.Relu(g.input("weight", "float32", (5, 3)))
    turned = g.Transpose(weight, perm=[1, 0])
    y = g.MatMul(x, turned)
    g.output("y", g.MatMul(g.Relu(y), g.Transpose(turned, perm=[1, 0])), "float32", ("N", 3))
    (run,) = allocations(g.model(), 2)
    assert {each.tensor for each in run} == {weight, y, g.Relu(y)}


def test_transposes_that_do_not_undo_each_other_take_what_they_write() -> None:
    g = GraphWriter("transposes")
    x = g.input("x", "float32", ("N", 2, 3))
    once = g.Transpose(x, perm=[1, 2, 0])
    g.output("y", g.Relu(g.Transpose(once, perm=[1, 2, 0])), "float32", (3, "N", 2))
    (run,) = allocations(g.model(), 2)
    assert len({each.tensor for each in run}) == 2


def test_the_order_is_the_engines(bundle: Bundle, tmp_path: Path) -> None:
    manifest = bundle.manifest
    for sub_model in manifest.sub_models:
        path = bundle.path(sub_model.graph)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level, options.enable_profiling = 3, True
        options.profile_file_prefix = str(tmp_path / "run")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        session.run(None, {place.name: _zeros(place) for place in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text())
        ran = [event["name"] for event in events if event["name"].endswith("_kernel_time")]
        order = engine_order(onnx.load(path).graph.node)
        assert [f"{operator.name}_kernel_time" for operator in order] == ran


def test_an_arena_rounds_doubles_and_reuses() -> None:
    arena = Arena()
    arena.run([Allocation("a", 1)])
    assert arena.touched_bytes == 1
    arena.run([Allocation("b", 300)])
    assert arena.touched_bytes == 256 + 300  # a block is a multiple of 256
    arena.run([Allocation("b", None), Allocation("c", 400)])
    assert arena.touched_bytes == 256 + 400
    arena.run([Allocation("d", MIB)])  # does not fit the first region's rest
    assert arena.touched_bytes == 256 + 400 + MIB


def test_a_free_block_is_cut_only_where_twice_the_request_fits() -> None:
    arena = Arena()
    arena.run([Allocation("a", 4 * KIB), Allocation("b", 300 * KIB), Allocation("a", None)])
    arena.run([Allocation("c", 3 * KIB), Allocation("d", 512)])
    assert arena.touched_bytes == (4 + 300) * KIB + 512  # d did not get the 1 KiB behind c
    whole = Arena()
    whole.run([Allocation("a", 4 * KIB), Allocation("b", 300 * KIB), Allocation("a", None)])
    whole.run([Allocation("c", 2 * KIB), Allocation("d", 512)])
    assert whole.touched_bytes == (4 + 300) * KIB  # here it did


@given(st.lists(st.integers(1, 3 * MIB), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_no_two_tensors_share_memory_and_a_second_run_takes_no_more(sizes: list[int], random: object) -> None:
    run = [Allocation(str(index), size) for index, size in enumerate(sizes)]
    ends = [Allocation(each.tensor, None) for each in run]
    random.shuffle(ends)  # type: ignore[attr-defined]
    arena = Arena()
    arena.run(run)
    assert arena.touched_bytes >= sum(sizes)
    arena.run(ends)
    first = arena.touched_bytes
    arena.run(run)
    arena.run(ends)
    assert arena.touched_bytes <= max(first, 2 * sum(sizes) + MIB)
    assert all(len(region.blocks) == 1 for region in arena._regions)


def test_batches_are_powers_of_two_and_the_last() -> None:
    assert [batches(size) for size in (1, 2, 7, 32)] == [[1], [1, 2], [1, 2, 4, 7], [1, 2, 4, 8, 16, 32]]


def test_a_later_cut_and_a_smaller_batch_take_less(bundle: Bundle) -> None:
    costs = [sub_model.cost for sub_model in bundle.manifest.sub_models]
    peaks = [cost.peak_mib(32) for cost in costs if cost]
    assert peaks == sorted(peaks, reverse=True)
    assert costs[0] is not None
    assert costs[0].peak_mib(1) < costs[0].peak_mib(32) - 2
    assert np.isfinite(peaks).all()


def test_the_size_of_every_tensor_is_known_in_every_form(bundle: Bundle) -> None:
    whole = bundle.manifest.sub_model(0)
    assert set(whole.forms) == {PARALLEL, *BLOCKS}
    for graphs in whole.forms.values():
        model = onnx.load(bundle.path(graphs.graph))
        written = {name for operator in model.graph.node for name in operator.output if name}
        assert written <= tensor_bytes(model, 3).keys()


def test_a_form_takes_about_as_much_as_the_standard_one(bundle: Bundle) -> None:
    for sub_model in bundle.manifest.sub_models:
        for graphs in sub_model.forms.values():
            for other, standard in ((graphs.cost, sub_model.cost), (graphs.cost_in_parts, sub_model.cost_in_parts)):
                assert other is not None
                assert standard is not None
                assert other.peak_mib(32) == pytest.approx(standard.peak_mib(32), rel=0.25)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its peak")
def test_a_predicted_peak_is_near_the_measured_one(tmp_path: Path) -> None:
    definition = load_definition("leaf_cnn,hidden=256")
    build_bundle(definition, tmp_path / "leaf", batch_size=64)
    bundle = read_bundle(tmp_path / "leaf")
    for cut, way in ((0, []), (0, ["--micro-batch", "8"]), (bundle.manifest.spec.cuts[-1], [])):
        command = [
            sys.executable,
            "-m",
            "lamina.edge_agent.training.measure",
            str(bundle.folder),
            "--cut",
            str(cut),
            *way,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        sub_model = bundle.manifest.sub_model(cut)
        cost = sub_model.cost_in_parts if way else sub_model.cost
        assert cost is not None
        assert cost.peak_mib(8 if way else 64) == pytest.approx(json.loads(done.stdout)["peak_mib"], rel=0.15)
