"""The writer writes nothing twice and nothing that is not needed."""

import numpy as np
import onnx
import pytest

from lamina.models.graph.writer import GraphWriter
from tests.graph_oracle import session


def operators(g: GraphWriter) -> list[str]:
    return [operator.op_type for operator in g.model().graph.node]


def test_the_same_operator_on_the_same_inputs_is_written_once() -> None:
    g = GraphWriter("once")
    x = g.input("x", "float32", ("N",))
    assert g.Add(x, 1.0) == g.Add(x, 1.0)
    assert g.Add(x, 1.0) != g.Add(x, 2.0)
    assert g.ReduceSum(x, keepdims=0) != g.ReduceSum(x, keepdims=1)


def test_two_draws_are_two_operators() -> None:
    g = GraphWriter("draws")
    assert g.RandomNormal(shape=[2]) != g.RandomNormal(shape=[2])


def test_equal_constants_are_stored_once() -> None:
    g = GraphWriter("constants")
    assert g.constant([1, 2], "int64") == g.constant(np.array([1, 2]), "int64")
    assert g.constant([1, 2], "int64") != g.constant([1, 2], "float32")
    assert g.constant([1, 2], "int64") != g.constant([[1, 2]], "int64")


def test_what_no_output_needs_is_left_out() -> None:
    g = GraphWriter("pruned")
    x = g.input("x", "float32", ("N",))
    g.Mul(x, 5.0)
    g.output("y", g.Add(x, 1.0), "float32", ("N",))
    assert operators(g) == ["Add"]
    assert len(g.model().graph.initializer) == 1


def test_an_output_is_no_copy() -> None:
    g = GraphWriter("names")
    x = g.input("x", "float32", ("N",))
    doubled = g.Mul(x, 2.0)
    g.output("doubled", doubled, "float32", ("N",))
    g.output("more", g.Add(doubled, x), "float32", ("N",))
    assert operators(g) == ["Mul", "Add"]
    ran = session(g.model()).run(["doubled", "more"], {"x": np.array([3.0], np.float32)})
    assert [float(value[0]) for value in ran] == [6.0, 9.0]


def test_an_input_and_a_result_may_be_put_out_twice() -> None:
    g = GraphWriter("twice")
    x = g.input("x", "float32", ("N",))
    y = g.Neg(x)
    for name, value in {"same": x, "first": y, "second": y}.items():
        g.output(name, value, "float32", ("N",))
    ran = session(g.model()).run(["same", "first", "second"], {"x": np.array([3.0], np.float32)})
    assert [float(value[0]) for value in ran] == [3.0, -3.0, -3.0]


def test_trailing_inputs_may_be_left_out() -> None:
    g = GraphWriter("optional")
    x = g.input("x", "float32", ("N",))
    g.output("y", g.Clip(x, None, 1.0), "float32", ("N",))
    assert list(g.model().graph.node[0].input)[1] == ""
    assert list(session(g.model()).run(None, {"x": np.array([-3.0, 3.0], np.float32)})[0]) == [-3.0, 1.0]


def test_an_operator_that_onnx_lacks_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no operator Conv2D"):
        GraphWriter("typing").Conv2D("x")


def test_a_scan_hands_its_state_on() -> None:
    """Running sums of 1, 2, 3 from 10: forwards 11, 13, 16; backwards 16, 15, 13."""
    for backwards, expected in ((False, [11.0, 13.0, 16.0]), (True, [16.0, 15.0, 13.0])):
        g = GraphWriter("scan")
        x = g.input("x", "float32", (3,))
        body = GraphWriter("body", around=g)
        total = body.Add(body.input("total", "float32", None), body.input("x", "float32", None))
        body.output("total_next", total, "float32", None)
        body.output("sums", total, "float32", None)
        last, sums = g.scan(body, [g.constant(10.0, "float32")], [x], backwards=backwards)
        g.output("last", last, "float32", ())
        g.output("sums", sums, "float32", (3,))
        onnx.checker.check_model(g.model(), full_check=True)
        ran = session(g.model()).run(None, {"x": np.array([1, 2, 3], np.float32)})
        assert float(ran[0]) == 16.0
        assert list(ran[1]) == expected


def test_a_nested_graph_reads_what_is_around_it() -> None:
    g = GraphWriter("outer")
    x = g.input("x", "float32", (2,))
    doubled = g.Mul(x, 2.0)
    body = GraphWriter("inner", around=g)
    body.output("next", body.Add(body.input("state", "float32", None), doubled), "float32", None)
    body.input("each", "float32", None)
    (last,) = g.scan(body, [x], [g.constant([0.0, 0.0, 0.0], "float32")], backwards=False)
    g.output("last", last, "float32", (2,))
    assert list(session(g.model()).run(None, {"x": np.array([1, 2], np.float32)})[0]) == [7.0, 14.0]  # x + 3 * 2 x
