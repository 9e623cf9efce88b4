"""What the page in ``web/`` recognises with: sizes, what they cost, tokens and a few samples."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from espnet_des.corpus.kaldi import check_ours
from espnet_des.deploy.onnx.graph import session
from espnet_des.deploy.onnx.recognise import transcriptions
from espnet_des.deploy.onnx.sizes import WEIGHTS, Shared, export_sizes
from espnet_des.errors import ConfigError
from espnet_des.inference.loading import load_model
from espnet_des.nn.costs import macs_of_sizes, parameters_of_sizes
from espnet_des.nn.sizes import is_supernet
from espnet_des.nn.waveforms import sampling_rate
from espnet_des.utils.audio import find_audio, read_mono, write_audio
from espnet_des.utils.files import sync_folder
from espnet_des.utils.partial import partial_folder

SIZES, TOKENS, SAMPLES = "sizes.json", "tokens.json", "samples.json"
# What decoding needs of a file's metadata, which onnxruntime-web does not hand out.
OF_TOKENS = ("tokens", "token_type", "blank_id", "sampling_rate", "min_length")
NAMES = {"none": "float32"}  # of what has another name on the page


def prepare_web(
    asr_train_config: Path,
    asr_model_file: Path,
    output: Path,
    test_sets: Sequence[Path],
    sizes: Sequence[int] | None = None,
    quantize: Sequence[str] = ("int8", "none"),
    num_samples: int = 3,
) -> None:
    """Write the folder that the page reads; where it is made of the same already, leave it.

    Args:
        asr_train_config: of a supernet.
        asr_model_file: its parameters.
        output: the folder: ``sizes.json``, ``tokens.json``, ``samples.json``, the samples, and
            for each kind of weights a folder as :func:`export_sizes` writes it.
        test_sets: Kaldi's data directories, of which the samples are.
        sizes: numbers of layers; by default those that the training was for.
        quantize: kinds of weights, ``none`` (float32) or ``int8``; the page begins with the
            first.
        num_samples: of each test set.

    Raises:
        ConfigError: where something does not fit, or the outputs differ from PyTorch's.
        DataError: where output holds something else, or a test set is not complete.
    """
    if num_samples < 1:
        raise ConfigError(f"num_samples: {num_samples} must be at least 1, such as 3")
    check_ours(output, SIZES)
    names = [folder.name for folder in test_sets]
    if len(set(names)) < len(names):
        raise ConfigError(f"test_sets: {names} must be folders of different names")
    tables = [folder / name for folder in test_sets for name in ("wav.scp", "text")]
    made_of = fingerprint(
        [asr_train_config, asr_model_file, *tables], [sizes, quantize, num_samples]
    )
    if _made_of(output / SIZES) == made_of:
        print(f"{output} is made of this model already; remove it to make it again")
        return
    model, args = load_model(asr_train_config, asr_model_file)
    if not is_supernet(model):
        raise ConfigError(
            f"{asr_train_config}: encoder: {args.encoder} has one size only; the page is for "
            "a supernet"
        )
    rate = sampling_rate(args)
    output.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(output.parent, output.name) as partial:
        made = partial / "whole"  # the folder of this name is renamed, its parent removed
        samples = [
            sample
            for folder in test_sets
            for sample in write_samples(folder, made / "samples", rate, num_samples)
        ]
        exported = {
            NAMES.get(kind, kind): export_sizes(
                asr_train_config, asr_model_file, made / NAMES.get(kind, kind),
                sizes or model.encoder.sizes, quantize=kind, wav_scp=tables[0],
            )
            for kind in quantize
        }  # fmt: skip
        for name, content in (
            (SAMPLES, samples),
            (TOKENS, of_metadata(next(iter(exported.values()))[0].path)),
            (SIZES, {"made_of": made_of, "sizes": costs(model, rate, exported)}),
        ):
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            (made / name).write_text(text, encoding="utf-8")
        if output.exists():
            shutil.rmtree(output)
        made.rename(output)
        sync_folder(output.parent)
    print(f"Written: {output}")


def fingerprint(files: Sequence[Path], options: Sequence[object]) -> str:
    """A name for files, by their content, and options."""
    known = hashlib.sha256(repr(options).encode())
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{file} is missing: train and decode with the recipe first")
        known.update(hashlib.sha256(file.read_bytes()).digest())
    return known.hexdigest()


def _made_of(file: Path) -> str | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))["made_of"]
    except (OSError, ValueError, KeyError):  # not there, or of someone else's making
        return None


def write_samples(folder: Path, output: Path, rate: int, count: int) -> list[dict]:
    """Write a few utterances of a data directory, evenly spread over it, as WAV files.

    Args:
        folder: with ``wav.scp`` and ``text``.
        output: where to.
        rate: samples per second, the model's.
        count: how many.

    Returns:
        Of each ``name``, ``file`` (from the parent of output on) and ``reference``.
    """
    wavs = find_audio(folder / "wav.scp")
    texts = transcriptions(wavs, folder / "wav.scp", folder / "text")
    utts = sorted(wavs)
    count = min(count, len(utts))
    samples = []
    for number in range(count):
        utt = utts[number * len(utts) // count]
        file = output / f"{folder.name}_{number}.wav"  # an id may hold what an address cannot
        write_audio(file, read_mono(wavs[utt], rate), rate)
        samples.append(
            {
                "name": f"{folder.name}: {utt}",
                "file": f"{output.name}/{file.name}",
                "reference": texts[utt],
            }
        )
    return samples


def of_metadata(model_file: Path) -> dict[str, object]:
    """What decoding needs, as the exported file has it."""
    stored = session(model_file).get_modelmeta().custom_metadata_map
    return {key: json.loads(stored[key]) for key in OF_TOKENS}


def costs(model, rate: int, exported: dict[str, list[Shared]]) -> list[dict]:
    """Of each size what it is, what it costs, and its files of each kind of weights.

    Args:
        model: the supernet.
        rate: its samples per second.
        exported: kind of weights to its sizes, ascending.

    Returns:
        ``size``, ``kept_layers``, ``params``, ``macs_per_second``, and in ``weights`` of each
        kind ``graph`` and ``weights`` (files, from the folder of the page's models on) and
        ``bytes`` (of the size exported alone, as it would be deployed).
    """
    params, macs = parameters_of_sizes(model), macs_of_sizes(model, rate)
    layers = model.encoder.layers
    return [
        {
            "size": one.size,
            "kept_layers": [
                f"{layers[i].block}.{layers[i].kind}"
                for i in model.encoder.kept_layers(one.size)
            ],
            "params": params[one.size],
            "macs_per_second": macs[one.size],
            "weights": {
                kind: {
                    "graph": f"{kind}/{of_kind[number].path.name}",
                    "weights": f"{kind}/{WEIGHTS}",
                    "bytes": of_kind[number].alone.num_bytes,
                }
                for kind, of_kind in exported.items()
            },
        }
        for number, one in enumerate(next(iter(exported.values())))
    ]
