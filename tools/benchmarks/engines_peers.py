"""One network on every engine that is installed, each the way its own documentation runs it: peers of standalone_inference.py.

A peer is set up as a worker's main: it loads the network, answers once for its logits to be checked, then waits for its turns.
"""

import contextlib
import dataclasses
import importlib.util
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tools.benchmarks.workers import Turns

AUTO, FLOAT = "ours", "ours, float32"
PRECISIONS = {AUTO: None, FLOAT: "float32"}  # what ours may choose from
SIDE = 1536  # of the matrices
Run = Callable[[], np.ndarray]  # a call on images that lie ready -> logits (n, classes)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is measured: a SavedModel, images a call, threads, and the file that a worker writes its facts to.

    `sample` is a .npy file of normalised images to check bfloat16 on, or none.
    """

    folder: str
    batch: int
    threads: int
    facts: str
    sample: str | None = None


@dataclasses.dataclass(frozen=True)
class Peer:
    """A way to run a network. `make(setting, images)` sets it up; `packages` are what it needs."""

    name: str
    precision: str
    make: Callable[[Setting, np.ndarray], Run]
    packages: tuple[str, ...]

    @property
    def installed(self) -> bool:
        return all(importlib.util.find_spec(package) for package in self.packages)


def made_up(setting: Setting, count: int) -> np.ndarray:
    """The made-up images that standalone_inference.py checks engines by, float32 (count, h, w, 3)."""
    import standalone_inference as script

    return script.Network(pathlib.Path(setting.folder)).made_up(count)


def model_of(folder: str):
    """The tf_keras network that an exported SavedModel is of, with its weights."""
    from frenzy import export, models

    card = export.read_card(folder)
    name = card["training"]["recipe"]["network"]
    model = models.build(name, len(card["class_names"]), tuple(card["input_shape"]))
    fresh = models.transfer(model, export.stored_weights(folder))
    if fresh:
        raise ValueError(f"{folder} is no plain {name}: it has no {', '.join(fresh[:3])}")
    return model


def chosen(setting: Setting, precision: str | None):
    """The engine that standalone_inference.py chooses for such calls, and why."""
    import standalone_inference as script

    network = script.Network(pathlib.Path(setting.folder))
    sample = np.load(setting.sample) if setting.sample else np.zeros((0, *network.image_shape), np.float32)
    wanted = script.Wanted(tuple(script.RUNTIMES), precision, setting.threads, setting.batch)
    return script.choose(network, wanted, sample)


def choose(turns: Turns, setting: Setting, precision: str | None) -> None:
    """A worker's main that times the engines and leaves the choice in the cache, so that whoever is measured loads one alone."""
    chosen(setting, precision)
    turns.take()


def ours(setting: Setting, images: np.ndarray, precision: str | None = None) -> Run:
    """What standalone_inference.py runs for such calls, once the choice is known."""
    engine, choice = chosen(setting, precision)
    note(setting, {"plan": choice["engine"], "left_out": choice["left_out"]})
    return lambda: engine.logits(images)


def ours_float(setting: Setting, images: np.ndarray) -> Run:
    return ours(setting, images, PRECISIONS[FLOAT])


def tensorflow(setting: Setting, images: np.ndarray) -> Run:
    """The SavedModel's own signature."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(setting.threads)
    tf.config.threading.set_inter_op_parallelism_threads(setting.threads)
    loaded = tf.saved_model.load(setting.folder)
    serve = loaded.signatures["serving_default"]
    ready = tf.constant(images)

    def run(_owner=loaded) -> np.ndarray:
        return serve(images=ready)["logits"].numpy()

    return run


def litert(setting: Setting, images: np.ndarray) -> Run:
    """One interpreter of so many threads over the whole batch."""
    from ai_edge_litert.interpreter import Interpreter

    import standalone_inference as script

    file = script.Network(pathlib.Path(setting.folder)).cache.folder / "float32.tflite"
    if not file.is_file():
        raise ValueError("TensorFlow's converter refuses the network")
    interpreter = Interpreter(model_path=str(file), num_threads=setting.threads)
    into, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.resize_tensor_input(into, images.shape)
    interpreter.allocate_tensors()

    def run() -> np.ndarray:
        interpreter.set_tensor(into, images)
        interpreter.invoke()
        return interpreter.get_tensor(out)

    return run


def openvino(setting: Setting, images: np.ndarray, precision: str = "f32") -> Run:
    """The SavedModel, reshaped to the batch, compiled for so many threads."""
    from openvino import Core, Tensor

    core = Core()
    model = core.read_model(setting.folder)
    model.reshape(list(images.shape))
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": setting.threads}
    request = core.compile_model(model, "CPU", options).create_infer_request()

    def run() -> np.ndarray:
        request.set_input_tensor(Tensor(images, shared_memory=True))  # every call brings images of its own, as with the others
        request.infer()
        return request.get_output_tensor().data.copy()

    return run


def openvino_bfloat16(setting: Setting, images: np.ndarray) -> Run:
    return openvino(setting, images, "bf16")


def onnxruntime(setting: Setting, images: np.ndarray) -> Run:
    """The network rebuilt from the same arrays; images lie channels first."""
    import onnxruntime as ort

    from tools.benchmarks import onnx_peer

    options = ort.SessionOptions()
    options.intra_op_num_threads = setting.threads
    session = ort.InferenceSession(onnx_peer.convert(model_of(setting.folder)), options, providers=["CPUExecutionProvider"])
    ready = {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))}
    return lambda: session.run(None, ready)[0]


def pytorch(setting: Setting, images: np.ndarray, bfloat16: bool = False) -> Run:
    """Eager, channels last, rebuilt from the same arrays; bfloat16 by autocast."""
    import torch

    from tools.benchmarks import torch_peer

    torch.set_num_threads(setting.threads)
    network = torch_peer.convert(model_of(setting.folder), images)
    ready = torch_peer.pictures(images)

    def run() -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return network(ready).float().numpy()

    return run


def pytorch_bfloat16(setting: Setting, images: np.ndarray) -> Run:
    return pytorch(setting, images, bfloat16=True)


PEERS = (
    Peer(AUTO, "any", ours, ("tensorflow",)),
    Peer(FLOAT, "float32", ours_float, ("tensorflow",)),
    Peer("TensorFlow", "float32", tensorflow, ("tensorflow",)),
    Peer("LiteRT", "float32", litert, ("ai_edge_litert",)),
    Peer("OpenVINO", "float32", openvino, ("openvino",)),
    Peer("OpenVINO bfloat16", "bfloat16", openvino_bfloat16, ("openvino",)),
    Peer("ONNX Runtime", "float32", onnxruntime, ("onnx", "onnxruntime")),
    Peer("PyTorch", "float32", pytorch, ("torch",)),
    Peer("PyTorch bfloat16", "bfloat16", pytorch_bfloat16, ("torch",)),
)


def prepare(turns: Turns, setting: Setting) -> None:
    """A worker's main that fills the cache: the conversion, and TensorFlow's answers to check by."""
    import standalone_inference as script

    network = script.Network(pathlib.Path(setting.folder), threads=setting.threads)
    network.reference()
    with contextlib.suppress(script.EngineError):
        network.cache.file("float32.tflite", network.classifier.converted)
    if setting.sample:
        network.answers(np.load(setting.sample))
    turns.take()


def gemm(turns: Turns, precision: str, threads: int) -> None:
    """A worker's main: a step multiplies two square matrices of SIDE rows, by TensorFlow's oneDNN."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    left, right = (tf.cast(tf.random.stateless_normal((SIDE, SIDE), (seed, 0)), precision) for seed in (1, 2))
    multiply = tf.function(tf.linalg.matmul)
    multiply(left, right)
    while True:
        turns.take()
        multiply(left, right).numpy()


def note(setting: Setting, facts: dict[str, Any]) -> None:
    """Adds to the worker's facts."""
    path = pathlib.Path(setting.facts)
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(known | facts))


def agreement(make: Callable[[Setting, np.ndarray], Run], setting: Setting) -> float | None:
    """The share of the sample's images that narrower arithmetic answers as TensorFlow does; None without a sample."""
    import standalone_inference as script

    if not setting.sample:
        return None
    sample = np.load(setting.sample)
    expected = script.Network(pathlib.Path(setting.folder)).answers(sample).argmax(1)
    size = next(size for size in (100, 50, 1) if len(sample) % size == 0)
    images = np.array(sample[:size])  # what it is set up on, and filled anew for every call
    found = []
    run = make(dataclasses.replace(setting, batch=size), images)
    for begin in range(0, len(sample), size):
        images[:] = sample[begin : begin + size]
        found.append(run().argmax(1))
    return float((np.concatenate(found) == expected).mean())


def main(turns: Turns, name: str, setting: Setting) -> None:
    """A worker's main: a step is a call of `setting.batch` images. It says first how far it is off TensorFlow: its logits in
    float32, its answers in narrower arithmetic."""
    import standalone_inference as script

    peer = next(peer for peer in PEERS if peer.name == name)
    images = made_up(setting, setting.batch)
    run = peer.make(setting, images)
    if peer.precision == "float32":
        network = script.Network(pathlib.Path(setting.folder))
        expected, found = network.reference(), run()
        rows = min(len(expected), len(found))
        off = np.abs(found[:rows] - expected[:rows]).max() / np.abs(expected).max()
        note(setting, {"off": float(off)})
    elif peer.precision == "bfloat16":
        note(setting, {"agreement": agreement(peer.make, setting)})
    while True:
        turns.take()
        run()
