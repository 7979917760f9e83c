"""Curves and matrices as PNG: what is drawn, read off the figures; and the range test that one of them shows."""

import dataclasses
import io

import matplotlib
import numpy as np
import pytest
import tf_keras as keras
from PIL import Image

from frenzy.data import pipeline
from frenzy.data.split import Split
from frenzy.render import plots
from frenzy.training import lr_finder
from frenzy.training.recipe import Recipe
from frenzy.training.run import TrainingError

ROWS = [
    {"epoch": 1.0, "loss": 2.0, "accuracy": 0.25, "val_loss": 1.5, "val_accuracy": 0.5, "lr": 0.1},
    {"epoch": 2.0, "loss": 1.0, "accuracy": 0.75, "lr": 0.01},
    {"epoch": 3.0, "loss": 0.5, "accuracy": 0.875, "val_loss": 1.25, "val_accuracy": 0.625, "lr": 0.001},
]


@pytest.fixture
def figure(monkeypatch):
    """The figure that was drawn last."""
    drawn = []
    png = plots._png
    monkeypatch.setattr(plots, "_png", lambda figure: drawn.append(figure) or png(figure))
    return lambda: drawn[-1]


def picture(data):
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def lines(axes):
    return {line.get_label(): list(zip(*map(list, line.get_data()), strict=True)) for line in axes.lines}


def test_curves(figure):
    assert picture(plots.learning_curves(ROWS, "a title")).std() > 5
    accuracy, loss, rate = figure().axes
    assert lines(accuracy) == {
        "training, augmented: 87.50": [(1, 25), (2, 75), (3, 87.5)],
        "held out: 62.50": [(1, 50), (3, 62.5)],
    }
    assert lines(loss) == {"training, augmented: 0.500": [(1, 2), (2, 1), (3, 0.5)], "held out: 1.250": [(1, 1.5), (3, 1.25)]}
    assert lines(rate) == {"last step's: 0.001": [(1, 0.1), (2, 0.01), (3, 0.001)]}
    assert figure().get_suptitle() == "a title"
    assert [axes.get_ylabel() for axes in figure().axes] == ["top-1 accuracy, %", "loss, nats", "learning rate"]


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS[1:2], [{"epoch": 1.0}]])
def test_curves_of_a_run_that_has_hardly_begun(rows, figure):
    picture(plots.learning_curves(rows, "short"))
    assert all(tick == round(tick) for axes in figure().axes for tick in axes.get_xticks())
    assert len(figure().axes[0].lines) == (0 if not rows or "loss" not in rows[0] else 1 + ("val_loss" in rows[0]))


def test_long_runs_have_no_dots(figure):
    plots.learning_curves([{"epoch": float(i), "loss": 1 / i} for i in range(1, 100)], "long")
    assert figure().axes[1].lines[0].get_marker() in ("", "None")


def test_no_display_is_touched():
    plots.learning_curves(ROWS, "a title")
    import sys

    assert "matplotlib.pyplot" not in sys.modules or matplotlib.get_backend().lower() == "agg"


def test_a_rate_curve(figure):
    picture(plots.rate_curve([0.001, 0.01, 0.1], [3.0, 2.0, 4.0], 0.01, "rates"))
    (axes,) = figure().axes
    assert axes.get_xscale() == "log"
    assert lines(axes)["steepest: 0.01"] == [(0.01, 0), (0.01, 1)]
    assert list(axes.lines[0].get_ydata()) == [3, 2, 4]


COUNTS = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])


def test_a_matrix(figure):
    picture(plots.confusion_matrix(COUNTS, ("cat", "dog", "none"), "matrix"))
    axes, bar = figure().axes
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.8, 0.2, 0], [0.1, 0.9, 0], [0, 0, 0]])
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "8", (1, 0): "2", (0, 1): "1", (1, 1): "9"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "none"]
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0%", "1%", "5%", "20%", "50%", "100%"]


def test_numbers_can_be_read_on_their_colours(figure):
    """White on what is darker than half grey, black on the rest."""
    counts = np.array([[100 - share, share] for share in (20, 80)])
    plots.confusion_matrix(counts, ("a", "b"), "matrix")
    axes = figure().axes[0]
    image = axes.images[0]
    for text in axes.texts:
        column, row = text.get_position()
        red, green, blue, _ = image.cmap(image.norm(counts[row, column] / 100))
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        assert text.get_color() == ("w" if grey < 0.5 else "k")


def test_a_large_matrix_has_no_names(figure):
    data = plots.confusion_matrix(np.eye(100, dtype=int), [f"class {i}" for i in range(100)], "large")
    assert max(picture(data).shape) < 1500
    assert not figure().axes[0].texts


# the range test

RECIPE = Recipe(
    network="made up", dataset="made up", epochs=1, batch_size=4, momentum=0.0, nesterov=False, weight_decay=0.0,
    augmentation="none",
)  # fmt: skip
GREY = Split(
    np.full((12, 2, 2, 3), 255, np.uint8), np.array([0, 1, 0, 1] * 3, np.int32), ("a", "b"), "made up", (0.0,) * 3, (1.0,) * 3
)
PIXELS = 2 * 2 * 3
APART = 0.2  # of the two columns of weights, at first


def undecided():
    """Logits of all-ones images with either label as often: the best loss is log 2, at equal weights."""
    inputs = keras.Input((2, 2, 3))
    model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False)(keras.layers.Flatten()(inputs)))
    model.set_weights([np.tile(np.float32([APART, 0.0]), (PIXELS, 1))])
    return model


def by_hand(low, high, steps):
    """Rates and smoothed losses of gradient descent on the difference d of the logits, which moves by
    -2 * PIXELS * rate * (sigmoid(d) - q), q being the share of the first label in the batch."""
    rates, losses, mean, d = [], [], 0.0, APART * PIXELS
    for step in range(steps):
        begun = step - step % 3
        order = pipeline.epoch_order(RECIPE.seed, begun, 12)[4 * (step - begun) :][:4]
        q = np.mean(GREY.labels[order] == 0)
        rate = low * (high / low) ** (step / (steps - 1))
        mean = 0.98 * mean + 0.02 * (q * np.logaddexp(0, -d) + (1 - q) * np.logaddexp(0, d))
        smooth = mean / (1 - 0.98 ** (step + 1))
        if smooth > 4 * min([*losses, smooth]):
            break
        rates.append(rate)
        losses.append(smooth)
        d -= 2 * PIXELS * rate * (1 / (1 + np.exp(-d)) - q)
    return rates, losses


@pytest.mark.parametrize(("high", "ended"), [(0.1, False), (100.0, True)])
def test_a_range_test_by_hand(high, ended):
    """Three batches are all there is, so that it goes round; with rates up to 100 it stops at four times the best loss."""
    model = undecided()
    before = model.get_weights()
    rates, losses = lr_finder.range_test(model, GREY, RECIPE, 1e-4, high, steps=60)
    expected, smoothed = by_hand(1e-4, high, 60)
    assert (len(expected) < 60) == ended
    np.testing.assert_allclose(rates, expected, rtol=1e-9)
    np.testing.assert_allclose(losses, smoothed, rtol=1e-3 if ended else 1e-5)
    if ended:
        assert losses[-1] > 2 * min(losses)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_steepest_rate_of_a_known_curve():
    """A loss of 1 / (1 + (r / 0.01)^2) falls fastest by log r at r = 0.01."""
    rates = list(10.0 ** np.linspace(-6, 1, 141))
    losses = [1 / (1 + (rate / 0.01) ** 2) for rate in rates]
    assert lr_finder.steepest(rates, losses) == pytest.approx(0.01)


def test_what_is_steep_at_either_end_is_left_out():
    rates = list(10.0 ** np.linspace(-6, 1, 141))
    losses = [1 / (1 + (rate / 0.01) ** 2) for rate in rates]
    losses[0], losses[-1] = 50.0, -50.0
    assert lr_finder.steepest(rates, losses) == pytest.approx(0.01)


@pytest.mark.parametrize("losses", [[1.0] * 30, [float(i) for i in range(30)], [3.0, 2.0, 1.0]])
def test_a_loss_that_never_falls(losses):
    with pytest.raises(TrainingError, match="the loss falls at no rate that was tried; look at the data and the recipe"):
        lr_finder.steepest(list(np.geomspace(1e-6, 1, len(losses))), losses)


def test_a_range_test_needs_a_batch():
    with pytest.raises(TrainingError, match="batch_size 13 is above the 12 images; take a smaller one"):
        lr_finder.range_test(undecided(), GREY, dataclasses.replace(RECIPE, batch_size=13))
