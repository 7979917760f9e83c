"""frenzy/litert.py and tools/export.py --tflite: the file computes what the network computes, and the report adds up."""

import dataclasses
import json
from pathlib import Path

import flatbuffers
import numpy as np
import programs
import pytest
import tensorflow as tf
import tf_keras as keras

from frenzy import export, litert
from frenzy.accounting import account, read
from tools import cli

ROOT = Path(cli.__file__).parents[1]
PIXELS = export.Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
TERNARY = "ternary"


def network():
    """Three convolutions of 432, 1,152 and 4,608 weights, and a classifier of 320."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((32, 32, 3), name="images")
    for number, width in enumerate((16, 8, 64)):
        x = keras.layers.Conv2D(width, 3, 2, "same", use_bias=False, name=f"conv{number}")(x)
        x = keras.layers.ReLU(name=f"relu{number}")(keras.layers.BatchNormalization(name=f"bn{number}")(x))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(5, use_bias=False, name="logits")(x), name="small")


KERNELS = 3 * 3 * (3 * 16 + 16 * 8 + 8 * 64) + 64 * 5
CODED = 3 * 3 * (16 * 8 + 8 * 64)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{"plain", TERNARY: an exported network}; in the latter the second and third kernel hold -1/8, 0 and 1/8."""
    found = {}
    for name in ("plain", TERNARY):
        model, random = network(), np.random.default_rng(0)
        if name == TERNARY:
            for kernel in (model.get_layer("conv1").kernel, model.get_layer("conv2").kernel):
                kernel.assign(np.sign(np.round(random.normal(0, 0.6, kernel.shape))) / 8)
        export.round_weights(model, "float16")
        found[name] = tmp_path_factory.mktemp(name) / "SavedModel"
        export.export(model, found[name], PIXELS, list("abcde"), facts={"dataset": "synthetic10"})
    return found


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(40, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def files(folders, images):
    """{(network, int8): the content of its TFLite file}."""
    made = {(name, False): litert.convert(folder) for name, folder in folders.items()}
    return made | {(TERNARY, True): litert.convert(folders[TERNARY], images)}


def logits_of(folder, images):
    loaded = tf.saved_model.load(str(folder))
    return loaded.signatures["serving_default"](images=tf.constant(images))["logits"].numpy()


def test_float32_gives_the_networks_logits_at_any_batch(folders, files, images):
    expected = logits_of(folders["plain"], images)
    run = litert.Runner(files["plain", False], threads=1)
    for batch in (1, 7, 40):
        litert.check(run(images[:batch]), expected[:batch])
        np.testing.assert_allclose(run(images[:batch]), expected[:batch], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("change", "said"), [(0.03, "are off the network's by 0.002 of"), (np.nan, "by nan of the largest")])
def test_other_logits_are_refused(change, said):
    expected = np.array([[-15.0, 1.0], [2.0, 3.0]])
    litert.check(expected + [[0.0, 0.0], [0.0, 0.0149]], expected)
    with pytest.raises(litert.LitertError, match=said):
        litert.check(expected + [[0.0, change], [0.0, 0.0]], expected)


def test_every_kernel_is_in_the_file_at_its_width(files):
    for int8, dtype, width in ((False, "float32", 4), (True, "int8", 1)):
        stored = litert.constants(files[TERNARY, int8])
        kernels = [each for each in stored if each.elements in (432, 1_152, 4_608, 320)]
        assert [each.dtype for each in kernels] == [dtype] * 4
        assert sum(each.stored_bytes for each in kernels) == width * KERNELS


def test_int8_answers_mostly_as_the_network_does(folders, files, images):
    expected, found = logits_of(folders[TERNARY], images), litert.Runner(files[TERNARY, True])(images)
    assert found.dtype == np.float32
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.6


@pytest.mark.parametrize(("int8", "dtype", "width"), [(False, "float32", 4), (True, "int8", 1)])
def test_the_report_adds_up_and_names_what_did_not_shrink(folders, files, int8, dtype, width):
    content, folder = files[TERNARY, int8], folders[TERNARY]
    report = account(read(folder), "micronet")
    found = litert.shrinkage(content, folder, report)
    assert found.file_bytes == len(content) > sum(found.constants.values()) >= width * KERNELS
    assert found.claimed_bits == report.totals.storage_bits
    assert found.variable_bytes == (folder / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert [(each.name, each.dtype, each.stored_bytes) for each in found.kept] == [
        ("small/conv1/Conv2D", dtype, width * 1_152), ("small/conv2/Conv2D", dtype, width * 4_608)
    ]  # fmt: skip
    rows = {row.name: row for row in report.rows}
    assert all(each.claimed_bits == rows[each.name].storage_bits < 8 * each.stored_bytes / 2 for each in found.kept)
    text = litert.text(found)
    assert "not smaller: 2 kernels that are counted as codes" in text
    assert f"stay {dtype} in a TFLite file, which has no such codes: {width * CODED:,} bytes where" in text
    assert f"{len(content):>12,}  bytes of the TFLite file" in text


def test_operations_are_read_with_their_shapes(files):
    found = litert.operations(files["plain", False])
    convs = [each for each in found if each[0] == "CONV_2D"]
    assert [(read[:2], made) for _, read, made in convs] == [
        (((1, 32, 32, 3), (16, 3, 3, 3)), ((1, 16, 16, 16),)),
        (((1, 16, 16, 16), (8, 3, 3, 16)), ((1, 8, 8, 8),)),
        (((1, 8, 8, 8), (64, 3, 3, 8)), ((1, 4, 4, 64),)),
    ]
    assert [name for name, _, _ in found] == ["CONV_2D"] * 3 + ["MEAN", "FULLY_CONNECTED"]


def test_equal_tensors_are_stored_once():
    from tensorflow.lite.python import schema_py_generated as schema

    model, graph = schema.ModelT(), schema.SubGraphT()
    buffer = schema.BufferT()
    buffer.data = np.zeros(8, np.uint8)
    model.buffers, model.subgraphs, graph.tensors = [schema.BufferT(), buffer], [graph], []
    for name in ("a", "b"):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, [2], 1
        graph.tensors.append(tensor)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    content = bytes(builder.Output())
    assert litert.constants(content) == [litert.Constant(name, 1, "float32", 2, 8) for name in "ab"]


def test_dense_weights_are_no_codes(folders, files):
    found = litert.shrinkage(files["plain", False], folders["plain"], account(read(folders["plain"]), "micronet"))
    assert found.kept == ()
    assert "not smaller" not in litert.text(found)


def test_the_text_is_of_bytes():
    kept = litert.Kept("conv", "2 bits + 3 values", 80, "float32", 160)
    found = litert.Shrinkage(1_000, {"int32": 8, "float32": 900}, 500, "micronet", 2_000, (kept, kept))
    assert litert.text(found).splitlines() == [
        "         500  bytes of the SavedModel's variables",
        "         250  bytes by the accountant (micronet)",
        "       1,000  bytes of the TFLite file: 2.00 of the variables, 4.00 of what is counted",
        "         900    of them float32",
        "           8    of them int32",
        "          92    of them graph, names and quantization",
        "not smaller: 2 kernels that are counted as codes (2 bits + 3 values) stay float32 in a TFLite file, which has no such "
        "codes: 320 bytes where 20 are counted; tools/export.py --packed writes them so",
    ]
    assert "not smaller" not in litert.text(dataclasses.replace(found, kept=()))


def test_bad_input_is_one_line(tmp_path, folders, images):
    with pytest.raises(litert.LitertError, match=r"is no SavedModel: it holds no saved_model.pb; name the folder that does"):
        litert.convert(tmp_path)
    with pytest.raises(litert.LitertError, match="int8 needs images to calibrate on, and none came"):
        litert.convert(folders["plain"], images[:0])
    with pytest.raises(litert.LitertError, match="LiteRT refuses the file"):
        litert.Runner(b"no flatbuffer" * 100)
    module = tf.Module()
    spec = tf.TensorSpec((None, 2, 2), tf.float32)
    tf.saved_model.save(
        module, str(tmp_path / "m"), signatures=tf.function(lambda x: {"y": tf.linalg.det(x)}, input_signature=[spec])
    )
    with pytest.raises(litert.LitertError, match=f"TensorFlow's converter refuses {tmp_path}/m"):
        litert.convert(tmp_path / "m")


# ---- the tool


def export_tool(*arguments):
    return programs.start("tools/export.py", *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("int8", [False, True])
def test_export_writes_scores_and_reports(folders, tmp_path, int8):
    path = tmp_path / "net.tflite"
    done = export_tool("--load_folder", folders[TERNARY], "--tflite", path, *["--int8"] * int8)
    assert (done.returncode, done.stderr) == (0, "")
    card = json.loads((folders[TERNARY] / export.CARD).read_text())
    assert card["dataset"] == "synthetic10"
    first, *rest = done.stdout.splitlines()
    assert first.startswith(f"wrote {path}: top-1 ")
    assert "test images through LiteRT; the SavedModel has " in first
    assert "not smaller" in rest[-1]
    assert f"{path.stat().st_size:,}  bytes of the TFLite file" in done.stdout


def test_flags_that_do_not_go_together(folders, tmp_path):
    done = export_tool("--load_folder", folders["plain"], "--int8")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    done = export_tool("--int8")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--int8 goes with --tflite" in done.stderr
    done = export_tool("--load_folder", tmp_path, "--tflite", tmp_path / "x")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "export the network with tools/export.py" in done.stderr
