"""An event loop whose clock jumps from one timer to the next, and whose threads take turns: runs on it repeat exactly.

Nothing waits for real time. What a program hands to a thread (`asyncio.to_thread`, `run_in_executor`) runs in a real
one, but while it runs nothing else does; it takes virtual time where it calls `spend`. Jobs for one executor run one
after the other, as in a pool of one thread, and a process has one for `asyncio.to_thread`: so no job waits for a lock
that another one holds.

A *process* is whatever was started in one `Process` context. Killed, it does nothing more from that instant on: none
of its callbacks, timers and jobs runs again, and no ``finally`` of it has an effect that others see.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import random
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, ClassVar, TypeVarTuple, Unpack

_Ts = TypeVarTuple("_Ts")
_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
_JOB = threading.local()  # .job: the one that this thread runs
_MOST_TURNS = 100_000  # of the loop, between two moves of the clock
_AFTERLIFE_S = 1000.0  # for dead processes to come out of their ``finally`` blocks


class Stalled(RuntimeError):
    """Everybody waits for something, and nothing is going to happen."""


class Killed(BaseException):
    """Ends a thread's job whose process was killed."""


class Process:
    """One program's life, from its start to its end or its sudden death.

    Args:
        loop: on which it lives.
        name: for messages.

    Attributes:
        alive: whether it may still do anything.
        ended: whether it was killed, or has come to its own end.
        at_death: called once when it is killed.
    """

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name = name
        self.alive, self.ended = True, False
        self.at_death: list[Callable[[], None]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.jobs: set[_Job] = set()
        self.parked: list[asyncio.Handle] = []
        self._loop = loop
        self._context = contextvars.copy_context()
        self._context.run(_PROCESS.set, self)

    def start(self, main: Callable[[], Coroutine[Any, Any, Any]]) -> asyncio.Task[Any]:
        """Run a coroutine as this process; it and all that it starts end with a kill."""
        coroutine = self._context.run(main)
        return self._loop.create_task(coroutine, name=self.name, context=self._context)

    def kill(self) -> None:
        """End it at once, as SIGKILL does."""
        if not self.alive:
            return
        self.alive, self.ended = False, True
        self._loop.forget(self)
        for job in sorted(self.jobs, key=lambda job: job.number):
            job.kill()
        for call in self.at_death:
            call()


def current_process() -> Process | None:
    """The process that is running."""
    job: _Job | None = getattr(_JOB, "job", None)
    return job.process if job is not None else _PROCESS.get()


def spend(seconds: float) -> None:
    """Let virtual time pass in a thread's job; others run meanwhile. On the event loop itself no time passes."""
    job: _Job | None = getattr(_JOB, "job", None)
    if job is not None:
        job.pause(seconds)


class VirtualLoop(asyncio.BaseEventLoop):
    """The event loop.

    Args:
        seed: of how long it takes until a job is begun.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._now = 0.0
        self._clock_resolution = 1e-9
        self._selector = _Jump(self)
        self._rng = random.Random(f"{seed} threads")
        self._ready: deque[asyncio.Handle]
        self._scheduled: list[asyncio.TimerHandle]
        self._lanes: dict[int, deque[_Job]] = {}  # by executor: jobs, of which the first one runs
        self._numbers = itertools.count()
        self._world = contextvars.Context()
        self.set_task_factory(self._new_task)  # type: ignore[arg-type] # a context comes with it since Python 3.11

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let the clock jump."""
        self._now += seconds

    def at(self, when: float, call: Callable[..., object], *arguments: object) -> asyncio.TimerHandle:
        """Have something happen to the world: it belongs to no process."""
        return self.call_at(when, call, *arguments, context=self._world)

    def call_soon(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Call it next, unless its process is dead."""
        handle = super().call_soon(callback, *args, context=context)
        process = _process_of(handle)
        if process is not None and not process.alive:
            process.parked.append(self._ready.pop())
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """A future whose place in a set does not depend on its address."""
        return _Future(next(self._numbers), loop=self)

    def run_in_executor(  # type: ignore[override] # typeshed's is of a coroutine
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run a job in its turn."""
        process = _PROCESS.get()
        job = _Job(next(self._numbers), process, func, args, self.create_future())
        if process is not None:
            process.jobs.add(job)
        lane = self._lanes.setdefault(id(executor if executor is not None else process), deque())
        lane.append(job)
        if len(lane) == 1:
            self._begin(lane)
        return job.future

    def forget(self, process: Process) -> None:
        """Take away every callback, timer and job of a process."""
        for handle in self._scheduled:
            if _process_of(handle) is process:
                handle.cancel()
        process.parked += [handle for handle in self._ready if _process_of(handle) is process]
        self._ready = deque(handle for handle in self._ready if _process_of(handle) is not process)
        self._lanes = {key: lane for key, lane in self._lanes.items() if lane[0].process is not process}

    def bury(self, processes: Sequence[Process]) -> None:
        """Free what processes held, once all is over: each has its tasks cancelled, out of everybody's sight."""
        self.set_exception_handler(lambda loop, context: None)
        for process in processes:
            process.kill()
        for process in processes:
            process.alive = True
            self._ready.extend(process.parked)
            process.parked.clear()
        tasks = [task for process in processes for task in process.tasks if not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            with suppress(Stalled):
                self.run_until_complete(asyncio.wait(tasks, timeout=_AFTERLIFE_S))
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined] # asyncio's own

    def _begin(self, lane: deque[_Job]) -> None:
        self.call_later(self._rng.uniform(0.0, 0.002), self._step, lane)

    def _step(self, lane: deque[_Job]) -> None:
        job = lane[0]
        pause_s = job.run()
        if pause_s is not None:
            self.call_later(pause_s, self._step, lane)
            return
        lane.popleft()
        if job.process is not None:
            job.process.jobs.discard(job)
        if lane:
            self._begin(lane)
        else:
            self._lanes = {key: other for key, other in self._lanes.items() if other}

    def _new_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], *, context: Any = None
    ) -> asyncio.Task[Any]:
        task = _Task(next(self._numbers), coro, loop=loop, context=context)
        process = (context.get(_PROCESS) if context is not None else None) or _PROCESS.get()
        if process is not None:
            process.tasks.append(task)
        return task

    # What BaseEventLoop leaves to its heirs.

    def _process_events(self, event_list: object) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""


class _Jump:
    """Stands in for a selector: waiting is a jump of the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._turns = 0  # since the clock moved

    def select(self, timeout: float | None) -> tuple[()]:
        self._turns = 0 if timeout else self._turns + 1
        if self._turns > _MOST_TURNS:
            raise Stalled(f"tasks wake one another for ever at {self._loop.time():.3f} s")
        if timeout is None:
            raise Stalled(f"nothing is going to happen any more at {self._loop.time():.3f} s")
        if timeout > 0:
            self._loop.advance(timeout)
        return ()

    def close(self) -> None:
        """Nothing is open."""


class _Task(asyncio.Task[Any]):
    """Task groups keep their tasks in sets: with a hash of its own the order is the same in every run."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class _Future(asyncio.Future[Any]):
    def __init__(self, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(**options)

    def __hash__(self) -> int:
        return self._number


class _Job:
    """Work in a thread of its own, which runs while the loop stands still, and stands still while the loop runs."""

    def __init__(
        self, number: int, process: Process | None, func: Callable[..., Any], args: Any, future: asyncio.Future[Any]
    ) -> None:
        self.number, self.process, self.future = number, process, future
        self._func, self._args = func, args
        self._runner: _Runner | None = None
        self._pause_s: float | None = None
        self._killed = False
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> float | None:
        """Go on until it pauses, and say for how long; ``None``: it has ended, and its future knows how."""
        if self._runner is None:
            if self.future.cancelled():
                return None  # as a pool's thread: what was cancelled before it began does not begin
            self._runner = _Runner.free()
        self._pause_s = None
        self._runner.go_on(self)
        if self._pause_s is not None:
            return self._pause_s
        self._runner = None
        if not self.future.done():
            if self._error is not None:
                self.future.set_exception(self._error)
            else:
                self.future.set_result(self._result)
        return None

    def pause(self, seconds: float) -> None:
        """Let the loop go on; called in the thread."""
        assert self._runner is not None
        if self._killed:
            raise Killed
        self._pause_s = seconds
        self._runner.hand_back()
        if self._killed:
            raise Killed

    def work(self) -> None:
        """Run the whole program; called in the thread."""
        try:
            self._result = self._func(*self._args)
        except BaseException as error:
            self._error = error

    def kill(self) -> None:
        """Have a paused job end where it stands."""
        self._killed = True
        if self._runner is not None:
            self._pause_s = None
            self._runner.go_on(self)
            self._runner = None
        self.future.cancel()


class _Runner:
    """A thread that jobs are run in; kept for the next one."""

    _idle: ClassVar[list[_Runner]] = []

    def __init__(self) -> None:
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()
        self._job: _Job | None = None
        threading.Thread(target=self._live, name="virtual job", daemon=True).start()

    @classmethod
    def free(cls) -> _Runner:
        return cls._idle.pop() if cls._idle else cls()

    def go_on(self, job: _Job) -> None:
        """Let the job run until it pauses or ends."""
        self._job = job
        self._go.release()
        self._back.acquire()

    def hand_back(self) -> None:
        """Let the loop run; called in the thread, until `go_on`."""
        self._back.release()
        self._go.acquire()

    def _live(self) -> None:
        while True:
            self._go.acquire()
            assert self._job is not None
            _JOB.job = self._job
            self._job.work()
            _JOB.job = self._job = None
            self._idle.append(self)
            self._back.release()


def _process_of(handle: asyncio.Handle) -> Process | None:
    return handle._context.get(_PROCESS)  # type: ignore[attr-defined, no-any-return] # asyncio's own
