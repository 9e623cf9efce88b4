"""ESPnet's E-Branchformer: feed-forwards around two branches, merged with a convolution."""

import torch

from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.legacy.nets.pytorch_backend.conformer.convolution import mask_padded_frames
from espnet_des.nn.blocks.two_branches import SIDES, TwoBranches


class EBranchformer(TwoBranches):
    """The depth-wise convolution before the projection has a half for each branch, too."""

    stock = EBranchformerEncoder
    orders = {"espnet": ("ff_macaron", SIDES, "ff")}
    parts = TwoBranches.parts | {
        "ff_macaron": ("norm_ff_macaron", "feed_forward_macaron"),
        "ff": ("norm_ff", "feed_forward"),
    }
    merging = ("depthwise_conv_fusion", "merge_proj")
    exits_are_normalised = False

    def fuse(self, block, h, mask, half):
        conv = block.depthwise_conv_fusion
        # The convolution runs along time: padded frames must not reach real ones.
        frames = mask_padded_frames(h.transpose(1, 2), mask)
        if half is None:
            frames = conv(frames)
        else:
            frames = torch.nn.functional.conv1d(
                frames,
                conv.weight[half],
                conv.bias[half],
                padding=conv.padding,
                groups=h.size(-1),
            )
        return h + frames.transpose(1, 2)

    def layer_drop_rate(self, encoder):
        return encoder.layer_drop_rate
