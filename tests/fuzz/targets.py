"""Every decoder of what a remote sends, each with inputs that come near to what it awaits.

A target takes a random generator, makes one input of it and decodes that. It returns whether the input was taken; what
it raises must be an error that the decoder declares.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lamina.broker.wire import batches, deployments, messages, partials
from lamina.broker.wire.chunks import Joiner, pack, split, unpack, unpack_to_fold
from lamina.broker.wire.codecs import CODECS
from lamina.broker.wire.codecs import codec as codec_named
from lamina.broker.wire.files import FileJoiner, split_file
from lamina.broker.wire.topics import Topics
from lamina.coordinator.folds.mean import LayerFold
from lamina.edge_agent.admission.graphs import check_content
from lamina.models.bundle import decode_manifest, encode_manifest
from lamina.models.errors import LaminaError
from lamina.models.manifest import Cost, FileEntry, Manifest, Piece, SubModel
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec
from tests.fuzz.mutations import nested, odd_value, sealed_again, spoilt_bytes, spoilt_object

Target = Callable[[random.Random], bool]

SPEC = ModelSpec(
    "fuzzed",
    (
        LayerSpec(
            "conv",
            (TensorSpec("w", (4, 3, 3, 3), "kernel"), TensorSpec("b", (4,), "bias")),
            (TensorSpec("mean", (4,), "statistic"),),
        ),
        LayerSpec("dense", (TensorSpec("v", (40, 30), "kernel"), TensorSpec("scale", (), "norm"))),
    ),
    (BlockSpec("a", 0, 1, (3, 8, 8)), BlockSpec("b", 1, 2, (40,))),
    (0, 1),
    classes=2,
)
_FILE = FileEntry("0" * 64, 10, ".onnx")
_COST = Cost(1.0, 1.0, ((1, 1.0), (8, 4.0)))
MANIFEST = encode_manifest(
    Manifest(
        spec=SPEC,
        batch_size=8,
        sub_models=tuple(SubModel(cut, _FILE, 7, 7, 1.0, 5.0, cost=_COST, cost_in_parts=_COST) for cut in SPEC.cuts),
        pieces=(Piece(0, 1, _FILE),),
        inference=_FILE,
        values=_FILE,
        optimiser="sgd",
        optimiser_state=("momentum_state",),
        hyperparameters={"lr": 0.5},
    )
)
_OFFER = {
    "number": 1, "model": "ab" * 32, "model_bytes": 9, "card": "cd" * 32, "card_bytes": 9, "bundle": "ef" * 32,
    "round": 3, "personal": [0, 2],
}  # fmt: skip
_FIELDS: dict[type[messages.Message], dict[str, object]] = {
    messages.DeviceProfile: {
        "device": "d", "budget_mib": 5.0, "cores": 1, "architecture": "x", "engine": "e", "codecs": ["int8"],
        "num_examples": 9, "classes": 10, "sample_shape": [1, 8, 8], "agent_version": "1", "savings": ["micro_batches"],
    },
    messages.RoundPlan: {
        "epoch": 3, "round": 1, "cohort": ["a", "b"], "due": [0, 1], "versions": [1, 2, 3], "checks": [4, 5],
        "hyperparameters": {"lr": 0.1}, "codecs": {"a": "int8"}, "unfolded": {"a": [1, 2]},
        "norm_bounds": [[1.0, 2.0]],
    },
    messages.Report: {
        "epoch": 1, "round": 2, "steps": 3, "loss": 0.1, "accuracy": 0.2, "step_s": 0.3, "peak_mib": 3.0,
    },
    messages.Task: {"epoch": 1, "accepted": True, "reason": "r", "cut": 2, "manifest": "ab" * 32},
    messages.Request: {"layers": [1, 2, 3]},
    messages.DeviceStatus: {"state": "online"},
    deployments.Deployment: {"offer": _OFFER, "base": _OFFER, "canaries": ["a", "b"], "margin": 0.02},
    deployments.Deployed: {"number": 1, "verdict": "refused", "reason": "r", "active": 0, "score": 0.5, "samples": 9},
    messages.CoordinatorStatus: {"state": "training", "epoch": 4},
}  # fmt: skip


def _declared(decode: Callable[[], object]) -> bool:
    """Whether what is to be decoded was taken; any error but a declared one passes."""
    try:
        decode()
    except LaminaError:
        return False
    return True


def small_message(rng: random.Random) -> bool:
    """A message of the wrong fields, or decoded as another."""
    kind = rng.choice(list(_FIELDS))
    head = {"kind": kind.__struct_config__.tag, "v": 1}
    content = spoilt_object(rng, {**head, **_FIELDS[kind]})
    if rng.random() < 0.1:
        content = (
            b"\x82\xa4kind" + msgspec.msgpack.encode(head["kind"]) + b"\xa1v" + nested(rng, rng.choice((40, 3000)))
        )
    awaited = kind if rng.random() < 0.8 else rng.choice(list(_FIELDS))
    return _declared(lambda: messages.decode(content, awaited))


def _vector(rng: random.Random, size: int) -> np.ndarray:
    return np.random.default_rng(rng.getrandbits(32)).standard_normal(size).astype(np.float32)


def _messages(rng: random.Random, layer: int, chunk_bytes: int) -> list[bytes]:
    spec = SPEC.layers[layer]
    value = pack(
        rng.choice(("global", "update", "delta")), epoch=1, round=rng.randrange(3), layer=layer, version=1,
        layer_spec=spec, vector=_vector(rng, spec.vector_size), codec=rng.choice(CODECS),
    )  # fmt: skip
    if rng.random() < 0.3:
        value = replace(value, data=spoilt_bytes(rng, value.data))
    return split(value, chunk_bytes)


def chunks(rng: random.Random) -> bool:
    """Chunks of layers, sealed again after they were spoilt, to a joiner; what they complete is decoded both ways."""
    joiner, taken = Joiner(SPEC, epoch=1, max_bytes=100_000), False
    layer = rng.randrange(2)
    for payload in _messages(rng, layer, rng.choice((180, 600, 100_000)))[:12]:
        spoilt = payload if rng.random() < 0.5 else spoilt_bytes(rng, payload)
        content = sealed_again(spoilt) if rng.random() < 0.9 and len(spoilt) > 8 else spoilt

        def decode(content: bytes = content) -> None:
            if (value := joiner.add(content, "pi")) is not None:
                unpack(value, SPEC.layers[value.layer])
                unpack_to_fold(value, SPEC.layers[value.layer])

        taken |= _declared(decode)
        assert joiner.held_bytes <= 400_000
    return taken


def batch(rng: random.Random) -> bool:
    """A batch of chunks."""
    content = batches.pack([message for layer in (0, 1) for message in _messages(rng, layer, 100_000)])
    content = spoilt_bytes(rng, content) if rng.random() < 0.8 else content + bytes(4 * rng.randrange(5000))
    return _declared(lambda: batches.unpack(content, 2))


def codec(rng: random.Random) -> bool:
    """A codec's data for a vector of some size, or of some tensors."""
    subject, size = codec_named(rng.choice(CODECS)), rng.choice((0, 1, 7, 255, 256, 257, 1201))
    shapes = rng.choice((None, SPEC.layers[0].shapes, SPEC.layers[1].shapes))
    if shapes is not None:
        subject = subject.for_tensors(shapes)
        size = sum(int(np.prod(shape)) for shape in shapes)
    data = spoilt_bytes(rng, subject.encode(_vector(rng, size))) if rng.random() < 0.95 else rng.randbytes(40)
    awaited = size if shapes is not None or rng.random() < 0.9 else rng.randrange(2000)
    return _declared(lambda: subject.decode(data, awaited))


def partial(rng: random.Random) -> bool:
    """A sum of updates, whose roster or words are wrong."""
    fold = LayerFold(8, 6)
    for device in ("a", "b"):
        fold.add(device, _vector(rng, 8), 1.0)
    whole = partials.encode(fold.partial())
    if rng.random() < 0.3:
        start = 8 + int.from_bytes(whole[:4], "little")
        roster = rng.choice(
            (nested(rng, 500), msgspec.msgpack.encode([["a", odd_value(rng)], [1.0], [odd_value(rng)]]))
        )
        whole = len(roster).to_bytes(4, "little") + whole[4:8] + roster + whole[start:]
    elif rng.random() < 0.9:
        whole = spoilt_bytes(rng, whole)

    def decode() -> None:
        subject = LayerFold(8, 6)
        subject.join(partials.decode(whole, 8))

    return _declared(decode)


def file(rng: random.Random) -> bool:
    """Chunks of a file, of a bundle or of something else."""
    joiner, taken = FileJoiner("ab" * 32, rng.choice((None, 500))), False
    for payload in split_file(rng.randbytes(500), rng.choice((40, 200, 1000)))[:6]:
        content = sealed_again(spoilt_bytes(rng, payload) + b"........") if rng.random() < 0.7 else payload
        taken |= _declared(lambda content=content: joiner.add(content))  # type: ignore[misc]
    return taken


def topic(rng: random.Random) -> bool:
    """A topic with odd parts."""
    parts = rng.choice((
        "layer/conv/global/1", "layer/conv/update/pi", "advance/3", "device/pi/profile", "aggregator/barn/status",
        f"bundle/{'ab' * 32}/0", "round", "layer/conv/partial/barn",
    )).split("/")  # fmt: skip
    odd = ("", "+", "#", "..", "a\0b", "x" * 70_000, "9" * 5000, "٣", "²", "\u202e", "-1", "é", " ")
    for _ in range(rng.choice((0, 1, 1, 2))):
        parts[rng.randrange(len(parts))] = rng.choice(odd)
    root = rng.choice(("lamina/v1/lab/", "lamina/v1/lab/", "lamina/v2/lab/", ""))
    return _declared(lambda: Topics("lab").parse(root + "/".join(parts)))


def manifest(rng: random.Random) -> bool:
    """A manifest with odd values anywhere, or nested deeply."""
    if rng.random() < 0.1:
        content = b'{"format":1,"spec":' + b"[" * rng.choice((40, 3000)) + b"]"
    elif rng.random() < 0.4:
        content = spoilt_bytes(rng, MANIFEST)
    else:
        tree = msgspec.json.decode(MANIFEST)
        for _ in range(rng.choice((1, 2, 3))):
            _spoil(rng, tree)
        content = msgspec.json.encode(tree)
    return _declared(lambda: decode_manifest(content))


def _spoil(rng: random.Random, tree: object) -> None:
    """Put an odd value somewhere into a tree of lists and maps."""
    while isinstance(tree, dict | list) and tree:
        key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        if not isinstance(tree[key], dict | list) or rng.random() < 0.25:
            value = rng.choice((None, -1, 0, 1e300, 2**40, 2**70, "", "x" * 3000, "a\0b", [], {}, [1] * 40, True, 0.5))
            tree[key] = value
            return
        tree = tree[key]


def _graph() -> bytes:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=0, end=1),
        helper.make_node("Concat", ["s", "six"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["h"]),
        helper.make_node("Conv", ["x4", "k"], ["c"], pads=[1, 1, 1, 1], strides=[1, 1]),
        helper.make_node("Slice", ["h", "zero", "one"], ["part"]),
        helper.make_node("ReduceMean", ["part"], ["loss"], keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 3]),
        helper.make_tensor_value_info("x4", TensorProto.FLOAT, ["N", 1, 8, 8]),
    ]
    constants = [
        numpy_helper.from_array(np.ones((6, 2), np.float32), "w"),
        numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "k"),
        *(numpy_helper.from_array(np.array([n], np.int64), name) for name, n in (("six", 6), ("zero", 0), ("one", 1))),
    ]
    outputs = [helper.make_tensor_value_info("loss", TensorProto.FLOAT, [])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


_GRAPH = _graph()


def graph(rng: random.Random) -> bool:
    """A training graph whose bytes were spoilt."""
    content = spoilt_bytes(rng, _GRAPH)
    return _declared(lambda: check_content("fuzzed", content, batch=8, budget_mib=200.0))


TARGETS: dict[str, tuple[Target, int]] = {
    "messages": (small_message, 8), "chunks": (chunks, 2), "batches": (batch, 1), "codecs": (codec, 3),
    "partials": (partial, 1), "files": (file, 1), "topics": (topic, 2), "manifests": (manifest, 1),
    "graphs": (graph, 2),
}  # fmt: skip
"""Targets by name, and how often each has its turn."""
