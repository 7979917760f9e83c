#!/usr/bin/env python3
"""PyTorch weights -> weights of a zoo network: python tools/import_weights.py --network N --arrays torch.npz --output ours.npz.

Where there is PyTorch, once: np.savez("torch.npz", **{k: v.numpy() for k, v in model.state_dict().items()}). Modules are
matched by their order; --names takes a JSON file {our layer: PyTorch module} where it differs.
Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from tools import cli

FLAGS = flags.FLAGS


def read_names(path: str | None) -> dict[str, str] | None:
    """The JSON object of a file. Raises UsageError where it is none."""
    if path is None:
        return None
    try:
        names = json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError) as e:
        raise cli.UsageError(f"--names={path} cannot be read ({e})") from None
    if not isinstance(names, dict) or not all(isinstance(module, str) for module in names.values()):
        raise cli.UsageError(f"--names={path}: a JSON object of our layers to PyTorch's modules is needed")
    return names


def main() -> int:
    for flag in ("network", "arrays", "output"):
        if not FLAGS[flag].value:
            raise cli.UsageError(f"--{flag} is needed")
    shape = cli.parse_shape(FLAGS.input_shape)
    names = read_names(FLAGS.names)
    with cli.hushed():
        from frenzy import models
        from frenzy.models import arrays
    try:
        state = arrays.read_npz(FLAGS.arrays)
        with cli.hushed():
            model = models.build(FLAGS.network, FLAGS.num_classes, shape)
        models.load_arrays(model, models.from_torch(model, state, names))
        models.save_arrays(model, FLAGS.output)
    except (arrays.ArraysError, models.UnknownNetworkError, OSError) as e:
        raise cli.UsageError(str(e)) from None
    count = len(arrays.named_weights(model))
    cli.output(f"{FLAGS.output}: {count} arrays, {model.count_params():,} values of {model.name}\n", None)
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("network", None, "the zoo's name; python tools/zoo.py lists them")
    flags.DEFINE_string("arrays", None, ".npz file of a PyTorch state_dict")
    flags.DEFINE_string("output", None, ".npz file to write")
    flags.DEFINE_string("names", None, "JSON file {our layer: PyTorch module}; default: by order")
    flags.DEFINE_integer("num_classes", None, "default: the zoo entry's", lower_bound=1)
    flags.DEFINE_string("input_shape", None, "height,width,channels; default: the zoo entry's")
    cli.run(main)
