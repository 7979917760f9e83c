"""How far a training run is, on stderr: one line that renews itself on a terminal, a line now and then in a log."""

import sys
import time

import tf_keras as keras

from frenzy.render import files, plots

EVERY = 20


class Progress(keras.callbacks.Callback):
    """Step, loss and accuracy of the epoch so far, learning rate, and the time left at the speed since this start."""

    def on_train_begin(self, logs=None):
        self.begin, self.first, self.epoch = time.monotonic(), None, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        per_epoch, epochs = self.params["steps"], self.params["epochs"]
        step, total = self.epoch * per_epoch + batch + 1, self.params["steps"] * epochs
        self.first = step if self.first is None else self.first
        left = (time.monotonic() - self.begin) / (step - self.first + 1) * (total - step)
        line = (
            f"step {step}/{total}  epoch {self.epoch + 1}/{epochs}  loss {logs['loss']:.4f}  "
            f"accuracy {logs['accuracy']:.2%}  lr {logs['lr']:.5f}  {left / 60:.1f} min left"
        )
        if sys.stderr.isatty():
            print(f"\r{line}", end="\n" if step == total else "  ", file=sys.stderr, flush=True)
        elif step % EVERY == 0 or step == total:
            print(line, file=sys.stderr, flush=True)


class Curves(keras.callbacks.Callback):
    """A PNG of accuracy and loss, drawn anew after every epoch from a History that stands before it in the list."""

    def __init__(self, history, path, title: str):
        super().__init__()
        self.history, self.path, self.title = history, path, title

    def on_epoch_end(self, epoch, logs=None):
        files.write(self.path, plots.learning_curves(self.history.rows, self.title))
