"""Settings of the method, one changed at a time (the authors' ablations and some more)."""

from espnet_des.compare.systems import (
    IZO,
    SHARED,
    STK,
    Config,
    System,
    has_own_weights,
    ranking_of,
    supernet,
)
from espnet_des.compare.tables import Table
from espnet_des.method.methods import METHODS, OF_THE_PAPER


def ablations(base: Config) -> list[System]:
    """The default of each method, and supernets with one other setting each."""
    sizes = base["encoder_conf"]["sizes"]
    total = sizes[-1] - sizes[0]
    systems = []

    def ask(
        what: str, value: str, name: str, encoder_conf: dict | None = None, **model_conf
    ) -> None:
        systems.append(
            System(name, f"{what}: {value}",
                   lambda b, s, k: supernet(b, encoder_conf, **model_conf), sizes,
                   against=IZO if model_conf.get("method") == IZO else STK)
        )  # fmt: skip

    ask("Simple-Top-k", "default", STK, method=STK)
    ask("Simple-Top-k: gates", "soft", "soft_gates", hard_gates=False)
    for step in (1, total // 4, total):
        ask("Simple-Top-k: iterations", f"{total // step}", f"iterations_{total // step}",
            reduction=step)  # fmt: skip
    for p1 in (0.1, 0.3):
        ask(
            "stochastic depth in stage 1 (p1)", f"{p1:g}", f"p1_{p1:g}", stochastic_depth_p1=p1
        )
    for p2 in sorted({0.0, 0.1, 0.3} - {base["model_conf"]["stochastic_depth_p2"]}):
        ask(
            "stochastic depth in stage 2 (p2)", f"{p2:g}", f"p2_{p2:g}", stochastic_depth_p2=p2
        )
    for share in (0.2, 0.3, 0.6, 0.75):
        ask("Simple-Top-k: share of stage 1", f"{share:g}", f"share_{share:g}",
            selection_share=share)  # fmt: skip
    for factor in (0.3, 3.0, 10.0):
        ask("Simple-Top-k: learning rate of the scores", f"x {factor:g}",
            f"score_lr_{factor:g}", score_lr_factor=factor)  # fmt: skip
    ask("Simple-Top-k: learning rate of the scores", "to 0 at the end of stage 1",
        "score_lr_decay", score_lr_final=0.0)  # fmt: skip
    for count in (1, 2):
        ask("Simple-Top-k: scores averaged before freezing", f"last {count} iterations",
            f"averaged_{count}", averaged_iterations=count)  # fmt: skip
    if base["encoder"] == "des_conformer":  # others have no such module
        own = base["encoder_conf"].get("conv_norm", "batch_norm")
        norm = "layer" if own == "batch_norm" else "batch"
        ask("norm in the convolution module", f"{norm} norm", f"{norm}_norm",
            {"conv_norm": f"{norm}_norm"})  # fmt: skip
    if has_own_weights(base):
        ask("weights of the smaller sizes", "all shared", "shared", SHARED)
    else:
        ask("weights of the smaller sizes", "each its own", "own", {"own_weights": True})
    ask("output layers", "one for all sizes", "shared_output", shared_output=True)
    ask("output layer of the middle size in stage 2", "from the start of the training",
        "middle_from_start", middle_from_full=False)  # fmt: skip
    for weight in (0.15, 0.6):
        ask("loss weight of small and middle", f"{weight:g}", f"weight_{weight:g}",
            loss_weight_small=weight, loss_weight_middle=weight)  # fmt: skip
    for weight in (0.6, 1.0):
        ask("loss weight of the smallest size", f"{weight:g}", f"small_weight_{weight:g}",
            loss_weight_small=weight)  # fmt: skip
    ask("loss weight of the smallest size 1, stage 1 and middle size on",
        "half of the utterances", "small_weight_1_rows_0.5", loss_weight_small=1.0,
        rows_stage_1=0.5, rows_middle=0.5)  # fmt: skip
    for weight in (0.0, 0.5):
        ask("exits of the full size", f"{weight:g} of its loss", f"exits_{weight:g}",
            exit_weight=weight)  # fmt: skip
    ask("small and middle size on", "half of the utterances", "rows_0.5", rows_stage_1=0.5,
        rows_small=0.5, rows_middle=0.5)  # fmt: skip
    ask("middle size on", "half of the utterances", "rows_middle_0.5", rows_middle=0.5)
    for weight in (0.0, 1.0):
        ask("distillation from the full size", f"{weight:g}", f"distillation_{weight:g}",
            distillation_weight=weight)  # fmt: skip
    ask("method", "OrthoSoftmax", "ortho_softmax", method="ortho_softmax")
    systems.append(
        System("known_layers", "layers: those that the default found, known from the start",
               lambda b, s, kept: supernet(b, method="fixed", ranking=ranking_of(kept)), sizes,
               needs=STK, against=STK)
    )  # fmt: skip
    ask("Iterative-Zero-Out", "default", IZO, method=IZO)
    ask("Iterative-Zero-Out: ranking", "published", "published_ranking", method=IZO,
        published_ranking=True)  # fmt: skip
    for share in (0.3, 0.6):
        ask("Iterative-Zero-Out: share of stage 1", f"{share:g}", f"zero_out_share_{share:g}",
            method=IZO, selection_share=share)  # fmt: skip
    for factor in (1.0, 10.0, 100.0):
        ask("Iterative-Zero-Out: learning rate of the scores", f"x {factor:g}",
            f"zero_out_lr_{factor:g}", method=IZO, score_lr_factor=factor)  # fmt: skip
    for step in (total // 8, total // 4):
        ask("Iterative-Zero-Out: iterations", f"{total // step}",
            f"zero_out_iterations_{total // step}", method=IZO,
            zeroed=list(range(step, total + 1, step)))  # fmt: skip
    return systems


def ablation_tables(table: Table) -> dict[str, str]:
    return {METHODS[name].title: table.ablations(name) for name in OF_THE_PAPER}
