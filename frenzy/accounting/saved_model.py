"""A SavedModel on disk -> Graph. Reads saved_model.pb and, for values, the checkpoint's index; runs nothing."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_shape_pb2, types_pb2
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2, saved_object_graph_pb2, struct_pb2

from frenzy.accounting.checkpoint import checkpoint_keys
from frenzy.accounting.graph import VARIABLES, AccountingError, Graph, PartialShape, Ref, Variable
from frenzy.accounting.inline import Inliner
from frenzy.accounting.shapes import DTYPE_BITS, infer

INTERNAL_SIGNATURES = frozenset({"__saved_model_init_op", "__saved_model_train_op"})


@dataclasses.dataclass(frozen=True)
class _Input:
    name: str
    shape: PartialShape | None
    dtype: int


def parse(folder: str | os.PathLike) -> meta_graph_pb2.MetaGraphDef:
    """The meta graph to serve from `folder`/saved_model.pb. Raises AccountingError where there is none."""
    folder = pathlib.Path(folder)
    path = folder / "saved_model.pb"
    if not folder.is_dir():
        raise AccountingError(f"no folder {folder}; --load_folder takes the folder of a SavedModel")
    if not path.is_file():
        raise AccountingError(
            f"{folder} is no SavedModel: it holds no saved_model.pb; name the folder that does by --load_folder"
        )
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as e:
        raise AccountingError(f"{path} cannot be read ({e}); it is truncated or no SavedModel: export it again") from None
    if not model.meta_graphs:
        raise AccountingError(f"{path} holds no graph; it is truncated or no SavedModel: export it again")
    serving = [meta for meta in model.meta_graphs if "serve" in meta.meta_info_def.tags]
    meta = (serving or list(model.meta_graphs))[0]
    objects = meta.object_graph_def
    named = [child.node_id for node in objects.nodes for child in node.children]
    named += [node_id for function in objects.concrete_functions.values() for node_id in function.bound_inputs]
    if named and not 0 <= min(named) <= max(named) < len(objects.nodes):
        raise AccountingError(f"{path} names objects that it does not hold; it is damaged: export it again")
    return meta


def _signatures(meta: meta_graph_pb2.MetaGraphDef) -> dict[str, meta_graph_pb2.SignatureDef]:
    return {
        name: signature
        for name, signature in meta.signature_def.items()
        if name not in INTERNAL_SIGNATURES and signature.inputs and signature.outputs
    }


def _root_functions(objects: saved_object_graph_pb2.SavedObjectGraph) -> dict[str, list[str]]:
    """The functions that hang on the root object: attribute -> concrete functions, inference ones first choice."""
    found = {}
    for child in objects.nodes[0].children if objects.nodes else ():
        node = objects.nodes[child.node_id]
        if node.WhichOneof("kind") == "function":
            found[child.local_name] = list(node.function.concrete_functions)
        elif node.WhichOneof("kind") == "bare_concrete_function":
            found[child.local_name] = [node.bare_concrete_function.concrete_function_name]
    return {name: functions for name, functions in found.items() if functions}


def _values(structure: struct_pb2.StructuredValue) -> Iterator[struct_pb2.StructuredValue]:
    """The leaves of a structured value, in the order in which functions take them."""
    kind = structure.WhichOneof("kind")
    if kind in ("tuple_value", "list_value"):
        for value in getattr(structure, kind).values:
            yield from _values(value)
    elif kind == "dict_value":
        for key in sorted(structure.dict_value.fields):
            yield from _values(structure.dict_value.fields[key])
    elif kind == "named_tuple_value":
        for pair in structure.named_tuple_value.values:
            yield from _values(pair.value)
    else:
        yield structure


def _trains(objects: saved_object_graph_pb2.SavedObjectGraph, function: str) -> bool:
    """Whether a concrete function was traced with a literal True among its arguments, as Keras does for training=True."""
    signature = objects.concrete_functions[function].canonicalized_input_signature
    return any(v.WhichOneof("kind") == "bool_value" and v.bool_value for v in _values(signature))


def _choose(meta: meta_graph_pb2.MetaGraphDef, folder, entry: str | None) -> str:
    """The entry's name: what was asked for, else serving_default, the only signature, or the root's __call__."""
    signatures, functions = _signatures(meta), _root_functions(meta.object_graph_def)
    choices = [*sorted(signatures), *sorted(name for name in functions if name not in signatures)]
    listed = ", ".join(choices) or "none"
    if entry is not None:
        if entry not in choices:
            raise AccountingError(f"{folder} has no entry '{entry}'; --entry takes one of: {listed}")
        return entry
    if "serving_default" in signatures:
        return "serving_default"
    if len(signatures) == 1:
        return next(iter(signatures))
    if "__call__" in functions:
        return "__call__"
    raise AccountingError(f"{folder} has no serving_default, no single signature and no __call__; name an --entry of: {listed}")


def _partial(shape: tensor_shape_pb2.TensorShapeProto) -> PartialShape | None:
    if shape.unknown_rank:
        return None
    return tuple(dim.size if dim.size >= 0 else None for dim in shape.dim)


def _spec_inputs(meta: meta_graph_pb2.MetaGraphDef, function: str, count: int) -> list[_Input]:
    """The first `count` arguments of a concrete function: names, shapes and dtypes."""
    definition = next(f for f in meta.graph_def.library.function if f.signature.name == function)
    signature = meta.object_graph_def.concrete_functions[function].canonicalized_input_signature
    specs = [v for v in _values(signature) if v.WhichOneof("kind") == "tensor_spec_value"]
    found = []
    for position, argument in enumerate(definition.signature.input_arg[:count]):
        attrs = definition.arg_attr[position].attr
        shape: PartialShape | None = None
        if attrs["_output_shapes"].list.shape:
            shape = _partial(attrs["_output_shapes"].list.shape[0])
        elif len(specs) == count:
            shape = _partial(specs[position].tensor_spec_value.shape)
        name = attrs["_user_specified_name"].s.decode() or argument.name
        found.append(_Input(name, shape, argument.type))
    return found


def _settled(wanted: _Input, input_shape: Sequence[int] | None) -> tuple[int, ...]:
    """The input's shape with nothing unknown: the batch is 1 where it is open, the rest must be known or given."""
    shape = wanted.shape
    if input_shape is not None:
        given = tuple(input_shape)
        if shape is None:
            shape = (None, *given)
        if len(given) == len(shape) - 1:
            given = (shape[0] or 1, *given)
        fits = len(given) == len(shape) and all(known in (None, value) for known, value in zip(shape, given, strict=True))
        if not fits or min(given) < 1:
            raise AccountingError(
                f"input '{wanted.name}' is {_written(shape)}; --input_shape {','.join(map(str, input_shape))} does not fit it"
            )
        shape = given
    if shape is None or None in shape[1:]:
        open_dims = (
            "its rank" if shape is None else "dimension " + ", ".join(str(i) for i, d in enumerate(shape) if i and d is None)
        )
        raise AccountingError(
            f"input '{wanted.name}' is {_written(shape)}: {open_dims} is not known; give it by --input_shape, 32,32,3 say"
        )
    settled = tuple(1 if dim is None else dim for dim in shape)
    if 0 in settled:
        raise AccountingError(f"input '{wanted.name}' is {_written(shape)}: a dimension is 0, so there is nothing to count")
    return settled


def _written(shape: PartialShape | None) -> str:
    return "of unknown rank" if shape is None else "(" + ", ".join("?" if d is None else str(d) for d in shape) + ")"


def _batch(shape: PartialShape | None, settled: tuple[int, ...]) -> int:
    """How many images go through at once; a known rank-3 shape that ends in 1, 3 or 4 channels is one image."""
    if shape is not None and len(shape) == 3 and None not in shape and shape[-1] in (1, 3, 4):
        return 1
    return settled[0] if settled else 1


def _placeholder(name: str, shape: Sequence[int] | None, dtype: int) -> NodeDef:
    node = NodeDef(name=name, op="Placeholder")
    node.attr["dtype"].type = dtype
    node.attr["shape"].shape.unknown_rank = shape is None
    for dim in shape or ():
        node.attr["shape"].shape.dim.add(size=dim)
    return node


def _handle(variable: saved_object_graph_pb2.SavedVariable, name: str) -> NodeDef:
    node = NodeDef(name=name, op="VarHandleOp")
    node.attr["dtype"].type = variable.dtype
    node.attr["shape"].shape.CopyFrom(variable.shape)
    node.attr["shared_name"].s = name.encode()
    return node


class _Reader:
    """Walks from an entry to a flat graph, and remembers which flat node holds which saved variable."""

    def __init__(self, folder, meta: meta_graph_pb2.MetaGraphDef, input_shape: Sequence[int] | None):
        self.folder, self.meta, self.input_shape = folder, meta, input_shape
        self.objects = meta.object_graph_def
        self.library = {f.signature.name: f for f in meta.graph_def.library.function}
        self.inliner = Inliner(self.library)
        self.inputs: list[str] = []
        self.batch = 1
        self.holders: dict[str, int] = {}  # flat node -> object id of the variable

    def read(self, entry: str) -> list[Ref]:
        signatures = _signatures(self.meta)
        if entry in signatures:
            return self._signature(signatures[entry])
        return self._function(entry, _root_functions(self.objects)[entry])

    def _feed(self, wanted: Sequence[_Input]) -> list[Ref]:
        """Placeholders for the inputs; the first of the highest rank says how large the batch is."""
        open_ones = [i for i in wanted if i.shape is None or None in i.shape[1:]]
        takes = open_ones or list(wanted)
        if self.input_shape is not None and len(takes) > 1:
            names = ", ".join(i.name for i in takes)
            raise AccountingError(
                f"--input_shape is for one input, and here are {len(takes)}: {names}; export them with known shapes"
            )
        shapes = [_settled(i, self.input_shape if i in takes else None) for i in wanted]
        if wanted:
            main = max(range(len(wanted)), key=lambda k: len(shapes[k]))
            self.batch = _batch(wanted[main].shape, shapes[main])
        refs = [(self.inliner.add(_placeholder(i.name, s, i.dtype), ()), 0) for i, s in zip(wanted, shapes, strict=True)]
        self.inputs = [name for name, _ in refs]
        return refs

    def _signature(self, signature: meta_graph_pb2.SignatureDef) -> list[Ref]:
        keys = sorted(signature.inputs)
        wanted = [_Input(k, _partial(signature.inputs[k].tensor_shape), signature.inputs[k].dtype) for k in keys]
        nodes = [signature.inputs[k].name.split(":")[0] for k in keys]
        given = dict(zip(nodes, self._feed(wanted), strict=True))
        outputs = [signature.outputs[k].name for k in sorted(signature.outputs)]
        results = self.inliner.graph(self.meta.graph_def, outputs, given)
        self._find_holders()
        return results

    def _find_holders(self) -> None:
        """Calls from the main graph pass variables in the order of the callee's bound inputs: that names them for sure."""
        for (function, position), (flat, _) in self.inliner.captures.items():
            bound = (
                self.objects.concrete_functions[function].bound_inputs if function in self.objects.concrete_functions else ()
            )
            index = position - (len(self.library[function].signature.input_arg) - len(bound))
            if bound and index >= 0 and self.objects.nodes[bound[index]].WhichOneof("kind") == "variable":
                self.holders.setdefault(flat, bound[index])

    def _function(self, entry: str, functions: Sequence[str]) -> list[Ref]:
        known = [f for f in functions if f in self.objects.concrete_functions and f in self.library]
        usable = [f for f in known if not _trains(self.objects, f)] or known
        if not usable:
            raise AccountingError(f"{self.folder}: entry '{entry}' names functions that the file does not hold; it is damaged")
        function = usable[0]
        bound = self.objects.concrete_functions[function].bound_inputs
        count = len(self.library[function].signature.input_arg) - len(bound)
        arguments = self._feed(_spec_inputs(self.meta, function, count))
        arguments += [self._bound(node_id, function, count + i) for i, node_id in enumerate(bound)]
        return self.inliner.function(function, arguments)

    def _bound(self, node_id: int, function: str, position: int) -> Ref:
        """The flat tensor of a captured object: a variable's handle, a literal, or something else that is not counted."""
        saved = self.objects.nodes[node_id]
        if saved.WhichOneof("kind") == "variable":
            for flat, holder in self.holders.items():
                if holder == node_id:
                    return flat, 0
            flat = self.inliner.add(_handle(saved.variable, saved.variable.name or f"variable_{node_id}"), ())
            self.holders[flat] = node_id
            return flat, 0
        if saved.WhichOneof("kind") == "constant":
            literal = next(n for n in self.meta.graph_def.node if n.name == saved.constant.operation)
            return self.inliner.add(literal, ()), 0
        dtype = self.library[function].signature.input_arg[position].type
        return self.inliner.add(_placeholder(f"captured_{node_id}", None, dtype), ()), 0

    def needed(self, outputs: Sequence[Ref]) -> list[NodeDef]:
        """The flat nodes that the outputs need: arguments that a function takes and does not use are not computed."""
        wanted = {name for name, _ in outputs}
        for node in reversed(self.inliner.nodes):  # producers come first
            if node.name in wanted:
                wanted.update(ref.rsplit(":", 1)[0] for ref in node.input)
        return [node for node in self.inliner.nodes if node.name in wanted or node.name in self.inputs]

    def variables(self, nodes: Sequence[NodeDef]) -> dict[str, Variable]:
        """Every variable of the flat graph by the node that holds it."""
        keys = checkpoint_keys(pathlib.Path(self.folder), self.objects)
        by_name: Mapping[str, int] = {
            node.variable.name: i for i, node in enumerate(self.objects.nodes) if node.WhichOneof("kind") == "variable"
        }
        found = {}
        for node in nodes:
            if node.op not in VARIABLES:
                continue
            shared = node.attr["shared_name"].s.decode() or node.name
            holder = self.holders.get(node.name, by_name.get(shared))
            name = self.objects.nodes[holder].variable.name if holder is not None else shared
            key = keys.by_object.get(holder) if holder is not None else keys.by_name.get(shared)
            shape = tuple(dim.size for dim in node.attr["shape"].shape.dim)
            if min(shape, default=0) < 0:
                raise AccountingError(f"variable '{shared}' has no known shape; its storage cannot be counted")
            found[node.name] = Variable(
                name or shared, shape, DTYPE_BITS[types_pb2.DataType.Name(node.attr["dtype"].type)], key
            )
        return found


def read_graph(folder: str | os.PathLike, entry: str | None = None, input_shape: Sequence[int] | None = None) -> Graph:
    """The graph behind an entry of a SavedModel, inlined and shaped. Needs no variables' data and runs nothing.

    entry: a signature, or an attribute of the root object that is a tf.function; by default serving_default, else the only
    signature, else __call__. input_shape: what the file leaves open, with or without the batch. Raises AccountingError.
    """
    meta = parse(folder)
    entry = _choose(meta, folder, entry)
    reader = _Reader(folder, meta, input_shape)
    outputs = reader.read(entry)
    flat = reader.needed(outputs)
    nodes, constant, computed = infer(flat, meta.graph_def, reader.batch)
    return Graph(
        folder=str(folder),
        entry=entry,
        nodes=nodes,
        inputs=tuple(reader.inputs),
        outputs=tuple(outputs),
        batch=reader.batch,
        variables=reader.variables(flat),
        constant=constant,
        computed=computed,
    )
