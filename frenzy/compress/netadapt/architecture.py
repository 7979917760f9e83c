"""A network that no builder makes: its functional config as JSON and its weights, whole or not there."""

import json
import os
import pathlib
import shutil
import zipfile

import numpy as np
import tf_keras as keras

from frenzy.compress.tensors import CompressError
from frenzy.layers import activations, channels, cond_conv, depthwise, dropout, squeeze_excite, subsample

ARCHITECTURE, WEIGHTS = "architecture.json", "weights.npz"
LAYERS = (
    activations,
    channels,
    cond_conv,
    depthwise,
    dropout,
    squeeze_excite,
    subsample,
)  # Keras knows them once they are here


def write_architecture(model: keras.Model, path: str | os.PathLike) -> None:
    """The network without its weights, to a temporary name first."""
    target = pathlib.Path(path)
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps(json.loads(model.to_json()), indent=1) + "\n")
    os.replace(temporary, target)


def read_architecture(path: str | os.PathLike) -> keras.Model:
    """The network with fresh weights. Raises CompressError where the file is none of these."""
    try:
        return keras.models.model_from_json(pathlib.Path(path).read_text())
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise CompressError(f"{path} holds no network that can be built ({' '.join(str(e).split())[:200]})") from None


def save(model: keras.Model, folder: str | os.PathLike) -> None:
    """Writes the network and its weights beside `folder`, and moves them there."""
    folder = pathlib.Path(folder)
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    write_architecture(model, new / ARCHITECTURE)
    np.savez(new / WEIGHTS, *model.get_weights())
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(new, folder)


def load(folder: str | os.PathLike) -> keras.Model:
    """What save() wrote. Raises CompressError."""
    model = read_architecture(pathlib.Path(folder, ARCHITECTURE))
    try:
        with np.load(pathlib.Path(folder, WEIGHTS)) as arrays:
            model.set_weights([arrays[f"arr_{i}"] for i in range(len(arrays.files))])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        raise CompressError(f"{folder} holds other weights than its network's ({' '.join(str(e).split())[:200]})") from None
    return model
