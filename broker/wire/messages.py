"""The small messages that coordinator and devices exchange; layer values go by `wire.chunks`.

Each is a frozen msgspec struct, sent as MessagePack: a map with its ``kind`` and its protocol version ``v``. A message
of another version or kind is refused, and so is a field that its kind does not have, or whose value lies outside the
bounds that its type states (`wire.bounds`). Bounds hold for what is received; a sender is trusted to keep to them.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from lamina.broker.wire.bounds import (
    Bytes,
    Count,
    DeviceName,
    Devices,
    Digest,
    Digests,
    Elapsed,
    Epoch,
    Factors,
    Finite,
    Mebibytes,
    Name,
    Names,
    Numbers,
    Pairs,
    PerDevice,
    Scalars,
    Shape,
    Share,
    Sums,
    Text,
    ValueDigests,
    unpacked,
)
from lamina.broker.wire.local_work import LocalWork
from lamina.broker.wire.topics import PROTOCOL
from lamina.models.errors import DecodeError


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """The base of all: ``v`` is the protocol's version."""

    v: int = PROTOCOL


class CoordinatorStatus(Message, frozen=True, kw_only=True, tag="coordinator"):
    """Retained: is there a coordinator, and how far is it?

    Attributes:
        state: ``waiting`` (for devices), ``training``, ``stopped`` (it was ended before its
            time, and can go on), ``finished``, ``lost`` (its will).
        epoch: identifies this run of the federation; messages of another epoch are stale.
        manifest: SHA-256 of the bundle's manifest.
        round: rounds completed.
        rounds: rounds to do.
        devices: devices accepted and online.
        accuracy: of the averaged model, when it was last evaluated; left out where its task has none.
        c_ratio: parameters communicated, relative to FedAvg.
        further: names of the algorithm's vectors in every layer's value (`models.further`); left out: none.
        personal: places of the tensors that are never averaged (`models.personal.numbered`); left out: none.
        judge: name of the figure that the model is judged by, where that isn't accuracy.
        figure: its value when the model was last evaluated.
    """

    state: Literal["waiting", "training", "stopped", "finished", "lost"]
    epoch: Epoch
    manifest: Digest = ""
    round: Count = 0
    rounds: Count = 0
    devices: Count = 0
    accuracy: float | None = None
    c_ratio: float | None = None
    further: Names | msgspec.UnsetType = msgspec.UNSET
    personal: Numbers | msgspec.UnsetType = msgspec.UNSET
    judge: Name | msgspec.UnsetType = msgspec.UNSET
    figure: Finite | msgspec.UnsetType = msgspec.UNSET


class Lease(Message, frozen=True, kw_only=True, tag="lease"):
    """Retained: which coordinator leads the federation.

    Attributes:
        holder: random, unlike any other's.
        process: its process id.
        host: its machine, for a person.
        since: local time, for a person.
        machine: what tells its machine from all others; empty where nothing does.
        started: when its process began, as its machine counts.
    """

    holder: Name
    process: Count
    host: Text
    since: Name
    machine: Text = ""
    started: Name = ""


class Question(Message, frozen=True, kw_only=True, tag="question"):
    """Coordinator to coordinator: is the holder of the lease there? It answers by saying its lease again.

    Attributes:
        asker: as in `Lease.holder`.
    """

    asker: Name


class Kept(Message, frozen=True, kw_only=True, tag="kept"):
    """Retained, by the coordinator for itself: which files of the bundle the broker keeps.

    Attributes:
        chunk_bytes: the size of chunks that they were cut into.
        files: SHA-256 of each; they were all published before this message.
        echo: not 0: nothing is kept by this message, which asks to be returned.
    """

    chunk_bytes: Count = 0
    files: Digests = ()
    echo: Epoch = 0


class RoundPlan(Message, frozen=True, kw_only=True, tag="plan"):
    """Retained: what the cohort does in this round, and everything a late joiner needs to take part.

    Attributes:
        state: ``training``, or ``finished`` (then only ``epoch`` and ``round`` mean anything); or ``waiting``, which is
            never kept: no round can begin, and whoever is there is to say so.
        epoch: identifies this run of the federation.
        round: 0-based.
        cycle: 0-based; a cohort keeps for a cycle, and every layer is aggregated at its end.
        cohort: the devices that train, in ascending order.
        local_steps: SGD steps in this round (tau').
        batch_size: samples a step.
        hyperparameters: the training graph's 0-d inputs: ``lr`` and others.
        due: indices of the layers that are aggregated at the end of this round, ascending.
        versions: version of every layer's global value at the start of this round.
        codec: name of the codec for updates.
        small_codec: for updates of layers of fewer than ``small_elements`` elements; empty: ``codec`` for them too.
        small_elements: see ``small_codec``.
        codecs: devices that can't encode ``codec`` or ``small_codec``, and the codec for all of their updates.
        unfolded: what became of the round before this one, where it is no matter of course: devices, and the layers
            that were due from them and were not folded.
        checks: of every layer's global value at that version (`lamina.broker.wire.deltas.check_of`).
        advanced: layers that the last round's advance (`wire.deltas`) leads from the version before to this one.
        chunk_bytes: payload of one message of an update, at most.
        batched: updates of several layers may share a message, of ``chunk_bytes`` at most.
        seed: the federation's; a device derives its sample order from (seed, device, round).
        weighting: ``uniform``, or ``num_examples``.
        deadline_s: seconds after which the coordinator stops waiting.
        norm_bounds: of every layer, the largest norms that an update's parameters and its statistics may have; empty:
            any.
        steps: local steps of devices that make another number of them than ``local_steps``; left out: none do.
        scalars: names of what each update says of itself (`wire.local_work`); left out: nothing.
        reference: see `LocalWork`; left out: 0.
        control: see `LocalWork`; left out: gradients are not corrected.
        digests: of every layer's global value at that version (`lamina.broker.wire.deltas.digest_of`), in a plan that
            is signed; left out in others.
        judges: whether devices say first what the values of this plan come to on the samples that they keep out of
            training (`Task.held_out`); left out: no. A plan without local steps asks for nothing else.
    """

    state: Literal["training", "finished", "waiting"] = "training"
    epoch: Epoch
    round: Count
    cycle: Count = 0
    cohort: Devices = ()
    local_steps: Count = 0
    batch_size: Count = 0
    hyperparameters: Scalars = {}
    due: Numbers = ()
    versions: Numbers = ()
    checks: Numbers = ()
    codec: Name = "float32"
    small_codec: Name = ""
    small_elements: Bytes = 0
    codecs: PerDevice[Name] = {}
    unfolded: PerDevice[Numbers] = {}
    advanced: Numbers = ()
    chunk_bytes: Bytes = 256 * 1024
    batched: bool = False
    seed: Epoch = 0
    weighting: Literal["uniform", "num_examples"] = "uniform"
    deadline_s: Elapsed = 0.0
    norm_bounds: Pairs = ()
    steps: PerDevice[Count] | msgspec.UnsetType = msgspec.UNSET
    scalars: Names | msgspec.UnsetType = msgspec.UNSET
    reference: Finite | msgspec.UnsetType = msgspec.UNSET
    control: Factors | msgspec.UnsetType = msgspec.UNSET
    digests: ValueDigests | msgspec.UnsetType = msgspec.UNSET
    judges: bool | msgspec.UnsetType = msgspec.UNSET

    @property
    def work(self) -> LocalWork:
        """What the algorithm asks of devices beside their local steps."""
        given = {
            name: value for name in LocalWork.__struct_fields__ if (value := getattr(self, name)) is not msgspec.UNSET
        }
        return LocalWork(**given)

    def steps_of(self, device: str) -> int:
        """Local steps of a device."""
        return self.work.steps.get(device, self.local_steps)

    def codec_of(self, device: str, elements: int) -> str:
        """Name of the codec for a device's update of a layer of so many elements."""
        if device in self.codecs:
            return self.codecs[device]
        return self.small_codec if self.small_codec and elements < self.small_elements else self.codec


class DeviceStatus(Message, frozen=True, kw_only=True, tag="status"):
    """Retained: is the device, or the aggregator, there?

    Attributes:
        state: ``lost`` is its will, ``sleeping`` its goodbye.
    """

    state: Literal["online", "sleeping", "lost"]


class DeviceProfile(Message, frozen=True, kw_only=True, tag="profile"):
    """Retained: what the device is and has.

    Attributes:
        device: its name.
        budget_mib: memory that training may take above the idle agent.
        cores: processor cores it may use.
        architecture: ``aarch64``, ``x86_64``, ``armv7l``.
        engine: name and version of the training engine.
        codecs: names of the codecs it can encode.
        num_examples: samples in its training data.
        classes: how many classes its labels span (largest label + 1).
        sample_shape: shape of one of its samples.
        sample_dtype: NumPy's name for the type of their elements; empty from agents that don't say it.
        agent_version: version of Lamina on it.
        savings: by what means it may train more in less memory, which takes longer (see `lamina.models.fitting`).
        instance: names this start of the agent; those of later starts sort behind it.
        target_shape: shape of one of its targets; left out: a scalar.
        target_dtype: NumPy's name for the type of their elements, ``none`` without targets; left out: class indices.
    """

    device: DeviceName
    budget_mib: Mebibytes
    cores: Count
    architecture: Text
    engine: Text
    codecs: Names
    num_examples: Count
    classes: Count
    sample_shape: Shape
    agent_version: Text
    savings: Names = ()
    sample_dtype: Text = ""
    instance: Name = ""
    target_shape: Shape | msgspec.UnsetType = msgspec.UNSET
    target_dtype: Name | msgspec.UnsetType = msgspec.UNSET


class Task(Message, frozen=True, kw_only=True, tag="task"):
    """Retained, coordinator to device: take part like this, or not, and why.

    Attributes:
        epoch: identifies this run of the federation.
        accepted: whether the device takes part.
        reason: why not, or why this cut, for a person.
        cut: index of the first layer that it trains.
        manifest: SHA-256 of the bundle's manifest.
        further: names of the algorithm's vectors in every layer's value (`models.further`); left out: none.
        aside: whether a refused device stays, since the operator may take it back; left out: it ends.
        personal: places of the tensors that are never averaged (`models.personal.numbered`); left out: none.
        run: the epoch in which this run began, where a rollback has given it another since: personal layers are kept.
        round: at which the coordinator is as it says this; a plan of another round that the broker kept is an old one.
        owed: the device is asked for something once more, since the broker may have dropped what it had acknowledged:
            for its report of that round and for its updates of these layers, or, where it has not got so far, to ask
            in its turn for the plan and the values that it lacks. It answers in any case, by its status. Left out:
            nothing is asked for.
        held_out: the share of its samples that the device never trains on, to judge models by; left out: none.
    """

    epoch: Epoch
    accepted: bool
    reason: Text
    cut: Count = 0
    manifest: Digest = ""
    further: Names | msgspec.UnsetType = msgspec.UNSET
    aside: bool | msgspec.UnsetType = msgspec.UNSET
    personal: Numbers | msgspec.UnsetType = msgspec.UNSET
    run: Epoch | msgspec.UnsetType = msgspec.UNSET
    round: Count | msgspec.UnsetType = msgspec.UNSET
    owed: Numbers | msgspec.UnsetType = msgspec.UNSET
    held_out: Share | msgspec.UnsetType = msgspec.UNSET


class Request(Message, frozen=True, kw_only=True, tag="request"):
    """Device to coordinator: the present values of these layers are wanted whole, or files of the bundle once more.

    Attributes:
        layers: their indices.
        files: SHA-256 of each file that does not arrive.
        most_bytes: of a message of these values, since larger ones do not arrive; left out: any.
    """

    layers: Numbers = ()
    files: Digests = ()
    most_bytes: Bytes | msgspec.UnsetType = msgspec.UNSET


class Report(Message, frozen=True, kw_only=True, tag="report"):
    """Device to coordinator, once a round: how it went.

    Attributes:
        epoch: identifies this run of the federation.
        round: the round it is about.
        steps: local steps done.
        loss: mean training loss over the round; not finite where training diverged: then there are no updates.
        accuracy: share of training samples classified right during the round.
        step_s: mean wall time of a training step.
        forward_s: wall time of the frozen input side's forward passes, the whole round.
        peak_mib: peak memory above the idle agent so far; ``None`` where it can't be told (a shared process).
        way: how the device trains within its memory, for a person.
        uplink_bytes: payload bytes of updates published since the agent started.
        downlink_bytes: payload bytes of layer values received since the agent started.
        sums: of the bundle's metrics, on the samples that the device keeps, where it judges; left out: none.
        counts: theirs.
    """

    epoch: Epoch
    round: Count
    steps: Count
    loss: float
    accuracy: Share
    step_s: Elapsed
    forward_s: Elapsed = 0.0
    peak_mib: Mebibytes | None = None
    way: Text = ""
    uplink_bytes: Bytes = 0
    downlink_bytes: Bytes = 0
    sums: Sums | msgspec.UnsetType = msgspec.UNSET
    counts: Sums | msgspec.UnsetType = msgspec.UNSET


_M = TypeVar("_M", bound=Message)
_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """The message as MessagePack."""
    return _encoder.encode(message)


def decode(payload: bytes, kind: type[_M]) -> _M:
    """The message of one kind that ``payload`` holds.

    Raises:
        DecodeError: it is of another kind or version, damaged, nested too deeply, or a field is out of its bounds.
    """
    try:
        message = unpacked(payload, kind)
    except DecodeError as error:
        _check_version(payload, kind)  # another version may well have other fields: then say so
        raise DecodeError(f"not a {kind.__name__}: {error}") from error
    _check_version(payload, kind)
    return message


class _Versioned(msgspec.Struct):
    v: int = PROTOCOL


def _check_version(payload: bytes, kind: type[Message]) -> None:
    try:
        version = unpacked(payload, _Versioned).v
    except DecodeError:
        return
    if version != PROTOCOL:
        raise DecodeError(f"{kind.__name__} of protocol {version}: this program speaks {PROTOCOL}")
