"""What ESPnet's asr.sh has besides the driver's options, and what of all stage 16 takes.

Stage 16 may follow ESPnet's own asr.sh, whose options then come here, too: those that it does
not need are left out, and those that it cannot follow are refused before asr.sh starts.
"""

import argparse
import re
from pathlib import Path

# What asr.sh has and this driver leaves out; its value says that it is off.
LEFT_OUT = {
    "use_ngram": "false", "use_word_lm": "false", "use_k2": "false",
    "use_streaming": "false", "use_maskctc": "false", "use_lightning": "false",
    "use_prompt": "false", "use_lang_prompt": "false", "use_nlp_prompt": "false",
    "sot_asr": "false", "num_ref": "1", "num_inf": "", "num_splits_asr": "1",
    "num_splits_lm": "1", "asr_task": "asr", "num_nodes": "1", "gpu_inference": "false",
    "download_model": "", "hf_repo": "", "skip_upload_hf": "true",
    "auxiliary_data_tags": "", "post_process_local_data_opts": "",
    "multi_columns_input_wav_scp": "false", "multi_columns_output_wav_scp": "false",
    "hugging_face_model_name_or_path": "", "word_vocab_size": "10000",
    "ngram_exp": "", "ngram_num": "3", "inference_ngram": "3gram.bin",
    "k2_config": "./conf/decode_asr_transformer_with_k2.yaml", "k2_ctc_decoding": "true",
    "use_nbest_rescoring": "true", "num_paths": "1000", "nll_batch_size": "100",
    "score_opts": "", "local_score_opts": "",
}  # fmt: skip

# Of the options that both have, what stage 16 needs: where things are, how a size is decoded
# and scored, and what is packed with it.
OF_STAGE_16 = {
    "stop_stage", "skip_stages", "skip_packing", "skip_sizes", "eval_valid_set", "inference_nj",
    "dumpdir", "expdir", "python", "feats_type", "train_set", "valid_set", "test_sets", "lang",
    "nlsyms_txt", "cleaner", "hyp_cleaner", "speed_perturb_factors", "token_type", "nbpe",
    "bpemode", "use_lm", "lm_config", "lm_args", "lm_tag", "lm_exp", "inference_lm",
    "asr_config", "asr_args", "asr_tag", "asr_exp", "asr_stats_dir", "feats_normalize",
    "inference_asr_model", "inference_config", "inference_args", "inference_tag", "batch_size",
    "sizes_decoding", "num_sizes", "asr_sh", "only_check", "shrink", "shrink_args",
}  # fmt: skip
# What changes the model, or its data, to something that stage 16 does not know.
NOT_FOLLOWED = {
    "asr_task", "use_lightning", "use_maskctc", "num_ref", "num_inf", "download_model",
    "multi_columns_output_wav_scp",
}  # fmt: skip
# What changes stage 12 alone, and so the beam search of stage 16, too.
NOT_IN_BEAM_SEARCH = ("use_ngram", "use_k2", "use_streaming")
WITHOUT_SIZES = "or leave stage 16, the table of sizes, out with --skip_sizes true"


def check_known(parser: argparse.ArgumentParser, names: list[str], asr_sh: Path) -> None:
    """Refuse options that neither this driver nor ESPnet's asr.sh has."""
    try:
        theirs = asr_sh.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"--asr_sh {asr_sh}: cannot be read ({error}); give ESPnet's asr.sh")
    found = {*vars(parser.parse_args([])), *re.findall(r"^([a-z]\w*)=", theirs, re.MULTILINE)}
    for name in names:
        if name not in found:
            parser.error(f"--{name}: unknown here and to {asr_sh}")


def following_stage(values: dict[str, str]) -> int:
    """11 where a shrink is to be trained, and no more; else 16."""
    is_11 = values.get("stage") == values.get("stop_stage") == "11"
    return 11 if is_11 and values.get("shrink") else 16


def needed_by(parser: argparse.ArgumentParser, stage: int) -> set[str]:
    """Options that a stage takes; the training of a shrink does without what is left out here."""
    if stage == 16:
        return OF_STAGE_16
    return vars(parser.parse_args([])).keys() - (LEFT_OUT.keys() - NOT_FOLLOWED)


def check_followed(parser: argparse.ArgumentParser, values: dict[str, str]) -> None:
    """Refuse what stage 16 cannot follow.

    Args:
        values: of the options that were given.
    """
    is_beam = values.get("sizes_decoding") == "beam"
    for name, value in values.items():
        if value == LEFT_OUT.get(name):
            continue
        if name in NOT_FOLLOWED:
            parser.error(
                f"--{name} {value}: stage 16 cannot follow it (only "
                f"{LEFT_OUT[name] or 'empty'!r}); leave it, {WITHOUT_SIZES}"
            )
        if is_beam and name in NOT_IN_BEAM_SEARCH:
            parser.error(
                f"--{name} {value}: beam search in stage 16 has not got that; decode sizes by "
                f"--sizes_decoding best_path, {WITHOUT_SIZES}"
            )
