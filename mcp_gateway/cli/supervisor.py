"""Keeps worker processes: begins them again when they die, passes signals on, and ends when they do.

Where a worker stands:

    begun --> serves --+--> died --> rests, longer each time it did not last --> begun
      |                +--> ended by itself (an administrator has asked for it) --> all end
      +--> died before it served --> as one that died; where nobody serves and none can, all end

It has one thread and no event loop, so that it may fork whenever it likes.
"""

import ctypes
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import typer

logger = logging.getLogger(__name__)

_FIRST_REST_S = 0.1
_LONGEST_REST_S = 5.0
_STEADY_S = 10.0
"""A worker that lives for less has not ended the trouble."""
_MOST_FAILURES = 5
"""In a row, of a worker that dies before it serves, while no other does."""
_SIGNALS = frozenset({signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2})
_PR_SET_PDEATHSIG = 1

Work = Callable[[int, bool, Callable[[], None]], None]
"""Serves as the worker of that number until it is told to end; whether no worker of that number served before it, and
what to call once it serves. What it raises is its end.
"""


@dataclass(slots=True)
class _Worker:
    number: int
    process_id: int = 0
    """0 while none runs."""
    began_at_s: float = 0.0
    told: int = -1
    """Where it says that it serves."""
    due_at_s: float = 0.0
    rest_s: float = 0.0
    failures: int = 0
    """In a row, before it served."""
    is_serving: bool = False
    has_served: bool = False
    """The one that runs, or one before it."""


class Supervisor:
    """Of so many workers."""

    def __init__(self, count: int, work: Work, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._workers = [_Worker(number + 1) for number in range(count)]
        self._work = work
        self._monotonic_s = monotonic_s
        self._is_ending = False
        self._status = 0
        self._mask: set[int] = set()

    def run(self) -> int:
        """Until all have ended; the exit status: 0 where they did so because they were told to."""
        self._mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS))
        try:
            self._begin_due()
            while any(worker.process_id for worker in self._workers) or not self._is_ending:
                if (info := signal.sigtimedwait(_SIGNALS, self._until_due_s())) is not None:
                    self._heed(info.si_signo)
                self._begin_due()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        return self._status

    def _heed(self, number: int) -> None:
        if number == signal.SIGCHLD:
            for worker in self._workers:
                self._reap(worker)
        elif number == signal.SIGHUP:
            self._pass_on(number)
        elif number in (signal.SIGINT, signal.SIGTERM):
            self._is_ending = True
            self._pass_on(number)
        else:
            logger.warning("%s changes nothing", signal.Signals(number).name)

    def _pass_on(self, number: int) -> None:
        for worker in self._workers:
            if worker.process_id:
                os.kill(worker.process_id, number)  # it is there until it is reaped

    def _end_all(self, status: int) -> None:
        self._status = self._status or status
        if not self._is_ending:
            self._is_ending = True
            self._pass_on(signal.SIGTERM)

    # One worker

    def _until_due_s(self) -> float:
        """Until the next is to begin; for long where none is."""
        due_at_s = [worker.due_at_s for worker in self._workers if not worker.process_id]
        return 3600.0 if self._is_ending or not due_at_s else max(0.0, min(due_at_s) - self._monotonic_s())

    def _begin_due(self) -> None:
        for worker in self._workers:
            if not (worker.process_id or self._is_ending) and worker.due_at_s <= self._monotonic_s():
                self._begin(worker)

    def _begin(self, worker: _Worker) -> None:
        told, tell = os.pipe()
        os.set_blocking(told, False)
        supervisor = os.getpid()
        process_id = os.fork()
        if not process_id:
            os.close(told)
            self._be(worker, supervisor, tell)
        os.close(tell)
        worker.process_id, worker.told, worker.began_at_s = process_id, told, self._monotonic_s()

    def _be(self, worker: _Worker, supervisor: int, tell: int) -> NoReturn:
        """In the new process."""
        status = 1
        try:
            os.setpgid(0, 0)  # what a terminal sends to all, the supervisor passes on
            _end_with(supervisor)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            self._work(worker.number, not worker.has_served, lambda: _say(tell))
            status = 0
        except typer.Exit as end:
            status = end.exit_code
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 - nothing of the supervisor's may run here any more
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _reap(self, worker: _Worker) -> None:
        if not worker.process_id:
            return
        ended, how = os.waitpid(worker.process_id, os.WNOHANG)
        if not ended:
            return
        has_served = _has_said(worker)
        os.close(worker.told)
        worker.process_id, worker.is_serving = 0, False
        worker.failures = 0 if has_served else worker.failures + 1
        status = os.waitstatus_to_exitcode(how)
        if self._is_ending:
            self._status = self._status or abs(status)
        elif not status and has_served:
            logger.info("worker %d has ended by itself: all end", worker.number)
            self._end_all(0)
        elif self._is_hopeless(worker):
            logger.error("worker %d %s before it served: all end", worker.number, _in_words(status))
            self._end_all(abs(status) or 1)
        else:
            self._let_rest(worker, status)

    def _is_hopeless(self, worker: _Worker) -> bool:
        """Whether it cannot begin, at the start, or again and again while nobody serves."""
        if not any(_has_said(each) or each.has_served for each in self._workers):
            return True
        return worker.failures >= _MOST_FAILURES and not any(each.process_id for each in self._workers)

    def _let_rest(self, worker: _Worker, status: int) -> None:
        lasted_s = self._monotonic_s() - worker.began_at_s
        is_steady = lasted_s >= _STEADY_S
        worker.rest_s = _FIRST_REST_S if is_steady else min(max(_FIRST_REST_S, 2 * worker.rest_s), _LONGEST_REST_S)
        worker.due_at_s = self._monotonic_s() + worker.rest_s
        logger.error("worker %d %s: begun again in %.1f s", worker.number, _in_words(status), worker.rest_s)


def _in_words(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _has_said(worker: _Worker) -> bool:
    """Whether the one that runs, or has just ended, has said that it serves."""
    if worker.process_id and not worker.is_serving:
        with suppress(BlockingIOError):
            worker.is_serving = os.read(worker.told, 1) == b"."
        worker.has_served = worker.has_served or worker.is_serving
    return worker.is_serving


def _say(tell: int) -> None:
    os.write(tell, b".")


def _end_with(supervisor: int) -> None:
    """Be told to end, as by SIGTERM, when the supervisor is killed, which could not say so itself."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:
        sys.exit(1)
