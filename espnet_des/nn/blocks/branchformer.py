"""ESPnet's Branchformer: attention and cgMLP side by side, and nothing else."""

from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet_des.nn.blocks.two_branches import SIDES, TwoBranches


class Branchformer(TwoBranches):
    """Merged by a projection of both."""

    stock = BranchformerEncoder
    orders = {"espnet": (SIDES,)}
    refused = TwoBranches.refused | {
        "merge_method": (
            "concat",
            "the means weigh one branch by the other, or have one projection for both, so "
            "a branch is no residual layer of its own",
        ),
    }
