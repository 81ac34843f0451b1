"""bfloat16, decided in the graph: the range of float32 in half the bytes, with eight bits of precision.

What is cast is what autocasting casts when such networks are trained: matrix products and convolutions, with weights
and inputs rounded to bfloat16, and whatever only moves their results about. Sums, norms, activations, softmax, sampling
and everything about coordinates stay float32, as do inputs and outputs. Needs the `onnx` package (the `engines` extra);
offline only.

ONNX Runtime has no bfloat16 kernels for a CPU. `widen` writes the same graph so that it can be run there: every
bfloat16 operator computes in float32 on the rounded values, and its result is rounded, which is what tensor cores do.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serving.engine.precision import at_opset, read_graph, save_graph

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

BFLOAT16_RECIPE = "bfloat16 products and convolutions, round to nearest even, revision 2"
"""Changes when the same graph would be cast to other bytes: part of every key under which a cast graph is kept."""

# Not ConvTranspose: `tensorrt_rtx` 1.7 parses it in bfloat16 and then cannot build it.
_COMPUTES = frozenset({"MatMul", "Gemm", "Conv"})
_MOVES = frozenset(
    {
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Relu",
        "Reshape",
        "Shape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
_SUFFIX = "__bf16"
# The first version of ONNX's operators with bfloat16, and the one that older graphs are brought to.
_FIRST_OPSET, _OPSET = 13, 17
_LARGEST = 3.3895313892515355e38


def cast_to_bfloat16(source: Path, destination: Path) -> None:
    """Write `source` with bfloat16 products to `destination` (and, where it would be too large, `<destination>.data`).

    Raises EngineError for a file that is no graph, that is too old to be brought to operators with bfloat16 or, with
    its weights, is larger than protobuf takes (2 GiB); OSError.
    """
    from onnx import TensorProto, helper

    model = at_opset(read_graph(source), _FIRST_OPSET, _OPSET)
    floats = _float_tensors(model)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    low = _low_nodes(graph, floats, weights)

    made_low = {name for i in low for name in graph.node[i].output if name in floats}
    used_low = {name for i in low for name in graph.node[i].input if name in floats}
    used_high = {tensor.name for tensor in graph.output}
    for index, node in enumerate(graph.node):
        used_high.update(_captured(node))
        if index not in low:
            used_high.update(node.input)

    nodes: list[NodeProto] = []

    def settle(name: str) -> None:
        """Give a tensor that was just made the types in which it is used besides its own."""
        if name in made_low and name in used_high:
            nodes.append(helper.make_node("Cast", [name + _SUFFIX], [name], to=TensorProto.FLOAT))
        elif name in used_low and name not in made_low:
            nodes.append(helper.make_node("Cast", [name], [name + _SUFFIX], to=TensorProto.BFLOAT16))

    for tensor in graph.input:
        if tensor.name not in weights:
            settle(tensor.name)
    for index, node in enumerate(graph.node):
        outputs = list(node.output)
        if index in low:
            _rename(node, floats)
        nodes.append(node)
        for name in outputs:
            settle(name)
    _replace_nodes(graph, nodes)
    for index in reversed(range(len(graph.initializer))):
        weight = graph.initializer[index]
        if weight.name in used_low:
            graph.initializer.append(_rounded(weight))
            if weight.name not in used_high:
                del graph.initializer[index]
    save_graph(model, destination)


def widen(source: Path, destination: Path) -> None:
    """Write a graph of `cast_to_bfloat16` so that a runtime without bfloat16 kernels computes what it would.

    Raises EngineError for a file that is no graph; OSError.
    """
    from onnx import TensorProto, helper

    model = read_graph(source)
    graph = model.graph
    low = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.BFLOAT16}
    nodes: list[NodeProto] = []
    widened: set[str] = set()
    for node in graph.node:
        casts_to = next((a.i for a in node.attribute if node.op_type == "Cast" and a.name == "to"), None)
        if casts_to == TensorProto.BFLOAT16:
            low.update(node.output)
        reads = [name for name in node.input if name in low]
        if node.op_type == "Cast" or not reads:
            nodes.append(node)
            continue
        for name in reads:
            if name not in widened:
                widened.add(name)
                nodes.append(helper.make_node("Cast", [name], [f"{name}_wide"], to=TensorProto.FLOAT))
        _map(node.input, {name: f"{name}_wide" for name in reads})
        made = [name for name in node.output if name.endswith(_SUFFIX)]
        _map(node.output, {name: f"{name}_exact" for name in made})
        nodes.append(node)
        for name in made:
            low.add(name)
            nodes.append(helper.make_node("Cast", [f"{name}_exact"], [name], to=TensorProto.BFLOAT16))
    _replace_nodes(graph, nodes)
    save_graph(model, destination)


def _float_tensors(model: ModelProto) -> set[str]:
    """Names of everything that is float32 in the graph itself (not in the bodies of its loops and branches)."""
    from onnx import TensorProto, shape_inference

    graph = shape_inference.infer_shapes(model).graph
    known = {
        tensor.name: tensor.type.tensor_type.elem_type
        for tensor in (*graph.input, *graph.value_info, *graph.output)
    }
    known.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    return {name for name, kind in known.items() if kind == TensorProto.FLOAT}


def _low_nodes(graph: GraphProto, floats: set[str], weights: dict[str, TensorProto]) -> set[int]:
    """Indices of the nodes that are cast. Nodes are in the order in which they run."""
    low: set[int] = set()
    made: set[str] = set()
    for index, node in enumerate(graph.node):
        reads = [name for name in node.input if name in floats]
        moved = [name for name in reads if name not in weights]
        follows = node.op_type in _MOVES and bool(moved) and all(name in made for name in moved)
        if node.domain in ("", "ai.onnx") and reads and (node.op_type in _COMPUTES or follows):
            low.add(index)
            made.update(name for name in node.output if name in floats)
    return low


def _captured(node: NodeProto) -> Iterable[str]:
    """What the bodies of a loop or a branch may read of the graph around them: every name they use."""
    for attribute in node.attribute:
        for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from (tensor.name for tensor in body.output)
            for inner in body.node:
                yield from inner.input
                yield from _captured(inner)


def _rename(node: NodeProto, floats: set[str]) -> None:
    for names in (node.input, node.output):
        _map(names, {name: name + _SUFFIX for name in names if name in floats})


def _map(names: object, renamed: dict[str, str]) -> None:
    # A repeated field of protobuf, which has no type of its own in the stubs.
    names[:] = [renamed.get(name, name) for name in names]  # type: ignore[index, attr-defined]


def _rounded(tensor: TensorProto) -> TensorProto:
    """To the nearest; what would round beyond the largest bfloat16 becomes that, so that masks stay finite."""
    import ml_dtypes
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    largest = np.float32(_LARGEST)
    bounded = np.where(np.isinf(values), values, np.clip(values, -largest, largest))
    return numpy_helper.from_array(bounded.astype(ml_dtypes.bfloat16), tensor.name + _SUFFIX)


def _replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    before = len(graph.node)
    graph.node.extend(nodes)  # copies: the originals may go
    del graph.node[:before]
    del graph.value_info[:]  # the types that were noted no longer hold
