"""The methods, by their names in a config."""

from espnet_des.method.fixed_ranking import FixedRanking
from espnet_des.method.ortho_softmax import OrthoSoftmax
from espnet_des.method.selection import IterativeZeroOut, Selector, SimpleTopK

# In this order: checkpoints hold the number of the method.
METHODS: dict[str, type[Selector]] = {
    "simple_top_k": SimpleTopK,
    "iterative_zero_out": IterativeZeroOut,
    "fixed": FixedRanking,
    "ortho_softmax": OrthoSoftmax,
}
# Those that the comparison and the benchmarks are about.
OF_THE_PAPER = ("simple_top_k", "iterative_zero_out")
