"""What every size of a trained supernet costs, beside stock Conformers.

Parameters, MACs per second of audio, peak memory, real-time factor and size of
the file, of the models that would be deployed: each size is extracted first.
"""

import contextlib
import json
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from espnet_des.deploy.extract import extract_subnet
from espnet_des.errors import ConfigError
from espnet_des.inference.loading import load_model, read_config
from espnet_des.measure.stock import save_stock
from espnet_des.measure.worker import Worker
from espnet_des.method.layers import ranges
from espnet_des.nn.encoders import SUPERNETS, stock_name
from espnet_des.utils.files import make_writable, write_atomically
from espnet_des.utils.machine import cores, processor
from espnet_des.utils.partial import partial_folder
from espnet_des.utils.progress import progress


class Candidate(NamedTuple):
    """A model to measure, as files.

    Attributes:
        name: of its row.
        model_file: its parameters; ``config.yaml`` lies beside it.
        config: that ``config.yaml``.
        kept_layers: numbers of its layers in the supernet, 0-based; None for
            a model that is not of a supernet.
    """

    name: str
    model_file: Path
    config: Path
    kept_layers: list[int] | None = None


def report(
    asr_train_config: Path,
    asr_model_file: Path,
    output_dir: Path,
    *,
    stock_blocks: Sequence[int] = (),
    seconds: float = 10.0,
    rounds: int = 5,
    subnets: dict[int, Path] | None = None,
) -> list[dict]:
    """Measure the models on this machine's CPU; write ``report.md`` and ``report.json``.

    Args:
        asr_train_config: ``config.yaml`` of a supernet, or of one Conformer.
        asr_model_file: its parameters; of a supernet those of stage 2.
        output_dir: where the two files go. The table is also printed.
        stock_blocks: also measure ESPnet's own Conformers of so many blocks,
            otherwise configured alike, with random weights.
        seconds: length of the audio.
        rounds: timed recognitions of each model and number of threads.
        subnets: size to the model file that :func:`extract_subnet` returned,
            where that was done already; by default every size is extracted
            into a folder within output_dir, which is removed in the end.

    Returns:
        One object per model: ``name``, ``num_layers``, ``kept_layers``,
        ``encoder_params``, ``model_params``, ``macs_per_second``,
        ``front_end_macs_per_second``, ``peak_memory_bytes``, ``rtf_1_thread``,
        ``rtf_all_threads`` (seconds of work per second of audio, the median of
        the rounds), ``times_1_thread``, ``times_all_threads`` (seconds, of each
        round), ``model_file_bytes``.

    Raises:
        ConfigError: where an argument is out of range, output_dir cannot be
            written, or the files do not load; before anything is measured.
    """
    output_dir = Path(output_dir)
    check_arguments(output_dir, stock_blocks, seconds, rounds)
    with partial_folder(output_dir, "report.models") as folder:
        candidates = [
            *of_config(asr_train_config, asr_model_file, folder, subnets),
            *stock(asr_train_config, stock_blocks, folder),
        ]
        rows = measure(candidates, seconds, rounds)
    about = {
        "asr_train_config": str(asr_train_config),
        "asr_model_file": str(asr_model_file),
        "cpu": processor(),
        "threads": cores(),
        "torch": version("torch"),
        "espnet": version("espnet"),
        "python": platform.python_version(),
        "seconds": seconds,
        "rounds": rounds,
        "spread": max(
            max(row[key]) / min(row[key])
            for row in rows
            for key in ("times_1_thread", "times_all_threads")
        ),
    }
    text = markdown(about, rows)
    content = json.dumps({"about": about, "rows": rows}, indent=2) + "\n"
    write_atomically(
        output_dir / "report.json", lambda path: path.write_text(content, "utf-8")
    )
    write_atomically(output_dir / "report.md", lambda path: path.write_text(text, "utf-8"))
    print(text)
    return rows


def check_arguments(
    output_dir: Path, stock_blocks: Sequence[int], seconds: float, rounds: int
) -> None:
    """Refuse what would fail only after the measuring, or means nothing."""
    for number in stock_blocks:
        if number < 1:
            raise ConfigError(f"stock_blocks: {number} must be at least 1, such as 4 8 12")
    if not 1.0 <= seconds <= 600.0:
        raise ConfigError(f"seconds: {seconds} must be from 1 to 600, such as 10")
    if rounds < 1:
        raise ConfigError(f"rounds: {rounds} must be at least 1, such as 5")
    try:
        make_writable(output_dir)
    except OSError as error:
        raise ConfigError(
            f"output_dir: {output_dir} cannot be written ({error}); give another folder"
        ) from error


def of_config(
    config: Path, model_file: Path, folder: Path, subnets: dict[int, Path] | None
) -> list[Candidate]:
    """The sizes of a supernet, extracted if need be; another model as it is."""
    content = read_config(config)
    encoder = content["encoder"]
    if stock_name(encoder) and encoder not in SUPERNETS and not subnets:
        if content["model_conf"].get("ctc_weight") == 0.0:
            raise ConfigError(
                f"{config}: model_conf: ctc_weight: 0.0 leaves the model without the CTC "
                "output layer that is measured; give one with a weight above 0"
            )
        load_model(config, model_file)
        conf = content["encoder_conf"]
        kept = conf.get("kept_layers")
        name = encoder if kept is None else f"size {len(kept)}"
        if conf.get("kept_components"):  # its size is a budget that the config does not tell
            name = f"{len(kept)} layers, some in part"
        return [Candidate(name, Path(model_file), Path(config), kept)]
    if encoder not in SUPERNETS:
        raise ConfigError(
            f"{config}: encoder: {encoder!r} cannot be measured; give the config.yaml of a "
            f"training with one of {list(SUPERNETS)}, or of one with ESPnet's own form of these "
            + ("alone, without subnets" if subnets else "or an extracted size")
        )
    model, _ = load_model(config, model_file)
    if subnets is None:
        subnets = {
            size: extract_subnet(config, model_file, size, folder / f"size{size}")
            for size in model.encoder.sizes
        }
    candidates = []
    for size, file in sorted(subnets.items()):
        own = Path(file).with_name("config.yaml")
        kept = read_config(own)["encoder_conf"].get("kept_layers") or []
        if size not in model.encoder.all_sizes or kept != model.encoder.kept_layers(size):
            raise ConfigError(
                f"subnets: {own} has kept_layers: {kept}, but must be what extract_subnet "
                f"wrote for size {size}"
            )
        candidates.append(Candidate(f"size {size}", Path(file), own, kept))
    return candidates


def stock(config: Path, blocks: Sequence[int], folder: Path) -> list[Candidate]:
    """ESPnet's own encoders of so many blocks, in files."""
    candidates = []
    for number in sorted(set(blocks)):
        file, note = save_stock(config, number, folder / f"stock{number}")
        name = f"stock, {number} block{'s' if number > 1 else ''}{note}"
        candidates.append(Candidate(name, file, file.with_name("config.yaml")))
    return candidates


def measure(candidates: list[Candidate], seconds: float, rounds: int) -> list[dict]:
    """One row for each model; every model is held by a process of its own."""
    both = {"1_thread": 1, "all_threads": cores()}
    steps = len(candidates) * (1 + rounds * len(both))
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(progress(total=steps, desc="measured", unit="step"))
        # All start at once: most of this time is the import of ESPnet.
        workers = [
            stack.enter_context(Worker(c.config, c.model_file, seconds)) for c in candidates
        ]
        rows = []
        for candidate, worker in zip(candidates, workers):
            facts = worker.facts()
            rows.append(
                {
                    "name": candidate.name,
                    "num_layers": facts.pop("num_layers"),
                    "kept_layers": candidate.kept_layers,
                    **facts,
                    "model_file_bytes": candidate.model_file.stat().st_size,
                }
            )
            bar.update()
        for name, threads in both.items():
            times: list[list[float]] = [[] for _ in workers]
            # Round by round: a slow minute of the machine meets all models.
            for _ in range(rounds):
                for worker, own in zip(workers, times):
                    own.append(worker.recognise(threads))
                    bar.update()
            for row, own in zip(rows, times):
                row[f"rtf_{name}"] = statistics.median(own) / seconds
                row[f"times_{name}"] = own
    return rows


COLUMNS = (
    "model", "layers", "encoder parameters (M)", "model parameters (M)",
    "MMAC per s of audio", "of them front end", "peak memory (MB)", "RTF, 1 thread",
    "RTF, {threads} threads", "model file (MB)", "kept layers",
)  # fmt: skip
NOTES = """\
{cpu}, {threads} cores; torch {torch}, ESPnet {espnet}, Python {python}; float32, eager.

- Every size is the model that extract_subnet writes. Stock: ESPnet's own encoder of
  the same kind, with the same settings and random weights.
- MAC: one multiplication and one addition (2 FLOPs), per second of audio; of the encoder and
  the CTC output layer, from the features on, at {seconds:g} s (attention costs more per second
  in longer audio). Counted by torch.utils.flop_counter: matrix products, convolutions,
  attention; not norms, activations and additions. The front end is the encoder's
  subsampling, which no size goes without.
- Real-time factor (RTF): time from waveform to text by CTC best path, per time of audio; one
  utterance of {seconds:g} s, median of {rounds} rounds, in each of which the models take turns.
  The rounds of one model differ by a factor of {spread:.2f} at most; far above 1 the machine
  was busy with something else, and the times mean little.
- Peak memory: by how much a process that has imported ESPnet grows at most while it loads the
  model (holding its parameters twice for a moment) and recognises the {seconds:g} s with one
  thread. Tens of MB of it are torch's own code, read when it is first used, whatever the
  model. 1 MB is 10^6 bytes, as for the file.
"""


def markdown(about: dict, rows: list[dict]) -> str:
    """The table, and what its numbers mean.

    Args:
        about: machine and settings, see :func:`espnet_des.measure.report.report`.
        rows: one object per model.
    """
    lines = [
        f"# Cost of {about['asr_model_file']}",
        "",
        "| " + " | ".join(COLUMNS).format(**about) + " |",
        "|---" + "|---:" * (len(COLUMNS) - 2) + "|---|",
    ]
    for row in rows:
        cells = [
            row["name"],
            str(row["num_layers"]),
            millions(row["encoder_params"]),
            millions(row["model_params"]),
            millions(row["macs_per_second"]),
            millions(row["front_end_macs_per_second"]),
            millions(row["peak_memory_bytes"]),
            f"{row['rtf_1_thread']:.4f}",
            f"{row['rtf_all_threads']:.4f}",
            millions(row["model_file_bytes"]),
            "-" if row["kept_layers"] is None else ranges(row["kept_layers"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + NOTES.format(**about)


def millions(number: int | None) -> str:
    """With three digits at least; ``-`` for None."""
    if number is None:
        return "-"
    value = number / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
