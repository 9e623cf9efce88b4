"""What an update costs on two processes (DDP), by when gradients are handed over.

The last pass of an update is left to the Trainer's backward, so that DDP can send the
other gradients meanwhile. Beside it stands the update whose gradients are all known
before that backward begins: nothing but the front end's is left to hide the sending.
"""

import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing

import espnet_des.nn.model
from espnet_des.errors import ConfigError
from espnet_des.measure.benchmark.rounds import measure, ratio
from espnet_des.measure.benchmark.steps import Bench, Setting
from espnet_des.nn.backward import BackwardPerPass
from espnet_des.utils.files import write_atomically
from espnet_des.utils.machine import describe

PROCESSES, DROP_RATE = 2, 0.3


class AllAtOnce(BackwardPerPass):
    """The gradients of the last pass are computed as those of the others."""

    def loss(self, last: torch.Tensor) -> torch.Tensor:
        # It is of the front end's output itself, the others are of a leaf in its place.
        self._leaves = [self.made_by if leaf is self.front else leaf for leaf in self._leaves]
        self.add(last)
        return super().loss(torch.zeros_like(last))


def benchmark_ranks(
    output_dir: Path,
    *,
    num_blocks: int,
    dim: int,
    seconds: float,
    utterances: int,
    rounds: int,
) -> None:
    """Write ``ranks.json`` and ``ranks.md``.

    Args:
        output_dir: where the two files go.
        num_blocks: of the supernet, a multiple of 3; its sizes are a third, two thirds, all.
        dim: of the encoder.
        seconds: of audio, of each utterance.
        utterances: in the batch of each process.
        rounds: paired; the order within a round is drawn.

    Raises:
        ConfigError: where a number cannot be meant.
    """
    if num_blocks < 3 or num_blocks % 3:
        raise ConfigError(f"num_blocks: {num_blocks} must be a multiple of 3, such as 12")
    if rounds < 1:
        raise ConfigError(f"rounds: {rounds} must be at least 1, such as 7")
    output_dir.mkdir(parents=True, exist_ok=True)
    layers = 4 * num_blocks
    sizes = (layers // 3, 2 * layers // 3, layers)
    setting = Setting(num_blocks, dim, sizes, seconds=seconds, utterances=utterances)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_measure, (setting, rounds, folder), nprocs=PROCESSES)
        times = json.loads((Path(folder) / "times.json").read_text("utf-8"))
    found = {
        "machine": describe(), "processes": PROCESSES, "threads of each": 1, "rounds": rounds,
        "setting": setting._asdict(), "seconds": times,
        "ratio": ratio(times["last pass left"], times["all at once"]),
    }  # fmt: skip
    content = json.dumps(found, indent=2) + "\n"
    write_atomically(output_dir / "ranks.json", lambda path: path.write_text(content, "utf-8"))
    text = markdown(found)
    write_atomically(output_dir / "ranks.md", lambda path: path.write_text(text, "utf-8"))
    print(text)


def _measure(rank: int, setting: Setting, rounds: int, folder: str) -> None:
    """What each process runs; the first writes ``times.json``."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES
    )
    bench = Bench(setting._replace(seed=rank))
    update = bench.stage2(DROP_RATE)
    model = bench.supernets["simple_top_k"]
    update()  # sets the update: DDP looks at the model as it is then
    parallel = torch.nn.parallel.DistributedDataParallel(model)

    def run(kind: type) -> None:
        espnet_des.nn.model.BackwardPerPass = kind  # type: ignore[assignment,misc]  # on purpose
        parallel(**bench.batch)[0].backward()
        torch.distributed.barrier()  # the slower of the two counts
        model.zero_grad()

    runs = {"last pass left": BackwardPerPass, "all at once": AllAtOnce}
    times = measure(
        {name: partial(run, kind) for name, kind in runs.items()},
        rounds, time.perf_counter,
    )  # fmt: skip
    if rank == 0:
        (Path(folder) / "times.json").write_text(json.dumps(times), "utf-8")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def markdown(found: dict) -> str:
    """The table, and how it was measured."""
    setting, times = found["setting"], found["seconds"]
    rows = [f"| {name} | {statistics.median(t):.2f} |" for name, t in times.items()]
    return "\n".join(
        [
            "| gradients of an update of stage 2 | seconds |",
            "|---|---:|",
            *rows,
            "",
            f"The ratio is {found['ratio']:.2f} (median of {found['rounds']} paired rounds, wall "
            f"clock): {found['processes']} processes with one thread each (gloo), "
            f"{setting['num_blocks']} blocks, d={setting['dim']}, {setting['utterances']} "
            f"utterances of {setting['seconds']:g} s in each; {found['machine']}.",
            "",
        ]
    )
