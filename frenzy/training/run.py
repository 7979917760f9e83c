"""A run's folder: the record that repeats it, and its checkpoints, of which a damaged one is never silently passed over."""

import dataclasses
import json
import os
import pathlib

import tensorflow as tf

from frenzy.training.recipe import Recipe


class TrainingError(Exception):
    """A run that cannot start, go on or be trusted; the message is one line with the next step."""


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


SAME = ("recipe", "data_sha256", "method", "continued")  # of a run and of what goes on with it; None where a tool has none
UNREADABLE = (tf.errors.OpError, ValueError, AssertionError)


class Run:
    """A run's folder: `run.json` (what is needed to repeat it) and the last two checkpoints.

    `facts` go into the record beside the recipe: those of SAME must be equal when the run is resumed. `chief` is False for
    the workers of a cluster that write nothing there.
    """

    def __init__(self, folder: pathlib.Path, recipe: Recipe, facts: dict, resume: bool, chief: bool = True):
        self.folder, self.chief = folder, chief
        self.record = {"recipe": dataclasses.asdict(recipe), **facts}
        path = folder / "run.json"
        if path.exists() and not resume and chief:
            raise TrainingError(f"{folder} holds a run already; pass --resume to go on with it, or another --run_dir")
        if path.exists() and chief:
            self._check_same(path)
        elif chief:
            folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(self.record, indent=2) + "\n")
            os.replace(temporary, path)

    def _check_same(self, path: pathlib.Path) -> None:
        try:
            before = json.loads(path.read_text())
        except ValueError:
            raise TrainingError(f"{path} is no JSON; the run cannot be resumed: start another with another --run_dir") from None
        for key in SAME:
            if before.get(key) != self.record.get(key):
                raise TrainingError(
                    f"{path}: {key} was {before.get(key)} and is {self.record.get(key)}; resume with what it began with"
                )

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.folder / "checkpoints"

    @property
    def latest(self) -> str | None:
        """The name of the last checkpoint, ckpt-300 say."""
        path = tf.train.latest_checkpoint(str(self.checkpoints))
        return pathlib.Path(path).name if path else None


class Checkpoints:
    """The last two states of a run. Every worker of a cluster saves (TensorFlow wants it so); the chief's files are kept."""

    def __init__(self, run: Run, checkpoint: tf.train.Checkpoint):
        self.run, self.checkpoint = run, checkpoint
        folder = run.checkpoints if run.chief else run.folder / f"not_kept_{os.getpid()}"
        self.manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=2)

    @property
    def latest(self) -> str | None:
        return tf.train.latest_checkpoint(str(self.run.checkpoints))

    def restore(self) -> None:
        """The last state, if there is one. Raises TrainingError if it is damaged."""
        if path := self.latest:
            try:
                self.checkpoint.restore(path).assert_existing_objects_matched()
            except UNREADABLE as e:
                raise TrainingError(
                    f"checkpoint {path} cannot be read ({_reason(e)}); delete it to go on from the one before"
                ) from None

    def save(self, step: int) -> None:
        """Raises TrainingError where it cannot be written; the ones before it stay."""
        try:
            self.manager.save(checkpoint_number=step)
        except (tf.errors.OpError, OSError) as e:
            raise TrainingError(
                f"no checkpoint could be written ({_reason(e)}); the last good one is {self.latest or 'none'}"
            ) from None
        if not self.run.chief:
            tf.io.gfile.rmtree(str(self.manager.directory))


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run came: updates done, and the seconds that they took in all (None: the run did not measure)."""

    steps: int
    seconds: float | None


def restore(model, folder: pathlib.Path) -> Progress:
    """Gives a model the weights of a run's last checkpoint. Raises TrainingError if there is none."""
    path = tf.train.latest_checkpoint(str(folder / "checkpoints"))
    if path is None:
        raise TrainingError(f"{folder} holds no checkpoint; train on with tools/train.py --resume")
    try:
        tf.train.Checkpoint(model=model).restore(path).assert_existing_objects_matched().expect_partial()
        reader = tf.train.load_checkpoint(path)
        done, seconds = (f"{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in ("done", "seconds"))
        return Progress(int(reader.get_tensor(done)), float(reader.get_tensor(seconds)) if reader.has_tensor(seconds) else None)
    except UNREADABLE as e:
        raise TrainingError(f"checkpoint {path} is not of this network or is damaged ({_reason(e)})") from None
