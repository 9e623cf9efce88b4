"""int8 by onnxruntime's dynamic quantisation, for the matrix products of an export."""

from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from espnet_des.deploy.onnx.graph import is_of_frontend, quiet
from espnet_des.errors import ConfigError
from espnet_des.utils.files import write_atomically

# Products with weights narrower than this stay in float: they cost little.
MIN_SIDE = 32


def quantize(source: Path, target: Path) -> None:
    """Matrix products in int8, by onnxruntime's dynamic quantisation.

    Weights have 7 bits and a scale per output: with 8 the products overflow on
    x86 processors without VNNI, silently. The spectrum stays in float.

    Args:
        source: of a graph that was made for it (``CTCGraph(..., int8=True)``).
        target: the file to write.

    Raises:
        ConfigError: where there is nothing to quantise. The target is not written then.
    """
    model = onnx.load(source)
    shapes = {weight.name: weight.dims for weight in model.graph.initializer}
    in_float = [
        name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm")
        and (is_of_frontend(node.name) or _smaller_side(node, shapes) < MIN_SIDE)
        for name in (node.name, node.name + "_MatMul")  # what the quantiser makes of Gemm
    ]

    def write(partial: Path) -> None:
        with quiet():
            quantize_dynamic(
                model, partial, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
                reduce_range=True, weight_type=QuantType.QInt8, nodes_to_exclude=in_float,
            )  # fmt: skip
        quantized = onnx.load(partial)
        if not any(node.op_type == "MatMulInteger" for node in quantized.graph.node):
            raise ConfigError(
                "quantize: int8 would leave everything in float: no matrix product of this "
                f"model has weights of {MIN_SIDE} or more inputs and outputs (encoder_conf: "
                "output_size and linear_units); give --quantize none"
            )
        quantize_before_gathering(quantized.graph)
        onnx.save(quantized, partial)

    write_atomically(target, write)


def _smaller_side(node, shapes: dict[str, tuple[int, ...]]) -> float:
    """Of the weights of a matrix product; of two activations, of no account."""
    return min(shapes.get(node.input[1], (float("inf"),)))


def quantize_before_gathering(graph) -> None:
    """Gather patches of bytes, not of floats.

    A patch convolution repeats every value up to nine times. Quantising before
    that gives the same bytes for a quarter of the copying.
    """
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type != "DynamicQuantizeLinear":
            continue
        reshape = made_by.get(node.input[0])
        gather = reshape and made_by.get(reshape.input[0])
        if (
            reshape is None
            or gather is None
            or (reshape.op_type, gather.op_type) != ("Reshape", "Gather")
        ):
            continue
        floats, quantized = gather.input[0], node.output[0]
        node.input[0] = floats
        node.output[0] = quantized + "_before_gathering"
        gather.input[0] = node.output[0]
        for user in graph.node:
            for i, name in enumerate(user.input):
                if name == quantized:
                    user.input[i] = reshape.output[0]
        # Their recorded types are no longer true.
        for info in [
            i for i in graph.value_info if i.name in (*gather.output, *reshape.output)
        ]:
            graph.value_info.remove(info)
        # In the order of computation.
        graph.node.remove(node)
        graph.node.insert(list(graph.node).index(gather), node)
