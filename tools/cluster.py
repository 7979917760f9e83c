"""tf.distribute strategies by name, and what can go wrong among workers. TF_CONFIG names them, as TensorFlow documents it."""

import contextlib
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator

from tools import cli

HINT = (
    'set it on every machine to {"cluster": {"worker": ["host0:port", "host1:port"]}, "task": {"type": "worker", "index": 0}}, '
    "each with an index of its own"
)


def strategy(name: str):
    """None, MirroredStrategy or MultiWorkerMirroredStrategy, which waits for all workers. Raises UsageError where the cluster
    is not described."""
    if name == "none":
        return None
    import tensorflow as tf

    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    workers, index = members(os.environ.get("TF_CONFIG", ""))
    print(f"worker {index} of {len(workers)}, {workers[index]}: waiting until all have started", file=sys.stderr)
    return tf.distribute.MultiWorkerMirroredStrategy()


def members(config: str) -> tuple[list[str], int]:
    """The workers' addresses, and the index of this one, of a TF_CONFIG. Raises UsageError."""
    try:
        described = json.loads(config)
        workers, task = described["cluster"]["worker"], described["task"]
        index = task["index"]
    except (ValueError, KeyError, TypeError):
        raise cli.UsageError(f"--strategy multiworker needs TF_CONFIG to name the cluster; {HINT}") from None
    if set(described["cluster"]) != {"worker"} or task.get("type") != "worker":
        raise cli.UsageError(f"TF_CONFIG: a task {task.get('type')!r} among {', '.join(described['cluster'])}; {HINT}")
    if not isinstance(index, int) or not 0 <= index < len(workers):
        raise cli.UsageError(f"TF_CONFIG: task index {index} of {len(workers)} workers; {HINT}")
    return workers, index


def scope(strategy):
    """The strategy's scope, or nothing."""
    return strategy.scope() if strategy else contextlib.nullcontext()


def is_chief(strategy) -> bool:
    """Whether this process writes the run's folder: alone, or worker 0."""
    resolver = strategy.cluster_resolver if strategy else None
    return resolver is None or not resolver.task_id


def check_alike(strategy, begun_with: str) -> None:
    """Raises UsageError where workers did not begin with the same: recipe, data and checkpoint, as a string."""
    if strategy is None:
        return
    import tensorflow as tf

    own = tf.constant(zlib.crc32(begun_with.encode()), tf.int64)
    total = tf.function(lambda: strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(lambda: tf.identity(own)), axis=None))
    if int(total()) != int(own) * strategy.num_replicas_in_sync:
        raise cli.UsageError(
            f"the workers did not begin alike; this one has {begun_with}: give all the same recipe, data and flags, and a "
            "--run_dir that they share"
        )


@contextlib.contextmanager
def lost_workers() -> Iterator[None]:
    """A worker that is gone ends the others: in one line, as soon as TensorFlow tells (heartbeats stop for ten seconds or so)."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.UnavailableError as error:
        remote = error.message.partition("aborted by:")[2]  # before it TensorFlow names this worker's own device
        found = re.search(r"/job:worker(?:/replica:\d+)?/task:(\d+)", remote)
        raise cli.UsageError(
            f"{f'worker {found[1]}' if found else 'another worker'} ended or cannot be reached; see what it said, then start "
            "every worker again with --resume"
        ) from None
