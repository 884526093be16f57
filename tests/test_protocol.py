"""docs/protocol.md: its vectors are read out of the page and hold the code; its tables name all that crosses."""

import hashlib
import json
import re
from pathlib import Path

import google_crc32c
import msgspec
import numpy as np
import pytest
from nacl.signing import SigningKey, VerifyKey

from lamina.broker.wire import batches, deployments, messages, orders
from lamina.broker.wire.chunks import FileJoiner, Joiner, split, split_file
from lamina.broker.wire.codecs import CODECS, codec, codec_by_id
from lamina.broker.wire.deltas import check_of, digest_of
from lamina.broker.wire.messages import Message, decode, encode
from lamina.broker.wire.orders import Mandate, Signed, endorsed_bytes, signed_bytes
from lamina.broker.wire.packing import LayerValue
from lamina.broker.wire.partials import decode as decode_partial
from lamina.broker.wire.signatures import Checker, sealed
from lamina.broker.wire.topics import Address, Topics
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec

PAGE = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text()
VECTORS = [json.loads(line) for line in PAGE.splitlines() if line.startswith('{"vector"')]
ABOUT = sorted({vector["vector"] for vector in VECTORS})
STRUCTS = {
    struct
    for module in (messages, orders, deployments)
    for struct in vars(module).values()
    if isinstance(struct, type) and issubclass(struct, Message) and struct is not Message
}
KINDS = {str(struct.__struct_config__.tag): struct for struct in STRUCTS}


def of(what: str) -> list[dict]:
    return [vector for vector in VECTORS if vector["vector"] == what]


def test_the_page_has_vectors_of_everything() -> None:
    assert (
        sorted(["batch", "chunks", "codec", "crc32c", "file", "message", "partial", "signed", "topic", "value"])
        == ABOUT
    )
    assert {vector["kind"] for vector in of("message")} | {"signed", "mandate"} == set(KINDS)
    assert [vector["name"] for vector in of("codec")] == list(CODECS)


@pytest.mark.parametrize("vector", of("topic"), ids=lambda vector: vector["topic"])
def test_topics(vector: dict) -> None:
    assert Topics(vector["federation"]).parse(vector["topic"]) == Address(**vector["is"])


@pytest.mark.parametrize("vector", of("message"), ids=lambda vector: vector["kind"])
def test_messages(vector: dict) -> None:
    struct = KINDS[vector["kind"]]
    message = decode(bytes.fromhex(vector["hex"]), struct)
    assert message == msgspec.convert(vector["fields"] | {"kind": vector["kind"]}, struct)
    assert encode(message).hex() == vector["hex"]


def test_checksums() -> None:
    [crc] = of("crc32c")
    assert google_crc32c.value(bytes.fromhex(crc["hex"])) == crc["value"]
    [value] = of("value")
    vector = np.array(value["floats"], np.float32)
    assert (check_of(vector), digest_of(vector).hex()) == (value["check"], value["digest"])


@pytest.mark.parametrize("vector", of("codec"), ids=lambda vector: vector["name"])
def test_codecs(vector: dict) -> None:
    assert codec_by_id(vector["id"]).name == vector["name"]
    subject = codec(vector["name"]).for_tensors(tuple(map(tuple, vector["shapes"])))
    floats, data = np.array(vector["floats"], np.float32), bytes.fromhex(vector["hex"])
    assert subject.decode(data, floats.size).astype("<f4").tobytes().hex() == vector["decoded"]
    if "zstd" not in vector["name"]:  # a frame may differ from version to version of Zstandard
        assert subject.encode(floats).hex() == vector["hex"]


def model_of(vector: dict) -> ModelSpec:
    """A model whose layer of that index has these tensors."""
    shapes = [[[1]]] * vector["layer"] + [vector["shapes"]]
    tensors = [tuple(TensorSpec(f"t{place}", tuple(one), "dense") for place, one in enumerate(each)) for each in shapes]
    layers = [LayerSpec(f"layer{index}", parameters, (), 0) for index, parameters in enumerate(tensors)]
    return ModelSpec("model", tuple(layers), (BlockSpec("all", 0, len(layers), (4,)),), (0,), classes=2)


def value_of(vector: dict) -> LayerValue:
    names = ("purpose", "epoch", "round", "layer", "version", "weight", "codec")
    return LayerValue(
        **{name: vector[name] for name in names},
        shapes=tuple(map(tuple, vector["shapes"])),
        data=bytes.fromhex(vector["data"]),
        scalars=tuple(map(tuple, vector.get("scalars", ()))),
    )


@pytest.mark.parametrize("vector", of("chunks"), ids=lambda vector: f"{vector['purpose']} by {vector['chunk_bytes']}")
def test_chunks(vector: dict) -> None:
    chunks = [bytes.fromhex(chunk) for chunk in vector["hex"]]
    assert split(value_of(vector), vector["chunk_bytes"]) == chunks
    assert all(len(chunk) <= vector["chunk_bytes"] for chunk in chunks)
    joiner = Joiner(model_of(vector))
    assert [joiner.add(chunk, "pi-1") for chunk in reversed(chunks)] == [None] * (len(chunks) - 1) + [value_of(vector)]


def test_batches() -> None:
    [vector] = of("batch")
    together = [bytes.fromhex(message) for message in vector["messages"]]
    assert batches.pack(together).hex() == vector["hex"]
    assert batches.unpack(bytes.fromhex(vector["hex"])) == together


@pytest.mark.parametrize("vector", of("file"), ids=lambda vector: str(vector["chunk_bytes"]))
def test_files(vector: dict) -> None:
    content, chunks = bytes.fromhex(vector["content"]), [bytes.fromhex(chunk) for chunk in vector["hex"]]
    assert hashlib.sha256(content).hexdigest() == vector["sha256"]
    assert split_file(content, vector["chunk_bytes"]) == chunks
    joiner = FileJoiner(vector["sha256"], len(content))
    assert [joiner.add(chunk) for chunk in reversed(chunks)][-1] == content


def test_partials() -> None:
    [vector] = of("partial")
    partial = decode_partial(bytes.fromhex(vector["hex"]), len(vector["near"]))
    assert list(partial.devices) == vector["devices"]
    assert (list(partial.weights), list(partial.moments)) == (vector["weights"], vector["moments"])
    assert partial.near.tolist() == vector["near"]


def test_signed_orders() -> None:
    [vector] = of("signed")
    given = {
        name: bytes.fromhex(text)
        for name, text in vector.items()
        if name not in ("vector", "federation", "topic", "sequence")
    }
    operator, coordinator = SigningKey(given["operator_secret"]), SigningKey(given["coordinator_secret"])
    assert bytes(operator.verify_key) == given["operator_public"]
    assert bytes(coordinator.verify_key) == given["coordinator_public"]
    envelope = decode(given["hex"], Signed)
    assert (envelope.order, envelope.mandate, envelope.sequence) == (
        given["order"],
        given["mandate"],
        vector["sequence"],
    )
    VerifyKey(given["operator_public"]).verify(endorsed_bytes(given["mandate"]), given["endorsement"])
    said = signed_bytes(vector["topic"], vector["sequence"], given["order"])
    VerifyKey(decode(given["mandate"], Mandate).key).verify(said, envelope.signature)
    checked = Checker(operator.verify_key, vector["federation"]).check(vector["topic"], given["hex"])
    assert checked.order == given["order"]
    again = sealed(
        coordinator, given["mandate"], given["endorsement"], topic=vector["topic"], sequence=9,
        order=decode(given["order"], messages.RoundPlan),
    )  # fmt: skip
    assert again == given["hex"]


def test_every_message_and_field_of_the_code_is_on_the_page_and_the_reverse() -> None:
    section = PAGE.split("<!-- messages: ")[1].split("<!-- end of messages -->")[0]
    on_page = {
        head: set(re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE))
        for head, body in re.findall(r"^### `(\w+)`\n(.*?)(?=^### |\Z)", section, re.MULTILINE | re.DOTALL)
    }
    in_code = {kind: set(struct.__struct_fields__) - {"v"} for kind, struct in KINDS.items()}
    assert on_page == in_code
    offer = section.split("### Table `Offer`")[1]
    assert set(re.findall(r"^\| `(\w+)` \|", offer, re.MULTILINE)) == set(deployments.Offer.__struct_fields__)


def test_every_topic_of_the_code_is_on_the_page_and_the_reverse() -> None:
    section = PAGE.split("<!-- topics: ")[1].split("<!-- end of topics -->")[0]
    shown = re.findall(r"^\| `(\S+)` \|", section, re.MULTILINE)
    names = {"N": "0", "SHA": "0" * 64}
    parsed = {
        Topics("F").parse("/".join(names.get(part, part) for part in topic.split("/"))).kind + ("/S" in topic) * ""
        for topic in shown
    }
    code = Path(messages.__file__).with_name("topics.py").read_text().split("def parse")[1].split("\n\n\n")[0]
    kinds = set(re.findall(r'Address\("(\w+)"', code))
    kinds |= {
        word
        for group in re.findall(r"\((\"[^)]*?\") *\) as (?:kind|leaf)|\(\s*(\"[^)]*?\")\s*\) as leaf", code)
        for word in re.findall(r"\w+", " ".join(group))
    }
    assert parsed == kinds
