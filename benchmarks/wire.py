"""What each codec makes of real updates: bits an element, error and speed.

The updates are those of ten local steps, as a device in mid-training makes them: of the digits CNN, and of ResNet20
(272,474 parameters), on scikit-learn's digits, for ResNet20 scaled up to 3x32x32. Bits and errors are taken over all
layers, statistics included, as they would cross the wire.

Speeds are float32 megabytes a second of the thread's own processor time, the best of several runs, so other load on
the machine counts little; of one core.

- ``together``: ResNet20's own 23 layers, mostly under 37,000 elements, by `pack_all` and `unpack_all`, as agents encode
  a round's updates and as batches are decoded. These are ``int8_encode_mb_s`` and ``int8_decode_mb_s``.
- ``one by one``: the same by `pack` and `unpack`, with what every call costs (``_one_by_one_mb_s``).
- ``whole``: one layer of 4 Mi elements (``_whole_mb_s``): the kernels of ResNet20's update over and over, each time
  with its elements in another order (there must be nothing to find for Zstandard that a large network would not have).

``int8_out_us`` and ``int8_in_us`` are microseconds a layer of ResNet20 from vector to message and back: together, and
`split`, and on the other side `Joiner.add`, and together. The two take turns, so each finds the other's data in the
cache, and not its own; all speeds are of one job over and over. ``memcpy`` copies one large vector, ``memcpy_layers``
the vectors of the layers.

``int8_code_entropy`` is what no compression of int8's codes one by one gets below, in bits an element of ResNet20: the
rest of its bits are scales (0.12), norms and statistics as float16 (0.19), and what Huffman's whole bits waste (0.1).

Overhead is what a layer's message has besides the codec's bytes: the header of `wire.chunks`, and MQTT's with a topic
of usual length; the largest over the layers of both networks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torch import nn

from benchmarks.reporting import Figures, Row, main
from lamina.broker.wire.chunks import Joiner, LayerValue, pack, pack_all, split, unpack, unpack_all
from lamina.broker.wire.codecs import CODECS, codec
from lamina.broker.wire.codecs.base import OpensToFold
from lamina.broker.wire.foldable import Int8Blocks
from lamina.broker.wire.topics import Topics
from lamina.models.arrays import Vector
from lamina.models.definition import load_definition
from lamina.models.layout import derive_spec
from lamina.models.spec import LayerSpec, ModelSpec
from lamina.models.values import flatten, layer_vector

WARM_UP, LOCAL_STEPS, BATCH = 40, 10, 32
WHOLE = 1 << 22  # elements
_OFTEN = 10  # times as many repetitions of what takes less than a millisecond


class Network(NamedTuple):
    """A network, and what training made of each of its layers."""

    spec: ModelSpec
    updates: list[Vector]

    @property
    def size(self) -> int:
        """Elements of all updates."""
        return sum(update.size for update in self.updates)


class Cost(NamedTuple):
    """What a codec makes of a network's updates."""

    bits: float  # an element
    error: float  # ||decoded - update|| / ||update||, kernels alone


def train(name: str) -> Network:
    """The update of ten local steps, after some warm-up."""
    definition = load_definition(name)
    module, (x, y) = definition.module.train(), _digits(definition.input_shape)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    random = np.random.default_rng(0)
    _steps(module, optimiser, x, y, random, WARM_UP)
    spec, before = derive_spec(definition), _values(module)
    _steps(module, optimiser, x, y, random, LOCAL_STEPS)
    after = _values(module)
    old, new = flatten(spec, before), flatten(spec, after)
    updates = [layer_vector(spec, layer, *new) - layer_vector(spec, layer, *old) for layer in range(len(spec.layers))]
    return Network(spec, updates)


def cost(name: str, network: Network) -> Cost:
    """Bits an element, and the relative error."""
    encoded_bytes, lost, whole = 0, 0.0, 0.0
    for layer, update in zip(network.spec.layers, network.updates, strict=True):
        subject = codec(name).for_tensors(layer.shapes)
        data = subject.encode(update)
        encoded_bytes += len(data)
        apart = (subject.decode(data, update.size) - update)[_kernels(layer)].astype(np.float64)
        lost, whole = lost + float(apart @ apart), whole + float(np.square(update[_kernels(layer)], dtype=float).sum())
    return Cost(8 * encoded_bytes / network.size, (lost / whole) ** 0.5)


def code_entropy(network: Network) -> float:
    """Bits an element of the network that the int8 codes of its kernels have, each layer by its own frequencies."""
    bits, int8 = 0.0, codec("int8")
    assert isinstance(int8, OpensToFold)
    for layer, update in zip(network.spec.layers, network.updates, strict=True):
        kernels = update[_kernels(layer)]
        opened = int8.open(int8.encode(kernels), kernels.size)
        assert isinstance(opened, Int8Blocks)
        counts = np.unique(opened.quanta, return_counts=True)[1]
        bits -= float((counts * np.log2(counts / kernels.size)).sum())
    return bits / network.size


def overhead_bytes(network: Network) -> int:
    """The most that a layer's message of one chunk has besides the codec's bytes."""
    topics = Topics("greenhouse")
    most = 0
    for index, (layer, update) in enumerate(zip(network.spec.layers, network.updates, strict=True)):
        value = pack("update", epoch=1, round=0, layer=index, version=0, layer_spec=layer, vector=update, codec="int8")
        [message] = split(value, 1 << 28)
        topic = topics.layer_update(layer.name, "device-0001").encode()
        mqtt = 1 + 4 + 2 + len(topic) + 2 + 1  # type, length, topic, packet id, no properties
        most = max(most, mqtt + len(message) - len(value.data))
    return most


def speed(elements: int, job: Callable[[], object], repetitions: int) -> float:
    """Megabytes of float32 a second of processor time, at its best."""
    return 4 * elements / _turn_by_turn((job,), repetitions)[0] / 1e6


def measure(quick: bool) -> tuple[Figures, Sequence[Row]]:
    """See the module."""
    torch.set_num_threads(1)
    digits, resnet = train("digits_cnn"), train("resnet20")
    repetitions = 3 if quick else 15
    shape, whole = _whole(resnet)
    copy = speed(WHOLE, whole.copy, repetitions)
    copies = speed(resnet.size, lambda: [update.copy() for update in resnet.updates], _OFTEN * repetitions)
    head = ("codec", "bits digits", "bits resnet20", "error digits", "error resnet20", "encode MB/s together", "decode",
            "encode one by one", "decode", "encode whole", "decode")  # fmt: skip
    copied = (f"{copies:.0f}",) * 4 + (f"{copy:.0f}",) * 2
    table: list[Row] = [head, ("memcpy", "32", "32", "0", "0", *copied)]
    figures: Figures = {"memcpy_mb_s": copy, "memcpy_layers_mb_s": copies}
    for name in CODECS:
        costs = cost(name, digits), cost(name, resnet)
        together, one_by_one = _layer_speeds(name, resnet, repetitions)
        speeds = {"": together, "_one_by_one": one_by_one, "_whole": _speeds(name, shape, whole, repetitions)}
        table.append(
            (
                name,
                *(f"{each.bits:.2f}" for each in costs),
                *(f"{each.error:.4f}" for each in costs),
                *(f"{each:.0f}" for pair in speeds.values() for each in pair),
            )
        )
        if name == "int8":
            figures["int8_bits_per_param"] = costs[1].bits
            for way, (encoding, decoding) in speeds.items():
                figures[f"int8_encode{way}_mb_s"], figures[f"int8_decode{way}_mb_s"] = encoding, decoding
            figures["int8_out_us"], figures["int8_in_us"] = _crossing_us(resnet, _OFTEN * repetitions)
            figures["int8_code_entropy"] = code_entropy(resnet)
    figures["overhead_bytes_per_message"] = float(max(overhead_bytes(digits), overhead_bytes(resnet)))
    return figures, table


def _speeds(name: str, shape: tuple[int, ...], vector: Vector, repetitions: int) -> tuple[float, float]:
    """Time the encoding and decoding of one kernel."""
    subject = codec(name).for_tensors((shape,))
    data = subject.encode(vector)
    return (
        speed(vector.size, lambda: subject.encode(vector), repetitions),
        speed(vector.size, lambda: subject.decode(data, vector.size), repetitions),
    )


def _layer_speeds(name: str, network: Network, repetitions: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Time the encoding and decoding of all layers, together and one after the other."""
    layers, updates = network.spec.layers, network.updates
    values = _packed(network, name)

    def one_by_one() -> None:
        for index, (layer, update) in enumerate(zip(layers, updates, strict=True)):
            pack("update", epoch=1, round=0, layer=index, version=0, layer_spec=layer, vector=update, codec=name)

    def one_by_one_back() -> None:
        for value, layer in zip(values, layers, strict=True):
            unpack(value, layer)

    jobs = (lambda: _packed(network, name), lambda: unpack_all(values, layers), one_by_one, one_by_one_back)
    rates = [speed(network.size, job, (_OFTEN if name == "int8" else 1) * repetitions) for job in jobs]
    return (rates[0], rates[1]), (rates[2], rates[3])


def _crossing_us(network: Network, repetitions: int) -> tuple[float, float]:
    """Microseconds a layer: from vectors to messages, and from messages to vectors."""
    layers = network.spec.layers

    def out() -> list[bytes]:
        return [message for value in _packed(network, "int8") for message in split(value, 1 << 18)]

    def back() -> None:
        values = [value for message in messages if (value := joiner.add(message, "device")) is not None]
        unpack_all(values, layers)
        joiner.forget("device")

    messages, joiner = out(), Joiner(network.spec)
    best = _turn_by_turn((out, back), repetitions)
    return 1e6 * best[0] / len(layers), 1e6 * best[1] / len(layers)


def _turn_by_turn(jobs: Sequence[Callable[[], object]], repetitions: int) -> list[float]:
    """The least processor time of each, in seconds."""
    best = [float("inf")] * len(jobs)
    for _ in range(repetitions):
        for place, job in enumerate(jobs):
            began = time.thread_time()
            job()
            best[place] = min(best[place], time.thread_time() - began)
    return best


def _packed(network: Network, name: str) -> list[LayerValue]:
    """All layers, together."""
    count = len(network.spec.layers)
    values = pack_all(
        "update",
        epoch=1,
        round=0,
        layers=range(count),
        versions=[0] * count,
        layer_specs=network.spec.layers,
        vectors=network.updates,
        codecs=[name] * count,
    )
    return [value for value in values if isinstance(value, LayerValue)]


def _whole(network: Network) -> tuple[tuple[int, ...], Vector]:
    """One kernel of `WHOLE` elements, of the network's own."""
    random = np.random.default_rng(0)
    kernels = [update[_kernels(layer)] for layer, update in zip(network.spec.layers, network.updates, strict=True)]
    copies = -(-WHOLE // sum(kernel.size for kernel in kernels))
    shuffled = [random.permutation(kernel) for _ in range(copies) for kernel in kernels]
    return (2048, WHOLE // 2048), np.concatenate(shuffled)[:WHOLE]


def _kernels(layer: LayerSpec) -> npt.NDArray[np.bool_]:
    """Which elements of a layer's vector belong to its kernels."""
    tensors = (*layer.parameters, *layer.statistics)
    return np.concatenate([np.full(tensor.size, len(tensor.shape) > 1) for tensor in tensors])


def _digits(input_shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """1,797 handwritten digits of 8x8, scaled to what the network takes."""
    x, y = load_digits(return_X_y=True)
    images = torch.from_numpy((x / 16).astype(np.float32)).reshape(-1, 1, 8, 8)
    if input_shape[-2:] != (8, 8):
        images = nn.functional.interpolate(images, size=input_shape[-2:], mode="bilinear")
    return images.expand(-1, input_shape[0], -1, -1), torch.from_numpy(y)


def _steps(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    random: np.random.Generator,
    steps: int,
) -> None:
    for _ in range(steps):
        batch = torch.from_numpy(random.integers(0, len(y), BATCH))
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call] # torch's own
        optimiser.step()


def _values(module: nn.Module) -> dict[str, Vector]:
    return {name: tensor.numpy(force=True).copy() for name, tensor in module.state_dict().items()}


if __name__ == "__main__":
    main("What does each codec make of real updates: how many bits, how far off, how fast?", measure)
