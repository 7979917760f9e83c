"""Programs of this repository as a user starts them, each in a process of its own, without the seconds that imports take.

A server imports TensorFlow and most of frenzy/ once for all tests of this process; every program is then a fork of it that runs
the file as __main__ with its own arguments, folder, environment and output. What the server imported has computed nothing.
"""

import functools
import multiprocessing
import multiprocessing.context
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping

ROOT = pathlib.Path(__file__).resolve().parent.parent
IMPORTED = """
    tensorflow tf_keras tensorflow_model_optimization matplotlib.pyplot PIL.Image
    frenzy.accounting frenzy.export frenzy.litert frenzy.models frenzy.training.fit frenzy.compress
""".split()


@functools.cache
def _server() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def _become(command: list[str], folder: str, environment: dict[str, str], output: str, errors: str) -> None:
    """The life of a forked process."""
    for path, number in ((output, 1), (errors, 2)):
        file = os.open(path, os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv, sys.path[0] = command, str(pathlib.Path(command[0]).parent)
    runpy.run_path(command[0], run_name="__main__")


def start(
    program: str | os.PathLike,
    *arguments: object,
    cwd: str | os.PathLike = ROOT,
    env: Mapping[str, str] | None = None,
    **more: object,
) -> subprocess.CompletedProcess[str]:
    """Runs a program, its path as from the root, to its end. `env` in place of this process's environment; `more` besides it."""
    command = [str(ROOT / program), *map(str, arguments)]
    environment = {**(os.environ if env is None else env), **{key: str(value) for key, value in more.items()}}
    with tempfile.NamedTemporaryFile("r") as output, tempfile.NamedTemporaryFile("r") as errors:
        process = _server().Process(target=_become, args=(command, str(cwd), environment, output.name, errors.name))
        process.start()
        process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(command, process.exitcode, output.read(), errors.read())
