"""What is assumed of ESPnet's Trainer, Reporter, task and data, one test each.

The first ones look at one training of a stock Trainer, recorded as it goes.
"""

import inspect
import logging
import os
from argparse import Namespace
from pathlib import Path

import numpy
import pytest
import soundfile
import torch

import espnet2.train.trainer as stock
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.main_funcs.average_nbest_models import average_nbest_models
from espnet2.schedulers.abs_scheduler import AbsBatchStepScheduler, AbsEpochStepScheduler
from espnet2.schedulers.warmup_lr import WarmupLR
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.distributed_utils import DistributedOption
from espnet2.train.reporter import Reporter, SubReporter
from espnet_des import espnet_api, registry, task
from espnet_des.recipe.process import TrainingProgress

CRITERIA = [("valid", "loss", "min"), ("valid", "acc", "max"), ("train", "not_there", "min")]
ALL_NAN = 2  # the epoch whose losses in training are NaN; the others learn


class Model(AbsESPnetModel):
    """One weight, which is asked to be 1; an integer that counts."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.seen, self.nan = [], False

    def forward(self, speech, **batch):
        self.seen.append(batch)
        self.calls += 1
        loss = (self.weight - 1.0).square() * (
            float("nan") if self.nan and self.training else 1.0
        )
        stats = {"loss": loss.detach(), "acc": self.weight.detach()}
        if not self.training:
            stats["cer_ctc"] = torch.tensor(0.25)
        return loss, stats, torch.tensor(1.0)

    def collect_feats(self, **batch):
        raise NotImplementedError


class Batches(AbsIterFactory):
    def build_iter(self, epoch, shuffle=None):
        return [(["a"], {"speech": torch.zeros(1, 1)}), (["b"], {"speech": torch.zeros(1, 1)})]


class Training:
    """What a stock training did, in its order."""

    def __init__(self, folder: Path):
        self.folder, self.model = folder, Model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.events, self.steps, self.results, self.states = [], [], [], []
        self.optimizer.register_step_post_hook(lambda *_: self.steps.append(self.epoch))
        self.epoch = 0

    def run(self, max_epoch: int) -> None:
        training = self

        class Trainer(stock.Trainer):
            @classmethod
            def resume(cls, **kwargs):
                training.events.append(("resume", sorted(kwargs)))
                super().resume(**kwargs)

            @classmethod
            def train_one_epoch(cls, **kwargs):
                training.epoch += 1
                training.model.nan = training.epoch == ALL_NAN
                training.events.append(("train", sorted(kwargs)))
                training.results.append(super().train_one_epoch(**kwargs))
                return False

            @classmethod
            def validate_one_epoch(cls, **kwargs):
                training.events.append(("validate", sorted(kwargs)))
                super().validate_one_epoch(**kwargs)

        def save(content, path, *args, **kwargs):
            training.events.append(("save", Path(path).name))
            training.states.append(content)
            plain_save(content, path, *args, **kwargs)

        def seed(value):
            training.events.append(("seed", value))
            set_all_random_seed(value)

        class OwnReporter(Reporter):
            def __init__(self):
                super().__init__()
                training.reporter = self
                training.events.append(("reporter", type(self).__module__))

            def has(self, key, key2, epoch=None):
                return key2 != "acc" and super().has(key, key2, epoch)

        plain_save = torch.save
        options = dict.fromkeys(inspect.signature(stock.TrainerOptions).parameters)
        options |= {
            "ngpu": 0, "resume": True, "accum_grad": 1, "grad_clip": 5.0, "max_epoch": max_epoch,
            "grad_clip_type": 2.0, "log_interval": 1, "output_dir": self.folder, "seed": 7,
            "keep_nbest_models": [2], "nbest_averaging_interval": 0, "train_dtype": "float32",
            "best_model_criterion": CRITERIA, "wandb_model_log_interval": 0, "adapter": "",
            "early_stopping_criterion": ("valid", "loss", "min"), "save_strategy": "all",
            "val_scheduler_criterion": ("valid", "loss"), "ddp_comm_hook": None,
        }  # fmt: skip
        kinds = inspect.get_annotations(stock.TrainerOptions)
        options = {k: False if kinds[k] is bool and v is None else v
                   for k, v in options.items()}  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stock, "set_all_random_seed", seed)
            with espnet_api.own_reporter(OwnReporter), espnet_api.own_save(save):
                Trainer.run(
                    model=self.model, optimizers=[self.optimizer], schedulers=[None],
                    train_iter_factory=Batches(), valid_iter_factory=Batches(),
                    plot_attention_iter_factory=None, distributed_option=DistributedOption(),
                    trainer_options=stock.TrainerOptions(**options),
                )  # fmt: skip

    def of(self, *kinds: str) -> list:
        return [event for event in self.events if event[0] in kinds]


@pytest.fixture(scope="module")
def log():
    """Lines of the recorded training's log."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lines
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(scope="module")
def training(tmp_path_factory, log):
    """Three epochs, of which the second learns nothing; a resume, and a fourth one."""
    made = Training(tmp_path_factory.mktemp("stock"))
    made.run(3)
    made.links = {p.name: os.readlink(p) for p in made.folder.iterdir() if p.is_symlink()}
    made.files = {p.name for p in made.folder.iterdir()}
    made.first_run, made.events = made.events, []
    made.run(4)
    return made


# ---- the Trainer -------------------------------------------------------------------


def test_own_reporter(training):
    """The one way to hand ESPnet's Trainer a Reporter."""
    assert ("reporter", __name__) in training.first_run
    assert stock.Reporter is Reporter


def test_own_save(training):
    assert [e for e in training.first_run if e[0] == "save"]
    assert torch.save.__module__ == "torch.serialization"


def test_trainer_has_class_methods_only(training):
    with pytest.raises(RuntimeError, match="can't be instantiated"):
        stock.Trainer()
    (train, validate) = (next(e for e in training.events if e[0] == kind)[1]
                         for kind in ("train", "validate"))  # fmt: skip
    needed = {"model", "optimizers", "scaler", "summary_writer", "options", "reporter"}
    assert needed <= set(train)
    assert {"model", "reporter"} <= set(validate)


def test_trainer_resumes_before_its_first_epoch(training):
    assert "resume" not in {e[0] for e in training.first_run}
    assert training.events[0][0] == "reporter"
    assert training.events[1][0] == "resume"
    needed = {"checkpoint", "model", "optimizers", "schedulers", "reporter", "scaler"}
    assert needed <= set(training.events[1][1])


def test_trainer_seeds_every_epoch(training):
    order = [e for e in training.first_run + training.events if e[0] in ("seed", "train")]
    assert [e[1] for e in order[::2]] == [8, 9, 10, 11]
    assert {e[0] for e in order[1::2]} == {"train"}


def test_trainer_saves_the_checkpoint_before_the_epoch(training):
    saved = [e[1] for e in training.first_run if e[0] == "save"]
    for epoch in (1, 2, 3):
        pair = [espnet_api.CHECKPOINT, espnet_api.epoch_file(epoch)]
        assert saved[2 * epoch - 2 : 2 * epoch] == pair
    keys = {"model", "reporter", "optimizers", "schedulers", "scaler"}
    assert training.states[0].keys() == keys
    assert training.states[1].keys() == training.states[0]["model"].keys() == {
        "weight", "calls"}  # fmt: skip


def test_trainer_links_the_latest_and_the_best_epoch(training):
    assert training.links["latest.pth"] == "3epoch.pth"
    assert training.links["valid.loss.best.pth"] == "3epoch.pth"


def test_trainer_keeps_the_best_epochs_only(training):
    # Two are kept. The second has learned nothing: it is not better than the first.
    assert {"1epoch.pth", "3epoch.pth"} <= training.files
    assert "2epoch.pth" not in training.files


def test_trainer_asks_the_reporter_has_before_it_ranks(training):
    """Its answer about acc was no, though the value is there."""
    assert Reporter.has(training.reporter, "valid", "acc")
    assert "valid.loss.ave.pth" in training.files
    assert not [name for name in training.files if "acc" in name or "not_there" in name]


def test_trainer_hands_the_model_utt_id(training):
    assert training.model.seen[0] == {"utt_id": ["a"]}
    assert training.model.seen[1] == {"utt_id": ["b"]}


def test_trainer_leaves_out_steps_that_are_not_finite(training):
    assert training.steps == [1, 1, 3, 3, 4, 4]


def test_trainer_says_where_an_epoch_made_no_update(training):
    assert training.results == [False, True, False, False]


def test_trainer_logs_epochs_as_the_recipe_reads_them(training, log):
    started = [m.groups() for m in map(TrainingProgress.STARTED.search, log) if m]
    assert started == [("1", "3"), ("2", "3"), ("3", "3"), ("4", "4")]
    results = [m for m in map(TrainingProgress.RESULTS.search, log) if m]
    assert [m[1] for m in results] == ["1", "2", "3", "4"]
    assert TrainingProgress.CER.findall(results[0][2]) == [("cer_ctc", "0.250")]


# ---- Reporter, averages, schedulers ------------------------------------------------


def test_reporter_ranks_by_sort_epochs_and_values():
    class Ranks(Reporter):
        def sort_epochs_and_values(self, key, key2, mode):
            return [(2, 0.5), (1, 0.1)]

    reporter = Ranks()
    reporter.set_epoch(1)
    with reporter.observe("valid") as sub:
        sub.register({"loss": 0.1})
        sub.next()
    assert reporter.stats[1]["valid"]["loss"] == 0.1
    assert reporter.get_epoch() == reporter.epoch == 1
    assert ("valid", "loss") in reporter.get_all_keys()
    assert reporter.sort_epochs("valid", "loss", "min") == [2, 1]
    assert reporter.get_best_epoch("valid", "loss", "min") == 2
    again = Reporter()
    again.load_state_dict(reporter.state_dict())
    assert again.stats[1]["valid"]["loss"] == 0.1
    assert Reporter().epoch == 0
    assert Reporter().stats == {}


def test_reporter_checks_early_stopping_by_the_best_epoch():
    class Ranks(Reporter):
        def get_best_epoch(self, key, key2, mode, nbest=0):
            return 2

    reporter = Ranks()
    for epoch, stops in ((4, False), (5, True)):
        reporter.set_epoch(epoch)
        assert reporter.check_early_stopping(2, "valid", "loss", "min") is stops


def test_subreporter_takes_values_of_its_own():
    reporter = Reporter()
    reporter.set_epoch(1)
    with reporter.observe("valid") as sub:
        assert isinstance(sub, SubReporter)
        sub.register({"loss": 0.5}, torch.tensor(2.0))
        sub.next()
        sub.register({"margin": 0.25})
        sub.next()
    found = reporter.stats[1]["valid"]
    assert (found["loss"], found["margin"]) == (0.5, 0.25)


def test_subreporter_fills_in_nan_without_weight():
    reporter = Reporter()
    reporter.set_epoch(1)
    sub = reporter.start_epoch("train")
    assert (sub.key, sub.epoch, sub.total_count) == ("train", 1, 0)
    for stats, times in (({"early": 1.0}, {}), ({"late": 2.0}, {"time_of_late": 3.0})):
        sub.register(stats, torch.tensor(2.0))
        sub.register(times)
        sub.next()
    for values, place in ((sub.stats["late"], 0), (sub.stats["early"], 1)):
        assert numpy.isnan(values[place].value) and values[place].weight == 0
        assert values[1 - place].weight == 2.0
    assert numpy.isnan(sub.stats["time_of_late"][0].value)
    assert not hasattr(sub.stats["time_of_late"][0], "weight")
    assert "early=nan" in sub.log_message(-1)
    del sub.stats["early"]
    assert "early=nan" not in sub.log_message(-1)


def test_average_sums_integers(tmp_path):
    reporter = Reporter()
    for epoch in (1, 2):
        reporter.set_epoch(epoch)
        with reporter.observe("valid") as sub:
            sub.register({"loss": float(epoch)})
            sub.next()
        state = {
            "weight": torch.tensor(float(epoch)),
            "counter": torch.tensor(3),
            "exact": torch.tensor(2.0**40 + 1, dtype=torch.float64),
        }
        torch.save(state, tmp_path / espnet_api.epoch_file(epoch))
    average_nbest_models(tmp_path, reporter, [("valid", "loss", "min")], [2])
    found = torch.load(tmp_path / "valid.loss.ave.pth", weights_only=True)
    assert found["weight"] == 1.5
    assert found["counter"] == 6
    assert found["exact"] == 2**40 + 1
    assert found["exact"].dtype == torch.float64


def test_schedulers_step_by_batch_or_by_epoch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.1)
    kinds = AbsBatchStepScheduler, AbsEpochStepScheduler
    by_batch, by_epoch = WarmupLR(optimizer), torch.optim.lr_scheduler.StepLR(optimizer, 1)
    assert [isinstance(by_batch, kind) for kind in kinds] == [True, False]
    assert [isinstance(by_epoch, kind) for kind in kinds] == [False, True]


# ---- the task and its data ---------------------------------------------------------


def test_task_is_where_the_registry_waits_for_it():
    import espnet2.tasks.asr as asr

    assert asr.__name__ == registry.TARGET
    assert asr.ASRTask is task.ASRTask
    assert task.STOCK_TASK.__module__ == registry.TARGET
    for choices, name in (
        (asr.encoder_choices, "des_e_branchformer"),
        (asr.model_choices, task.MODEL),
    ):
        assert name == name.lower()
        assert choices.get_class(name) is choices.classes[name]
        assert name in choices.choices()


def test_task_is_extended_by_its_methods():
    own = task.STOCK_TASK
    assert own.trainer is stock.Trainer
    assert list(inspect.signature(own.main_worker).parameters) == ["args"]
    assert list(inspect.signature(own.build_model).parameters) == ["args"]
    parameters = inspect.signature(own.build_dataset).parameters
    assert {"args", "iter_options", "keys_to_load"} <= set(parameters)
    # In AbsTask.
    assert "cls.trainer.run(" in inspect.getsource(own.main_worker)
    assert "cls.build_dataset(" in inspect.getsource(own.build_sequence_iter_factory)
    args = Namespace(optim="adamw", optim_conf={"lr": 0.5}, sharded_ddp=False,
                     exclude_weight_decay=False, exclude_weight_decay_conf={})  # fmt: skip
    (optimizer,) = own.build_optimizers(args, torch.nn.Linear(1, 1))
    assert optimizer.defaults["lr"] == 0.5


def test_task_loads_models_without_strict():
    source = inspect.getsource(task.STOCK_TASK.build_model_from_file)
    assert "strict=False" in source
    for key in ("module", "state_dict"):
        assert f'"{key}" in state_dict' in source
    parameters = list(inspect.signature(task.STOCK_TASK.build_model_from_file).parameters)
    assert parameters[:3] == ["config_file", "model_file", "device"]


def test_dataset_has_its_tables(tmp_path):
    from espnet2.fileio.sound_scp import SoundScpReader
    from espnet2.train.dataset import ESPnetDataset

    soundfile.write(tmp_path / "a.wav", numpy.zeros(80), 8000)
    table = tmp_path / "wav.scp"
    table.write_text(f"a {tmp_path / 'a.wav'}\n")
    dataset = ESPnetDataset([(str(table), "speech", "sound")])
    assert list(dataset.loader_dict) == ["speech"]
    assert dataset.debug_info["speech"][0] == str(table)
    assert list(dataset.loader_dict["speech"].keys()) == ["a"]
    reader = dataset.loader_dict["speech"].loader
    assert isinstance(reader, SoundScpReader)
    assert not reader.multi_columns
    assert reader.get_path(next(iter(reader))) == str(tmp_path / "a.wav")
