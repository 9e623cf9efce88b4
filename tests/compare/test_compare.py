"""The comparison: what its systems are, its statistics and its tables."""

import concurrent.futures
import contextlib
import copy
import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy
import pytest
import torch
import yaml

from espnet_des.compare.ablations import ablations
from espnet_des.compare.budgets import budgets, off_the_line
from espnet_des.compare.compare import compare, write_results
from espnet_des.compare.comparison import comparison
from espnet_des.compare.defaults import changed, defaults
from espnet_des.compare.equal_macs import at_equal_macs, macs
from espnet_des.compare.fast import fast
from espnet_des.compare.front_ends import front_ends
from espnet_des.compare.plans import PLANS, sections, systems_of
from espnet_des.compare.rates import rates
from espnet_des.compare.rivals import rivals
from espnet_des.compare.run import (
    MODEL_FILE,
    TEST_SETS,
    Run,
    base_config,
    data_of,
    summed_cost,
    train,
)
from espnet_des.compare.schedule import check_finished, prepare_data, run_all
from espnet_des.compare.shrinks import original, shrinks, whole
from espnet_des.compare.smaller import smaller
from espnet_des.compare.statistics import Counts, count, difference
from espnet_des.compare.systems import (
    OTHER_TOKENS,
    STK,
    even_ranking,
    layers_per_block,
    random_ranking,
)
from espnet_des.compare.tables import Table, interval
from espnet_des.compare.taken import take
from espnet_des.errors import ConfigError
from espnet_des.method.methods import OF_THE_PAPER
from espnet_des.method.options import SelectionOptions
from espnet_des.nn.encoders import BLOCK_TYPES, SUBNETS, SUPERNETS
from espnet_des.plot.rates import draw_rates, draw_rates_by_cost
from tests.conftest import TINY, TOKENS, make_batch

ROOT = Path(__file__).parents[2]
RECIPES = (
    "compare_digits",
    "compare_digits_e_branchformer",
    "compare_words",
    "compare_read",
    "compare_natural",
)


@pytest.fixture(params=RECIPES)
def base(request):
    return base_config(ROOT / "egs2" / request.param / "asr1")


STOCK = {name: kind.stock for name, kind in BLOCK_TYPES.items()}


def build(config):
    """The encoder and the options of a training config, as ESPnet would make them."""
    built = (SUPERNETS | SUBNETS | STOCK)[config["encoder"]](
        config["frontend_conf"]["n_mels"], **config["encoder_conf"]
    )
    own = {k: v for k, v in config["model_conf"].items() if k in SelectionOptions.keys()}
    return built, SelectionOptions(**own)


def test_all_systems_train_alike_and_have_their_sizes(base):
    sizes = base["encoder_conf"]["sizes"]
    kept = {size: list(range(size)) for size in sizes}
    systems = comparison(base) + ablations(base) + budgets(base) + front_ends(base)
    # What is cut from a trained model has a test of its own.
    others = [s for s in rivals(base) if not s.name.startswith(("angle", "cut"))]
    for system in systems + fast(base) + others:
        before = copy.deepcopy(base)
        config = system.config(base, 1, kept)
        assert base == before
        own = ("encoder", "encoder_conf", "model", "model_conf", OTHER_TOKENS)
        assert {k: v for k, v in config.items() if k not in own} == {
            k: v for k, v in base.items() if k not in own
        }
        encoder, options = build(config)
        if config["model"] == "des":
            assert set(encoder.sizes) <= set(system.sizes) <= set(encoder.all_sizes)
            options.selector(encoder.num_layers)
            options.resolve(
                sizes[-1], sizes[0], config["max_epoch"] * config["num_iters_per_epoch"]
            )
        elif config["encoder"] in STOCK:
            alone = ("taught",) if config["model"] == "taught" else ("separate", "dropout")
            assert system.group in alone
            assert [len(encoder.encoders) * layers_per_block(base)] == list(system.sizes)
        elif encoder.interctc_layer_idx:
            assert encoder.num_layers == sizes[-1]
            assert [4 * block for block in encoder.interctc_layer_idx] == sizes[:-1]
            w = config["model_conf"]["interctc_weight"]
            assert w / 2 / (1 - w) == pytest.approx(0.3)
        elif system.name.startswith("layer_drop"):
            assert encoder.num_layers == sizes[-1]
            assert encoder.block_drop_rate == (0.2 if system.name == "layer_drop" else 0.5)
        else:
            assert [encoder.num_layers] == list(system.sizes)
    names = [system.name for system in comparison(base)]
    assert len(set(names)) == len(names)


def test_only_the_learning_rate_differs_between_rates(base):
    kept = {size: list(range(size)) for size in base["encoder_conf"]["sizes"]}
    configs = {s.name: s.config(base, 0, kept) for s in rates(base)}
    peak = base["optim_conf"]["lr"]
    for name, config in configs.items():
        stem, _, factor = name.partition("_lr_")
        expected = copy.deepcopy(configs[stem])
        expected["optim_conf"]["lr"] = expected["scheduler_conf"]["max_lr"] = (
            float(factor or 1) * peak
        )
        assert config == expected
    assert {f"{method}_alone_{min(kept)}_lr_2" for method in OF_THE_PAPER} < set(configs)
    assert {"separate_" + str(size) for size in kept} < set(configs)


def test_only_the_preset_differs_where_updates_cost_less(base):
    kept = {size: list(range(size)) for size in base["encoder_conf"]["sizes"]}
    systems = {s.name: s for s in fast(base)}
    for system in comparison(base):
        if system.name not in OF_THE_PAPER and system.needs not in OF_THE_PAPER:
            continue
        cheaper, expected = systems[f"{system.name}_fast"], system.config(base, 0, kept)
        if system.needs:  # its layers by themselves, which no setting of a supernet is left of
            assert cheaper.needs == f"{system.needs}_fast"
        else:
            expected["model_conf"]["preset"] = "fast"
        assert cheaper.config(base, 0, kept) == expected
    assert {"separate_" + str(size) for size in kept} | set(OF_THE_PAPER) < set(systems)


def test_a_name_of_the_comparison_is_its_training_in_every_plan(base):
    kept = {size: list(range(size)) for size in base["encoder_conf"]["sizes"]}
    compared = {s.name: s for s in comparison(base)}
    for what in PLANS:
        systems = systems_of(what, base)
        for system in systems:
            assert (system.plan == "compare") == (system.name in compared)
            if system.plan == "compare":
                mine = system.config(base, 0, kept)
                assert mine == compared[system.name].config(base, 0, kept)
        assert len({system.name for system in systems}) == len(systems)


def test_every_ablation_changes_something(base):
    kept = {size: list(range(size)) for size in base["encoder_conf"]["sizes"]}
    configs = [system.config(base, 0, kept) for system in ablations(base)]
    texts = [yaml.safe_dump(config) for config in configs]
    assert len(set(texts)) == len(texts)


def test_rankings_of_the_controls():
    assert sorted(random_ranking(24, 3)) == list(range(24))
    assert random_ranking(24, 3) == random_ranking(24, 3) != random_ranking(24, 4)
    ranking = even_ranking([8, 16, 24])
    assert sorted(ranking) == list(range(24))
    assert sorted(ranking[:8]) == [1, 4, 7, 10, 13, 16, 19, 22]
    assert max(numpy.diff(sorted(ranking[:16]))) <= 2


def test_the_layers_of_a_supernet_reach_the_system_that_needs_them():
    base = base_config(ROOT / "egs2/compare_words/asr1")
    alone = next(s for s in comparison(base) if s.name == "simple_top_k_alone_8")
    assert alone.needs == "simple_top_k"
    config = alone.config(base, 0, {8: [0, 2, 5, 7, 9, 11, 20, 23]})
    encoder, _ = build(config)
    assert encoder.num_layers == 8 and config["encoder_conf"]["kept_layers"][-1] == 23


def test_what_is_cut_from_a_trained_model_starts_from_its_weights(base):
    cut = next(s for s in shrinks(base) if s.name.startswith("cut"))
    (size,) = cut.sizes
    kept = sorted(random_ranking(base["encoder_conf"]["sizes"][-1], 0)[:size])
    config = cut.config(base, 3, {size: kept})
    trained, _ = build(original(base))
    mine, theirs = build(config)[0].state_dict(), trained.state_dict()
    full = next(s for s in systems_of("shrink", base) if s.name == whole(base))
    run = Run(full.name, 3, Path(), full.sizes, full.plan)
    assert config["init_param"] == [str(run.exp / MODEL_FILE)]
    assert yaml.safe_dump(full.config(base, 3, None)) == yaml.safe_dump(original(base))
    # An E-Branchformer's block that has lost a branch has a smaller merge.
    anew = {k for k, v in mine.items() if v.shape != theirs[k].shape}
    assert all(".merge_proj." in k or ".depthwise_conv_fusion." in k for k in anew)
    assert len(mine) < len(theirs)
    updates = config["max_epoch"] * config["num_iters_per_epoch"]
    assert updates == 0.2 * base["max_epoch"] * base["num_iters_per_epoch"]


def model_of_three_blocks(**conf):
    """An ESPnet model with a subnet encoder."""
    from espnet2.asr.ctc import CTC
    from espnet2.asr.espnet_model import ESPnetASRModel

    encoder = SUBNETS["des_conformer_subnet"](12, **(TINY | {"num_blocks": 3}), **conf)
    return ESPnetASRModel(
        vocab_size=len(TOKENS), token_list=list(TOKENS), frontend=None, specaug=None,
        normalize=None, preencoder=None, encoder=encoder, postencoder=None, decoder=None,
        ctc=CTC(len(TOKENS), 8), joint_network=None, ctc_weight=1.0,
    ).eval()  # fmt: skip


@torch.no_grad()
def test_an_exit_is_what_interctc_sees():
    model = model_of_three_blocks(interctc_layer_idx=[1, 2])
    batch = make_batch()
    (_, exits), lengths, _ = model.encoder(batch["speech"], batch["speech_lengths"])
    for number, seen in exits:
        small = smaller(model, 4 * number)
        out, out_lengths = small.encode(batch["speech"], batch["speech_lengths"])
        assert torch.equal(out, seen) and torch.equal(out_lengths, lengths)
    assert model.encoder.interctc_layer_idx == [1, 2] and len(model.encoder.encoders) == 3
    for wrong in (6, 0, 16):
        with pytest.raises(ValueError, match="whole blocks"):
            smaller(model, wrong)


@torch.no_grad()
@pytest.mark.parametrize("size, blocks", [(4, [1]), (8, [0, 2]), (12, [0, 1, 2])])
def test_every_other_block_is_what_training_sees_where_the_rest_is_dropped(
    size, blocks, monkeypatch
):
    quiet = {f"{key}dropout_rate": 0.0 for key in ("", "positional_", "attention_")}
    # BatchNorm has other statistics in training.
    model = model_of_three_blocks(block_drop_rate=0.2, conv_norm="layer_norm", **quiet)
    encoder, batch = model.encoder, make_batch()
    small = smaller(model, size)
    out, _ = small.encode(batch["speech"], batch["speech_lengths"])
    draws = iter(0.9 if n in blocks else 0.1 for n in range(3))
    monkeypatch.setattr(torch, "rand", lambda count: torch.full((count,), next(draws)))
    seen, *_ = encoder.train()(batch["speech"], batch["speech_lengths"])
    assert torch.equal(out, seen)


# ---- statistics ------------------------------------------------------------------


def counts_of(errors, words=1000):
    errors = numpy.asarray(errors, float)
    return Counts(errors, numpy.full(errors.shape[1], words), list(range(len(errors))))


def test_equal_systems_do_not_differ():
    one = counts_of(numpy.random.default_rng(0).integers(50, 150, (3, 40)))
    assert difference(one, one) == (0.0, 0.0, 0.0, 3)
    twice = one._replace(errors=2 * one.errors)
    assert difference(twice, one)[:3] == pytest.approx((100.0, 100.0, 100.0))


@pytest.mark.thorough
@pytest.mark.parametrize("seeds, spread", [(2, 0.1), (3, 0.03), (3, 0.1), (6, 0.1)])
def test_intervals_cover_the_true_difference_as_often_as_they_say(seeds, spread):
    """60 speakers, each with an effect of its own on both systems, and seeds that vary."""
    rng, inside, trials = numpy.random.default_rng(1), 0, 300
    for _ in range(trials):
        hard = rng.gamma(4.0, 25.0, 60)  # what a speaker costs any system

        def system(factor):
            of_seed = rng.normal(1.0, spread, (seeds, 1))
            return counts_of(rng.poisson(factor * hard * of_seed))

        found = difference(system(1.1), system(1.0))
        inside += found.low <= 10.0 <= found.high
    # Two seeds can agree by chance: such intervals hold in 88% of cases.
    least, most = (0.82, 0.94) if seeds == 2 else (0.9, 0.995)
    assert least <= inside / trials <= most


def test_one_seed_gives_no_interval_and_none_in_common_no_difference():
    one, two = counts_of([[50, 60, 70]]), counts_of([[40, 60, 70], [50, 50, 50]])
    alone = difference(two, one)
    assert alone.mean == pytest.approx(100 * (170 / 180 - 1)) and alone.seeds == 1
    assert numpy.isnan([alone.low, alone.high]).all()
    assert interval(two, one) == "-5.6% (1 seed)"
    assert difference(one, one._replace(seeds=[5])) is None
    assert interval(one, one._replace(seeds=[5])) == "open"
    nothing = counts_of([[0, 0, 0], [1, 0, 0]])  # no logarithm of it
    assert interval(nothing, two) == "-99.7% (no interval)"
    wide = counts_of(
        [[5, 5, 5], [900, 900, 900]]
    )  # nothing follows from two so different seeds
    assert interval(wide, two).endswith("% (no interval)")


def result_of(errors, size=8, seed=0):
    sets = {name: {"words": [5, 5, 4], "speakers": ["a", "a", "b"]} for name in TEST_SETS}
    of_sets = {name: list(errors) for name in TEST_SETS}
    return {"system": "x", "seed": seed, "sets": sets, "updates": 5,
            "sizes": {str(size): {"errors": of_sets, "params": 1000, "kept": [0]}},
            "cost": {"train": {"cpu": 60.0, "wall": 30.0}, "decode": None},
            "versions": {"torch": "1"}}  # fmt: skip


def of_sizes(*sizes):
    """A result of several sizes, whose MACs are not noted."""
    found = result_of([1, 1, 1], sizes[0])
    found["sizes"] = {str(n): found["sizes"][str(sizes[0])] for n in sizes}
    return found


def test_errors_are_summed_by_speaker_and_set():
    found = count({0: result_of([1, 2, 3]), 4: result_of([0, 0, 1])}, 8, TEST_SETS)
    assert found.seeds == [0, 4]
    assert found.words.tolist() == [10, 4, 10, 4]  # a and b of the one set, of the other
    assert found.errors.tolist() == [[3, 3, 3, 3], [0, 1, 0, 1]]
    assert found.rates == pytest.approx([100 * 12 / 28, 100 * 2 / 28])
    assert count({0: result_of([1, 2, 3])}, 8, TEST_SETS[:1]).errors.tolist() == [[3, 3]]


# ---- tables ----------------------------------------------------------------------


def test_tables_say_what_is_open():
    base = base_config(ROOT / "egs2/compare_words/asr1")
    systems = comparison(base)
    results = {"separate_8": {0: result_of([1, 1, 1])},
               "simple_top_k_alone_8": {0: result_of([1, 1, 2])}}  # fmt: skip
    table = Table(systems, results)
    rates = table.error_rates()
    assert "| trained separately, whole blocks | 21.43 | open | open | 0-1 |" in rates
    assert "| layers of Simple-Top-k, trained separately | 28.57 | open | - |" in rates
    assert "+33.3% (1 seed)" in table.differences("separate")
    alone = table.differences("simple_top_k_alone", ["simple_top_k"])
    assert alone.endswith("| Simple-Top-k | open | open | - |\n")
    assert "| Simple-Top-k | open | open | open | 0 |" in rates
    assert "open" in table.costs() and "1000" not in table.parameters()
    assert sections("compare", table).count("## ") == 11


def test_a_size_off_the_line_between_its_neighbours_is_told():
    systems = budgets(base_config(ROOT / "egs2/compare_words/asr1"))
    one = result_of([0, 0, 0])
    for size, errors in ((8, [3, 0, 0]), (10, [3, 0, 0]), (12, [1, 0, 0])):
        one["sizes"] |= result_of(errors, size)["sizes"]
    for size in range(14, 25, 2):
        one["sizes"] |= result_of([1, 0, 0], size)["sizes"]
    table = Table(systems, {"any_size": {0: one}})
    row, other, *_ = off_the_line(table).splitlines()[2:]
    assert row == (
        "| Simple-Top-k, any size | +50.0% | -50.0% | +0.0% | +0.0% | +0.0% | +0.0% | +0.0% |"
    )
    assert other.count("open") == 7
    assert sections("budgets", table).count("## ") == 7


def test_systems_are_compared_at_equal_macs():
    systems = budgets(base_config(ROOT / "egs2/compare_words/asr1"))
    many, few = ({k: v for k, v in result_of([0, 0, 0], 8).items() if k != "sizes"} | {"sizes": {}}
                 for _ in range(2))  # fmt: skip
    for size in range(8, 25, 2):
        many["sizes"] |= result_of([40 - size, 0, 0], size)["sizes"]
        many["sizes"][str(size)]["macs"] = size * 1e6
    for size, errors, cost in ((7, 28, 7.5e6), (17, 11, 17e6), (24, 2, 24e6)):
        few["sizes"] |= result_of([errors, 0, 0], size)["sizes"]
        few["sizes"][str(size)]["macs"] = cost
    table = Table(systems, {"any_size": {0: many}, "components_three": {0: few, 1: few}})
    rows = at_equal_macs(table, "any_size").splitlines()
    # 17 lies between the sizes 16 and 18, with 24 and 22 errors; 7.5 below the smallest, with 32.
    row = next(r for r in rows if "components, three sizes by MACs |" in r)
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert dict(zip(table.sizes, cells)) == {
        7: "-12.5% (1 seed)", 17: "-52.2% (1 seed)",
        **dict.fromkeys((8, 10, 12, 14, 16, 18, 20, 22), "-"),
    }  # fmt: skip
    row = next(r for r in rows if "components, any MACs |" in r)
    assert row.count("open") == 8 and row.count(" - ") == 2
    systems = rivals(base_config(ROOT / "egs2/compare_words/asr1"))
    three = {"sizes": {str(z): many["sizes"][str(z)] for z in (8, 16, 24)}}
    alone = result_of([8, 0, 0], 8)
    alone["sizes"]["8"]["macs"] = (
        12e6  # in the middle of 8 and 16, which have 32 and 24 errors
    )
    results = {"simple_top_k": {0: many | three}, "taught_8": {0: alone}}
    rows = at_equal_macs(Table(systems, results), "simple_top_k").splitlines()
    row = next(r for r in rows if r.startswith("| whole blocks, taught"))
    assert "| -71.4% (1 seed) | open |" in row
    row = next(r for r in macs(table).splitlines() if "Simple-Top-k, any size |" in r)
    assert row.endswith("| 16.0 | - | 18.0 | 20.0 | 22.0 | 24.0 |")


def test_what_a_group_costs_is_not_known_of_older_results():
    systems = rivals(base_config(ROOT / "egs2/compare_words/asr1"))
    table = Table(systems, {"separate_8": {0: result_of([1, 1, 1])}})
    assert table.macs("separate", 8) is None
    # Sizes of components are no sizes of it; then 8, which is not known, and 16.
    assert "| trained separately, whole blocks | - | not noted | open |" in macs(table)
    several = table.results | {"simple_top_k": {0: of_sizes(8, 16, 24)}}
    rows = at_equal_macs(Table(systems, several), "simple_top_k")
    assert "| trained separately, whole blocks | - | not noted | open | - |" in rows
    assert sections("rivals", table).count("## ") == 8


def test_a_cost_is_open_before_and_not_known_after_a_kill():
    systems = comparison(base_config(ROOT / "egs2/compare_words/asr1"))
    results = {"random": {0: result_of([1, 1, 1])}, "separate_8": {0: result_of([1, 1, 1])}}
    rows = Table(systems, results).costs()
    assert "| random layers, same training | all | 1.0 | 0.5 | not known |  |" in rows
    assert "| trained separately, whole blocks | 8+16+24 | open | open | open |  |" in rows
    assert "| 8+16 | open | open | open | Simple-Top-k (simple_top_k) |" in rows
    systems = rivals(base_config(ROOT / "egs2/compare_words/asr1"))
    row = next(r for r in Table(systems, {}).costs().splitlines() if r.startswith("| cut"))
    assert row.endswith("| ranked by angle, 0% (angle_0); trained separately, whole blocks "
                        "(separate_24) |")  # fmt: skip


def test_what_can_never_be_is_not_called_open():
    systems = rivals(base_config(ROOT / "egs2/compare_words/asr1"))
    rows = Table(systems, {}).differences("separate").splitlines()
    row = next(r for r in rows if r.startswith("| layers of Simple-Top-k"))
    assert row.endswith("| - | open | open | - | - |")


def write_run(recipe, systems, name, result=None):
    """A run's config, and its result where it is finished."""
    system = next(s for s in systems if s.name == name)
    run = Run(name, 0, recipe, system.sizes)
    run.exp.mkdir(parents=True)
    kept = {8: list(range(8)), 16: list(range(16)), 24: list(range(24))}
    config = system.config(base_config(recipe), 0, kept)
    (run.exp / "train.yaml").write_text(run.as_yaml(config))
    if result:
        run.result_file.write_text(json.dumps(result))
    return run


@pytest.fixture
def own_recipe(tmp_path):
    (tmp_path / "conf").mkdir()
    text = (ROOT / "conf/compare_digits/train_des.yaml").read_text()
    (tmp_path / "conf/train_des.yaml").write_text(text)
    return tmp_path


def test_results_whose_layers_are_of_another_supernet_are_refused(own_recipe):
    systems = comparison(base_config(own_recipe))
    result = {"sizes": {str(n): {"kept": list(range(n))} for n in (8, 16, 24)}, "sets": {}}
    runs = [write_run(own_recipe, systems, "simple_top_k", result),
            write_run(own_recipe, systems, "simple_top_k_alone_8", result)]  # fmt: skip
    check_finished(runs, systems)
    runs[0].result_file.unlink()
    with pytest.raises(
        RuntimeError, match="alone_8_seed0 is made of .*top_k_seed0 .*: remove it as"
    ):
        check_finished(runs, systems)
    result["sizes"]["8"]["kept"] = list(range(1, 9))
    runs[0].result_file.write_text(json.dumps(result))
    with pytest.raises(RuntimeError, match="alone_8_seed0.* is of another config"):
        check_finished(runs, systems)


def another_machine(recipe, systems, config_of=lambda run, config: config, seed=0):
    """Runs of a recipe, and what another machine wrote of them."""
    kept = {size: list(range(size)) for size in (8, 16, 24)}
    runs, written = [], []
    for name in ("simple_top_k", "simple_top_k_alone_8", "random"):
        system = next(s for s in systems if s.name == name)
        run = Run(name, seed, recipe, system.sizes)
        config = config_of(run, system.config(base_config(recipe), seed, kept))
        result = result_of([1, 2, 3]) | {
            "system": name,
            "seed": seed,
            "config_sha256": run.config_hash(config),
        }
        result["sizes"] = {
            str(n): result["sizes"]["8"] | {"kept": kept[n]} for n in system.sizes
        }
        runs.append(run)
        written.append(result)
    return runs, written


def as_file(folder, results):
    file = folder / "theirs.json"
    file.write_text(json.dumps({"runs": results}))
    return file


def test_what_another_machine_trained_is_taken_once(own_recipe):
    systems = comparison(base_config(own_recipe))
    runs, written = another_machine(own_recipe, systems)
    take([as_file(own_recipe, written[:2])], runs, systems)
    assert [run.result() for run in runs] == [*written[:2], None]
    check_finished(runs, systems)
    written[0]["versions"] = {"torch": "2"}
    take([as_file(own_recipe, written)], runs, systems)
    assert [run.result()["versions"]["torch"] for run in runs] == ["1", "1", "1"]


def test_further_seeds_of_another_machine_are_told_and_not_trained(own_recipe, monkeypatch):
    trained, told = [], set()
    module = "espnet_des.compare.compare."
    monkeypatch.setattr(f"{module}run_all", lambda runs, *rest: trained.extend(runs))
    monkeypatch.setattr(
        f"{module}write_results",
        lambda *rest: told.update((r.system, r.seed) for r in rest[-1] if r.result()),
    )
    theirs = another_machine(own_recipe, comparison(base_config(own_recipe)), seed=2)[1]
    compare(own_recipe, seeds=1, only=["random"], taken=[as_file(own_recipe, theirs)])
    assert [(run.system, run.seed) for run in trained] == [("random", 0)]
    assert told == {(name, 2) for name in ("simple_top_k", "simple_top_k_alone_8", "random")}


def test_tables_of_trainings_that_are_not_here_are_kept(own_recipe, monkeypatch, capsys):
    monkeypatch.setattr("espnet_des.compare.compare.run_all", lambda *_: None)
    monkeypatch.setattr("espnet_des.compare.compare.describe", lambda *_: "")
    monkeypatch.setattr("espnet_des.compare.compare.sections", lambda *_: "")
    systems = comparison(base_config(own_recipe))
    written = [another_machine(own_recipe, systems)[1][-1]]  # of random layers
    folder = own_recipe / "results"
    folder.mkdir()
    as_file(folder, written).rename(folder / "compare.json")
    (folder / "compare.md").write_text("theirs")
    compare(own_recipe, seeds=1)
    assert json.loads((folder / "compare.before.json").read_text())["runs"] == written
    assert (folder / "compare.before.md").read_text() == "theirs"
    assert (
        "1 trainings that are not in exp/: it is compare.before.json"
        in capsys.readouterr().out
    )
    compare(own_recipe, seeds=1, taken=[folder / "compare.before.json"])
    assert json.loads((folder / "compare.json").read_text())["runs"] == written
    compare(own_recipe, seeds=1)  # now they are in exp/
    assert json.loads((folder / "compare.json").read_text())["runs"] == written
    shutil.rmtree(own_recipe / "exp")
    compare(own_recipe, seeds=1)  # and gone once more, with what was kept already
    assert json.loads((folder / "compare.before2.json").read_text())["runs"] == written


def test_a_system_whose_config_cannot_be_made_does_not_end_the_others(own_recipe, monkeypatch):
    systems = comparison(base_config(own_recipe))
    runs = [Run(name, 0, own_recipe, [8]) for name in ("random", "even", "layer_drop")]

    def config_of(run, *_):
        if run.system == "even":
            raise ConfigError("share: 0.01 is too short")
        return {}

    class Pool:
        def submit(self, execute, run, config):
            future = concurrent.futures.Future()
            run.exp.mkdir(parents=True)
            run.result_file.write_text(json.dumps(result_of([1, 2, 3])))
            future.set_result(None)
            return future

        def shutdown(self):
            pass

    module = "espnet_des.compare.schedule."
    monkeypatch.setattr(f"{module}config_of", config_of)
    monkeypatch.setattr(f"{module}prepare_data", lambda *_: None)
    monkeypatch.setattr(f"{module}spawned", lambda *_, **__: contextlib.nullcontext(Pool()))
    monkeypatch.setattr(f"{module}_describe", lambda run: "done")
    with pytest.raises(RuntimeError, match="failed:\ncompare_even_seed0: share: 0.01 is too"):
        run_all(runs, systems, 1, lambda: None)
    assert [run.result() is None for run in runs] == [False, True, False]


def finish_unless_killed(run, config):
    """In place of a training: that of evenly spaced layers meets the OOM killer."""
    if run.system == "even":
        os.kill(os.getpid(), signal.SIGKILL)
    run.exp.mkdir(parents=True)
    run.result_file.write_text(json.dumps(result_of([1, 2, 3])))


def test_a_training_that_is_killed_does_not_end_the_others(own_recipe, monkeypatch):
    systems = comparison(base_config(own_recipe))
    runs = [Run(name, 0, own_recipe, [8]) for name in ("even", "random", "layer_drop")]
    module = "espnet_des.compare.schedule."
    monkeypatch.setattr(f"{module}prepare_data", lambda *_: None)
    monkeypatch.setattr(f"{module}execute", finish_unless_killed)
    with pytest.raises(RuntimeError, match="failed:\ncompare_even_seed0: .*terminated"):
        run_all(runs, systems, 2, lambda: None)
    assert [run.result() is None for run in runs] == [True, False, False]


def test_a_training_that_heard_other_test_sets_is_refused(own_recipe):
    systems = comparison(base_config(own_recipe))
    runs, written = another_machine(own_recipe, systems)
    take([as_file(own_recipe, written)], runs, systems)
    written[2]["sets"]["test_clean"]["words"] = [6, 5, 4]
    runs[2].result_file.write_text(json.dumps(written[2]))
    with pytest.raises(RuntimeError, match="random_seed0 has decoded other test sets"):
        check_finished(runs, systems)


def finish_with_other_sets(run, config):
    run.exp.mkdir(parents=True)
    result = result_of([1, 2, 3])
    result["sets"]["test_clean"]["words"][0] += run.system == "random"
    run.result_file.write_text(json.dumps(result))


def test_a_result_of_other_test_sets_is_put_aside(own_recipe, monkeypatch):
    systems = comparison(base_config(own_recipe))
    runs = [Run(name, 0, own_recipe, [8]) for name in ("even", "random")]
    module = "espnet_des.compare.schedule."
    monkeypatch.setattr(f"{module}prepare_data", lambda *_: None)
    monkeypatch.setattr(f"{module}execute", finish_with_other_sets)
    with pytest.raises(RuntimeError, match="random_seed0: .*has decoded other test sets"):
        run_all(runs, systems, 1, lambda: None)
    assert [run.result() is None for run in runs] == [False, True]
    assert (runs[1].exp / "result.other_sets.json").exists()


def test_trainings_without_their_gpus_are_refused_before_the_data_is_made(own_recipe):
    (own_recipe / "conf/run.options").write_text("--ngpu 0 --nj 8 --ngpu 97\n")
    run = Run("even", 0, own_recipe, [8])
    with pytest.raises(RuntimeError, match="--ngpu 97: torch finds"):
        run_all([run], comparison(base_config(own_recipe)), 1, lambda: None)
    assert not run.exp.exists()


def test_a_shrink_of_a_model_of_which_only_the_result_was_taken_is_refused(
    own_recipe, monkeypatch
):
    monkeypatch.setattr("espnet_des.compare.schedule.prepare_data", lambda *_: None)
    systems = systems_of("shrink", base_config(own_recipe))
    model = write_run(own_recipe, systems, "separate_24", result_of([1, 2, 3]))
    shrink = next(s for s in systems if s.name == "angle_20")
    run = Run("angle_20", 0, own_recipe, shrink.sizes, shrink.plan)
    wanted = "needs exp/asr_compare_separate_24.*Remove .*separate_24_seed0 and leave"
    with pytest.raises(RuntimeError, match=wanted):
        run_all([model, run], systems, 1, lambda: None)
    assert not run.exp.exists()


def test_further_seeds_that_are_finished_here_stay_in_the_tables(own_recipe, monkeypatch):
    monkeypatch.setattr("espnet_des.compare.compare.run_all", lambda *_: None)
    monkeypatch.setattr("espnet_des.compare.compare.describe", lambda *_: "")
    monkeypatch.setattr("espnet_des.compare.compare.sections", lambda *_: "")
    systems = comparison(base_config(own_recipe))
    written = [another_machine(own_recipe, systems, seed=seed)[1][-1] for seed in (0, 4)]
    compare(own_recipe, seeds=5, taken=[as_file(own_recipe, written)])
    compare(own_recipe, seeds=1)
    folder = own_recipe / "results"
    assert json.loads((folder / "compare.json").read_text())["runs"] == written
    assert not list(folder.glob("*before*"))


def test_layers_that_a_supernet_kept_are_not_taken_without_it(own_recipe):
    systems = comparison(base_config(own_recipe))
    runs, written = another_machine(own_recipe, systems)
    take([as_file(own_recipe, written[1:])], runs, systems)
    assert [run.result() is not None for run in runs] == [False, False, True]


def test_trainings_of_another_config_or_test_set_are_not_taken(own_recipe):
    systems = comparison(base_config(own_recipe))
    runs, written = another_machine(own_recipe, systems, lambda run, c: c | {"grad_clip": 4.0})
    with pytest.raises(ValueError, match="simple_top_k, seed 0, is of another config"):
        take([as_file(own_recipe, written)], runs, systems)
    runs, written = another_machine(own_recipe, systems)
    written[2]["sets"]["test_clean"]["words"] = [6, 5, 4]
    with pytest.raises(ValueError, match="random, seed 0, is of other test sets"):
        take([as_file(own_recipe, written)], runs, systems)
    assert [run.result() is not None for run in runs] == [True, True, False]


def test_what_has_learned_from_a_model_does_not_outlive_it(own_recipe):
    systems = systems_of("rivals", base_config(own_recipe))
    result = result_of([1, 2, 3]) | {"defaults": {}}
    runs = [write_run(own_recipe, systems, name, result)
            for name in ("separate_24", "taught_8", "layer_drop_taught")]  # fmt: skip
    check_finished(runs, systems)
    runs[0].result_file.unlink()
    with pytest.raises(RuntimeError, match="taught_8_seed0 is made of .*separate_24_seed0"):
        check_finished(runs, systems)


def test_trainings_with_other_tokens_or_another_corpus_are_refused(own_recipe):
    options, corpus = own_recipe / "conf/run.options", own_recipe / "downloads/.done"
    corpus.parent.mkdir()
    corpus.write_text("seed 0, scale 1.0")
    options.write_text("--token_type bpe --nbpe 100 --ngpu 0\n")
    systems = comparison(base_config(own_recipe))
    runs, written = another_machine(own_recipe, systems)
    written = [result | {"data": data_of(own_recipe)} for result in written]
    options.write_text("--ngpu 1 --token_type bpe --nbpe 100\n")  # the same
    take([as_file(own_recipe, written)], runs, systems)
    check_finished(runs, systems)
    options.write_text("--token_type bpe --nbpe 300\n")
    with pytest.raises(RuntimeError, match="top_k_seed0 was trained with other options"):
        check_finished(runs, systems)
    corpus.write_text("seed 0, scale 0.1")
    runs[0].result_file.unlink()
    with pytest.raises(ValueError, match="was trained with other corpus and options than"):
        take([as_file(own_recipe, written)], runs, systems)
    corpus.unlink()  # not made yet: what it is to be is not known
    options.write_text("--token_type bpe --nbpe 100\n")
    take([as_file(own_recipe, written)], runs, systems)
    check_finished(runs, systems)


def test_what_was_trained_with_other_defaults_is_told(own_recipe, monkeypatch):
    systems = comparison(base_config(own_recipe))
    base = base_config(own_recipe)
    base["model_conf"]["loss_weight_small"] = 0.3
    supernet_config, alone, shrink = (
        next(s for s in plan if s.name == name).config(base, 0, None)
        for plan, name in ((systems, "simple_top_k"), (systems, "separate_8"),
                           (shrinks(base), "angle_20"))
    )  # fmt: skip
    then = defaults(supernet_config)
    assert then["loss_weight_middle"] == 0.3 and then["exit_weight"] == 0.3
    assert "loss_weight_small" not in then and "method" not in then and defaults(alone) == {}
    of_shrink = defaults(shrink)
    assert of_shrink["--teacher"] == 0.3 and of_shrink["loss_weight_small"] == 1.0
    assert not {"--share", "--rank_by", "--sizes", "stochastic_depth_p2"} & set(of_shrink)
    assert changed({}, shrink) == changed({"defaults": of_shrink}, shrink) == ""
    monkeypatch.setattr(SelectionOptions, "DEFAULT_EXITS", 0.5)
    assert changed({"defaults": then}, supernet_config) == "exit_weight 0.3, now 0.5"

    runs, written = another_machine(own_recipe, systems)
    written[0]["defaults"] = then | {"loss_weight_small": 0.3}
    with pytest.raises(ConfigError, match=r"other defaults than those here \(exit_weight 0.3"):
        take([as_file(own_recipe, written)], runs, systems)
    write_run(own_recipe, systems, "simple_top_k", written[0])
    with pytest.raises(
        RuntimeError, match=r"other defaults \(exit_weight 0.3, now 0.5\): rem"
    ):
        check_finished(runs, systems)


@pytest.mark.parametrize("text", ["", "{}", '{"runs": [{"system": "x"}]}', '{"runs": 3}'])
def test_files_that_are_no_results_are_not_taken(own_recipe, text):
    file = own_recipe / "theirs.json"
    file.write_text(text)
    systems = comparison(base_config(own_recipe))
    runs = another_machine(own_recipe, systems)[0]
    for wrong, says in (
        (file, "not a results"),
        (own_recipe / "nowhere.json", "not there, seen"),
    ):
        with pytest.raises(ValueError, match=f"taken: {wrong} is {says}"):
            take([wrong], runs, systems)


@pytest.mark.parametrize("code", [0, 1])
def test_the_data_is_prepared_once_and_again_for_another_front_end_or_corpus(tmp_path, code):
    (tmp_path / "conf").mkdir()
    config, calls = tmp_path / "conf/train_des.yaml", tmp_path / "calls"
    config.write_text((ROOT / "conf/compare_digits/train_des.yaml").read_text())
    (tmp_path / "run.sh").write_text(f'#!/bin/sh\necho "$*" >>calls\nexit {code}\n')
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "exp").mkdir()
    if code:
        with pytest.raises(RuntimeError, match=r"stages 1 to 10 of .*failed \(exit 1\)"):
            prepare_data(tmp_path)
        assert not (tmp_path / "exp/.prepared").exists()
        return
    for n_mels, number in ((40, 1), (40, 1), (80, 2)):
        config.write_text(re.sub(r"n_mels: \d+", f"n_mels: {n_mels}", config.read_text()))
        prepare_data(tmp_path)
        assert calls.read_text() == "--stage 1 --stop_stage 10\n" * number
    (tmp_path / "downloads").mkdir()
    for corpus, number in (("scale 1", 3), ("scale 1", 3), ("scale .1", 4)):
        (tmp_path / "downloads/.done").write_text(corpus)
        prepare_data(tmp_path)
        assert calls.read_text().count("\n") == number
    calls.unlink()
    for _ in range(2):
        prepare_data(tmp_path, {"token_type": "bpe", "nbpe": 100})
        assert calls.read_text() == "--stage 5 --stop_stage 10 --token_type bpe --nbpe 100\n"


def test_tokens_of_a_system_reach_the_recipe_and_not_the_training_config(own_recipe):
    """``run.sh`` writes what it was called with into the folder of the training."""
    system = front_ends(base_config(own_recipe))[-1]
    run = Run(system.name, 0, own_recipe, system.sizes)
    config = system.config(base_config(own_recipe), 0, None)
    (own_recipe / "run.sh").write_text('#!/bin/sh\necho "$*"\n')
    (own_recipe / "run.sh").chmod(0o755)
    run.exp.mkdir(parents=True)
    (run.exp / "train.yaml").write_text(run.as_yaml(config))
    train(run, run.exp / "train.yaml")
    assert (run.exp / "run.log").read_text() == (
        f"--stage 11 --stop_stage 11 --asr_tag {run.name} --token_type word "
        f"--asr_config exp/asr_{run.name}/espnet.yaml\n"
    )
    told = yaml.safe_load((run.exp / "espnet.yaml").read_text())
    assert told == {k: v for k, v in config.items() if k != OTHER_TOKENS} | {"seed": 0}


def test_the_recipe_is_told_that_a_cut_model_has_fewer_weights_than_its_file(own_recipe):
    base = base_config(own_recipe)
    system = next(s for s in rivals(base) if s.name.startswith("cut"))
    (size,) = system.sizes
    run = Run(system.name, 0, own_recipe, system.sizes, "rivals")
    (own_recipe / "run.sh").write_text('#!/bin/sh\necho "$*"\n')
    (own_recipe / "run.sh").chmod(0o755)
    run.exp.mkdir(parents=True)
    (run.exp / "train.yaml").write_text(
        run.as_yaml(system.config(base, 0, {size: list(range(size))}))
    )
    train(run, run.exp / "train.yaml")
    assert "--ignore_init_mismatch true " in (run.exp / "run.log").read_text()
    # What is refused where a whole checkpoint was meant.
    state, part = (SUBNETS["des_conformer_subnet"](12, **TINY, **more)
                   for more in ({}, {"kept_layers": [1, 4]}))  # fmt: skip
    with pytest.raises(RuntimeError, match="the checkpoint has besides"):
        part.load_state_dict(state.state_dict())


def test_results_are_written_before_anything_is_trained(tmp_path):
    recipe = tmp_path / "egs2" / "x" / "asr1"
    (recipe / "conf").mkdir(parents=True)
    text = (ROOT / "conf/compare_digits/train_des.yaml").read_text()
    (recipe / "conf" / "train_des.yaml").write_text(text)
    systems = comparison(base_config(recipe))
    runs = [Run(s.name, 0, recipe, s.sizes) for s in systems]
    write_results(recipe, "compare", systems, runs)
    text = (recipe / "results" / "compare.md").read_text()
    assert f"0 of {len(runs)} trainings are finished" in text and "open" in text
    assert json.loads((recipe / "results" / "compare.json").read_text()) == {"runs": []}


@pytest.mark.parametrize("conf, says", [
    ({"seeds": 0}, "seeds: 0"), ({"jobs": 0}, "jobs: 0"), ({"recipe": "nowhere"}, "recipe: "),
    ({"only": ["magic"]}, "only: 'magic'"),
])  # fmt: skip
def test_a_comparison_that_cannot_be_is_refused(conf, says):
    with pytest.raises(ValueError, match=says):
        compare(**({"recipe": ROOT / "egs2/compare_digits/asr1"} | conf))


def test_the_cost_of_a_killed_run_is_not_known(tmp_path):
    run = Run("x", 0, tmp_path, [8])
    run.exp.mkdir(parents=True)
    ended = {"what": "train", "wall": 2.0, "cpu": 3.0}
    begins = {"what": "train", "begins": True}
    for lines, known in (([begins, ended], 3.0), ([begins, ended] * 2, 6.0),
                         ([begins, begins, ended], None)):  # fmt: skip
        (run.exp / "cost.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        cost = summed_cost(run)["train"]
        assert cost == known if known is None else cost["cpu"] == known


@pytest.mark.parametrize("plan", [comparison, rivals])
def test_no_two_systems_look_alike_in_the_picture(plan):
    systems = plan(base_config(ROOT / "egs2/compare_words/asr1"))
    result = result_of([1, 2, 3])
    result["sizes"]["8"]["macs"] = 8e6
    sizes = {size for system in systems for size in system.sizes}
    result["sizes"] |= {str(n): result["sizes"]["8"] for n in sizes}
    table = Table(systems, {system.name: {0: result} for system in systems})
    figure = draw_rates(table) if plan is comparison else draw_rates_by_cost(table, STK)
    drawn = [bars[0] for bars in figure.axes[0].containers]
    looks = {(line.get_color(), line.get_marker()) for line in drawn}
    assert len(looks) == len(table.groups) > 8
