"""The report as Markdown."""

from typing import Dict, List, Optional

from espnet_des.recipe.sizes import ranges

COLUMNS = (
    "model", "layers", "encoder parameters (M)", "model parameters (M)",
    "MMAC per s of audio", "of them front end", "peak memory (MB)", "RTF, 1 thread",
    "RTF, {threads} threads", "model file (MB)", "kept layers",
)  # fmt: skip
NOTES = """\
{cpu}, {threads} cores; torch {torch}, ESPnet {espnet}, Python {python}; float32, eager.

- Every size is the model that extract_subnet writes. Stock: ESPnet's own `encoder: conformer`,
  with the same settings, BatchNorm and random weights.
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


def markdown(about: Dict, rows: List[Dict]) -> str:
    """The table, and what its numbers mean.

    Args:
        about: machine and settings, see :func:`espnet_des.report.report`.
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


def millions(number: Optional[int]) -> str:
    """With three digits at least; ``-`` for None."""
    if number is None:
        return "-"
    value = number / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
