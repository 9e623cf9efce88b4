"""One system: trained by the recipe, decoded at every size, its errors counted."""

import contextlib
import hashlib
import json
import logging
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from espnet_des.compare.defaults import defaults
from espnet_des.compare.systems import OTHER_TOKENS, SHRINK
from espnet_des.corpus.kaldi import read_table
from espnet_des.corpus.spoken import DONE
from espnet_des.utils.files import write_atomically
from espnet_des.utils.processes import lifeline

MODEL_FILE = "valid.cer_ctc.ave.pth"
TEST_SETS = ("test_clean", "test_noisy")


# Options of a recipe that change nothing but where it runs.
OF_THE_MACHINE = ("--ngpu", "--nj", "--inference_nj")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Run(NamedTuple):
    """A system with a seed.

    Attributes:
        system: its name.
        seed: of the initial weights and the order of the data.
        recipe: its folder.
        sizes: that it gives.
        tag: of the comparison that it belongs to.
    """

    system: str
    seed: int
    recipe: Path
    sizes: Sequence[int]
    tag: str = "compare"

    @property
    def name(self) -> str:
        return f"{self.tag}_{self.system}_seed{self.seed}"

    @property
    def exp(self) -> Path:
        return self.recipe / "exp" / f"asr_{self.name}"

    @property
    def result_file(self) -> Path:
        return self.exp / "result.json"

    def result(self) -> dict | None:
        """What the run gave; None where it is not finished."""
        return json.loads(self.result_file.read_text()) if self.result_file.exists() else None

    def finished(self) -> dict:
        """What a finished run gave."""
        found = self.result()
        if found is None:
            raise RuntimeError(f"{self.exp} is not finished")
        return found

    def as_yaml(self, config: dict) -> str:
        return yaml.safe_dump(config | {"seed": self.seed}, sort_keys=False)

    def config_hash(self, config: dict) -> str:
        return _sha256(self.as_yaml(config))

    def check_config(self, config: dict) -> Path:
        """Refuse to go on with a training of another config; returns the config's file."""
        path = self.exp / "train.yaml"
        if path.exists() and path.read_text() != self.as_yaml(config):
            raise RuntimeError(
                f"{path} is of another config than this comparison: remove {self.exp} to "
                "train it anew"
            )
        return path

    def kept_layers(self) -> dict[int, list[int]]:
        """Size to layers, of a finished run."""
        return {int(size): found["kept"] for size, found in self.finished()["sizes"].items()}

    def epochs_done(self) -> int:
        logs = sorted(self.exp.glob("train*.log"), key=lambda p: p.stat().st_mtime)
        found = [
            m for log in logs for m in re.findall(r"(\d+)epoch results:", log.read_text())
        ]
        return int(found[-1]) if found else 0


def base_config(recipe: Path) -> dict:
    """What all systems are made from."""
    return yaml.safe_load((recipe / "conf" / "train_des.yaml").read_text(encoding="utf-8"))


def options_of(recipe: Path) -> dict[str, str]:
    """A recipe's own options, ``conf/run.options``; of one that is given twice the last."""
    file = recipe / "conf" / "run.options"
    words = file.read_text().split() if file.exists() else []
    return dict(zip(words[::2], words[1::2]))


def data_of(recipe: Path) -> dict[str, str]:
    """Hashes of what is trained with, beside the config: the recipe's options, its corpus."""
    own = {k: v for k, v in options_of(recipe).items() if k not in OF_THE_MACHINE}
    found = {"options": _sha256(json.dumps(sorted(own.items())))}
    corpus = recipe / "downloads" / DONE
    if corpus.exists():
        found["corpus"] = _sha256(corpus.read_text())
    return found


def other_data(result: dict, recipe: Path) -> list[str]:
    """What a result was trained with that is not what is here; as far as both are known."""
    here, there = data_of(recipe), result.get("data", {})
    return [name for name in sorted(here.keys() & there.keys()) if here[name] != there[name]]


def execute(run: Run, config: dict) -> dict:
    """Train (or go on), decode and score; the result is in ``exp/asr_.../result.json``.

    Args:
        run: what to do.
        config: of the training, without the seed.
    """
    path = run.check_config(config)
    run.exp.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda p: p.write_text(run.as_yaml(config)))
    with cost_of(run, "train"):
        train(run, path)
    if run.epochs_done() < config["max_epoch"]:  # ESPnet stops early without an error, too
        raise RuntimeError(
            f"{run.exp} has {run.epochs_done()} of {config['max_epoch']} epochs: see train.log "
            "why it ended, and remove the folder to train anew"
        )
    # Its progress stands beside that of the training; here several runs would mix theirs.
    with (run.exp / "run.log").open("a") as log, contextlib.redirect_stderr(log):
        # ESPnet's configs name files relative to the recipe.
        with contextlib.chdir(run.recipe), cost_of(run, "decode"):
            sizes, sets = decode_sizes(run)
            ngpu = yaml.safe_load(Path(run.exp / "config.yaml").read_text("utf-8"))["ngpu"]
    result = {
        "system": run.system, "seed": run.seed, "config_sha256": run.config_hash(config),
        "defaults": defaults(config), "data": data_of(run.recipe),
        "updates": config["max_epoch"] * config["num_iters_per_epoch"],
        "sizes": sizes, "sets": sets, "cost": summed_cost(run), "versions": versions(),
        "ngpu": ngpu, "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
    }  # fmt: skip
    write_atomically(run.result_file, lambda p: p.write_text(json.dumps(result) + "\n"))
    return result


def train(run: Run, config: Path) -> None:
    """Stage 11 of the recipe, in a process of its own."""
    of_espnet = yaml.safe_load(config.read_text())
    options = of_espnet.pop(OTHER_TOKENS, {}) | of_espnet.pop(SHRINK, {})
    # In a config it does not count: the recipe gives asr_train its own.
    if of_espnet.pop("ignore_init_mismatch", False):
        options["ignore_init_mismatch"] = "true"
    if "shrink" not in options:
        path = config.with_name("espnet.yaml")
        write_atomically(path, lambda p: p.write_text(yaml.safe_dump(of_espnet)))
        options["asr_config"] = path.relative_to(run.recipe)
    command = ["./run.sh", "--stage", "11", "--stop_stage", "11", "--asr_tag", run.name]
    command += as_words(options)
    with (run.exp / "run.log").open("a") as log:
        code = subprocess.call(
            command, cwd=run.recipe, stdout=log, stderr=subprocess.STDOUT, **lifeline()
        )
    if code:
        raise RuntimeError(f"{' '.join(command)} failed (exit {code}); see {log.name}")


def as_words(options: dict) -> list[str]:
    """Options of the recipe as its command line has them."""
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


def decode_sizes(run: Run):
    """Errors of every speaker at every size, in the order of their names.

    Returns:
        Size to parameters, kept layers, MACs per second of audio and errors by set; set to
        speakers, their words, and the number of utterances.
    """
    import torch

    from espnet_des.compare.smaller import smaller
    from espnet_des.inference.best_path import BestPathDecoder
    from espnet_des.inference.loading import load_model
    from espnet_des.inference.scoring import count_errors
    from espnet_des.inference.transcribe import decode_files
    from espnet_des.nn.costs import SECONDS, macs_of_sizes
    from espnet_des.nn.layered import num_parameters
    from espnet_des.nn.macs import count_macs
    from espnet_des.nn.sizes import is_supernet
    from espnet_des.nn.waveforms import sampling_rate

    torch.set_num_threads(1)
    model, train_args = load_model(run.exp / "config.yaml", run.exp / MODEL_FILE)
    sizes, sets = {}, {}
    macs = macs_of_sizes(model, sampling_rate(train_args)) if is_supernet(model) else {}
    for size in run.sizes:
        now = model
        if is_supernet(model):
            model.set_size(size)
            encoder = {"kept": model.encoder.kept_layers(size), "macs": macs[size],
                       "params": model.encoder.count_parameters(size)}  # fmt: skip
        else:
            if len(run.sizes) > 1:
                now = smaller(model, size)
                if model.encoder.block_drop_rate:
                    # Also at full size: in the training some blocks were always missing.
                    count_statistics(now, train_args)
            kept = getattr(train_args, "encoder_conf", {}).get("kept_layers")
            audio = torch.zeros(1, int(SECONDS * sampling_rate(train_args)))
            encoder = {"kept": kept, "params": num_parameters(now.encoder),
                       "macs": round(count_macs(now, audio).total / SECONDS)}  # fmt: skip
        decoder, errors = BestPathDecoder(now, train_args), {}
        for name in TEST_SETS:
            data = run.recipe / "dump" / "raw" / name
            wavs, texts = read_table(data / "wav.scp"), read_table(data / "text")
            found = decode_files(decoder, wavs, 16, f"{run.name}, size {size}: {name}")
            said: dict[str, dict[str, str]] = {}
            for utterance, speaker in sorted(read_table(data / "utt2spk").items()):
                said.setdefault(speaker, {})[utterance] = texts[utterance]
            counts = {s: count_errors(said[s], {u: found[u] for u in said[s]})
                      for s in sorted(said)}  # fmt: skip
            sets[name] = {"words": [c.words for c in counts.values()],
                          "speakers": list(counts), "utterances": len(texts)}  # fmt: skip
            errors[name] = [
                c.substitutions + c.deletions + c.insertions for c in counts.values()
            ]
        sizes[str(size)] = encoder | {"errors": errors}
    return sizes, sets


def count_statistics(model, train_args, count: int = 200) -> None:
    """Give a model of other blocks BatchNorm statistics of its own, as sizes of supernets have.

    Args:
        model: which.
        train_args: of its training, whose first utterances are heard.
        count: number of these.
    """
    from espnet_des.deploy.recalibrate import read_batches, recalibrate
    from espnet_des.nn.batch_norm import FiniteBatchNorm1d
    from espnet_des.nn.waveforms import sampling_rate

    if not any(isinstance(module, FiniteBatchNorm1d) for module in model.modules()):
        return
    table, *_ = train_args.train_data_path_and_name_and_type[0]
    lines = Path(table).read_text(encoding="utf-8").splitlines(keepends=True)
    with tempfile.NamedTemporaryFile("w", suffix=".scp") as some:
        some.writelines(lines[:count])
        some.flush()
        recalibrate(model, read_batches(Path(some.name), model, sampling_rate(train_args)))


class cost_of:
    """Notes wall and CPU time of a block in ``cost.jsonl``, also where it fails."""

    def __init__(self, run: Run, what: str):
        self.file, self.what = run.exp / "cost.jsonl", what

    def __enter__(self):
        self.begin = time.monotonic(), _cpu()
        # A killed run cannot note its cost: this line tells that there was one.
        self._write({"what": self.what, "begins": True})

    def __exit__(self, *_):
        wall, cpu = time.monotonic() - self.begin[0], _cpu() - self.begin[1]
        self._write({"what": self.what, "wall": wall, "cpu": cpu})

    def _write(self, line: dict) -> None:
        with self.file.open("a") as out:
            out.write(json.dumps(line) + "\n")


def _cpu() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usages = [resource.getrusage(kind) for kind in kinds]
    return sum(u.ru_utime + u.ru_stime for u in usages)


def summed_cost(run: Run) -> dict[str, dict[str, float] | None]:
    """Seconds by what was done; None where a run was killed and its cost is not known."""
    lines = [json.loads(line) for line in (run.exp / "cost.jsonl").read_text().splitlines()]
    costs: dict[str, dict[str, float] | None] = {}
    for what in ("train", "decode"):
        mine = [line for line in lines if line["what"] == what]
        ended = [line for line in mine if "cpu" in line]
        known = 2 * len(ended) == len(mine)
        sums = {key: sum(line[key] for line in ended) for key in ("wall", "cpu")}
        costs[what] = sums if known else None
    return costs


def versions() -> dict[str, str]:
    import torch

    import espnet2
    from espnet_des.utils.machine import processor

    return {"espnet": espnet2.__version__, "torch": torch.__version__,
            "python": sys.version.split()[0], "processor": processor(),
            "cores": str(os.cpu_count())}  # fmt: skip


def quiet() -> None:
    """Of the workers only errors are shown."""
    logging.getLogger().setLevel(logging.ERROR)
