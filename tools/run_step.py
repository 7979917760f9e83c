#!/usr/bin/env python3
"""Trains by a step that tools/train.py exported, on any device that JAX has; needs jax and numpy alone, and works copied out.

    python run_step.py STEP --data DATA --out OUT [--resume] [--minutes 9] [--checkpoint_every 1000] [--part_mb 16]

STEP is the folder that --export_step wrote. DATA holds the training images: what --export_data wrote (train_images*.npy,
train_labels.npy), or WebP sheets of images stacked top to bottom, with labels.npy, in tar files or beside each other (these take
Pillow). OUT gets history.csv and checkpoint-<step>/, in parts of --part_mb; tools/train.py --import_state OUT takes it back.

Images stay on the device; a step is sent their row numbers, the two rates and the seed. With the same device and versions a run
that was cut off ends with the same weights; on a GPU that takes XLA_FLAGS=--xla_gpu_deterministic_ops=true. JAX_PLATFORMS
chooses the device, JAX_COMPILATION_CACHE_DIR keeps what was compiled.
Exit codes: 0 done, or --minutes or --steps are over (saved), 2 bad input, 130 interrupted (saved).
"""

import argparse
import collections
import contextlib
import csv
import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
import platform
import shutil
import signal
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

FORMAT = 1
IN_FLIGHT, SECONDS_IN_FLIGHT = 16, 2.0  # steps sent to the device before the first of them is waited for, at most
EVERY_SECONDS = 10  # between lines of progress
INTERRUPTED = "interrupted"
LOSSES = ("loss", "accuracy")
COLUMNS = ("epoch", *LOSSES, "val_loss", "val_accuracy", "test_loss", "test_accuracy", "lr", "images_per_second")

Split = tuple[np.ndarray, np.ndarray]  # images uint8 (n, h, w, 3), labels int32 (n,)


class InputError(Exception):
    """What came from outside is at fault; the message is the one line that the user sees."""


# ---- files that are whole or not there, and arrays in parts of them


def sha256(*data) -> str:
    digest = hashlib.sha256()
    for each in data:
        digest.update(each)
    return digest.hexdigest()


def write_whole(path: pathlib.Path, data: bytes) -> dict[str, Any]:
    """The file has all of it, or is as it was. Its record is returned."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
    return {"file": path.name, "bytes": len(data), "sha256": sha256(data)}


def write_json(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps({"format": FORMAT, **record}, indent=1).encode())


def read_whole(folder: pathlib.Path, record: Mapping[str, Any]) -> bytes:
    """What write_whole wrote. Raises InputError where it is missing or damaged."""
    path = folder / record["file"]
    try:
        data = path.read_bytes()
    except OSError as e:
        raise InputError(f"{path} cannot be read ({e.strerror}); copy it again from where it was written") from None
    if sha256(data) != record["sha256"]:
        raise InputError(f"{path} is damaged: SHA-256 {sha256(data)}, not {record['sha256']}; copy it again")
    return data


def read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read ({e}); copy it again from where it was written") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{path} is not of format {FORMAT}; use the run_step.py of the code that wrote it")
    return record


def write_values(folder: pathlib.Path, stem: str, values: Mapping[str, np.ndarray], part_bytes: int) -> dict[str, Any]:
    """Arrays by name -> files of part_bytes at most, <stem>-000.bin and so on: the arrays' little-endian bytes one after the
    other. The record that reads them is returned."""
    data = b"".join(value.astype(value.dtype.newbyteorder("<")).tobytes() for value in values.values())
    parts = [data[start : start + part_bytes] for start in range(0, len(data), part_bytes)]
    return {
        "arrays": [{"name": name, "shape": list(value.shape), "dtype": value.dtype.name} for name, value in values.items()],
        "parts": [write_whole(folder / f"{stem}-{i:03d}.bin", part) for i, part in enumerate(parts)],
    }


def read_values(folder: pathlib.Path, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What write_values wrote. Raises InputError that names the part at fault."""
    data = b"".join(read_whole(folder, part) for part in record["parts"])
    values, place = {}, 0
    for array in record["arrays"]:
        dtype, count = np.dtype(array["dtype"]), int(np.prod(array["shape"], dtype=np.int64))
        values[array["name"]] = np.frombuffer(data, dtype.newbyteorder("<"), count, place).reshape(array["shape"])
        place += count * dtype.itemsize
    return values


# ---- the step's folder


@dataclasses.dataclass(frozen=True)
class Plan:
    """plan.json. Its own SHA-256 is what a checkpoint is bound to."""

    folder: pathlib.Path
    sha256: str
    record: Mapping[str, Any]
    batch_size: int
    cycle: int  # epochs after which order and seeds repeat, 0: never
    data_sha256: str  # of the images to train on, then their int32 labels
    evaluation_batch: int
    evaluation_reads: Sequence[str]
    files: Mapping[str, Mapping[str, Any]]
    held_sha256: str | None  # of the held-out images
    seed: int
    sides: Sequence[int]
    step_reads: Sequence[str]
    step_writes: Sequence[str]
    steps: int
    steps_an_epoch: int
    test_sha256: str
    values: Mapping[str, Any]

    def bytes_of(self, name: str) -> bytes:
        return read_whole(self.folder, self.files[name])

    def array(self, name: str) -> np.ndarray:
        return np.load(io.BytesIO(self.bytes_of(name)), allow_pickle=False)


def read_plan(folder: pathlib.Path) -> Plan:
    """Raises InputError where the folder holds none."""
    path = folder / "plan.json"
    if not path.is_file():
        raise InputError(f"{folder} holds no plan.json; name the folder that tools/train.py --export_step wrote")
    record = read_json(path)
    names = [field.name for field in dataclasses.fields(Plan)][3:]
    if missing := [name for name in names if name not in record]:
        raise InputError(f"{path} has no {', '.join(missing)}; export the step again")
    return Plan(folder, sha256(path.read_bytes()), record, **{name: record[name] for name in names})


# ---- the images


def _members(folder: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """The WebP sheets and labels of a folder, in its tar files or its own: (name, bytes)."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            yield from ((member.name, file.read()) for member in tar if (file := tar.extractfile(member)))
    for path in [*folder.glob("*.webp"), *folder.glob("labels.npy")]:
        yield path.name, path.read_bytes()


def _sheets(folder: pathlib.Path, sides: Sequence[int]) -> Split | None:
    """All images of the sheets in the order of their names."""
    found = dict(_members(folder))
    names = sorted(name for name in found if name.endswith(".webp"))
    if not names or "labels.npy" not in found:
        return None
    try:
        from PIL import Image
    except ImportError:
        raise InputError(f"{folder} holds WebP sheets, which take Pillow to read; install it, or bring .npy files") from None
    sheets = [np.asarray(Image.open(io.BytesIO(found[name])).convert("RGB")).reshape(-1, *sides) for name in names]
    return np.concatenate(sheets), np.load(io.BytesIO(found["labels.npy"]), allow_pickle=False)


def _arrays(folder: pathlib.Path, name: str) -> Split | None:
    found = [sorted(folder.glob(f"{name}_{kind}*.npy")) for kind in ("images", "labels")]
    images, labels = ([np.load(path, allow_pickle=False) for path in paths] for paths in found)
    return (np.concatenate(images), np.concatenate(labels)) if images and labels else None


def read_split(folder: pathlib.Path, name: str, sides: Sequence[int]) -> Split | None:
    """The 'train' or 'test' images, None where there are none. Raises InputError where they are damaged or others."""
    try:
        found = _arrays(folder, name) or (_sheets(folder, sides) if name == "train" else None)
    except (ValueError, OSError, EOFError, tarfile.TarError) as e:
        raise InputError(f"a file of {folder} is damaged, or holds other than {sides} images ({e}); copy it again") from None
    if found is None:
        return None
    images, labels = found
    if images.dtype != np.uint8 or list(images.shape[1:]) != list(sides) or labels.shape != images.shape[:1]:
        raise InputError(
            f"{folder}: {images.dtype} {images.shape} images with {labels.shape} labels; the step takes uint8 {sides}"
        )
    return images, labels.astype(np.int32)


def _checked(split: Split, expected: str, what: str) -> Split:
    found = sha256(*(np.ascontiguousarray(array).data for array in split))
    if found != expected:
        raise InputError(f"the {what} images have the SHA-256 {found}; the step is for {expected}: bring those, in their order")
    return split


def read_data(plan: Plan, folder: pathlib.Path) -> tuple[Split, tuple[str, Split] | None]:
    """What to train on; ('val', the held-out images) where there are such, else ('test', the test split) if it is there."""
    train, test = read_split(folder, "train", plan.sides), read_split(folder, "test", plan.sides)
    if train is None:
        raise InputError(f"{folder} holds no train_images*.npy with train_labels.npy, and no WebP sheets with labels.npy")
    if not plan.held_sha256:
        checked = _checked(train, plan.data_sha256, "training")
        return checked, ("test", _checked(test, plan.test_sha256, "test")) if test else None
    rows = [plan.array(name) for name in ("kept.npy", "held.npy")]
    if (count := sum(map(len, rows))) != len(train[0]):
        raise InputError(f"{folder} holds {len(train[0])} training images, and the step is for {count}; bring those")
    kept, held = ((train[0][places], train[1][places]) for places in rows)
    return _checked(kept, plan.data_sha256, "training"), ("val", _checked(held, plan.held_sha256, "held-out"))


# ---- checkpoints


@dataclasses.dataclass(frozen=True)
class Progress:
    """Steps done, the seconds that they took, sums over the epoch under way, a row an epoch, and which device did which steps."""

    step: int = 0
    seconds: float = 0.0
    sums: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(LOSSES, 0.0))
    history: Sequence[Mapping[str, float]] = ()
    stretches: Sequence[Mapping[str, Any]] = ()


def latest(out: pathlib.Path) -> pathlib.Path | None:
    """The checkpoint of the most steps. Its folder got its name last, so it is whole."""
    found = [path for path in out.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return max(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


def write_checkpoint(
    out: pathlib.Path, plan: Plan, progress: Progress, values: Mapping[str, np.ndarray], part_bytes: int
) -> None:
    """Beside the last one, which goes once this one is whole. Raises InputError, and keeps that, for values that are not finite."""
    folder, before = out / f"checkpoint-{progress.step:08d}", latest(out)
    if folder == before:
        return
    if bad := [name for name, value in values.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]:
        raise InputError(f"{bad[0]} is not finite at step {progress.step}; the last good checkpoint is {before or 'none'}")
    temporary = out / f".{folder.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    record = {
        "plan_sha256": plan.sha256, "plan": plan.record, "progress": dataclasses.asdict(progress),
        "state": write_values(temporary, "state", values, part_bytes),
    }  # fmt: skip
    write_json(temporary / "manifest.json", record)
    os.replace(temporary, folder)
    if before:
        shutil.rmtree(before)


def read_checkpoint(out: pathlib.Path) -> tuple[dict[str, Any], Progress, dict[str, np.ndarray]]:
    """(manifest, progress, values) of the last one. Raises InputError where there is none, or a part of it is damaged."""
    if (folder := latest(out)) is None:
        raise InputError(f"{out} holds no checkpoint-<step>; name the folder that run_step.py --out wrote")
    record = read_json(folder / "manifest.json")
    return record, Progress(**record["progress"]), read_values(folder, record["state"])


def begin(plan: Plan, out: pathlib.Path, resume: bool) -> tuple[Progress, dict[str, np.ndarray]]:
    """What to start from. Raises InputError where a run is there that is not to be resumed, or that is another one."""
    values = read_values(plan.folder, plan.values)
    if latest(out) is None:
        return Progress(), values
    if not resume:
        raise InputError(f"{out} holds a run already; pass --resume to go on with it, or another --out")
    record, progress, changed = read_checkpoint(out)
    if record["plan_sha256"] != plan.sha256:
        raise InputError(f"{latest(out)} is of another step than {plan.folder}; resume with what it began with")
    return progress, values | changed


# ---- the device


def jax_64() -> Any:
    """JAX, with the int64 that the optimizer counts in."""
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax


def device() -> dict[str, str]:
    """Platform, kind, and versions."""
    jax = jax_64()
    first = jax.devices()[0]
    versions = {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__}
    return {"platform": first.platform, "kind": first.device_kind, **versions}


def compiled(artifact: bytes, arguments: Sequence[Any], results: Sequence[Any], donated: Iterable[int] = ()) -> Callable:
    """A portable artifact of StableHLO as a function on the device; arguments and results are given by their like.

    jax.export describes a function of these; the artifact then takes the place of its module. Arguments at `donated` are used up.
    """
    jax = jax_64()
    from jax import export, numpy

    def described(*_):
        return tuple(numpy.zeros(each.shape, each.dtype) for each in results)

    specs = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in arguments]
    exported = export.export(jax.jit(described, keep_unused=True))(*specs)
    exported = dataclasses.replace(exported, mlir_module_serialized=artifact)
    return jax.jit(exported.call, donate_argnums=tuple(donated)).lower(*specs).compile()


class Trainer:
    """The images and the values on the device, and what is done with these."""

    def __init__(self, plan: Plan, train: Split, values: Mapping[str, np.ndarray]):
        jax = jax_64()
        self.plan, self.rates, self.count = plan, plan.array("rates.npy"), len(train[0])
        self.images = [jax.device_put(array) for array in train]
        self.values = {name: jax.device_put(value) for name, value in values.items()}
        self.order = functools.lru_cache(1)(self._order)
        arguments = [*self.images, *self.inputs(0)]
        given = [len(arguments) + i for i, name in enumerate(plan.step_reads) if name in plan.step_writes]
        results = [np.float32(0), np.float32(0), *(self.values[name] for name in plan.step_writes)]
        self.program = compiled(plan.bytes_of("step.stablehlo"), [*arguments, *self.read(plan.step_reads)], results, given)

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.plan.seed, epoch)).permutation(self.count).astype(np.int32)

    def read(self, names: Iterable[str]) -> list[Any]:
        return [self.values[name] for name in names]

    def inputs(self, step: int) -> tuple[np.ndarray, ...]:
        """Rows, learning rate, momentum and seed of a step."""
        plan = self.plan
        same = step % (plan.cycle * plan.steps_an_epoch) if plan.cycle else step
        epoch, batch = divmod(same, plan.steps_an_epoch)
        rows = self.order(epoch)[batch * plan.batch_size : (batch + 1) * plan.batch_size]
        return rows, *self.rates[step], np.array([plan.seed, same], np.int32)

    def step(self, number: int) -> tuple[Any, Any]:
        """Loss and share of correct answers of a step, which is on its way when this returns."""
        loss, accuracy, *changed = self.program(*self.images, *self.inputs(number), *self.read(self.plan.step_reads))
        self.values.update(zip(self.plan.step_writes, changed, strict=True))
        return loss, accuracy

    def state(self) -> dict[str, np.ndarray]:
        """The variables of the model and the optimizer."""
        return {name: np.asarray(value) for name, value in self.values.items() if not name.startswith("constant/")}

    @functools.cached_property
    def _evaluation(self) -> Callable:
        size = self.plan.evaluation_batch
        batch = [np.zeros((size, *self.plan.sides), np.uint8), np.zeros(size, np.int32)]
        arguments = [*batch, *self.read(self.plan.evaluation_reads)]
        return compiled(self.plan.bytes_of("evaluation.stablehlo"), arguments, [np.float32(0), np.int32(0)])

    def evaluate(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Mean loss and share of correct answers over all images; the last batch is filled up with images of label -1."""
        size, count, found = self.plan.evaluation_batch, len(images), []
        for start in range(0, count, size):
            short = max(start + size - count, 0)
            batch = np.pad(images[start : start + size], [(0, short), *[(0, 0)] * 3])
            known = np.pad(labels[start : start + size], (0, short), constant_values=-1)
            found.append(self._evaluation(batch, known, *self.read(self.plan.evaluation_reads)))
        loss, hits = (sum(float(each) for each in column) for column in zip(*found, strict=True))
        return loss / count, hits / count


# ---- a run


@dataclasses.dataclass(frozen=True)
class Options:
    """When a run is saved (steps) and evaluated (epochs, 0: never), and who is told of every step."""

    checkpoint_every: int = 1000
    evaluate_every: int = 0
    part_bytes: int = 16_000_000
    seen: Callable[[Progress, float, float], None] = lambda progress, loss, accuracy: None


class Run:
    """Steps in flight, and what is known of those that arrived."""

    def __init__(
        self, trainer: Trainer, out: pathlib.Path, progress: Progress, options: Options, judged: tuple[str, Split] | None
    ):
        self.trainer, self.plan, self.out, self.options, self.judged = trainer, trainer.plan, out, options, judged
        self.first, self.progress = progress, progress
        self.flying: collections.deque[tuple[Any, Any]] = collections.deque()
        self.start = self.epoch_start = time.monotonic()
        out.mkdir(parents=True, exist_ok=True)

    def land(self, most: int = 0) -> None:
        """Waits until `most` steps are in flight. Raises InputError on a loss that is not finite."""
        while len(self.flying) > most:
            loss, accuracy = (float(each) for each in self.flying.popleft())
            done = self.progress.step
            if not np.isfinite(loss):
                good = latest(self.out) or "none"
                raise InputError(f"the loss is {loss} at step {done}; the last good checkpoint is {good}; lower the peak_lr")
            before = self.progress.sums if done % self.plan.steps_an_epoch else dict.fromkeys(LOSSES, 0.0)
            sums = {"loss": before["loss"] + loss, "accuracy": before["accuracy"] + accuracy}
            self.progress = dataclasses.replace(self.progress, step=done + 1, sums=sums)
            self.options.seen(self.progress, loss, accuracy)

    def room(self) -> int:
        """How many steps may be in flight, by the speed so far: a slow device is to notice soon that the time is over."""
        landed = self.progress.step - self.first.step
        return min(IN_FLIGHT, int(SECONDS_IN_FLIGHT * landed / (time.monotonic() - self.start)))

    def save(self) -> None:
        """A checkpoint of the steps sent so far."""
        self.land()
        first, spent = self.first, time.monotonic() - self.start
        stretch = {**device(), "from_step": first.step, "to_step": self.progress.step, "seconds": spent}
        stretches = [*first.stretches, stretch]
        progress = dataclasses.replace(self.progress, seconds=first.seconds + spent, stretches=stretches)
        write_checkpoint(self.out, self.plan, progress, self.trainer.state(), self.options.part_bytes)

    def end_epoch(self) -> None:
        """A row of the history."""
        self.land()
        done, per_epoch = self.progress.step, self.plan.steps_an_epoch
        steps, epoch = min(per_epoch, done - self.first.step), done // per_epoch
        speed = steps * self.plan.batch_size / (time.monotonic() - self.epoch_start)
        row = {"epoch": epoch, **{name: total / per_epoch for name, total in self.progress.sums.items()}}
        if (
            self.judged
            and self.options.evaluate_every
            and (epoch % self.options.evaluate_every == 0 or done == self.plan.steps)
        ):
            kind, split = self.judged
            row |= zip((f"{kind}_{name}" for name in LOSSES), self.trainer.evaluate(*split), strict=True)
        row |= {"lr": float(self.trainer.rates[done - 1, 0]), "images_per_second": speed}
        self.progress = dataclasses.replace(self.progress, history=[*self.progress.history, row])
        self.epoch_start = time.monotonic()
        write_history(self.out, self.progress.history)

    def go(self, leave: Callable[[int], str]) -> str:
        """Steps until the last, or until leave(steps done here) gives a reason; saves. Returns the reason, '' for the last."""
        for step in range(self.first.step, self.plan.steps):
            if reason := leave(step - self.first.step):
                break
            self.flying.append(self.trainer.step(step))
            self.land(self.room())
            if (step + 1) % self.plan.steps_an_epoch == 0:
                self.end_epoch()
            if (step + 1) % self.options.checkpoint_every == 0:
                self.save()
        else:
            reason = ""
        self.save()
        return reason


def write_history(out: pathlib.Path, rows: Iterable[Mapping[str, float]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(out / "history.csv", text.getvalue().encode())


# ---- the command line


class Reporter:
    """A line on stderr now and then."""

    def __init__(self, plan: Plan):
        self.plan, self.told, self.first = plan, 0.0, 0

    def __call__(self, done: Progress, loss: float, accuracy: float) -> None:
        now, plan = time.monotonic(), self.plan
        if not self.told:
            self.told, self.first, self.start = now, done.step, now
        if now - self.told < EVERY_SECONDS:
            return
        self.told, speed = now, (done.step - self.first) / (now - self.start)
        epoch, batch = divmod(done.step - 1, plan.steps_an_epoch)
        means = "  ".join(f"{name} {total / (batch + 1):.4f}" for name, total in done.sums.items())
        rest = f"{speed * plan.batch_size:,.0f} images/s  {(plan.steps - done.step) / speed / 60:.1f} min left"
        print(f"step {done.step:,}/{plan.steps:,}  epoch {epoch + 1}  {means}  {rest}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def interrupts() -> Iterator[list[int]]:
    """A list that grows when SIGINT or SIGTERM comes; a second one ends the program at once."""
    came: list[int] = []

    def note(number: int, _frame: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(flags: argparse.Namespace) -> int:
    start = time.monotonic()
    plan = read_plan(flags.step)
    progress, values = begin(plan, flags.out, flags.resume)
    train, judged = read_data(plan, flags.data)
    if flags.evaluate_every and not judged:
        raise InputError(
            f"{flags.data} holds no test_images*.npy with test_labels.npy; bring them, or leave --evaluate_every out"
        )
    with interrupts() as came:
        trainer = Trainer(plan, train, values)
        print(f"{device()['kind']}: compiled, {time.monotonic() - start:.0f} s after the start", file=sys.stderr, flush=True)

        def leave(steps: int) -> str:
            if came:
                return INTERRUPTED
            if flags.minutes is not None and time.monotonic() - start >= 60 * flags.minutes:
                return f"{flags.minutes:g} minutes are over"
            return f"{steps} steps are over" if flags.steps and steps == flags.steps else ""

        options = Options(flags.checkpoint_every, flags.evaluate_every, int(flags.part_mb * 1e6), Reporter(plan))
        reason = Run(trainer, flags.out, progress, options, judged).go(leave)
    folder, then = (
        latest(flags.out),
        "--resume goes on" if reason else f"tools/train.py --import_state {flags.out} takes it back",
    )
    print(f"{reason or 'trained'}: {folder} holds step {read_checkpoint(flags.out)[1].step:,} of {plan.steps:,}; {then}")
    return 130 if reason == INTERRUPTED else 0


def fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    print(f"{pathlib.Path(sys.argv[0]).name}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(f"{message}; --help lists the flags")


def number(kind: Callable, least: float) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        if not (value := kind(text)) >= least:
            raise argparse.ArgumentTypeError(f"{text}: it must be {least} or more")
        return value

    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    parser, whole = Parser(description=(__doc__ or "").split("\n")[0]), number(int, 1)
    parser.add_argument("step", type=pathlib.Path, help="folder that tools/train.py --export_step wrote")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the images")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for checkpoints and history.csv")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, if there is one")
    parser.add_argument("--minutes", type=number(float, 0.0), help="save and leave then, compilation counted in")
    parser.add_argument("--steps", type=whole, help="save and leave after so many more")
    parser.add_argument("--checkpoint_every", type=whole, default=1000, help="steps [1000]")
    parser.add_argument(
        "--evaluate_every", type=number(int, 0), default=0, help="epochs; held-out images, else the test's [never]"
    )
    parser.add_argument(
        "--part_mb", type=number(float, 0.001), default=16.0, help="10^6 bytes in a checkpoint's file at most [16]"
    )
    try:
        return run(parser.parse_args(arguments))
    except InputError as error:
        fail(str(error))
    except ImportError as error:
        fail(f"{error}; install jax for this machine's device: docs.jax.dev says how")
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
