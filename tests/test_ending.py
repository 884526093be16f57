"""A program that is asked to end does so, also where a thread of it hears nothing."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, threading, time
from concurrent.futures import ThreadPoolExecutor
from lamina.broker.programs.ending import run_until_signalled

engine = ThreadPoolExecutor(1)

async def deaf_to_its_end():
    try:
        await asyncio.get_running_loop().run_in_executor(engine, speak_and_sleep)
    finally:  # as an agent waits for the round that its engine is in
        await asyncio.get_running_loop().run_in_executor(engine, print)

async def deaf_beyond_its_end():
    await asyncio.to_thread(speak_and_sleep)

def speak_and_sleep():
    print("busy", flush=True)
    time.sleep(600)

run_until_signalled({main}(), patience_s=0.2)
"""


@pytest.mark.parametrize("main", ["deaf_to_its_end", "deaf_beyond_its_end"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_program_whose_engine_is_deaf_is_ended_by_force(main: str, number: signal.Signals, status: int) -> None:
    words = PROGRAM.replace("{main}", main)
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "busy\n"
        program.send_signal(number)
        assert program.wait(timeout=300) == status  # far from the 600 s that the thread sleeps
