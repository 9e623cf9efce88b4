"""Stages 2 to 4 on a few lines."""

from argparse import Namespace

from espnet_des.corpus.kaldi import write_table
from espnet_des.recipe.data import filter_length
from espnet_des.recipe.layout import layout
from espnet_des.recipe.options import parse


def test_a_language_model_is_trained_on_all_texts_that_are_named(tmp_path):
    """In their order, as ESPnet's asr.sh writes them; a text may be empty."""
    texts = ["utt-b Ä WORD\nutt-c\nutt-a ONE\n", "", "lng_2 A BANK\r\nlng_1 IT'S 100%\n"]
    paths = [tmp_path / f"text{number}" for number, _ in enumerate(texts)]
    for path, text in zip(paths, texts):
        path.write_text(text, encoding="utf-8")
    o: Namespace = parse(
        ["--train_set", "train", "--valid_set", "dev", "--test_sets", "test",
         "--dumpdir", str(tmp_path / "dump"), "--lm_train_text", " ".join(map(str, paths))]
    )  # fmt: skip
    at = layout(o)
    for name in ("train", "dev"):
        folder = at.feats / "org" / name
        folder.mkdir(parents=True)
        for table, value in (("text", "ONE"), ("utt2spk", "s"), ("wav.scp", "a.flac"),
                             ("utt2num_samples", "16000")):  # fmt: skip
            write_table(folder / table, {f"{name}-1": value})
        for table in ("feats_type", "audio_format"):
            (folder / table).write_text("raw\n")
    filter_length(o, at)
    assert at.lm_train.read_text(encoding="utf-8") == (
        "utt-b Ä WORD\nutt-a ONE\nlng_2 A BANK\nlng_1 IT'S 100%\n"
    )
