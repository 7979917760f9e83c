"""What a run leaves behind, epoch by epoch: a CSV file and TensorBoard's events."""

import csv
import os
import pathlib
from collections.abc import Mapping, Sequence

import tensorflow as tf
import tf_keras as keras

COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "images_per_second")


def read_history(path: pathlib.Path) -> list[dict[str, float]]:
    """The rows of a History file; no file, no rows. What an epoch does not have is left out of its row."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


class History(keras.callbacks.Callback):
    """A CSV file of one row an epoch (from 1), rewritten whole after each; a resumed run goes on with it."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.path = path
        self.rows: list[dict[str, float]] = []

    def on_train_begin(self, logs=None):
        self.rows = read_history(self.path)

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, **(logs or {})}
        told = next((old for old in self.rows if old["epoch"] == epoch + 1), {})
        self.rows = [old for old in self.rows if old["epoch"] < epoch + 1] + [told | row]
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(temporary, self.path)


class TensorBoard(keras.callbacks.Callback):
    """Events for TensorBoard: every epoch's logs, and `constants` of the network (its MS and OC, say) beside them."""

    def __init__(self, folder: pathlib.Path, constants: Mapping[str, float] | None = None):
        super().__init__()
        self.folder, self.constants = folder, dict(constants or {})

    def on_train_begin(self, logs=None):
        self.writer = tf.summary.create_file_writer(str(self.folder))

    def on_epoch_end(self, epoch, logs=None):
        with self.writer.as_default(step=epoch + 1):
            for name, value in {**(logs or {}), **self.constants}.items():
                tf.summary.scalar(name, value)
        self.writer.flush()

    def on_train_end(self, logs=None):
        self.writer.close()


def best(rows: Sequence[Mapping[str, float]], column: str = "val_accuracy") -> Mapping[str, float] | None:
    """The row with the largest value of a column, None where no row has it."""
    having = [row for row in rows if column in row]
    return max(having, key=lambda row: row[column]) if having else None
