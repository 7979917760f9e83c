"""Subjects that must not share a process: TensorFlow and PyTorch would fight over the processor's cores.

A worker sets itself up, then waits for its turn: asked for n steps it takes them and says so. Only one worker is ever asked, the
others sleep on their pipes. All are bound to the same cores and keep as many threads.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
from collections.abc import Callable

from tools import cli

STOP = 0
Main = Callable[..., None]  # main(turns, *arguments), which calls turns.take() before each step


class WorkerError(Exception):
    """A worker that ended before its time; the message is one line."""


class Finished(BaseException):
    """Raised in a worker by turns.take() where no more steps are wanted."""


class Turns:
    """A worker's end of the pipe."""

    def __init__(self, connection: multiprocessing.connection.Connection):
        self.connection, self.left = connection, 0

    def take(self) -> None:
        """Returns when there is another step to take, at once while some are left of those asked for; raises Finished."""
        if not self.left:
            self.connection.send(None)
            self.left = self.connection.recv()
            if self.left == STOP:
                raise Finished
        self.left -= 1


def use_cores(threads: int) -> None:
    """Binds this process to as many of the cores that it may use, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _work(connection: multiprocessing.connection.Connection, main: Main, arguments: tuple, threads: int) -> None:
    """A worker's life. What goes wrong is sent as text, and raised on the other side."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks ends first, and ends this
    use_cores(threads)
    try:
        with cli.hushed():
            main(Turns(connection), *arguments)
    except (Finished, EOFError, BrokenPipeError):
        return
    except Exception as error:
        connection.send(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


class Worker:
    """A process that runs main(turns, *arguments), picklable all, on `threads` cores; set up and waiting once this returns.

    Raises WorkerError where it ends instead.
    """

    def __init__(self, name: str, main: Main, *arguments: object, threads: int):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, main, arguments, threads), daemon=True)
        self.process.start()
        theirs.close()
        self._wait()

    def _wait(self) -> None:
        try:
            told = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise WorkerError(
                f"{self.name}: its process ended with exit code {self.process.exitcode}; -9 is lack of memory, take a smaller batch"
            ) from None
        if told is not None:
            raise WorkerError(f"{self.name}: {told}")

    def run(self, steps: int) -> None:
        """Takes so many steps, 1 or more, and returns when they are done. Raises WorkerError."""
        if steps < 1:
            raise ValueError(f"{self.name}: {steps} steps; at least 1 is needed")
        with contextlib.suppress(BrokenPipeError):  # where it ended, its last words are in the pipe
            self.connection.send(steps)
        self._wait()

    def close(self) -> None:
        """Ends the process, which may have ended already."""
        with contextlib.suppress(OSError):
            self.connection.send(STOP)
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()
