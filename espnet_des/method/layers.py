"""What a layer is: one residual module of a block, and how layers are numbered and named."""

from typing import NamedTuple

# Orders in which the layers of a block can run: ESPnet's, and that of the paper where a
# block type has it (nn/blocks). Checkpoints hold the number of the order.
ORDERS = ("espnet", "paper")


class Layer(NamedTuple):
    """Address of a layer: its block, and what it is in that block."""

    block: int
    kind: str


def layer_names(layers: list[Layer]) -> list[str]:
    """``05_block1_mhsa``: number, block and kind, all 0-based as in the state dict."""
    digits = len(str(len(layers) - 1))
    return [f"{q:0{digits}d}_block{x.block}_{x.kind}" for q, x in enumerate(layers)]


def ranges(numbers: list[int]) -> str:
    """``[1, 2, 3, 7]`` as ``1-3 7``."""
    pieces: list[list[int]] = []
    for n in numbers:
        if pieces and pieces[-1][-1] == n - 1:
            pieces[-1].append(n)
        else:
            pieces.append([n])
    return " ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in pieces)
