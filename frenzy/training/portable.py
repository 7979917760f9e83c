"""The training step as StableHLO, for machines where TensorFlow has no GPU: XLA is the common ground of TensorFlow and JAX.

TensorFlow lowers the whole of `make_step` to one module. What the step reads besides its arguments arrives as further
arguments, and the variables that it changes are returned behind its results. tools/run_step.py runs it.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tensorflow.compiler.mlir.stablehlo import stablehlo

from frenzy.data import augment
from frenzy.data.split import Split
from frenzy.training.fit import rates_at
from frenzy.training.recipe import Recipe
from frenzy.training.run import Checkpoints, Run, TrainingError
from frenzy.training.step import Teacher, inner, make_inputs, make_optimizer, make_step, set_rates

VERSION = "1.0.0"  # of StableHLO; what is written in it stays readable: openxla/stablehlo, docs/compatibility.md
EVALUATION_BATCH = 250
_TYPES = {
    "bfloat16": "bf16", "bool": "i1", "float16": "f16", "float32": "f32", "float64": "f64", "int16": "i16", "int32": "i32",
    "int64": "i64", "int8": "i8", "uint16": "ui16", "uint32": "ui32", "uint64": "ui64", "uint8": "ui8",
}  # fmt: skip
# a copy; an axis set to the size that it has (the type says so: it stays static)
_IDENTITIES = (
    r"mhlo\.copy (%[\w#]+)(?: \{[^}]*\})? : (tensor<[^>]*>)",
    r"stablehlo\.set_dimension_size (%[\w#]+), %[\w#]+, dim = \d+ : \((tensor<[^>?]*>), tensor<i32>\) -> \2",
)
_ALIAS = re.compile(r"parameter_number = (\d+) : i64\}, output_index = array<i64(?:: (\d+))?>")


@dataclasses.dataclass(frozen=True)
class Module:
    """A function as a portable artifact of StableHLO. After its own arguments it takes the values of `reads`; after its own
    results it returns the new ones of `writes`."""

    artifact: bytes
    reads: tuple[tf.Variable | tf.Tensor, ...]
    writes: tuple[tf.Variable, ...]


@dataclasses.dataclass(frozen=True)
class Portable:
    """A run as two modules and numbers.

    `step`: images uint8 (n, h, w, 3) and labels int32 (n,) of the whole set, rows int32 (b,), rate and momentum float32, seed
    int32 (2,), then `step_reads` -> loss, share of correct answers, then `step_writes`.
    `evaluation`: images uint8 (EVALUATION_BATCH, h, w, 3), labels int32, -1 where there is no image, then `evaluation_reads` ->
    sum of the losses, number of correct answers: with averaged weights where the recipe keeps these.
    `values`: all that is read, by name: "model/3", "optimizer/0", and what never changes, "constant/0". `titles`: what
    TensorFlow calls them. `rates`: float32 (steps, 2), learning rate and momentum.
    """

    step: bytes
    evaluation: bytes
    values: Mapping[str, np.ndarray]
    titles: Mapping[str, str]
    step_reads: tuple[str, ...]
    step_writes: tuple[str, ...]
    evaluation_reads: tuple[str, ...]
    rates: np.ndarray


@dataclasses.dataclass(frozen=True)
class State:
    """How far a run came elsewhere: updates done, seconds that they took, the sums over the epoch under way, the variables."""

    steps: int
    seconds: float
    sums: Mapping[str, float]  # loss, accuracy
    values: Mapping[str, np.ndarray]


def neutral(text: str) -> str:
    """StableHLO as TensorFlow writes it, without source lines (paths of this machine), module attributes, and steps that do
    nothing but which not every compiler knows.

    Raises TrainingError where an op is left that only some compilers know.
    """
    text = re.sub(r' loc\((?:[^()"]|"[^"]*")*\)', "", text)
    text = "\n".join(line for line in text.split("\n") if not line.startswith("#loc"))
    text = re.sub(r"(?m)^module @.* \{$", "module @step {", text, count=1)
    for same in _IDENTITIES:
        text = re.sub(same, r"stablehlo.reshape \1 : (\2) -> \2", text)
    if foreign := sorted(set(re.findall(r"= \"?((?:mhlo|chlo)\.\w+|stablehlo\.custom_call @[\w$.]+)", text))):
        raise TrainingError(f"the step holds {', '.join(foreign)}, which not every device knows; train where TensorFlow runs")
    return text


def main_types(text: str) -> tuple[list[str], list[str]]:
    """The types of the arguments and of the results of @main, "16x3xf32" say."""
    line = next(line for line in text.split("\n") if "func.func" in line and "@main(" in line)
    arguments, _, results = line.partition(") -> ")
    return re.findall(r"tensor<([^>]*)>", arguments), re.findall(r"tensor<([^>]*)>", results)


def _key(value: tf.Variable | tf.Tensor) -> int:
    """The same for a variable and for tf_keras's wrapper that casts it."""
    return id(value.handle if isinstance(value, tf.Variable) else value)


def _type(value) -> str:
    return "x".join([*map(str, value.shape), _TYPES[value.dtype.base_dtype.name]])


def lower(function: Callable, signature: Sequence[tf.TensorSpec], results: int) -> Module:
    """A function of tensors with `results` results. Raises TrainingError where XLA cannot take it, or takes it otherwise than
    TensorFlow traced it: with an argument made a constant, say."""
    compiled = tf.function(function, jit_compile=True, autograph=False)
    try:
        concrete = compiled.get_concrete_function(*signature)
        text = compiled.experimental_get_compiler_ir(*signature)(stage="stablehlo", platform_name="CPU")
    except (ValueError, tf.errors.OpError) as e:
        raise TrainingError(f"XLA cannot compile the step ({' '.join(str(e).split())[:300]})") from None
    variables = {_key(variable): variable for variable in concrete.graph.variables}
    reads = tuple(variables.get(id(tensor), tensor) for tensor in concrete.captured_inputs)
    found, returned = main_types(text)
    changed = {int(result or 0): reads[int(place) - len(signature)] for place, result in _ALIAS.findall(text)}
    if found != [_type(each) for each in (*signature, *reads)] or sorted(changed) != [*range(results, len(returned))]:
        raise TrainingError(
            f"XLA's module has {len(found)} arguments and {len(returned)} results, {len(signature) + len(reads)} and "
            f"{results + len(changed)} were traced, or they differ in shape; train where TensorFlow runs"
        )
    artifact = stablehlo.serialize_portable_artifact_str(neutral(text), VERSION)
    return Module(artifact, reads, tuple(changed[place] for place in sorted(changed)))


def variables_of(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> dict[str, tf.Variable]:
    """Every variable of the two, "model/3" say: numbered in the order in which TensorFlow's checkpoints find them."""
    named: dict[str, tf.Variable] = {}
    for root, thing in (("model", model), ("optimizer", optimizer)):
        found = [each for each in tf.train.TrackableView(thing).descendants() if isinstance(each, tf.Variable)]
        known = {_key(variable) for variable in named.values()}
        named |= {f"{root}/{i}": each for i, each in enumerate(found) if _key(each) not in known}
    return named


def _averages(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> dict[int, tf.Variable]:
    """The average of each trainable variable, by the variable's key; none where the recipe keeps none."""
    sgd = inner(optimizer)
    kept = sgd._model_variables_moving_average if sgd.use_ema else []
    return {_key(v): average for v, average in zip(model.trainable_variables, kept, strict=False)}


def _step(model, optimizer, recipe: Recipe, split: Split, teacher: Teacher | None) -> Callable:
    core = make_step(model, optimizer, recipe, split.mean, split.std)
    inputs_of = make_inputs(recipe, len(split.class_names), split.mean, split.std)

    def step(images, labels, rows, rate, momentum, seed):
        set_rates(optimizer, rate, momentum)
        batch = tf.gather(images, rows), tf.gather(labels, rows), seed
        taught = [tf.cast(teacher(inputs_of(*batch)[0]), tf.float32)] if teacher else []
        return core(*batch, *taught)

    return step


def _evaluation(model: keras.Model, split: Split) -> Callable:
    def evaluation(images, labels):
        logits = tf.cast(model(augment.normalise(images, split.mean, split.std), training=False), tf.float32)
        known = labels >= 0
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), logits)
        hits = known & (tf.argmax(logits, -1, tf.int32) == labels)
        return tf.reduce_sum(tf.where(known, losses, 0.0)), tf.reduce_sum(tf.cast(hits, tf.int32))

    return evaluation


def _specs(split: Split, batch_size: int) -> tuple[tf.TensorSpec, ...]:
    """Of images, labels, rows, rate, momentum, seed."""
    count = len(split.images)
    shapes = split.images.shape, (count,), (batch_size,), (), (), (2,)
    dtypes = tf.uint8, tf.int32, tf.int32, tf.float32, tf.float32, tf.int32
    return tuple(tf.TensorSpec(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True))


def portable(model: keras.Model, split: Split, recipe: Recipe, teacher: Teacher | None = None) -> Portable:
    """What `fit` would do with these, for another machine; a teacher becomes part of the step, which asks it every time.

    Raises TrainingError where it cannot be.
    """
    steps = len(split.images) // recipe.batch_size * recipe.epochs
    if not steps:
        raise TrainingError(f"batch_size {recipe.batch_size} is above the {len(split.images)} images; take a smaller one")
    optimizer = make_optimizer(recipe)
    inner(optimizer).build(model.trainable_variables)
    step = lower(_step(model, optimizer, recipe, split, teacher), _specs(split, recipe.batch_size), results=2)
    batch = tf.TensorSpec((EVALUATION_BATCH, *split.images.shape[1:]), tf.uint8), tf.TensorSpec((EVALUATION_BATCH,), tf.int32)
    evaluation = lower(_evaluation(model, split), batch, results=2)
    averages = _averages(model, optimizer)
    seen = [averages.get(_key(each), each) for each in evaluation.reads]
    read = {_key(each): each for each in (*step.reads, *seen)}
    names = {_key(variable): name for name, variable in variables_of(model, optimizer).items()}
    names |= {key: f"constant/{i}" for i, key in enumerate(key for key in read if key not in names)}
    if strange := [v.name for v in (*step.writes, *evaluation.writes) if names[_key(v)].startswith("constant/")]:
        raise TrainingError(
            f"the step changes {', '.join(strange)}, of neither the model nor the optimizer; it cannot be exported"
        )
    return Portable(
        step.artifact,
        evaluation.artifact,
        {names[key]: each.numpy() for key, each in read.items()},
        {names[key]: each.name for key, each in read.items() if isinstance(each, tf.Variable)},
        tuple(names[_key(each)] for each in step.reads),
        tuple(names[_key(each)] for each in step.writes),
        tuple(names[_key(each)] for each in seen),
        np.array([rates_at(recipe, i, steps) for i in range(steps)], np.float32),
    )


def plan(made: Portable, split: Split, recipe: Recipe) -> dict:
    """What a runner has to know besides the modules, the values and the rates, as JSON has it."""
    steps_an_epoch = len(split.images) // recipe.batch_size
    return {
        "batch_size": recipe.batch_size,
        "classes": len(split.class_names),
        "cycle": recipe.cycle,
        "data_sha256": split.sha256,
        "evaluation_batch": EVALUATION_BATCH,
        "evaluation_reads": list(made.evaluation_reads),
        "recipe": dataclasses.asdict(recipe),
        "seed": recipe.seed,
        "sides": list(split.images.shape[1:]),
        "step_reads": list(made.step_reads),
        "step_writes": list(made.step_writes),
        "steps": steps_an_epoch * recipe.epochs,
        "steps_an_epoch": steps_an_epoch,
        "titles": dict(made.titles),
    }


def save(model: keras.Model, recipe: Recipe, run: Run, state: State, steps: int) -> None:
    """Gives the model what a run of `steps` steps left elsewhere, and the run's folder a checkpoint that `fit` goes on from.

    A run that was finished ends with its averaged weights, where it keeps these. Raises TrainingError where the two differ.
    """
    optimizer = make_optimizer(recipe)
    inner(optimizer).build(model.trainable_variables)
    named = variables_of(model, optimizer)
    for name, value in state.values.items():
        if name not in named or tuple(named[name].shape) != value.shape:
            ours = tuple(named[name].shape) if name in named else "not there"
            raise TrainingError(
                f"{name} is {value.shape} in the state and {ours} in {model.name}; import it with the code that exported it"
            )
        named[name].assign(value)
    if state.steps == steps and recipe.ema:
        inner(optimizer).finalize_variable_values(model.trainable_variables)
    means = {name: keras.metrics.Mean() for name in state.sums}
    done = state.steps
    for name, mean in means.items():
        mean.total.assign(state.sums[name])
        mean.count.assign((done - 1) % max(steps // recipe.epochs, 1) + 1 if done else 0)
    progress = {"done": tf.Variable(done, dtype=tf.int64), "seconds": tf.Variable(state.seconds, dtype=tf.float64)}
    Checkpoints(run, tf.train.Checkpoint(model=model, optimizer=optimizer, **progress, **means)).save(done)
