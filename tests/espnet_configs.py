"""ESPnet's own training configs: which there are, and each with tiny widths."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from espnet_des.nn.encoders import BLOCK_TYPES

# Corpora of which all configs are trained, decoded and extracted (tests/recipe).
CORPORA = ("librispeech", "librispeech_100", "tedlium2")
WIDTHS = {
    "output_size": 16, "attention_heads": 2, "linear_units": 16, "cgmlp_linear_units": 16,
    "hidden_size": 16, "joint_space_size": 16, "num_layers": 1, "n_layers": 1,
}  # fmt: skip
BLOCKS, DECODER_BLOCKS = 3, 1
# Of the stand-in for pretrained models, tests/upstream.py.
UPSTREAM_WIDTH = 8
# Of the corpus, the machine and the length of the training, not of the model.
RUN = {
    "batch_type": "unsorted", "batch_size": 4, "accum_grad": 1, "max_epoch": 6,
    "num_workers": 0, "keep_nbest_models": 1, "nbest_averaging_interval": 0,
    "num_att_plot": 0, "use_matplotlib": False, "use_tensorboard": False, "log_interval": 1,
    "ngpu": 0, "patience": None, "num_iters_per_epoch": None, "resume": False,
}  # fmt: skip
NOT_OURS = ("batch_bins", "valid_batch_bins", "valid_batch_size")


def find(root: Path, corpora=None) -> Iterator[tuple[str, dict]]:
    """Configs of ASR trainings below an ESPnet tree, by their path below egs2.

    A config that is another by a link is given once.
    """
    seen = set()
    for path in sorted(root.glob("egs2/*/asr1/conf/**/*.yaml")):
        name = str(path.relative_to(root / "egs2"))
        if corpora is not None and name.split("/")[0] not in corpora:
            continue
        if path.is_symlink() or not path.is_file() or path.resolve() in seen:
            continue
        seen.add(path.resolve())
        try:
            config = yaml.safe_load(path.read_text("utf-8"))
        except yaml.YAMLError:
            continue
        if isinstance(config, dict) and isinstance(config.get("encoder"), str):
            yield name, config


def has_supernet(config: dict) -> bool:
    return config["encoder"] in BLOCK_TYPES


def tiny(value):
    """The same modules, narrow: every key that is a width or a depth, wherever it stands."""
    if isinstance(value, list):
        return [tiny(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {k: WIDTHS[k] if k in WIDTHS else tiny(v) for k, v in value.items()}


def swapped(config: dict) -> dict:
    """A config with tiny widths for a tiny corpus, and the encoder's supernet form."""
    config = {k: v for k, v in tiny(config).items() if k not in NOT_OURS} | RUN
    config["encoder"] = f"des_{config['encoder']}"
    conf = dict(config.get("encoder_conf") or {})
    conf["num_blocks"] = BLOCKS
    if isinstance(conf.get("stochastic_depth_rate"), list):
        conf["stochastic_depth_rate"] = conf["stochastic_depth_rate"][-BLOCKS:]
    if conf.get("interctc_layer_idx"):
        count = min(len(conf["interctc_layer_idx"]), BLOCKS - 1)
        exits = dict(zip(conf["interctc_layer_idx"], range(1, 1 + count)))
        conf["interctc_layer_idx"] = list(exits.values())
        aux = config.get("model_conf", {}).get("aux_ctc")
        if aux:  # which labels an exit has
            kept = {str(exits[int(n)]): name for n, name in aux.items() if int(n) in exits}
            config["model_conf"]["aux_ctc"] = kept
    config["encoder_conf"] = conf
    if config.get("frontend") == "s3prl" and config.get("preencoder_conf"):
        config["preencoder_conf"]["input_size"] = UPSTREAM_WIDTH
    if "num_blocks" in (config.get("decoder_conf") or {}):
        config["decoder_conf"]["num_blocks"] = DECODER_BLOCKS
    return config
