"""The topic tree: what is built is what is parsed, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.broker.wire.filters import matches, split_filter
from lamina.broker.wire.topics import Address, Topics, check_name
from lamina.models.errors import ConfigError, DecodeError

LAB = Topics("lab")
names = st.from_regex(r"[A-Za-z0-9_.\-]{1,64}", fullmatch=True)
numbers = st.integers(0, 10**6)


def test_topics_are_those_of_protocol_1() -> None:
    assert LAB.coordinator_status == "lamina/v1/lab/coordinator/status"
    assert LAB.round == "lamina/v1/lab/round"
    assert LAB.layer_global("conv1", 3) == "lamina/v1/lab/layer/conv1/global/3"
    assert LAB.layer_globals("conv1") == "lamina/v1/lab/layer/conv1/global/+"
    assert LAB.advance(3) == "lamina/v1/lab/advance/3"
    assert LAB.deployment == "lamina/v1/lab/deployment"
    assert LAB.advances == "lamina/v1/lab/advance/+"
    assert LAB.layer_update("conv1", "pi-4") == "lamina/v1/lab/layer/conv1/update/pi-4"
    assert LAB.bundle("ab12", 0) == "lamina/v1/lab/bundle/ab12/0"
    assert LAB.bundle_chunks("ab12") == "lamina/v1/lab/bundle/ab12/+"
    assert LAB.device("pi-4", "task") == "lamina/v1/lab/device/pi-4/task"
    assert LAB.updates == "lamina/v1/lab/layer/+/update/+"
    assert LAB.devices("status") == "lamina/v1/lab/device/+/status"


@given(names, names, names, numbers)
def test_every_topic_parses_to_what_it_was_built_from(lab: str, layer: str, device: str, chunk: int) -> None:
    topics = Topics(lab)
    assert topics.parse(topics.coordinator_status) == Address("coordinator_status")
    assert topics.parse(topics.round) == Address("round")
    assert topics.parse(topics.deployment) == Address("deployment")
    assert topics.parse(topics.device(device, "deployed")) == Address("deployed", device=device)
    assert topics.parse(topics.layer_global(layer, chunk)) == Address("layer_global", layer=layer, chunk=chunk)
    assert topics.parse(topics.advance(chunk)) == Address("advance", chunk=chunk)
    assert topics.parse(topics.layer_update(layer, device)) == Address("layer_update", layer=layer, device=device)
    assert topics.parse(topics.aggregator_status(device)) == Address("aggregator_status", site=device)
    assert topics.parse(topics.bundle(64 * "a", chunk)) == Address("bundle", sha256=64 * "a", chunk=chunk)
    assert topics.parse(topics.device(device, "report")) == Address("report", device=device)


@given(names, names, names, numbers)
def test_no_topic_has_more_than_6_slashes(lab: str, layer: str, device: str, chunk: int) -> None:
    topics = Topics(lab)
    built = [
        topics.layer_global(layer, chunk),
        topics.advance(chunk),
        topics.layer_update(layer, device),
        topics.bundle("a" * 64, chunk),
        topics.device(device, "profile"),
    ]
    assert max(topic.count("/") for topic in built) == 6


@pytest.mark.parametrize(
    "topic",
    [
        "lamina/v1/other/round",
        "lamina/v1/laboratory/round",
        "lamina/v2/lab/round",
        "lamina/v1/lab",
        "lamina/v1/lab/",
        "lamina/v1/lab/rounds",
        "lamina/v1/lab/round/0",
        "lamina/v1/lab/layer/conv/global/2/0",
        "lamina/v1/lab/layer/conv/global/0/x",
        "lamina/v1/lab/layer/conv/global/0/-1",
        "lamina/v1/lab/device/pi/secrets",
        "",
    ],
)
def test_stray_topic_is_refused(topic: str) -> None:
    with pytest.raises(DecodeError):
        LAB.parse(topic)


@pytest.mark.parametrize("name", ["", "a/b", "a+", "#", "a b", "ä", "x" * 65, "a\n"])
def test_name_that_cannot_stand_in_a_topic_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"device .* can't stand in an MQTT topic"):
        check_name(name, "device")
    with pytest.raises(ConfigError, match="federation"):
        Topics(name)


@pytest.mark.parametrize(
    ("topic", "topic_filter", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/+", True),
        ("a/b", "+/+", True),
        ("a/b", "#", True),
        ("a/b", "a/#", True),
        ("a", "a/#", True),
        ("a/b/c", "a/+/c", True),
        ("a//c", "a/+/c", True),
        ("a/b", "a", False),
        ("a", "a/+", False),
        ("a/b/c", "a/+", False),
        ("ab", "a/#", False),
        ("a/b", "b/#", False),
    ],
)
def test_filters_match_as_mqtt_says(topic: str, topic_filter: str, expected: bool) -> None:
    assert matches(tuple(topic.split("/")), split_filter(topic_filter)) is expected


@pytest.mark.parametrize("topic_filter", ["", "a/#/b", "a#", "a+/b", "#/a"])
def test_malformed_filter_is_refused(topic_filter: str) -> None:
    with pytest.raises(ConfigError, match="is no MQTT topic filter"):
        split_filter(topic_filter)
