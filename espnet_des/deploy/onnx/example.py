"""Recognise audio with an exported model: needs onnxruntime, numpy and soundfile only.

    python3 example.py size16_int8.onnx one.wav two.flac

This file imports nothing of espnet_des: take it along with the model.
"""

import json
import sys

import numpy
import onnxruntime
import soundfile


def main(model_file: str, *audio_files: str) -> None:
    session = onnxruntime.InferenceSession(model_file, providers=["CPUExecutionProvider"])
    stored = session.get_modelmeta().custom_metadata_map
    about = {key: json.loads(stored[key]) for key in ("tokens", "sampling_rate",
             "min_length", "source", "token_type", "blank_id")}  # fmt: skip
    if about["source"] != "waveform":
        sys.exit(f"{model_file} takes {about['source']}; export it with --source waveform")
    for path in audio_files:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        if rate != about["sampling_rate"]:
            sys.exit(f"{path} has {rate} Hz; the model needs {about['sampling_rate']} Hz")
        if not numpy.isfinite(samples).all():
            sys.exit(f"{path} has samples that are NaN or infinite")
        print(path, recognise(session, about, samples.mean(axis=1)))


def recognise(session: onnxruntime.InferenceSession, about: dict, samples) -> str:
    """CTC best path of one utterance ``(num_samples,)``."""
    if len(samples) < about["min_length"]:
        return ""
    log_probs, _ = session.run(
        None, {"speech": samples[None], "speech_lengths": numpy.array([len(samples)])}
    )
    best = log_probs[0].argmax(axis=-1)
    changes = numpy.flatnonzero(numpy.diff(best, prepend=-1))  # merge repetitions
    tokens = [about["tokens"][i] for i in best[changes] if i != about["blank_id"]]
    joined = (" " if about["token_type"] == "word" else "").join(tokens)
    return joined.replace("<space>", " ").replace("▁", " ").strip()


if __name__ == "__main__":
    main(*sys.argv[1:])
