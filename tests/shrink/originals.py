"""Tiny stock models, trained by ESPnet's command, to be shrunk."""

from pathlib import Path

from tests.train import make_data, train_here

STOCK = {
    "encoder": "conformer", "encoder_conf__sizes": None, "model": "espnet",
    "model_conf__updates_per_iteration": None, "model_conf__reduction": None,
    "max_epoch": 6, "accum_grad": 1,
}  # fmt: skip
E_BRANCHFORMER = {
    "encoder": "e_branchformer",
    "encoder_conf": {
        "output_size": 8, "attention_heads": 2, "num_blocks": 2, "linear_units": 8,
        "cgmlp_linear_units": 8, "cgmlp_conv_kernel": 3, "use_ffn": True, "macaron_ffn": True,
        "merge_conv_kernel": 3, "rel_pos_type": "latest", "input_layer": "conv2d",
    },
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 8, "num_blocks": 1},
    "model_conf__ctc_weight": 0.3,
    "best_model_criterion": [["valid", "acc", "max"]],
}  # fmt: skip
TRANSDUCER = {
    "decoder": "transducer",
    "decoder_conf": {"rnn_type": "lstm", "num_layers": 1, "hidden_size": 8},
    "joint_net_conf": {"joint_space_size": 8},
    "model_conf__ctc_weight": 0.3,
    "best_model_criterion": [["valid", "loss", "min"]],
}
FILES = ("config.yaml", "valid.cer_ctc.ave.pth")


def train_original(folder: Path, **changes) -> Path:
    """Data in ``folder/data``, the trained model in ``folder/exp``."""
    (folder / "data").mkdir(parents=True)
    make_data(folder / "data")
    return train_here(folder / "data", folder, **(STOCK | changes))
