"""Both corpora through their whole recipes, on tiny corpora in the exact layouts.

make test-recipes                             # the project's own driver
make test-recipes ESPNET_ROOT=~/espnet        # and a real ESPnet checkout
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.make_corpora import make_librispeech, make_tedlium2

pytestmark = pytest.mark.recipes

ROOT = Path(__file__).parents[2]
ESPNET_ROOT = os.environ.get("ESPNET_ROOT")
TINY_ASR = (
    "--encoder_conf num_blocks=2 --encoder_conf output_size=16 --encoder_conf linear_units=16 "
    "--encoder_conf attention_heads=2 --encoder_conf cnn_module_kernel=7 "
    "--encoder_conf sizes=[4,8] --model_conf reduction=4 --model_conf updates_per_iteration=1 "
    "--num_iters_per_epoch 2 --max_epoch 2 --scheduler_conf total_steps=4 --num_workers 0 "
    "--keep_nbest_models 1 --log_interval 1 --use_amp false"
)
TINY_LM = {
    "librispeech": "--lm_conf layer=1 --lm_conf unit=16 --lm_conf att_unit=16 "
    "--lm_conf embed_unit=8 --lm_conf head=2",
    "tedlium2": "--lm_conf unit=16 --lm_conf nlayers=1",
}
TINY_LM = {k: f"{v} --max_epoch 1 --num_workers 0 --batch_size 8" for k, v in TINY_LM.items()}
TRAIN = {"librispeech": "train_960", "tedlium2": "train"}
TESTS = {
    "librispeech": ["test_clean", "test_other", "dev_clean", "dev_other"],
    "tedlium2": ["test"],
}
# Of ESPnet's asr.sh alone: stage 16 reads such a dump, and does without the others.
OF_ASR_SH = {
    "librispeech": ["--num_splits_lm", "2", "--k2_config", "conf/none.yaml"],
    "tedlium2": ["--audio_format", "flac.ark", "--num_splits_asr", "2", "--ngram_num", "4"],
}
MAKE = {"librispeech": make_librispeech, "tedlium2": make_tedlium2}


def recipe_folder(corpus: str, folder: Path, downloads: Path = None) -> Path:
    """A folder of links to a recipe, with a tiny corpus of its own or a given one."""
    source = ROOT / "egs2" / corpus / "asr1"
    for name in ("run.sh", "asr.sh", "path.sh", "cmd.sh", "db.sh", "local", "conf"):
        (folder / name).symlink_to((source / name).resolve())
    if downloads is None:
        MAKE[corpus](folder / "downloads")
        if corpus == "librispeech":
            packed = folder / "downloads/librispeech-lm-norm.txt.gz"
            packed.write_bytes(gzip.compress(b"SEVEN OF NINE\n" * 20))
    else:
        (folder / "downloads").symlink_to(downloads)
    return folder


def run(folder: Path, corpus: str, *arguments: str) -> subprocess.CompletedProcess:
    """``run.sh`` with a model that trains in seconds."""
    env = {k: v for k, v in os.environ.items() if k != "ESPNET_ROOT"}
    env |= {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
    done = subprocess.run(
        [str(folder / "run.sh"), "--ngpu", "0", "--nj", "2", "--inference_nj", "2",
         "--nbpe", "30", "--asr_tag", "tiny", "--lm_tag", "tiny", "--asr_args", TINY_ASR,
         "--use_lm", "true", "--lm_args", TINY_LM[corpus],
         "--inference_config", "conf/decode_ctc_lm.yaml",
         "--inference_args", "--beam_size 2 --maxlenratio -4",
         "--inference_tag", "decode", "--skip_packing", "false", *arguments],
        env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    (folder / "out.log").write_text(done.stdout)
    return done


def check_outputs(folder: Path, corpus: str) -> None:
    """What stages 1 to 14 and 16 leave behind, in ESPnet's places."""
    exp = folder / "exp/asr_tiny"
    for name in TESTS[corpus]:
        count = len((folder / "dump/raw" / name / "text").read_text().splitlines())
        texts = (exp / "decode" / name / "text").read_text().splitlines()
        assert len(texts) == count > 0
        for kind in ("wer", "cer", "ter"):
            assert (
                "Sum/Avg" in (exp / "decode" / name / f"score_{kind}/result.txt").read_text()
            )
    for path in ("asr_stats_raw_en_bpe30/train/feats_stats.npz", "lm_tiny/valid.loss.ave.pth",
                 "lm_tiny/perplexity_test/ppl", "asr_tiny/RESULTS.md"):  # fmt: skip
        assert (folder / "exp" / path).exists(), path
    other = (folder / "dump/raw/lm_train.txt").read_text().count("librispeech_lng_")
    assert other == (20 if corpus == "librispeech" else 0)
    assert (folder / "data/en_token_list/bpe_unigram30/tokens.txt").exists()
    names = zipfile.ZipFile(exp / "asr_tiny_valid.cer_ctc.ave.zip").namelist()
    assert {"meta.yaml", "exp/asr_tiny/config.yaml"} <= set(names)
    rows = json.loads((folder / "exp/sizes.json").read_text())
    assert [row["size"] for row in rows] == [4, 8]
    assert set(TESTS[corpus]) <= set(rows[0]["wer"])
    for size in (4, 8):
        one = folder / f"exp/asr_tiny_size{size}"
        assert (one / "config.yaml").exists() and (one / "valid.cer_ctc.ave.pth").exists()
        assert (one / f"asr_tiny_size{size}_valid.cer_ctc.ave.zip").exists()


def validate(folder: Path, corpus: str) -> None:
    """Kaldi's own check of every data directory."""
    utils = Path(ESPNET_ROOT) / "egs2/TEMPLATE/asr1/utils"
    env = os.environ | {"LC_ALL": "C", "PATH": f"{utils}:{os.environ['PATH']}"}
    for name in [TRAIN[corpus], "dev", *TESTS[corpus]]:
        subprocess.run([utils / "validate_data_dir.sh", "--no-feats", folder / "data" / name],
                       check=True, env=env, cwd=utils.parent)  # fmt: skip


@pytest.fixture(scope="module", params=["librispeech", "tedlium2"])
def own(request, tmp_path_factory):
    """A recipe after all stages of the project's own driver."""
    folder = recipe_folder(request.param, tmp_path_factory.mktemp(f"{request.param}_own"))
    done = run(folder, request.param)
    assert done.returncode == 0, done.stdout[-5000:]
    return folder, request.param


def test_all_stages_with_the_own_driver(own):
    check_outputs(*own)


def test_a_second_run_reuses_the_data_and_finishes(own):
    folder, corpus = own
    done = run(folder, corpus, "--stop_stage", "1")
    assert done.returncode == 0 and "there already" in done.stdout


def test_speed_perturbation(own):
    folder, corpus = own
    done = run(folder, corpus, "--stage", "2", "--stop_stage", "4",
               "--speed_perturb_factors", "0.9 1.0 1.1")  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    samples = {}
    for line in (
        (folder / f"dump/raw/{TRAIN[corpus]}_sp/utt2num_samples").read_text().splitlines()
    ):
        utt, count = line.split()
        samples[utt] = int(count)
    utt = next(u for u in samples if not u.startswith("sp"))
    assert samples[f"sp0.9-{utt}"] == pytest.approx(samples[utt] / 0.9, rel=0.01)
    assert samples[f"sp1.1-{utt}"] == pytest.approx(samples[utt] / 1.1, rel=0.01)
    count = sum(not u.startswith("sp") for u in samples)
    assert len(samples) == 3 * count


def test_a_missing_corpus_is_said(own, tmp_path):
    folder, corpus = own
    shutil.copytree(folder, tmp_path / "recipe", symlinks=True,
                    ignore=shutil.ignore_patterns("data", "dump", "exp", "downloads"))  # fmt: skip
    done = run(tmp_path / "recipe", corpus, "--stop_stage", "1")
    assert done.returncode != 0 and "openslr.org" in done.stdout


def test_an_options_value_that_is_missing_and_a_wrong_checkout_are_said(own):
    folder, corpus = own
    done = run(folder, corpus, "--stage")
    assert done.returncode == 2 and "--stage needs a value" in done.stdout
    done = run(folder, corpus, "--espnet_root", "/nowhere")
    assert done.returncode == 2 and "has no egs2/TEMPLATE/asr1/asr.sh" in done.stdout


@pytest.fixture(scope="module")
def checkout(own, tmp_path_factory):
    """The same recipe after ESPnet's own asr.sh, with the own driver's model."""
    if not ESPNET_ROOT:
        pytest.skip("ESPNET_ROOT is not set: give make test-recipes a checkout")
    folder, corpus = own
    other = recipe_folder(
        corpus, tmp_path_factory.mktemp(f"{corpus}_espnet"), folder / "downloads"
    )
    done = run(other, corpus, "--espnet_root", ESPNET_ROOT, *OF_ASR_SH[corpus])
    assert done.returncode == 0, done.stdout[-5000:]
    return folder, other, corpus


def test_every_size_by_beam_search(own):
    check_beam_search(*own, [])


def test_every_size_by_beam_search_after_espnets_stages(checkout):
    _, other, corpus = checkout
    root = ["--espnet_root", ESPNET_ROOT, *OF_ASR_SH[corpus]]
    texts = check_beam_search(other, corpus, root)
    # As the real asr.sh decodes the folder of one size.
    model = other / "exp/asr_tiny_size4"
    shutil.rmtree(model / "decode")
    done = run(other, corpus, "--stage", "12", "--stop-stage", "12", *root,
               "--asr_exp", "exp/asr_tiny_size4")  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Stage 16" not in done.stdout
    for name in TESTS[corpus]:
        stock = (model / "decode" / name / "text").read_text()
        assert [line.split() for line in stock.splitlines()] == texts[4, name]


def check_beam_search(folder: Path, corpus: str, root: list[str]) -> dict:
    """Stage 16 with ``--sizes_decoding beam``; texts of each size and set."""
    for size in (4, 8):
        shutil.rmtree(folder / f"exp/asr_tiny_size{size}")
    done = run(folder, corpus, "--stage", "16", "--sizes-decoding", "beam", *root)
    assert done.returncode == 0, done.stdout[-5000:]
    texts = {}
    rows = json.loads((folder / "exp/asr_tiny/sizes.json").read_text())
    for row in rows:
        exp = folder / f"exp/asr_tiny_size{row['size']}"
        assert not list(exp.glob("decode_ctc_best_path*"))
        assert set(TESTS[corpus]) <= set(row["wer"])
        for name in TESTS[corpus]:
            wanted = (folder / "dump/raw" / name / "text").read_text().splitlines()
            lines = (exp / "decode" / name / "text").read_text().splitlines()
            assert [li.split()[0] for li in lines] == [li.split()[0] for li in wanted]
            texts[row["size"], name] = [line.split() for line in lines]
    assert {size for size, _ in texts} == {4, 8}
    return texts


def test_what_stage_16_cannot_follow_is_said_before_espnets_stages(own, tmp_path):
    """Through run.sh, whose asr.sh looks for it first."""
    if not ESPNET_ROOT:
        pytest.skip("ESPNET_ROOT is not set: give make test-recipes a checkout")
    folder, corpus = own
    fresh = recipe_folder(corpus, tmp_path, folder / "downloads")
    for options, says in ((["--use_lightning", "true"], "--use_lightning true: stage 16"),
                          (["--stop_stge", "3"], "--stop_stge: unknown here and to"),
                          (["--sizes_decoding", "beam", "--use_ngram", "true"],
                           "--use_ngram true: beam search in stage 16")):  # fmt: skip
        done = run(fresh, corpus, "--espnet_root", ESPNET_ROOT, *options)
        assert done.returncode == 2 and says in done.stdout and done.stdout.count("\n") == 1
        assert not (fresh / "data").exists() and not (fresh / "scripts").exists()


def test_all_stages_with_a_real_checkout(checkout):
    _, other, corpus = checkout
    check_outputs(other, corpus)
    validate(other, corpus)


def test_both_drivers_make_the_same_data(checkout):
    folder, other, corpus = checkout
    for name in [TRAIN[corpus], "dev", *TESTS[corpus]]:
        for file in ("text", "utt2spk"):
            one, two = (f / "dump/raw" / name / file for f in (folder, other))
            assert one.read_text().split() == two.read_text().split(), (name, file)
        counts = []
        for f in (folder, other):
            place = f / "dump/raw" / name / "utt2num_samples"
            counts.append(dict(line.split() for line in place.read_text().splitlines()))
        assert counts[0].keys() == counts[1].keys()
        assert all(abs(int(counts[0][u]) - int(counts[1][u])) <= 1 for u in counts[0])
    tokens = "data/en_token_list/bpe_unigram30/tokens.txt"
    assert (folder / tokens).read_text() == (other / tokens).read_text()


def test_both_drivers_decode_the_same_model_to_the_same_text(checkout, tmp_path):
    """The real asr.sh decodes a size that the own driver trained and extracted."""
    folder, other, corpus = checkout
    for size in (4, 8):
        model = f"exp/asr_tiny_size{size}"
        shutil.rmtree(other / model)
        shutil.copytree(folder / model, other / model)
        shutil.copytree(folder / "exp/lm_tiny", other / "exp/lm_tiny", dirs_exist_ok=True)
        texts = []
        real = ["--espnet_root", ESPNET_ROOT, *OF_ASR_SH[corpus]]
        for place, root in ((folder, []), (other, real)):
            done = run(place, corpus, "--stage", "12", "--stop_stage", "13",
                       "--asr_exp", model, *root)  # fmt: skip
            assert done.returncode == 0, done.stdout[-3000:]
            texts.append({n: (place / model / "decode" / n / "text").read_text().splitlines()
                          for n in TESTS[corpus]})  # fmt: skip
        assert [[li.split() for li in t] for t in texts[0].values()] == [
            [li.split() for li in t] for t in texts[1].values()
        ]


SWAPPED = [
    ("librispeech", "train_asr_conformer.yaml", "valid.acc.ave.pth"),
    ("tedlium2", "tuning/train_asr_conformer.yaml", "valid.acc.ave.pth"),
    (
        "tedlium2",
        "tuning/train_asr_ctc_conformer_e15_linear1024.yaml",
        "valid.cer_ctc.ave.pth",
    ),
]
THROUGH_ASR_SH = [
    (
        "tedlium2",
        "tuning/train_asr_e_branchformer_size256_mlp1024_e12_mactrue.yaml",
        "valid.acc.ave.pth",
    ),
    (
        "tedlium2",
        "tuning/train_asr_transducer_conformer_e12_linear2048.yaml",
        "valid.loss.ave.pth",
    ),
]
SHORT = (
    "--encoder_conf output_size=16 --encoder_conf linear_units=16 --encoder_conf num_blocks=2 "
    "--encoder_conf attention_heads=2 --accum_grad 1 --num_iters_per_epoch 4 --max_epoch 3 "
    "--batch_bins 2000000 --num_workers 0 --use_amp false --keep_nbest_models 1 --num_att_plot 0"
)
TRANSDUCER = " --decoder_conf hidden_size=16 --joint_net_conf joint_space_size=16"
DECODER = " --decoder_conf linear_units=16 --decoder_conf num_blocks=1"


@pytest.mark.parametrize("name, yaml_file, model", SWAPPED)
def test_espnets_own_yaml_with_the_encoder_as_the_only_change(own, name, yaml_file, model):
    """Trained at a reduced width, then every size decoded by beam search."""
    folder, corpus = own
    if not ESPNET_ROOT or corpus != name:
        pytest.skip("needs ESPNET_ROOT, and the recipe of the YAML's corpus")
    train_swapped(folder, corpus, yaml_file, model, [])


@pytest.mark.parametrize("name, yaml_file, model", THROUGH_ASR_SH)
def test_espnets_own_yaml_through_espnets_own_asr_sh(checkout, name, yaml_file, model):
    """A hybrid E-Branchformer and a transducer."""
    _, folder, corpus = checkout
    if corpus != name:
        pytest.skip("is of the other recipe")
    root = ["--espnet_root", ESPNET_ROOT, *OF_ASR_SH[corpus]]
    train_swapped(folder, corpus, yaml_file, model, root)


def train_swapped(folder: Path, corpus: str, yaml_file: str, model: str, root: list[str]):
    """Stages 10 to 16 of one of ESPnet's configs, the name of its encoder swapped."""
    text = (Path(ESPNET_ROOT) / f"egs2/{corpus}/asr1/conf/{yaml_file}").read_text()
    encoder = yaml.safe_load(text)["encoder"]
    config = folder / f"swapped_{Path(yaml_file).name}"
    config.write_text(text.replace(f"encoder: {encoder}", f"encoder: des_{encoder}"))
    decoder = yaml.safe_load(text).get("decoder")
    more = {"transformer": DECODER, "transducer": TRANSDUCER, None: ""}[decoder]
    if "branchformer" in encoder:
        more += " --encoder_conf cgmlp_linear_units=16"
    if root:  # of data in splits ESPnet does not tell how many batches there are
        more += " --model_conf updates_per_iteration=1"
    tag = f"swapped_{config.stem}"
    weight = "1.0" if decoder is None else "0.3"
    done = run(
        folder, corpus, "--stage", "10", "--asr_config", str(config), "--asr_tag", tag,
        "--asr_stats_dir", f"exp/asr_stats_{config.stem}",  # its features are its own
        "--asr_args", SHORT + more, "--inference_asr_model", model,
        "--inference_config", "conf/decode_ctc.yaml", "--use_lm", "false",
        "--inference_args", f"--beam_size 2 --maxlenratio -4 --ctc_weight {weight}",
        "--sizes_decoding", "beam", "--skip_eval", "true",
        "--skip_packing", "true",  # ESPnet packs no model without scores
        *root,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    rows = json.loads((folder / f"exp/asr_{tag}/sizes.json").read_text())
    assert [row["size"] for row in rows] == [3, 5, 8]
