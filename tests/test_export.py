"""The exporter: equal logits, 16-bit variables, a card, and nothing half-written."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from frenzy import export as exporter
from frenzy.export import CARD, ExportError, Preprocessing, export, fixed_images, round_weights
from frenzy.models.frenzy import build, unpruned_rows

PIXELS = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
NAMES = [f"name {i}" for i in range(10)]


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    small = build(unpruned_rows((4, 8), 1), num_classes=10)
    for variable in small.weights:  # statistics that are not the initial ones
        if "moving" in variable.name:
            variable.assign(np.random.default_rng(0).uniform(0.5, 1.5, variable.shape))
    round_weights(small, "float16")
    return small


def test_the_logits_survive(tmp_path, model):
    export(model, tmp_path / "m", PIXELS, NAMES)
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    for batch in (1, 5):
        images = tf.constant(np.random.default_rng(batch).normal(size=(batch, 32, 32, 3)), tf.float32)
        logits = loaded.signatures["serving_default"](images=images)["logits"]
        np.testing.assert_allclose(logits, model(images), atol=1e-4)


def test_classify(tmp_path, model):
    export(model, tmp_path / "m", PIXELS, NAMES)
    classify = tf.saved_model.load(str(tmp_path / "m")).signatures["classify"]
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    found = classify(images=tf.constant(images))
    probabilities = tf.nn.softmax(model((images / 255.0 - PIXELS.mean) / PIXELS.std)).numpy()
    best = np.argsort(-probabilities, axis=-1)[:, :5]
    np.testing.assert_array_equal(found["classes"], best)
    np.testing.assert_allclose(found["probabilities"], np.take_along_axis(probabilities, best, -1), atol=1e-5)
    assert found["names"][0, 0].numpy().decode() == NAMES[best[0, 0]]


def test_variables_take_16_bits(tmp_path, model):
    export(model, tmp_path / "m", PIXELS, NAMES)
    reader = tf.train.load_checkpoint(str(tmp_path / "m" / "variables" / "variables"))
    dtypes = {dtype for name, dtype in reader.get_variable_to_dtype_map().items() if "VARIABLE_VALUE" in name}
    assert dtypes == {tf.float16}
    stored = sum(np.prod(s) for name, s in reader.get_variable_to_shape_map().items() if "VARIABLE_VALUE" in name)
    assert stored == model.count_params()


def test_32_bits_on_request(tmp_path, model):
    model.weights[0].assign_add(tf.fill(model.weights[0].shape, 1e-6))
    with pytest.raises(
        ExportError, match=r"weight stem/kernel:0 is not exact in float16; call round_weights\(model, 'float16'\)"
    ):
        export(model, tmp_path / "m", PIXELS, NAMES)
    assert os.listdir(tmp_path) == []
    export(model, tmp_path / "m", PIXELS, NAMES, weight_dtype=None)


def test_rounding_refuses_overflow(model):
    model.weights[0].assign(tf.fill(model.weights[0].shape, 1e6))
    with pytest.raises(ExportError, match=r"weight stem/kernel:0 does not fit float16: it reaches 1e\+06"):
        round_weights(model, "float16")


def test_the_card(tmp_path, model):
    facts = {"dataset": "cifar10", "accuracy": {"top1": 0.12, "n": 10_000, "date": "2026-01-01"}}
    card = export(model, tmp_path / "m", PIXELS, NAMES, facts=facts)
    written = json.loads((tmp_path / "m" / CARD).read_text())
    assert written == json.loads(json.dumps(card))
    assert written["accuracy"] == facts["accuracy"]
    assert written["class_names"] == NAMES
    assert written["preprocessing"] == {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
    assert written["variables_sha256"] == exporter.variables_sha256(tmp_path / "m")
    assert written["counts"]["frenzy"]["unknown_nodes"] == 0
    assert written["counts"]["micronet"]["storage_bytes"] > 0
    np.testing.assert_allclose(written["golden_logits"], model(fixed_images((32, 32, 3)))[0], atol=1e-5)


def test_an_export_that_computes_something_else_is_deleted(tmp_path, model, monkeypatch):
    export(model, tmp_path / "m", PIXELS, NAMES)
    before = (tmp_path / "m" / CARD).read_bytes()
    monkeypatch.setattr(exporter, "_stored", lambda variable, dtype: tf.Variable(variable * 1.01))
    with pytest.raises(ExportError, match="gives other logits than the network: they differ by"):
        export(model, tmp_path / "m", PIXELS, NAMES)
    assert os.listdir(tmp_path) == ["m"]
    assert (tmp_path / "m" / CARD).read_bytes() == before


def test_a_new_export_replaces_the_old_one(tmp_path, model):
    export(model, tmp_path / "m", PIXELS, NAMES)
    export(model, tmp_path / "m", PIXELS, NAMES, facts={"recipe": "second"})
    assert json.loads((tmp_path / "m" / CARD).read_text())["recipe"] == "second"
    assert os.listdir(tmp_path) == ["m"]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path, model):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.tex").write_text("precious")
    with pytest.raises(ExportError, match="is there and is no SavedModel; it is left alone"):
        export(model, tmp_path / "m", PIXELS, NAMES)
    assert (tmp_path / "m" / "thesis.tex").read_text() == "precious"


def test_class_names_must_fit(tmp_path, model):
    with pytest.raises(ExportError, match="3 class names for 10 outputs"):
        export(model, tmp_path / "m", PIXELS, NAMES[:3])


def test_shared_layers_and_other_weights(tmp_path):
    """A layer called twice, biases, a depthwise conv, an integer weight: nothing of Frenzy's in it."""
    inputs = keras.Input((8, 8, 3))
    shared = keras.layers.Conv2D(3, 3, padding="same")
    x = keras.layers.DepthwiseConv2D(3)(shared(shared(inputs)))
    outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs, name="other")
    round_weights(model, "float16")
    card = export(model, tmp_path / "m", PIXELS, NAMES)
    assert card["counts"]["frenzy"]["parameters"] == (3 * 3 * 3 * 3 + 3) + (3 * 3 * 3 + 3) + (3 * 10 + 10)
