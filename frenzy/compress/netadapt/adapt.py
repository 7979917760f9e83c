"""The iteration: proposals, a short fine-tune of each, the best one kept; a long fine-tune at the end.

All that was decided is in journal.json, rewritten whole after every proposal, and the networks that it names lie beside it. A
run that was killed repeats the proposal under way from its start and takes the decisions that it would have taken.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import tf_keras as keras

from frenzy.compress.netadapt import architecture
from frenzy.compress.netadapt.channels import Candidate, Channels
from frenzy.compress.netadapt.schedule import Proposal, Resource, Settings, best, check_reach, proposals, target
from frenzy.compress.tensors import CompressError

JOURNAL = "journal.json"
START, FINAL = "start", "final"
Scores = dict[str, float]  # at least accuracy, a fraction of 1


@dataclasses.dataclass(frozen=True)
class Calls:
    """What NetAdapt is given. resource(candidate) -> a number that shrinks; finetune(model, name) trains in place, as short as it
    likes, and `finish` long; evaluate(model) -> {accuracy, ...} on images that training does not see; chosen(row, model) hears of
    every network that is kept, again if a run was killed just then; told(words) of every step.
    """

    resource: Resource
    finetune: Callable[[keras.Model, str], Any]
    finish: Callable[[keras.Model, str], Any]
    evaluate: Callable[[keras.Model], Scores]
    chosen: Callable[[dict, keras.Model], Any] = lambda row, model: None
    told: Callable[[dict], Any] = lambda state: None


class Journal:
    """What a run has decided so far. Raises CompressError where the folder has another run's, or one without `resume`."""

    def __init__(self, folder: str | os.PathLike, settings: Settings, facts: Mapping, resume: bool):
        self.folder = pathlib.Path(folder)
        self.path = self.folder / JOURNAL
        own = json.loads(json.dumps({"settings": dataclasses.asdict(settings), "facts": dict(facts)}))
        self.state: dict = {**own, "rows": [], "proposals": []}
        if self.path.exists():
            if not resume:
                raise CompressError(f"{self.folder} holds a run already; pass --resume to go on with it, or another --run_dir")
            self.state = self._read()
            for key, value in own.items():
                if self.state.get(key) != value:
                    name = next(n for n in {**value, **self.state[key]} if value.get(n) != self.state[key].get(n))
                    was, now = self.state[key].get(name), value.get(name)
                    raise CompressError(f"{self.path}: {name} was {was} and is {now}; resume with what the run began with")

    def _read(self) -> dict:
        try:
            state = json.loads(self.path.read_text())
            return {**state, "rows": list(state["rows"]), "settings": dict(state["settings"]), "facts": dict(state["facts"])}
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise CompressError(f"{self.path} is no run's journal ({e}); begin again in another --run_dir") from None

    def write(self, **changes: Any) -> None:
        """Changes the state, and the file at once."""
        self.state.update(changes)
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.state, indent=1) + "\n")
        os.replace(temporary, self.path)

    @property
    def rows(self) -> list[dict]:
        """One for the start (iteration 0), one an iteration, and one, FINAL, after the long fine-tune."""
        return self.state["rows"]

    def network(self, name: str) -> pathlib.Path:
        return self.folder / "networks" / name

    def tidy(self) -> None:
        """Removes networks that no row and no proposal names."""
        named = {row["network"] for row in self.rows} | {self.state.get("leading")}
        for path in (self.folder / "networks").glob("*"):
            if path.name not in named:
                shutil.rmtree(path, ignore_errors=True)


def _start(model: keras.Model, journal: Journal, calls: Calls) -> None:
    channels = Channels(model)
    resource = float(calls.resource(Candidate(channels, channels.without(()))))
    check_reach(channels, Settings(**journal.state["settings"]), resource, calls.resource)
    architecture.save(model, journal.network(START))
    row = {"iteration": 0, "network": START, "resource": resource, **calls.evaluate(model)}
    calls.chosen(row, model)
    journal.write(rows=[row])


def _try(plan: Proposal, name: str, calls: Calls) -> tuple[dict, keras.Model]:
    """One proposal, fine-tuned and scored."""
    model = plan.candidate.build()
    before = calls.evaluate(model)
    calls.finetune(model, name)
    scores = calls.evaluate(model)
    words = {"group": plan.group.name, "layers": list(plan.group.layers), "channels": len(plan.group.classes)}
    return {
        **words,
        "kept": plan.kept,
        "resource": plan.resource,
        "before": before["accuracy"],
        **scores,
        "network": name,
    }, model


def _iterate(iteration: int, journal: Journal, settings: Settings, calls: Calls) -> None:
    """One step: every proposal that the journal does not have yet, then the choice."""
    initial, last = journal.rows[0]["resource"], journal.rows[-1]
    goal = target(settings, initial, last["resource"], iteration)
    channels = Channels(architecture.load(journal.network(last["network"])))
    plans = proposals(channels, goal, settings.multiple, calls.resource)
    done = {each["group"]: each for each in journal.state["proposals"]}
    for number, plan in enumerate(plans, 1):
        if plan.group.name in done:
            continue
        calls.told({"iteration": iteration, "proposal": number, "proposals": len(plans), "group": plan.group.name})
        name = f"iteration_{iteration:02d}_{number:02d}"
        found, model = _try(plan, name, calls)
        done[plan.group.name] = found
        leading = best(list(done.values()), settings, last["accuracy"], last["resource"])["network"]
        if leading == name:
            architecture.save(model, journal.network(name))
        journal.write(proposals=list(done.values()), leading=leading)
        journal.tidy()
    winner = best(list(done.values()), settings, last["accuracy"], last["resource"])
    row = {"iteration": iteration, "target": goal, **winner}
    calls.chosen(row, architecture.load(journal.network(winner["network"])))
    journal.write(rows=[*journal.rows, row], proposals=[], leading=None)


def _finish(journal: Journal, calls: Calls) -> None:
    last = journal.rows[-1]
    model = architecture.load(journal.network(last["network"]))
    calls.told({"iteration": last["iteration"], "proposal": 0, "proposals": 0, "group": FINAL})
    before = calls.evaluate(model)["accuracy"]
    calls.finish(model, FINAL)
    architecture.save(model, journal.network(FINAL))
    row = {
        "iteration": last["iteration"], "network": FINAL, "resource": last["resource"], "before": before, **calls.evaluate(model)
    }  # fmt: skip
    calls.chosen(row, model)
    journal.write(rows=[*journal.rows, row])


def adapt(model: keras.Model, journal: Journal, calls: Calls) -> keras.Model:
    """The network adapted to the journal's settings; where the journal has steps already, from the last of them on.

    Ends at the budget or after the settings' iterations, with the long fine-tune. `model` itself stays as it is. Raises
    CompressError where the budget or a step's target is out of reach, or the resource does not shrink.
    """
    settings = Settings(**journal.state["settings"])
    if not journal.rows:
        _start(model, journal, calls)
    goal = settings.budget * journal.rows[0]["resource"]
    while journal.rows[-1]["network"] != FINAL:
        iteration = len(journal.rows)
        if journal.rows[-1]["resource"] <= goal or iteration > settings.iterations:
            _finish(journal, calls)
        else:
            _iterate(iteration, journal, settings, calls)
    return architecture.load(journal.network(FINAL))
