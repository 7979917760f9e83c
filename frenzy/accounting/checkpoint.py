"""The checkpoint beside a saved graph: which key holds which variable, and the values, if the data file is there."""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_object_graph_pb2, trackable_object_graph_pb2

PREFIX = pathlib.Path("variables", "variables")
OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"


@dataclasses.dataclass(frozen=True)
class Keys:
    """Checkpoint keys by the saved object's id, and by the variable's name."""

    by_object: Mapping[int, str]
    by_name: Mapping[str, str]


def _open(folder: pathlib.Path) -> "tf.train.CheckpointReader | None":
    """The checkpoint's reader, or None where it is not there in full."""
    prefix = folder / PREFIX
    if not prefix.with_suffix(".index").is_file() or not any(prefix.parent.glob("variables.data-*")):
        return None
    try:
        return tf.train.load_checkpoint(str(prefix))
    except (tf.errors.OpError, ValueError, RuntimeError):
        return None


def checkpoint_keys(folder: pathlib.Path, objects: saved_object_graph_pb2.SavedObjectGraph) -> Keys:
    """Walks the saved objects and the checkpoint's objects side by side, by the names of their children."""
    reader = _open(folder)
    if reader is None:
        return Keys({}, {})
    shapes = reader.get_variable_to_shape_map()
    by_name = {name: name for name in shapes}
    if OBJECTS not in shapes or not objects.nodes:
        return Keys({}, by_name)
    stored = trackable_object_graph_pb2.TrackableObjectGraph()
    stored.ParseFromString(reader.get_tensor(OBJECTS))
    by_object: dict[int, str] = {}
    waiting, seen = [(0, 0)], {(0, 0)}
    while waiting:
        saved_id, stored_id = waiting.pop()
        for attribute in stored.nodes[stored_id].attributes:
            if attribute.name == "VARIABLE_VALUE":
                by_object[saved_id] = attribute.checkpoint_key
                by_name.setdefault(attribute.full_name, attribute.checkpoint_key)
        children = {child.local_name: child.node_id for child in stored.nodes[stored_id].children}
        for child in objects.nodes[saved_id].children:
            pair = (child.node_id, children.get(child.local_name, -1))
            if pair[1] >= 0 and pair not in seen:
                seen.add(pair)
                waiting.append(pair)
    return Keys(by_object, by_name)


class Values:
    """The variables' values, read when asked for; None for every one where the data is missing or damaged."""

    def __init__(self, folder: str):
        self.reader = _open(pathlib.Path(folder))

    def __call__(self, key: str | None) -> np.ndarray | None:
        if self.reader is None or key is None:
            return None
        try:
            return self.reader.get_tensor(key)
        except (tf.errors.OpError, ValueError, RuntimeError):
            return None
