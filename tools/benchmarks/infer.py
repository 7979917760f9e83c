"""How fast a network answers: what standalone_inference.py chooses beside every engine that is installed, run by itself.

Every subject is a process of its own that sleeps until its turn; a sample is so many calls of one of them. Matrix products of the
same run, in float32 and bfloat16, are the peak that a network's share is taken of: 2 MACs a second over their operations.
Subjects that do not answer as TensorFlow does (float32: logits within 1e-3 of the largest; bfloat16: 99.5 % of 1,000 answers, the
test images where these are at hand) are measured too, and marked, but nobody is held against them.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

import standalone_inference as script
from tools import cli
from tools.benchmarks import engines_peers, measure, workers
from tools.benchmarks.engines_peers import AUTO, FLOAT, PEERS, PRECISIONS

FLAGS = flags.FLAGS
COLUMNS = 80
GEMMS = ("float32", "bfloat16")
PACKAGES = ("tensorflow", "ai-edge-litert", "openvino", "onnxruntime", "torch", "numpy")


@dataclasses.dataclass(frozen=True)
class Case:
    """A network on disk, and the images to check bfloat16 on."""

    name: str
    folder: str
    macs: int
    sample: str | None
    sample_of: str


@dataclasses.dataclass(frozen=True)
class Row:
    """A subject of a table: seconds a call, round by round, and what is known of it."""

    name: str
    timing: measure.Timing
    batch: int
    macs: int
    peak: float  # operations a second of the matrix products at its width
    facts: Mapping[str, Any]
    memory_bytes: int

    @property
    def images_per_second(self) -> measure.Spread:
        return measure.Spread.of([self.batch / each for each in self.timing.seconds])

    @property
    def share(self) -> float:
        """Of the peak, 0..1."""
        return 2 * self.macs * self.images_per_second.median / self.peak

    @property
    def agrees(self) -> bool:
        """Whether it answers as TensorFlow does, as far as that was checked."""
        off, agreement = self.facts.get("off"), self.facts.get("agreement")
        within = off is None or off <= script.MOST_OFF
        return within and (agreement is None or agreement >= script.LEAST_AGREEMENT)


def define_flags() -> None:
    flags.DEFINE_multi_string("load_folder", [], "exported SavedModel; may be repeated [SavedModel/, without --network]")
    flags.DEFINE_multi_string("network", [], "a network of tools/zoo.py with fresh weights; may be repeated")
    flags.DEFINE_list("batch_sizes", ["1", "8", "256"], "images a call")
    flags.DEFINE_list("threads", None, "cores to use [1 and all]")
    flags.DEFINE_multi_enum("peer", [peer.name for peer in PEERS], [peer.name for peer in PEERS], "subjects; may be repeated")
    flags.DEFINE_float("seconds", 0.5, "how long a sample lasts, about; it has at least one call", lower_bound=0.0)
    flags.DEFINE_string("data_dir", None, "folder with the data to check bfloat16 on [$FRENZY_DATA, the tf_keras cache]")
    flags.DEFINE_string("plot", None, "PNG file of images a second")


def whole_numbers(name: str, values: Sequence[str], most: int | None = None) -> list[int]:
    """["1", "8"] -> [1, 8]. Raises UsageError."""
    limit = f"1 to {most}" if most else "1 or more"
    for value in values or [""]:
        if not (value.strip().isascii() and value.strip().isdigit() and 1 <= int(value) <= (most or 10**6)):
            raise cli.UsageError(f"--{name}={','.join(values)}: {value!r} is no whole number from {limit}; write 1,2 say")
    return list(dict.fromkeys(map(int, values)))


def fresh(name: str, folder: pathlib.Path) -> str:
    """Exports a network of the zoo with fresh weights. Raises UsageError."""
    with cli.hushed():
        import tf_keras as keras

        from frenzy import export, models

    keras.utils.set_random_seed(0)
    with cli.user_errors(models.UnknownNetworkError, export.ExportError), cli.hushed():
        model = models.build(name)
        names = list(map(str, range(model.output_shape[-1])))
        facts = {"dataset": "made up", "training": {"recipe": {"network": name}}}
        export.round_weights(model, "float16")
        export.export(model, folder, export.Preprocessing((0.0,) * 3, (1.0,) * 3), names, facts=facts)
    return str(folder)


def sample_of(card: Mapping[str, Any], folder: pathlib.Path) -> tuple[str | None, str]:
    """The first test images as the network takes them, in a .npy file, and what they are; made-up ones for fresh weights."""
    path = folder / "sample.npy"
    if card.get("dataset") == "made up":
        images = np.random.default_rng(0).standard_normal((script.AGREE_ON, *card["input_shape"]), np.float32)
        np.save(path, images)
        return str(path), "made-up images"
    try:
        images, _, _ = script.load_test_set(card["dataset"], FLAGS.data_dir)
    except (script.UserError, OSError, KeyError):
        return None, "none: the data is not at hand"
    np.save(path, script.normaliser(dict(card), tuple(card["input_shape"]))(images[: script.AGREE_ON]))
    return str(path), f"test images of {card['dataset']}"


def cases(folders: Sequence[str], networks: Sequence[str], work: pathlib.Path) -> list[Case]:
    """A copy of every network in `work`, where a cache of its own comes to lie beside it. Raises UsageError."""
    for source in folders:
        if not pathlib.Path(source, "saved_model.pb").is_file():
            raise cli.UsageError(f"{source} is no SavedModel: it holds no saved_model.pb; name one by --load_folder")
    with cli.hushed():
        from frenzy import export
    from frenzy.accounting import account, read

    found = []
    for number, source in enumerate([*folders, *networks]):
        own = work / str(number)
        own.mkdir()
        if number < len(folders):
            shutil.copytree(source, own / "SavedModel")
        else:
            fresh(source, own / "SavedModel")
        folder = own / "SavedModel"
        with cli.user_errors(export.ExportError):
            card = export.read_card(folder)
        with cli.hushed():
            macs = int(account(read(folder), "macs").totals.operations)
        kept = pathlib.Path(source).name
        name = card["name"] if number >= len(folders) or kept == "SavedModel" else f"{card['name']} ({kept})"
        found.append(Case(name, str(folder), macs, *sample_of(card, own)))
    return found


def peak_memory(pid: int) -> int:
    """Bytes that a process had in memory at most; 0 where the system does not tell."""
    path = pathlib.Path(f"/proc/{pid}/status")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def calls_a_sample(run: Callable[[int], None], seconds: float, clock: Callable[[], float] = time.perf_counter) -> int:
    """How many calls last so long: twice as many again and again, until a quarter of it is seen."""
    run(1)
    calls = 1
    while True:
        begin = clock()
        run(calls)
        taken = clock() - begin
        if taken >= seconds / 4:
            return max(1, round(calls * seconds / taken)) if taken else calls
        calls *= 2


def subject(worker: workers.Worker, seconds: float) -> measure.Subject:
    """A sample of it is so many calls."""
    calls = calls_a_sample(worker.run, seconds)
    return measure.Subject(worker.name, lambda _: worker.run(calls), facts={"calls": calls})


def per_call(timing: measure.Timing) -> measure.Timing:
    """Seconds a call."""
    calls = timing.facts["calls"]
    return measure.Timing(timing.name, tuple(each / calls for each in timing.seconds), timing.facts)


def left_out(peer: engines_peers.Peer, case: Case) -> str | None:
    """Why a peer has no line: narrow arithmetic may be compared only where it is known to answer as TensorFlow does."""
    if not peer.installed:
        return "not installed"
    if peer.precision == "bfloat16" and case.sample is None:
        return "its answers cannot be checked, for the test images are not at hand; name their folder by --data_dir"
    return None


def table_rows(
    case: Case, batch: int, threads: int, names: Sequence[str], plan: measure.Plan, agreements: dict[str, float | None]
) -> tuple[list[Row], dict[str, str]]:
    """All subjects by turns, and {subject: why it is missing}. `agreements` are known from other tables, and found here."""
    missing: dict[str, str] = {}
    facts: dict[str, dict[str, Any]] = {}
    started: list[workers.Worker] = []
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for peer in PEERS:
            if peer.name not in names:
                continue
            if why := left_out(peer, case):
                missing[peer.name] = why
                continue
            sample = None if peer.name in agreements else case.sample
            setting = engines_peers.Setting(case.folder, batch, threads, f"{folder}/{len(started)}.json", sample)
            try:
                if peer.name in PRECISIONS:
                    chooser = (engines_peers.choose, setting, PRECISIONS[peer.name])
                    workers.Worker(peer.name, *chooser, threads=threads).close()
                worker = workers.Worker(peer.name, engines_peers.main, peer.name, setting, threads=threads)
            except workers.WorkerError as error:
                missing[peer.name] = str(error).removeprefix(f"{peer.name}: ")
                continue
            stack.callback(worker.close)
            started.append(worker)
            path = pathlib.Path(setting.facts)
            facts[peer.name] = json.loads(path.read_text()) if path.is_file() else {}
            if peer.precision == "bfloat16":
                facts[peer.name]["agreement"] = agreements.setdefault(peer.name, facts[peer.name].get("agreement"))
        for precision in GEMMS:
            worker = workers.Worker(f"GEMM {precision}", engines_peers.gemm, precision, threads, threads=threads)
            stack.callback(worker.close)
            started.append(worker)
        subjects = [subject(worker, FLAGS.seconds) for worker in started]
        timings = [per_call(each) for each in measure.measure(subjects, plan)]
        memory = [peak_memory(worker.process.pid or 0) for worker in started]
    operations = 2 * engines_peers.SIDE**3
    peaks = {name: operations / each.spread.median for name, each in zip(GEMMS, timings[-len(GEMMS) :], strict=True)}
    rows = []
    for timing, held in zip(timings[: -len(GEMMS)], memory, strict=False):
        known = facts[timing.name]
        narrow = "bfloat16" in f"{timing.name} {known.get('plan', '')}"
        peak = peaks["bfloat16" if narrow else "float32"]
        rows.append(Row(timing.name, timing, batch, case.macs, peak, known, held))
    return rows, missing


def against(rows: Sequence[Row], name: str, narrow: bool) -> tuple[str, measure.Spread] | None:
    """The fastest peer that agrees, in float32 alone if not `narrow`, and how many times as fast `name` is, round by round."""
    own = next((row for row in rows if row.name == name), None)
    peers = [row for row in rows if row.name not in PRECISIONS and row.agrees and (narrow or "bfloat16" not in row.name)]
    if own is None or not peers:
        return None
    best = max(peers, key=lambda row: row.images_per_second.median)
    return best.name, best.timing.ratio(own.timing)


def table(case: Case, batch: int, threads: int, rows: Sequence[Row], missing: Mapping[str, str]) -> str:
    """A line a subject."""
    head = f"{'':17} {'ms/call':>8} {'from':>8} {'to':>8} {'images/s':>9} {'of best':>7} {'of peak':>7} {'MiB':>6}"
    plural = "" if threads == 1 else "s"
    lines = [f"{case.name}, batches of {batch}, {threads} thread{plural}", head, "-" * len(head)]
    best = max((row for row in rows if row.agrees), key=lambda row: row.images_per_second.median, default=None)
    for row in rows:
        median, least, most = (1000 * value for value in dataclasses.astuple(row.timing.spread))
        ratio = f"{best.timing.ratio(row.timing).median:>7.2f}" if best else ""
        mark = "" if row.agrees else " *"
        lines.append(
            f"{row.name:17} {median:>8.3f} {least:>8.3f} {most:>8.3f} {row.images_per_second.median:>9,.0f} {ratio} "
            f"{row.share:>7.1%} {row.memory_bytes / 2**20:>6,.0f}{mark}"
        )
    for name, narrow in ((AUTO, True), (FLOAT, False)):
        if found := against(rows, name, narrow):
            peer, times = found
            chosen = next(row.facts.get("plan", "") for row in rows if row.name == name)
            said = f"{name} is {times.median:.2f}x ({times.least:.2f} to {times.most:.2f}) of {peer}: {chosen}"
            lines += textwrap.wrap(said, COLUMNS, subsequent_indent="  ")
    for row in rows:
        if row.facts.get("agreement") is not None:
            lines.append(f"{row.name} answers {row.facts['agreement']:.1%} of {case.sample_of} as TensorFlow does")
    lines += [f"* {row.name} does not answer as TensorFlow does" for row in rows if not row.agrees]
    for name, why in missing.items():
        lines += textwrap.wrap(f"{name} was left out: {why}", COLUMNS, subsequent_indent="  ")
    return "\n".join(lines) + "\n"


def summary(case: Case, batch: int, threads: int, rows: Sequence[Row], missing: Mapping[str, str]) -> dict[str, Any]:
    """What the table says, for the record."""
    found = {name: against(rows, name, narrow) for name, narrow in ((AUTO, True), (FLOAT, False))}
    return {
        "network": case.name,
        "batch_size": batch,
        "threads": threads,
        "macs": case.macs,
        "checked_on": case.sample_of,
        "missing": dict(missing),
        "over_fastest_peer": {
            name: {"peer": each[0], **dataclasses.asdict(each[1])} for name, each in found.items() if each is not None
        },
        "subjects": {
            row.name: {
                **row.facts, "agrees": row.agrees, "images_per_second": dataclasses.asdict(row.images_per_second),
                "share_of_peak": row.share, "peak_memory_bytes": row.memory_bytes,
            }
            for row in rows
        },
    }  # fmt: skip


def plot(found: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG: a panel a network and number of threads, images a second by images a call."""
    import io

    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((each["network"], each["threads"]) for each in found))
    figure = Figure(figsize=(6, 4 * len(panels)), layout="constrained")
    for axes, (network, threads) in zip(np.ravel(figure.subplots(len(panels), 1)), panels, strict=True):
        own = [each for each in found if (each["network"], each["threads"]) == (network, threads)]
        for name in dict.fromkeys(name for each in own for name in each["subjects"]):
            points = [(each["batch_size"], each["subjects"][name]) for each in own if name in each["subjects"]]
            speeds = [point["images_per_second"]["median"] for _, point in points]
            axes.plot([batch for batch, _ in points], speeds, marker="o", linewidth=3 if name == AUTO else 1, label=name)
        axes.set(xscale="log", yscale="log", xlabel="images a call", ylabel="images/s", title=f"{network}, threads: {threads}")
        axes.set_xticks([each["batch_size"] for each in own], [str(each["batch_size"]) for each in own])
        axes.minorticks_off()
        axes.legend(fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def versions() -> dict[str, str]:
    """Of the engines that are installed."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def run(plan: measure.Plan) -> tuple[str, dict[str, Any]]:
    """The tables, and the record for --output."""
    batches = whole_numbers("batch_sizes", FLAGS.batch_sizes)
    threads = whole_numbers("threads", FLAGS.threads or sorted({"1", str(measure.cores())}), measure.cores())
    folders = FLAGS.load_folder or ([] if FLAGS.network else ["SavedModel/"])
    texts, found, every = [], [], []
    with tempfile.TemporaryDirectory() as work, cli.user_errors(workers.WorkerError):
        for case in cases(folders, FLAGS.network, pathlib.Path(work)):
            if case.sample is None:
                print(
                    f"note: no test images for {case.name}, so bfloat16 is not compared; --data_dir names them", file=sys.stderr
                )
            setting = engines_peers.Setting(case.folder, 1, measure.cores(), os.path.join(work, "facts.json"), case.sample)
            workers.Worker(case.name, engines_peers.prepare, setting, threads=measure.cores()).close()
            agreements: dict[str, float | None] = {}
            for count in threads:
                for batch in batches:
                    rows, missing = table_rows(case, batch, count, FLAGS.peer, plan, agreements)
                    texts.append(table(case, batch, count, rows, missing))
                    found.append(summary(case, batch, count, rows, missing))
                    facts = {"network": case.name, "batch_size": batch, "threads": count}
                    every += [dataclasses.replace(row.timing, facts={**row.timing.facts, **facts}) for row in rows]
    if FLAGS.plot:
        from frenzy.render.files import write

        write(FLAGS.plot, plot(found))
    texts.append(
        f"samples: {plan.repeats} of about {FLAGS.seconds:g} s, medians; of best: of those that answer as\n  TensorFlow does\n"
    )
    record = measure.record(every, plan, benchmark="infer", seconds_a_sample=FLAGS.seconds, engines=versions(), summary=found)
    return "\n".join(texts), record
