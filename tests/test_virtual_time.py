"""Virtual time: the clock jumps, threads take turns, and a process that is killed does nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lamina.emulation.faults.virtual_time import Process, Stalled, VirtualLoop, current_process, spend


def run(main: Coroutine[Any, Any, Any], loop: VirtualLoop) -> Any:
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


def test_a_day_passes_at_once() -> None:
    loop = VirtualLoop(0)

    async def main() -> float:
        await asyncio.sleep(86400)
        return loop.time()

    assert run(main(), loop) == pytest.approx(86400)


def test_waiting_for_what_never_happens_is_seen() -> None:
    loop = VirtualLoop(0)
    with pytest.raises(Stalled, match="nothing is going to happen"):
        run(asyncio.Event().wait(), loop)


def test_threads_spend_virtual_time_and_one_executor_runs_one_job_at_a_time() -> None:
    loop, order = VirtualLoop(0), []

    def job(name: str, seconds: float) -> float:
        order.append(f"{name} begins")
        spend(seconds)
        order.append(f"{name} ends")
        return seconds

    async def main() -> list[float]:
        pool = ThreadPoolExecutor(1)
        jobs = [loop.run_in_executor(pool, job, "a", 2.0), loop.run_in_executor(pool, job, "b", 1.0)]
        return await asyncio.gather(*jobs, loop.run_in_executor(None, job, "c", 0.5))

    assert run(main(), loop) == [2.0, 1.0, 0.5]
    assert [what for what in order if "c" not in what] == ["a begins", "a ends", "b begins", "b ends"]
    assert order.index("c ends") < order.index("a ends")


def test_an_error_in_a_thread_reaches_whoever_waits() -> None:
    loop = VirtualLoop(0)

    def job() -> None:
        spend(1.0)
        raise KeyError("x")

    with pytest.raises(KeyError):
        run(asyncio.to_thread(job), loop)


def test_what_is_killed_does_nothing_more() -> None:
    loop, done = VirtualLoop(0), []
    process = Process(loop, "p")

    def job() -> None:
        spend(10.0)
        done.append("job")

    async def work() -> None:
        try:
            assert current_process() is process
            asyncio.get_running_loop().call_later(6.0, done.append, "timer")
            await asyncio.gather(asyncio.to_thread(job), asyncio.sleep(6.0), asyncio.create_task(asyncio.sleep(7.0)))
        finally:
            done.append("finally")

    async def main() -> list[str]:
        process.start(work)
        await asyncio.sleep(5.0)
        process.kill()
        await asyncio.sleep(100.0)
        seen = list(done)
        assert current_process() is None
        return seen

    seen = loop.run_until_complete(main())
    assert seen == []
    loop.bury([process])  # its coroutines end where nobody looks
    assert done == ["finally"]
    loop.close()


def test_sets_of_tasks_have_the_same_order_in_every_run() -> None:
    def order() -> list[str]:
        loop, cancelled = VirtualLoop(0), []

        async def wait(name: str) -> None:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                cancelled.append(name)
                raise

        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    group.create_task(wait(str(number)))
                await asyncio.sleep(1)
                raise KeyError

        with pytest.raises(ExceptionGroup):
            run(main(), loop)
        return cancelled

    assert order() == order()
