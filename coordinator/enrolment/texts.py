"""The settings files that ``lamina init`` and ``lamina enrol`` write, with what a person may want to change."""

from __future__ import annotations

import json

from lamina.coordinator.enrolment.register import Register

_FEDERATION = """\
# A federation's settings. Every key, with its reason: coordinator/settings.py. Paths start at this folder.
federation = {federation}
bundle = "bundle"               # make it: lamina bundle digits_cnn {folder}/bundle
folder = "run"                  # state, records and the model go here

[broker]                        # the coordinator's own way in, with the coordinator's certificate
host = {host}
port = {port}
ca_file = "coordinator/ca.crt"
cert_file = "coordinator/coordinator.crt"
key_file = "coordinator/coordinator.key"

[signing]                       # enrolled boards follow no orders without the operator's word (SECURITY.md)
key_file = "coordinator/signing.key"
mandate_file = "coordinator/mandate.json"
operator_key_file = "authority/operator.key"   # kept elsewhere, `lamina mandate` renews the mandate there
mandate_days = 30

[training]
rounds = 20
local_steps = 10                # SGD steps between two rounds
# lr = 0.1                      # left out: the network's own

[cohorts]
min_devices = 2                 # wait for so many before the first round
active = 1.0                    # share of them that trains in a cycle, or a number above 1

[aggregation]
phi = 2                         # relaxed layers are averaged every phi rounds; 1 is FedAvg

# [evaluation]
# data = "test.npz"             # held-out samples: accuracy after each round
"""

_AGENT = """\
# This board's settings. Every key, with its reason: edge_agent/settings.py. Paths start at this folder.
federation = {federation}
device = {device}
data = {data}   # arrays x (N, ...) and y (N,); or "x.npy,y.npy", or "module:function"
{budget}folder = "state"
held_out = 0.1   # share of the samples that is not trained on: deployed models are judged by it; or a source
operator_key_file = "operator.pub"   # this board follows nobody but whom the operator lets speak
# bundles = []                       # with this line every new bundle waits until a person allows it

[broker]
host = {host}
port = {port}
ca_file = "ca.crt"
cert_file = "board.crt"
key_file = "board.key"
"""


def federation_toml(register: Register) -> str:
    """The text of federation.toml."""
    return _FEDERATION.format(
        federation=_quoted(register.federation),
        folder=register.federation,
        host=_quoted(register.hosts[0]),
        port=register.coordinator_port,
    )


def agent_toml(register: Register, device: str, *, budget_mib: float | None, data: str, at: str = "") -> str:
    """The text of a board's agent.toml.

    Args:
        register: says where the broker is.
        device: the board's name.
        budget_mib: memory that training may take; ``None``: it is measured.
        data: where its samples are.
        at: where the board meets the broker; empty: at its first host.
    """
    budget = "# budget_mib = 64   # left out, four fifths of what is free when the agent starts\n"
    return _AGENT.format(
        federation=_quoted(register.federation),
        device=_quoted(device),
        data=_quoted(data),
        budget=budget if budget_mib is None else f"budget_mib = {budget_mib}   # memory that training may take\n",
        host=_quoted(at or register.hosts[0]),
        port=register.port,
    )


def _quoted(text: str) -> str:
    return json.dumps(text)
