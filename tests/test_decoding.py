"""Threads that decode the same type for the first time at once: with msgspec's own functions the process crashes."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading
from lamina.models.decoding import from_json, from_msgpack
from lamina.models.manifest import Manifest
from lamina.broker.wire.messages import RoundPlan
import msgspec
sys.setswitchinterval(1e-6)
plan = msgspec.msgpack.encode(RoundPlan(epoch=1, round=2))
barrier = threading.Barrier(8)
def go():
    barrier.wait()
    try:
        from_json(b"{}", Manifest)
    except msgspec.ValidationError:
        pass
    assert from_msgpack(plan, RoundPlan).round == 2
threads = [threading.Thread(target=go) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.slow
def test_many_threads_may_decode_a_new_type_at_once() -> None:
    for _ in range(8):  # one run in three crashed
        assert subprocess.run([sys.executable, "-c", PROGRAM], check=False).returncode == 0
