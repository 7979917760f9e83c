"""Report -> JSON for Google's Model Explorer: one metric as node data, and the graph with every figure as an attribute.

The formats are those of the wiki, "API guide: create custom node data", and of graph_builder.py: a node data file is
{graph id: {"results": {node id: {"value": number}}, "gradient": [...]}}. Model Explorer takes the entry of the graph on screen
and finds nodes by id, or by an output's tensor_name; ids of other graphs it leaves alone.

Checked against ai-edge-model-explorer 0.1.34 with ai_edge_model_explorer_adapter 0.2.1:
* node_data() and graph() parse strictly into node_data_builder.ModelNodeData and graph_builder.GraphCollection, and
  ModelNodeData.to_json_string() writes the same data again;
* its adapter "TF adapter (direct)" makes a graph of every function of saved_model.pb, named like the function. Node k of the
  function has id k + 1, for "GraphInputs" is 0; the main graph has none, and node k has id k. Ids and ops that are written here
  were held against its output for SavedModel/ and for a Keras export that nests functions. Its "TF adapter (MLIR)" gave no
  graph for either. The web page itself was read (processNodeDataProviderDataForGraph), not run.
"""

import collections
import json
from collections.abc import Mapping, Sequence
from typing import Any

from frenzy.accounting.report import UNKNOWN, Report, Row
from frenzy.render import data, units
from frenzy.render.colour import STOPS
from frenzy.render.groups import METRICS
from frenzy.render.layout import hidden

Body = Mapping[str, tuple[str, str]]  # node id -> (name, op)
Value = int | float


def value(row: Row, metric: str) -> Value:
    """A row's metric of groups.METRICS: bytes for storage, the report's unit for operations."""
    return units.exact(getattr(row, METRICS[metric]))


def node_data(report: Report, metric: str, bodies: Mapping[str, Body] | None = None) -> dict[str, Any]:
    """Model Explorer's ModelNodeData as plain dicts: the report's entry, for graph(), then a graph for each function body.

    Rows that have no rule get no value, for theirs is not 0. A function that is called twice shows the sum of its calls.
    """
    counted = [row for row in report.rows if row.status != UNKNOWN and not hidden(row)]
    found = {report.entry: {row.name: value(row, metric) for row in counted}}
    for name, ids in placed(counted, bodies or {}).items():
        sums: dict[str, Value] = {}
        for row, node_id in ids:
            sums[node_id] = sums.get(node_id, 0) + value(row, metric)
        found[name] = sums
    gradient = [{"stop": i / (len(STOPS) - 1), "bgColor": colour} for i, colour in enumerate(STOPS)]
    title = f"{metric} ({report.convention})"
    return {
        name: {"results": {key: {"value": v} for key, v in values.items()}, "name": title, "gradient": gradient}
        for name, values in found.items()
    }


def placed(rows: Sequence[Row], bodies: Mapping[str, Body]) -> dict[str, list[tuple[Row, str]]]:
    """body -> its rows and their ids there, where it has any: a row lies where one body alone has a node of its op and name.

    Inlining puts a call's name in front of names that are taken already: such a row is looked for without it, too.
    """
    places = collections.defaultdict(list)
    for body, nodes in bodies.items():
        for node_id, key in nodes.items():
            places[key].append((body, node_id))
    found: dict[str, list[tuple[Row, str]]] = {}
    for row in rows:
        first = places.get((row.name, row.op)) or places.get((row.name.partition("/")[2], row.op)) or []
        if len(first) == 1:
            found.setdefault(first[0][0], []).append((row, first[0][1]))
    return found


def graph(report: Report) -> dict[str, Any]:
    """Model Explorer's GraphCollection as plain dicts: the nodes of the report, inlined, under their names as ids.

    Each is in the namespace that its name says, with what data.record() says of it as attributes.
    """
    nodes = []
    for row in report.rows:
        scope = row.name.rpartition("/")[0]
        record = {key: shown for key, shown in data.record(row).items() if shown not in (None, "") and key != "name"}
        shape = {"id": "0", "attrs": [{"key": "shape", "value": units.hwc(row.output_shape)}]}
        nodes.append(
            {
                "id": row.name,
                "label": row.op,
                "namespace": scope,
                "attrs": [{"key": key, "value": str(shown)} for key, shown in record.items()],
                "incomingEdges": [
                    {"sourceNodeId": name, "sourceNodeOutputId": "0", "targetNodeInputId": str(index)}
                    for index, name in enumerate(row.inputs)
                ],
                "outputsMetadata": [shape],
            }
        )
    return {"label": report.folder, "graphs": [{"id": report.entry, "nodes": nodes}]}


def node_data_text(report: Report, metric: str, bodies: Mapping[str, Body] | None = None) -> str:
    """node_data() as JSON."""
    return json.dumps(node_data(report, metric, bodies), indent=1) + "\n"


def graph_text(report: Report) -> str:
    """graph() as JSON."""
    return json.dumps(graph(report), indent=1) + "\n"
