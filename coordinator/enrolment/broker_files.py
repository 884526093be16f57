"""The files that a federation's broker runs with: mosquitto's configuration, and who may say and hear what.

Two ways lead in. On the first, a certificate of the devices' authority is needed, and its name is both user and client
id, so that no device can take over another's session, nor the coordinator's. On the second, a certificate of the
coordinator's authority is needed; several of its programs may be connected at once. Nobody who has only the one gets in
on the other.

Rules are written for each name that was enrolled, and for this federation alone. A rule of mosquitto can't forbid
retained messages, nor count them: so what one device can make the broker keep is bounded by the number of topics that
it may write, which are named one by one once the bundle's layers are known, times the largest message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lamina.broker.wire.topics import Topics
from lamina.coordinator.enrolment.register import Register

CONFIGURATION, RULES, COORDINATOR_RULES = "mosquitto.conf", "acl", "acl.coordinator"
MIB = 1 << 20
MOST_PACKET_BYTES = MIB
_STAFF = 64  # programs of the operator's that are connected at once

_COMMON = """\
# Written by lamina: the next `lamina enrol`, `revoke` or `renew` writes it again.
# Tested with mosquitto 2.0.11; take 2.0.21 or later. Start it in this folder: mosquitto -c mosquitto.conf

per_listener_settings true
# The default of 1,000 queued messages loses retained chunks for a device that joins late.
max_queued_messages 100000
max_queued_bytes {queued_bytes}
memory_limit {memory_bytes}
max_packet_size {packet_bytes}
max_inflight_messages 20
max_keepalive 300
# A session whose device stays away for so long is forgotten, with what waits for it.
persistent_client_expiration 1d
set_tcp_nodelay true

# Retained messages survive a restart. They are saved every 300 s and when mosquitto ends, but not when it is killed.
persistence true
persistence_location {folder}
autosave_interval 300
log_dest stderr
log_type error
log_type warning
"""

_LISTENER = """
# {what}
listener {port}{host}
max_connections {connections}
cafile {authority}
crlfile {revoked}
certfile broker.crt
keyfile broker.key
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
use_username_as_clientid {as_client_id}
allow_anonymous false
acl_file {rules}
"""


def configuration(register: Register, *, host: str = "", folder: str = "./", extra: str = "") -> str:
    """The text of mosquitto.conf.

    Args:
        register: says the ports and the limits.
        host: address to listen on; empty: all of the machine's.
        folder: where mosquitto keeps its memory.
        extra: lines at the end of what holds for all listeners.
    """
    common = _COMMON.format(
        memory_bytes=register.memory_mib * MIB,
        queued_bytes=register.memory_mib * MIB // 4,
        packet_bytes=MOST_PACKET_BYTES,
        folder=folder,
    )
    at = f" {host}" if host else ""
    devices = _LISTENER.format(
        what="Devices and sites. A certificate's name is the client's id: nobody takes over another's session.",
        port=register.port, host=at, connections=2 * register.max_devices, authority="ca.crt", revoked="crl.pem",
        as_client_id="true", rules=RULES,
    )  # fmt: skip
    coordinator = _LISTENER.format(
        what="The coordinator, and the operator's commands. No device's certificate is good here.",
        port=register.coordinator_port, host=at, connections=_STAFF, authority="coordinator-ca.crt",
        revoked="coordinator-crl.pem", as_client_id="false", rules=COORDINATOR_RULES,
    )  # fmt: skip
    return common + extra + devices + coordinator


def rules(register: Register, layers: Sequence[str]) -> str:
    """Who of the devices and sites may say and hear what.

    Args:
        register: names them.
        layers: of the bundle; empty where they aren't known yet.
    """
    topics = Topics(register.federation)
    text = "# Written by lamina, name by name. Who isn't here says and hears nothing.\n"
    for one in register.present("device", "site"):
        lines = (
            _site(topics, one.name, one.devices, layers) if one.role == "site" else _device(topics, one.name, layers)
        )
        text += "\n" + "".join(f"{line}\n" for line in (f"user {one.name}", *lines))
    return text


def coordinator_rules(register: Register) -> str:
    """What the coordinator may say and hear: all of its federation, and how the broker is."""
    text = "# Written by lamina.\n"
    for one in register.present("coordinator"):
        text += f"\nuser {one.name}\ntopic readwrite {Topics(register.federation).root}/#\ntopic read $SYS/#\n"
    return text


def _orders(topics: Topics) -> Iterable[str]:
    """What the coordinator says to all."""
    heard = (
        topics.coordinator_status,
        topics.round,
        topics.deployment,
        topics.layer_globals("+"),
        topics.advances,
        topics.bundle_chunks("+"),
    )
    return (f"topic read {topic}" for topic in heard)


def _device(topics: Topics, name: str, layers: Sequence[str]) -> list[str]:
    said = [topics.device(name, leaf) for leaf in ("status", "request", "report", "updates", "deployed")]
    said += [topics.layer_update(layer, name) for layer in layers or ["+"]]
    return [
        *_orders(topics),
        f"topic read {topics.device(name, 'task')}",
        f"topic readwrite {topics.device(name, 'profile')}",
        *(f"topic write {topic}" for topic in said),
    ]


def _site(topics: Topics, name: str, devices: Sequence[str], layers: Sequence[str]) -> list[str]:
    """A site speaks for its own devices, by sums, and for no others."""
    said = [topics.aggregator_status(name), *(topics.layer_partial(layer, name) for layer in layers or ["+"])]
    for device in devices:
        said += [topics.device(device, leaf) for leaf in ("status", "profile", "request", "report", "deployed")]
    return [
        *_orders(topics),
        *(f"topic read {topics.device(device, 'task')}" for device in devices),
        *(f"topic write {topic}" for topic in said),
    ]
