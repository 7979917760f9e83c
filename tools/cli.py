"""What the tools share: errors in one line, output files that are whole or not there, the flags that name a network.

Exit codes: 0 done, 1 --strict found something, 2 the input is at fault (one line on stderr), 130 interrupted.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging

from frenzy.accounting import CONVENTIONS, TASKS, AccountingError, Report, accounts, read
from frenzy.render.files import RenderError, write

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

FLAGS = flags.FLAGS
USER_ERRORS = (AccountingError, RenderError)


class UsageError(Exception):
    """The command line is at fault; the message is the one line that the user sees."""


def define_network_flags(*more_conventions: str) -> None:
    """The flags of every tool that judges a SavedModel. `more_conventions` are names that the tool itself understands."""
    flags.DEFINE_string("load_folder", "SavedModel/", "folder of the SavedModel")
    flags.DEFINE_enum(
        "convention", "frenzy", [*sorted(CONVENTIONS), *more_conventions], "how multiplies, adds and weights are priced"
    )
    flags.DEFINE_enum("task", "cifar100", list(TASKS), "the baseline that the score is a share of")
    flags.DEFINE_string("entry", None, "signature or function to judge [serving_default, else the only one, else __call__]")
    flags.DEFINE_string("input_shape", None, "what the SavedModel leaves open, height,width,channels: 224,224,3 say")


def load_report() -> Report:
    """The report that the network flags ask for. Raises AccountingError and UsageError, cheap checks first."""
    return load_reports([FLAGS.convention])[0]


def load_reports(conventions: Iterable[str]) -> list[Report]:
    """The same network under several conventions."""
    shape = parse_shape(FLAGS.input_shape)
    folder = Path(FLAGS.load_folder)
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}; --load_folder takes the folder of a SavedModel")
    if not (folder / "saved_model.pb").is_file():
        raise UsageError(f"{folder} is no SavedModel: it holds no saved_model.pb; name the folder that does by --load_folder")
    with hushed():
        return list(accounts(read(FLAGS.load_folder, FLAGS.entry, shape), conventions, FLAGS.task).values())


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """ "224,224,3" -> (224, 224, 3); None stays None."""
    if text is None:
        return None
    sides = text.replace("x", ",").split(",")
    if not all(side.strip().isascii() and side.strip().isdigit() and int(side) for side in sides):
        raise UsageError(f"--input_shape={text}: positive whole numbers with commas between, 224,224,3 say")
    return tuple(map(int, sides))


def output(text: str, path: str | None) -> None:
    """To `path`, whole or not at all; without one, to stdout."""
    if path:
        write(path, text)
    else:
        sys.stdout.write(text)
        sys.stdout.flush()


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """TensorFlow's C++ greets on stderr before anyone can ask it not to: stderr is closed to it meanwhile."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextlib.contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds are the user's: their text becomes the one line."""
    try:
        yield
    except kinds as error:
        raise UsageError(str(error)) from None


def run(main: Callable[..., int | None], positional: int = 0) -> None:
    """Parses the flags, calls main() with the arguments that are none, at most `positional`, and exits with what it returns."""
    parse = functools.partial(_parse, positional=positional)
    app.run(lambda argv: sys.exit(_guarded(functools.partial(main, *argv[1:]))), flags_parser=parse)


def _parse(argv: list[str], positional: int = 0) -> list[str]:
    FLAGS.set_gnu_getopt(positional > 0)  # flags may stand behind such arguments
    try:
        rest = FLAGS(argv)
    except flags.Error as error:
        fail(str(error))
    if len(rest) > 1 + positional:
        fail(f"unexpected argument {rest[1 + positional]!r}; flags start with '--'")
    return rest


def _guarded(main: Callable[[], int | None]) -> int:
    logging.set_verbosity(logging.WARNING)
    try:
        return main() or 0
    except (UsageError, *USER_ERRORS) as error:
        fail(str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    print(f"{Path(sys.argv[0]).name}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
