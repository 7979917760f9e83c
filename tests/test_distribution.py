"""A batch spread over replicas trains as it would in one place, and what is left of a cluster whose worker was killed.

Run as a program, this file trains on one and on two logical CPU devices, which must be there before TensorFlow starts.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from frenzy import models
from frenzy.data import synthetic
from frenzy.data.split import hold_out, make
from frenzy.layers.dropout import Dropout
from frenzy.training import fit, run
from frenzy.training.callbacks import read_history
from frenzy.training.recipe import Recipe
from tools import cli, cluster

ROOT = pathlib.Path(cluster.__file__).parents[1]
BASE = Recipe(network="made up", dataset="synthetic10", epochs=2, batch_size=24, peak_lr=0.1, low_momentum=0.8)
CASES = {
    "crop_flip": {},
    "fastai, averaged weights": {"augmentation": "fastai", "ema": 0.5},
    "parts": {"accumulate": 2, "augmentation": "crop_flip_cutout"},  # without batch statistics, which are a part's own
}
NORMS = [case for case in CASES if case != "parts"]


# two devices of one machine


def network(norms: bool):
    """Two convolutions and a dense layer; 225 and 49 values an image go into the batch statistics."""
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((32, 32, 3))
    for number in (1, 2):
        x = keras.layers.Conv2D(8, 3, strides=2, use_bias=not norms, name=f"conv{number}")(x)
        if norms:
            x = keras.layers.BatchNormalization(momentum=0.9, name=f"bn{number}")(x)
            x = Dropout(0.3, name=f"dropout{number}")(x)
        x = keras.layers.ReLU()(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="dense")(keras.layers.GlobalAveragePooling2D()(x)))


def trained(case: str, strategy, synchronized: bool = True) -> dict[str, np.ndarray]:
    """Name -> weight after two epochs of four steps."""
    images, labels = synthetic.generate(10, 120)
    split, held = hold_out(make(images, labels, synthetic.class_names(10)), 20)
    recipe = Recipe(**{**vars(BASE), **CASES[case]})
    with cluster.scope(strategy):
        model = network(norms=case in NORMS)
        if strategy and synchronized:
            model = fit.with_synchronized_norms(model)
    with tempfile.TemporaryDirectory() as folder:
        record = run.Run(pathlib.Path(folder) / "run", recipe, {"data_sha256": split.sha256}, resume=False)
        fit.fit(model, split, recipe, record, held=held, strategy=strategy, save_every=3)
    return {v.name.split(":")[0]: v.numpy() for v in model.weights}


def main(path: str) -> None:
    """Trains every case on one device and on two, and writes all weights as 'case|devices|name'."""
    (processor,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    tf.config.experimental.enable_op_determinism()
    both = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])  # a second one would number its collectives as the first does
    found = {
        f"{case}|{count}|{name}": value
        for case in CASES
        for count, strategy in ((1, None), (2, both))
        for name, value in trained(case, strategy).items()
    }
    apart = trained("crop_flip", both, synchronized=False)
    np.savez(path, **found, **{f"crop_flip|apart|{name}": value for name, value in apart.items()})


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    """{case: {devices: {name: weight}}}"""
    path = tmp_path_factory.mktemp("devices") / "weights.npz"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, __file__, path], env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-3000:]
    found: dict = {}
    with np.load(path) as stored:
        for key in stored.files:
            case, count, name = key.split("|")
            found.setdefault(case, {}).setdefault(count, {})[name] = stored[key]
    return found


def assert_equal_but_for_rounding(ours, theirs, atol, rtol_of_variances):
    """Variances: synchronized ones are divided by the n values of a channel, those of the fused kernel by n - 1."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        rtol = rtol_of_variances if name.endswith("moving_variance") else 0
        np.testing.assert_allclose(ours[name], theirs[name], atol=atol, rtol=rtol, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_devices_train_as_one(devices, case):
    one, two = devices[case]["1"], devices[case]["2"]
    assert_equal_but_for_rounding(one, two, atol=1e-5, rtol_of_variances=1 / (24 * 49 - 1))
    fresh = network(norms=case in NORMS)
    moved = [np.abs(one[v.name.split(":")[0]] - v.numpy()).max() for v in fresh.trainable_variables]
    assert min(moved) > 1e-3


@pytest.mark.slow
def test_without_synchronized_norms_they_do_not(devices):
    one, apart = devices["crop_flip"]["1"], devices["crop_flip"]["apart"]
    assert np.abs(one["conv1/kernel"] - apart["conv1/kernel"]).max() > 1e-4


def test_synchronized_norms_are_the_same_network():
    model = network(norms=True)
    clone = fit.with_synchronized_norms(model)
    assert [layer.name for layer in clone.layers] == [layer.name for layer in model.layers]
    assert all(layer.synchronized for layer in clone.layers if "bn" in layer.name)
    for ours, theirs in zip(clone.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# the cluster's description


def config(cluster_of=None, **task):
    return json.dumps({"cluster": cluster_of or {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1} | task})


def test_members_of_a_cluster():
    assert cluster.members(config()) == (["a:1", "b:2"], 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "--strategy multiworker needs TF_CONFIG to name the cluster; set it on every machine to"),
        ("{", "needs TF_CONFIG to name the cluster"),
        ("[]", "needs TF_CONFIG to name the cluster"),
        ('{"cluster": {}}', "needs TF_CONFIG to name the cluster"),
        (config(index=2), "TF_CONFIG: task index 2 of 2 workers; set it"),
        (config(index=-1), "TF_CONFIG: task index -1 of 2 workers"),
        (config(index="0"), "TF_CONFIG: task index 0 of 2 workers"),
        (config(type="ps"), "TF_CONFIG: a task 'ps' among worker; set it"),
        (config({"worker": ["a:1", "b:2"], "chief": ["c:3"]}), "TF_CONFIG: a task 'worker' among worker, chief"),
    ],
)
def test_clusters_that_are_not_described(text, said):
    with pytest.raises(cli.UsageError, match=said):
        cluster.members(text)


def test_without_a_strategy_a_process_is_alone():
    assert cluster.strategy("none") is None
    assert cluster.is_chief(None)
    with cluster.scope(None):
        cluster.check_alike(None, "anything")


@pytest.mark.parametrize(("index", "chief"), [(0, True), (1, False), (None, True)])
def test_worker_0_is_the_chief(index, chief):
    assert cluster.is_chief(types.SimpleNamespace(cluster_resolver=types.SimpleNamespace(task_id=index))) == chief


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            "Graph execution error:\nDetected at node CollectiveReduceV2_38\nCollective ops is aborted by: recvmsg:Connection "
            "reset by peer\nAdditional GRPC error information from remote target /job:worker/replica:0/task:1 while calling",
            "worker 1 ended",
        ),
        (
            "{{function_node __wrapped__CollectiveBcastSend_device_/job:worker/replica:0/task:0/device:CPU:0}} Collective ops is "
            "aborted by: Error reported from /job:worker/task:12: The following tasks are unhealthy",
            "worker 12 ended",
        ),
        ("Failed to send RPC to coordination service.", "another worker ended"),
    ],
)
def test_a_worker_that_is_gone_is_named(told, said):
    expected = f"^{said} or cannot be reached; .* start every worker again with --resume$"
    with pytest.raises(cli.UsageError, match=expected), cluster.lost_workers():
        raise tf.errors.UnavailableError(None, None, told)


def test_other_errors_are_no_lost_workers():
    with pytest.raises(tf.errors.InvalidArgumentError, match="shapes"), cluster.lost_workers():
        raise tf.errors.InvalidArgumentError(None, None, "shapes")


# two processes

FLAGS = [
    "--recipe=synthetic10", "--network=resnet_20", "--image_size=8", "--batch_size=1000", "--epochs=2", "--save_every=3",
    "--peak_lr=0.0001",
]  # fmt: skip
STEPS = 2 * 9  # 10,000 images less the recipe's 1,000 held out
ENDS_WITHIN = 120  # seconds from a worker's end to that of the others


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def workers(folder, *more, each=((), ())):
    """Two processes of tools/train.py on loopback, which nothing outlives; worker i writes its stderr to folder/i.txt."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    command = [
        sys.executable,
        str(ROOT / "tools" / "train.py"),
        *FLAGS,
        "--strategy=multiworker",
        f"--run_dir={folder / 'run'}",
    ]
    started = []
    try:
        for index in range(2):
            environment = {**os.environ, "TF_CONFIG": config({"worker": addresses}, index=index)}
            with (folder / f"{index}.txt").open("w") as log:
                process = subprocess.Popen(
                    [*command, *more, *each[index]], env=environment, stdout=subprocess.DEVNULL, stderr=log
                )
            started.append(process)
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def finish(folder, processes):
    for index, process in enumerate(processes):
        assert process.wait(600) == 0, (folder / f"{index}.txt").read_text()[-3000:]


def weights_in(path):
    """Name in the checkpoint -> weight of the network."""
    reader = tf.train.load_checkpoint(str(path))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/") and ".OPTIMIZER" not in name]
    return {name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): reader.get_tensor(name) for name in names}


def last_weights(folder):
    path = tf.train.latest_checkpoint(str(folder / "run" / "checkpoints"))
    assert path.endswith(f"ckpt-{STEPS}")
    return weights_in(path)


def first_weights(model, folder):
    return weights_in(tf.train.Checkpoint(model=model).write(str(folder / "fresh")))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folder of a run on two workers that nothing disturbed."""
    folder = tmp_path_factory.mktemp("pair")
    with workers(folder) as processes:
        finish(folder, processes)
    return folder


@pytest.mark.slow
def test_two_workers_train_as_one_process(pair, tmp_path):
    """Their gradients differ by 1 % or less, as float32's differ from float64's: ReLUs of this network flip by rounding."""
    command = [sys.executable, str(ROOT / "tools" / "train.py"), *FLAGS, f"--run_dir={tmp_path / 'run'}"]
    subprocess.run(command, check=True, capture_output=True)
    two, one = last_weights(pair), last_weights(tmp_path)
    assert_equal_but_for_rounding(two, one, atol=1e-4, rtol_of_variances=1 / (1000 * 2 * 2 - 1))
    keras.utils.set_random_seed(0)
    begun = first_weights(models.build("resnet_20", 10, (8, 8, 3)), tmp_path)
    kernels = [name for name in one if name.endswith("/kernel")]
    assert len(kernels) == 20
    for name in kernels:
        assert np.linalg.norm(two[name] - one[name]) < 0.03 * np.linalg.norm(one[name] - begun[name]), name
    ours, theirs = (read_history(folder / "run" / "history.csv") for folder in (pair, tmp_path))
    assert [row["epoch"] for row in ours] == [1, 2]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.pop("images_per_second") > 0
        assert mine == pytest.approx({name: other[name] for name in mine}, rel=0.01, abs=0.003)


@pytest.mark.slow
def test_the_chief_alone_leaves_files(pair):
    assert sorted(path.name for path in (pair / "run").iterdir()) == [
        "checkpoints",
        "curves.png",
        "events",
        "history.csv",
        "run.json",
    ]
    assert not any(line.startswith("step") for line in (pair / "1.txt").read_text().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0])
def test_a_killed_worker_ends_the_other_and_both_go_on(pair, tmp_path, victim):
    with workers(tmp_path) as processes:
        first = tmp_path / "run" / "checkpoints" / "ckpt-3.index"
        until = time.monotonic() + 600
        while not first.exists() and time.monotonic() < until and all(process.poll() is None for process in processes):
            time.sleep(0.02)
        assert first.exists(), [(tmp_path / f"{index}.txt").read_text()[-3000:] for index in (0, 1)]
        processes[victim].send_signal(signal.SIGKILL)
        assert processes[1 - victim].wait(ENDS_WITHIN) == 2
    said = (tmp_path / f"{1 - victim}.txt").read_text()
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("train.py: ")
    assert "--resume" in said.splitlines()[-1]
    with workers(tmp_path, "--resume") as processes:
        finish(tmp_path, processes)
    ours, theirs = last_weights(tmp_path), last_weights(pair)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.slow
def test_workers_that_do_not_begin_alike(tmp_path):
    with workers(tmp_path, each=((), ("--seed=1",))) as processes:
        assert [process.wait(600) for process in processes] == [2, 2]
    said = [(tmp_path / f"{index}.txt").read_text() for index in range(2)]
    assert not any("Traceback" in text for text in said)
    assert any("the workers did not begin alike; this one has python tools/train.py" in text for text in said)


if __name__ == "__main__":
    main(sys.argv[1])
