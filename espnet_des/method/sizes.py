"""Which sizes a supernet has: some given numbers of layers, or any."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from espnet_des.errors import ConfigError

# What a size has as much of as so many average layers. Checkpoints hold the number.
BUDGETS = ("layers", "params", "macs", "ms")
# In place of a list of sizes.
ANY = "any"
# Of ``encoder_conf``: what only a supernet has.
KEYS_OF_SIZES = ("sizes", "smallest_size", "size_step", "granularity", "own_weights")


class Sizes(NamedTuple):
    """Numbers of layers, ascending; the last one is all of them.

    Attributes:
        anchors: those that are trained, and have an output layer and weights of their own.
        all: those that can be set, the anchors among them.
    """

    anchors: list[int]
    all: list[int]

    def shares_of(self, size: int) -> dict[int, float]:
        """What a size has of what the anchors have apart; together 1.

        A size between two anchors has the more of one the nearer it is to it.

        >>> sizes = Sizes([2, 6, 8], [2, 3, 4, 5, 6, 7, 8])
        >>> sizes.shares_of(5), sizes.shares_of(7)
        ({2: 0.25, 6: 0.75}, {6: 0.5, 8: 0.5})
        """
        if size in self.anchors:
            return {size: 1.0}
        low, high = next(pair for pair in pairwise(self.anchors) if pair[0] < size < pair[1])
        of_high = (size - low) / (high - low)
        return {low: 1.0 - of_high, high: of_high}


def sizes_of_supernet(
    sizes: Sequence[int] | str | None,
    num_layers: int,
    smallest: int | None = None,
    step: int | None = None,
) -> Sizes:
    """The sizes that ``encoder_conf`` asks for.

    Args:
        sizes: numbers of layers; None for a third, two thirds and all of them; ``any`` for
            all from a smallest one on.
        num_layers: number of layers of the full encoder.
        smallest: of ``any``, the smallest size; a third of the layers by default.
        step: of ``any``, the distance of the sizes, 1 by default.

    Raises:
        ConfigError: where they cannot be the sizes of this encoder.
    """
    if sizes == ANY:
        return _any_size(num_layers, smallest, step)
    for key, value in (("smallest_size", smallest), ("size_step", step)):
        if value is not None:
            raise ConfigError(
                f"encoder_conf: {key}: {value!r} belongs to sizes: any, and sizes is {sizes!r}: "
                "leave it out"
            )
    found = check_sizes(sizes, num_layers)
    return Sizes(found, found)


def _any_size(num_layers: int, smallest: int | None, step: int | None) -> Sizes:
    first = max(1, round(num_layers / 3)) if smallest is None else smallest
    if type(first) is not int or not 1 <= first < num_layers:
        raise ConfigError(
            f"encoder_conf: smallest_size: {smallest!r} must be a number of layers from 1 to "
            f"{num_layers - 1}; this encoder has {num_layers}"
        )
    step = 1 if step is None else step
    if type(step) is not int or not 1 <= step <= num_layers - first:
        raise ConfigError(
            f"encoder_conf: size_step: {step!r} must be a number of layers from 1 to "
            f"{num_layers - first}: the sizes lie between {first} and {num_layers} layers"
        )
    everything = [*range(first, num_layers, step), num_layers]
    middle = min(everything[1:-1], key=lambda z: abs(2 * z - first - num_layers), default=None)
    return Sizes([first, *([] if middle is None else [middle]), num_layers], everything)


def evenly_spaced(sizes: Sizes, count: int) -> list[int]:
    """So many of all sizes, ascending; the anchors are always among them.

    Args:
        sizes: of a supernet. Where all are anchors, all are taken.
        count: how many, as many as there are anchors at least.
    """
    last = len(sizes.all) - 1
    if len(sizes.anchors) == len(sizes.all) or count > last:
        return sizes.all
    chosen = {round(i * last / (count - 1)) for i in range(count)}
    anchors = [sizes.all.index(anchor) for anchor in sizes.anchors]
    for anchor in anchors:
        if anchor not in chosen:  # takes the place of its neighbour
            others = sorted(chosen - set(anchors))
            chosen.remove(min(others, key=lambda i: abs(i - anchor)))
            chosen.add(anchor)
    return [sizes.all[i] for i in sorted(chosen)]


def check_sizes(sizes: Sequence[int] | str | None, num_layers: int) -> list[int]:
    """Return the sizes of a supernet, ascending, the last one all layers.

    Args:
        sizes: numbers of layers; None for a third, two thirds and all of them.
        num_layers: number of layers of the full encoder.

    Raises:
        ConfigError: where they cannot be the sizes of this encoder.
    """
    if sizes is None:
        return sorted({max(1, round(i * num_layers / 3)) for i in (1, 2, 3)})
    key = f"encoder_conf: sizes: {sizes!r}"
    if not isinstance(sizes, (list, tuple)) or not sizes:
        raise ConfigError(f"{key} must be a list such as [16, 32, {num_layers}], or {ANY}")
    if any(not isinstance(s, int) or isinstance(s, bool) for s in sizes):
        raise ConfigError(f"{key} must hold integers (numbers of layers) only")
    if sorted(set(sizes)) != list(sizes):
        raise ConfigError(f"{key} must be ascending, each size once")
    if sizes[0] < 1 or sizes[-1] != num_layers:
        raise ConfigError(
            f"{key} must lie between 1 and the {num_layers} layers of this encoder, "
            f"the last one being all {num_layers} (a layer is one residual module, "
            "of which a Conformer block has up to four)"
        )
    if len(sizes) < 2:
        raise ConfigError(
            f"{key} is one size only: a supernet needs at least two; "
            "for a single size use encoder: conformer"
        )
    return list(sizes)
