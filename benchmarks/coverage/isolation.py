"""A case in a process of its own: what kills it is a verdict, too."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict

from benchmarks.coverage.judge import Verdict


def isolated(judge: Callable[[], list[Verdict]], *, limit_s: int = 300) -> list[Verdict]:
    """The verdicts of ``judge``, run in a forked child; one, ``crashed``, where the child dies or takes too long."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _run(judge, reading, writing, limit_s)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if not text:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return [Verdict("crashed", f"no answer within {limit_s} s" if number == signal.SIGALRM else f"signal {number}")]
    return [Verdict(**verdict) for verdict in json.loads(text)]


def _run(judge: Callable[[], list[Verdict]], reading: int, writing: int, limit_s: int) -> None:
    """The child's life; it ends here, so that nothing of the parent's runs twice."""
    os.close(reading)
    signal.alarm(limit_s)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        verdicts = judge()
    except BaseException as error:
        verdicts = [Verdict("crashed", f"the benchmark itself: {type(error).__name__}: {error}")]
    with os.fdopen(writing, "w") as pipe:
        json.dump([asdict(verdict) for verdict in verdicts], pipe)
    os._exit(0)
