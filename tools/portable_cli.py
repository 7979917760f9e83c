"""Training elsewhere: tools/train.py --export_step writes the folder that run_step.py runs, --import_state takes its state back."""

import dataclasses
import io
import pathlib
import shutil

import numpy as np
from absl import flags

from frenzy.training.recipe import Recipe, RecipeError
from tools import cli, run_step, session

FLAGS = flags.FLAGS
HERE = "python tools/train.py"


def define_flags() -> None:
    flags.DEFINE_string(
        "export_step", None, "folder to write the training step to, for its run_step.py; nothing is trained here"
    )
    flags.DEFINE_bool("export_data", False, "with --export_step: the images too, to its folder data/")
    flags.DEFINE_float("part_mb", 16.0, "10^6 bytes in a file of weights or images that --export_step writes", lower_bound=0.01)
    flags.DEFINE_string("import_state", None, "folder that run_step.py --out wrote, to be made a checkpoint in --run_dir")


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def write_split(folder: pathlib.Path, name: str, split, part_bytes: int) -> None:
    """<name>_images-000.npy and so on, of part_bytes at most, and <name>_labels.npy: what run_step.py --data reads."""
    folder.mkdir(parents=True, exist_ok=True)
    room = max((part_bytes - 128) // split.images[0].nbytes, 1)  # a .npy file's header takes 128 bytes
    for i, start in enumerate(range(0, len(split.images), room)):
        run_step.write_whole(folder / f"{name}_images-{i:03d}.npy", _npy(split.images[start : start + room]))
    run_step.write_whole(folder / f"{name}_labels.npy", _npy(split.labels))


def _hold_out_rows(train, count: int) -> dict[str, bytes]:
    """Which of the training images are trained on, and which are held out, as files."""
    from frenzy.data.split import hold_out

    numbered = dataclasses.replace(train, images=np.arange(len(train.images), dtype=np.int32))
    kept, held = hold_out(numbered, count)
    return {"kept.npy": _npy(kept.images), "held.npy": _npy(held.images)}


def write_step(folder: pathlib.Path, made, plan: dict, splits: dict, part_bytes: int, with_data: bool = False) -> None:
    """The folder that run_step.py takes: modules, values, plan.json and run_step.py itself.

    `splits` has 'train' and 'test' whole, and where images are held out, 'held'; `with_data` writes 'train' and 'test' too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = splits.get("held")
    files = {"step.stablehlo": made.step, "evaluation.stablehlo": made.evaluation, "rates.npy": _npy(made.rates)}
    files |= _hold_out_rows(splits["train"], len(held.images)) if held else {}
    if with_data:
        for name in ("train", "test"):
            write_split(folder / "data", name, splits[name], part_bytes)
    shutil.copyfile(run_step.__file__, folder / "run_step.py")
    record = {
        **plan,
        "files": {name: run_step.write_whole(folder / name, data) for name, data in files.items()},
        "values": run_step.write_values(folder, "values", made.values, part_bytes),
        "held_sha256": held.sha256 if held else None,
        "test_sha256": splits["test"].sha256,
    }
    run_step.write_json(folder / "plan.json", record)


def export_step(recipe: Recipe, model, split, held, teacher) -> None:
    """What --export_step asks for."""
    from frenzy.training import portable

    folder = pathlib.Path(FLAGS.export_step)
    if folder.exists() and any(folder.iterdir()):
        raise cli.UsageError(f"{folder} is not empty; name a new folder by --export_step")
    made = portable.portable(model, split, recipe, teacher)
    splits = {"train": session.load_split(recipe, "train") if held else split, "test": session.load_split(recipe, "test")}
    plan = {**portable.plan(made, split, recipe), "facts": session.facts(recipe, split)}
    write_step(folder, made, plan, splits | ({"held": held} if held else {}), int(FLAGS.part_mb * 1e6), FLAGS.export_data)
    data = folder / "data" if FLAGS.export_data else "DATA"
    print(f"wrote {folder}; elsewhere: python {folder}/run_step.py {folder} --data {data} --out OUT")


def import_state() -> None:
    """Makes the last checkpoint in the folder --import_state one of a new run in --run_dir, which tools/export.py takes."""
    with cli.hushed():
        import tf_keras as keras

    from frenzy.training import portable, run

    source = pathlib.Path(FLAGS.import_state)
    with cli.user_errors(run_step.InputError, RecipeError, run.TrainingError):
        manifest, progress, values = run_step.read_checkpoint(source)
        plan = manifest["plan"]
        recipe = Recipe(**plan["recipe"])
        folder = pathlib.Path(FLAGS.run_dir or f"runs/{plan['facts']['recipe_name']}")
        if (folder / "run.json").exists():
            raise cli.UsageError(f"{folder} holds a run already; name another --run_dir")
        keras.utils.set_random_seed(recipe.seed)
        keras.mixed_precision.set_global_policy(recipe.precision)
        model = session.fresh_network(recipe, plan["classes"], tuple(plan["sides"]))
        state = portable.State(progress.step, progress.seconds, progress.sums, values)
        portable.save(model, recipe, run.Run(folder, recipe, _facts(plan, progress), resume=False), state, plan["steps"])
        run_step.write_history(folder, progress.history)
    print(f"step {progress.step:,} of {plan['steps']:,} is a checkpoint in {folder}; python tools/export.py --run_dir {folder}")


def _facts(plan: dict, progress: run_step.Progress) -> dict:
    """What run.json says of a run that was elsewhere: the devices that did it, and with which versions."""
    facts, stretches = plan["facts"], progress.stretches
    devices = dict.fromkeys(f"{each['kind']} ({each['platform']}, jax {each['jax']})" for each in stretches)
    steps = f"{facts['command']} --export_step STEP && python STEP/run_step.py STEP --data DATA --out OUT"
    return {
        **facts,
        "command": f"{steps} && {HERE} --import_state OUT",
        "device": ", then ".join(devices) or facts["device"],
        "exported_on": facts["device"],
        "stretches": list(stretches),
    }
