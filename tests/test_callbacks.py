"""What a run leaves behind: a CSV file that is whole after every epoch, events that TensorBoard reads, curves, a line on stderr."""

import csv
import io
import math
import os

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from PIL import Image

from frenzy.render.files import RenderError
from frenzy.training.callbacks import COLUMNS, History, TensorBoard, best, read_history
from tools import progress

LOGS = [{"loss": 2.0 / n, "accuracy": n / 10, "lr": 0.1, "images_per_second": 100.0 * n} for n in range(1, 6)]


def told(callback, epochs, first=0):
    """A run that tells a callback of these epochs' logs."""
    callback.on_train_begin()
    for epoch, logs in enumerate(epochs, first):
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, logs)
    callback.on_train_end()
    return callback


# history


def test_a_row_an_epoch(tmp_path):
    path = tmp_path / "history.csv"
    history = told(History(path), LOGS)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5]
    assert [float(row["loss"]) for row in rows] == [logs["loss"] for logs in LOGS]
    assert {row["val_loss"] for row in rows} == {""}
    assert read_history(path) == history.rows == [{"epoch": n, **logs} for n, logs in enumerate(LOGS, 1)]


def test_the_file_is_whole_after_every_epoch(tmp_path, monkeypatch):
    """A name of its own until it is complete: whoever reads meanwhile sees the epoch before."""
    path, seen = tmp_path / "history.csv", []
    replace = os.replace

    def see(source, target):
        seen.append((len(read_history(path)), len(read_history(source))))
        replace(source, target)

    monkeypatch.setattr(os, "replace", see)
    told(History(path), LOGS)
    assert seen == [(n, n + 1) for n in range(5)]
    assert [file.name for file in tmp_path.iterdir()] == ["history.csv"]


def test_a_resumed_run_goes_on_and_drops_what_it_does_again(tmp_path):
    path = tmp_path / "history.csv"
    told(History(path), LOGS)
    other = [{**logs, "loss": logs["loss"] + 100} for logs in LOGS[2:4]]
    told(History(path), other, first=2)
    assert [row["epoch"] for row in read_history(path)] == [1, 2, 3, 4]
    assert [row["loss"] for row in read_history(path)] == [2.0, 1.0, 100 + 2 / 3, 100.5]


def test_an_epoch_told_again_keeps_what_is_known_of_it_alone(tmp_path):
    """A run that was cut off at an epoch's end measures no speed when it tells it again."""
    path = tmp_path / "history.csv"
    told(History(path), LOGS[:2])
    told(History(path), [{"loss": 7.0, "accuracy": 0.5, "lr": 0.1}], first=1)
    assert read_history(path)[1] == {"epoch": 2, "loss": 7.0, "accuracy": 0.5, "lr": 0.1, "images_per_second": 200.0}


def test_no_history_is_no_rows(tmp_path):
    assert read_history(tmp_path / "nothing.csv") == []


def test_logs_that_are_no_column_are_left_out(tmp_path):
    told(History(tmp_path / "history.csv"), [{**LOGS[0], "norm": 3.0}])
    assert read_history(tmp_path / "history.csv") == [{"epoch": 1, **LOGS[0]}]


def test_the_best_epoch():
    rows = [
        {"epoch": 1, "val_accuracy": 0.5},
        {"epoch": 2},
        {"epoch": 3, "val_accuracy": 0.75},
        {"epoch": 4, "val_accuracy": 0.7},
    ]
    assert best(rows) == {"epoch": 3, "val_accuracy": 0.75}
    assert best(rows, "epoch")["epoch"] == 4
    assert best(rows, "accuracy") is None
    assert best([]) is None


# TensorBoard


def events(folder):
    """{tag: [(step, value)]} of all event files of a folder, in the order of their names."""
    found = {}
    for path in sorted(folder.iterdir()):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, float(tf.make_ndarray(value.tensor))))
    return found


def test_events_can_be_read_back(tmp_path):
    told(TensorBoard(tmp_path / "events", {"storage_bytes": 236_658.0, "operations": 782_368.0}), LOGS)
    found = events(tmp_path / "events")
    assert set(found) == {"loss", "accuracy", "lr", "images_per_second", "storage_bytes", "operations"}
    for name in LOGS[0]:
        assert found[name] == [(n, pytest.approx(logs[name], rel=1e-6)) for n, logs in enumerate(LOGS, 1)]
    assert found["storage_bytes"] == [(n, 236_658.0) for n in range(1, 6)]


def test_a_resumed_run_adds_its_events(tmp_path):
    told(TensorBoard(tmp_path / "events"), LOGS[:3])
    told(TensorBoard(tmp_path / "events"), LOGS[2:], first=2)
    assert sorted(step for step, _ in events(tmp_path / "events")["loss"]) == [1, 2, 3, 3, 4, 5]


def test_events_are_there_before_the_run_ends(tmp_path):
    board = TensorBoard(tmp_path / "events")
    board.on_train_begin()
    board.on_epoch_end(0, LOGS[0])
    assert events(tmp_path / "events")["accuracy"] == [(1, pytest.approx(0.1))]
    board.on_train_end()


# curves and progress


def test_curves_are_drawn_after_every_epoch(tmp_path):
    history = History(tmp_path / "history.csv")
    curves = progress.Curves(history, tmp_path / "curves.png", "a run")
    pictures = []
    history.on_train_begin()
    for epoch, logs in enumerate(LOGS[:2]):
        history.on_epoch_end(epoch, logs)
        curves.on_epoch_end(epoch, logs)
        pictures.append((tmp_path / "curves.png").read_bytes())
    assert pictures[0] != pictures[1]
    assert Image.open(io.BytesIO(pictures[1])).size == (1440, 456)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "history.csv"]


def test_curves_that_cannot_be_written(tmp_path):
    curves = progress.Curves(History(tmp_path / "history.csv"), tmp_path / "nowhere" / "curves.png", "a run")
    with pytest.raises(RenderError, match=r"cannot write .*curves\.png: no such file or directory"):
        curves.on_epoch_end(0, LOGS[0])


def progress_lines(capsys, per_epoch, epochs, first=0):
    callback = progress.Progress()
    callback.set_params({"steps": per_epoch, "epochs": epochs})
    callback.on_train_begin()
    for step in range(first, per_epoch * epochs):
        if not step % per_epoch or step == first:
            callback.on_epoch_begin(step // per_epoch)
        callback.on_train_batch_end(step % per_epoch, LOGS[0])
    return capsys.readouterr().err.splitlines()


def test_progress_in_a_log_is_a_line_now_and_then(capsys):
    lines = progress_lines(capsys, per_epoch=15, epochs=3)
    assert [line.split()[1] for line in lines] == ["20/45", "40/45", "45/45"]
    assert "epoch 2/3" in lines[0]
    assert "loss 2.0000  accuracy 10.00%  lr 0.10000" in lines[0]
    assert lines[-1].endswith("0.0 min left")


def test_progress_counts_the_time_left_from_where_it_resumed(capsys, monkeypatch):
    """30 steps of 1 s each after a resumption at step 15 of 45: after the fifth, 25 s are left."""
    clock = iter(float(second) for second in range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines = progress_lines(capsys, per_epoch=15, epochs=3, first=15)
    minutes = [float(line.split()[-3]) for line in lines]
    assert minutes == [round(25 / 60, 1), round(5 / 60, 1), 0.0]


def test_keras_calls_them_too(tmp_path):
    """They are tf_keras's callbacks: model.fit drives them as frenzy.training.fit does."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    model.compile("sgd", "mse", run_eagerly=True)
    x = np.ones((8, 4), np.float32)
    model.fit(x, x[:, :2], epochs=2, verbose=0, callbacks=[History(tmp_path / "h.csv"), TensorBoard(tmp_path / "e")])
    rows = read_history(tmp_path / "h.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert [step for step, _ in events(tmp_path / "e")["loss"]] == [1, 2]
