"""How the scores moved in stage 1, with what the schedule did meanwhile."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from espnet_des.method.layers import Layer, layer_names
from espnet_des.method.selection import IterativeZeroOut, Schedule
from espnet_des.method.tracker import History
from espnet_des.plot.style import KINDS, kind_name, look

# Lines of the schedule that the tests, and who edits the figure, can find again.
ZERO_OUT, ANNEALED, STAGE_1_END = "zero-out", "k", "end of stage 1"
NOT_KEPT = (0, (3, 2))  # dashes, in units of the line's width


def draw_scores(
    history: History,
    layers: list[Layer],
    smallest: list[int],
    selector,
    schedule: Schedule,
    title: str = "",
    size: int | None = None,
) -> Figure:
    """Draw a line per layer, strong where the smallest size keeps it.

    Args:
        layers: of the full encoder, in the order in which they run.
        smallest: layers of the smallest size, 0-based.
        selector: the method, which says what the schedule means.
        schedule: of stage 1.
        title: of the picture.
        size: the smallest one, where it is not as many layers.

    Returns:
        A figure whose first axes have the layers' lines in the order of
        ``layers``. Simple-Top-k: second axes with k(t). Iterative-Zero-Out: a
        vertical line at each zero-out, and how many layers it zeroed above.
    """
    end = schedule.last_update + 1
    with look():
        figure = Figure(figsize=(9.0, 4.8))
        axes = figure.add_subplot()
        thin = 0.6 if len(layers) > 96 else 0.9 if len(layers) > 30 else 1.2
        lines = zip(layer_names(layers), layers, history.scores.T)
        for q, (name, layer, scores) in enumerate(lines):
            kept = q in smallest
            axes.plot(
                history.updates, scores, label=name, color=KINDS[layer.kind][1],
                linestyle="-" if kept else NOT_KEPT, alpha=1.0 if kept else 0.45,
                linewidth=1.5 * thin if kept else thin, zorder=3 if kept else 2,
            )  # fmt: skip
        axes.set_xlim(0, 1.02 * end)
        axes.set_xlabel("updates")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_ylabel("score")
        _mark_end(axes, end)
        if isinstance(selector, IterativeZeroOut):
            _mark_zero_outs(axes, schedule)
        elif not selector.draws_size:
            _draw_annealed_k(axes, selector, schedule, selector.total(history.scores[0]))
        figure.suptitle(title or "Scores of the layers in stage 1", x=0.01, ha="left")
        _add_legend(figure, layers, len(smallest) if size is None else size)
    return figure


def _mark_end(axes: Axes, end: int) -> None:
    axes.axvline(end, color="black", linewidth=1.2, label=STAGE_1_END)
    axes.annotate(
        f"stage 2, from update {end:,}", (end, 0.5), xycoords=("data", "axes fraction"),
        xytext=(3, 0), textcoords="offset points", rotation=90, va="center", fontsize=8,
    )  # fmt: skip


def _mark_zero_outs(axes: Axes, schedule: Schedule) -> None:
    width = 0.8 if len(schedule.ends) <= 40 else 0.4
    for at in schedule.ends:
        axes.axvline(
            at, color="0.35", linewidth=width, linestyle=":", zorder=1, label=ZERO_OUT
        )
    # Where zero-outs are dense, every n-th has its number.
    step = -(-len(schedule.ends) // 20)
    top = axes.secondary_xaxis("top")
    top.set_xticks(
        schedule.ends[step - 1 :: step], [str(n) for n in schedule.zeroed[step - 1 :: step]]
    )
    top.set_xlabel("zero-outs (dotted): number of layers set to a score of -5")
    top.tick_params(labelsize=8)


def _draw_annealed_k(axes: Axes, selector, schedule: Schedule, num_layers: int) -> None:
    end = schedule.last_update + 1
    updates = [0, *schedule.ends[:-1], end]
    k = [selector.num_kept(schedule, t, num_layers) for t in updates]
    twin = axes.twinx()
    twin.step(updates, k, where="post", color="0.2", linewidth=1.2, label=ANNEALED)
    twin.set_ylim(0, num_layers)
    twin.set_ylabel("k: layers in the small pass")
    twin.spines["right"].set_visible(True)


def _add_legend(figure: Figure, layers: list[Layer], size: int) -> None:
    kinds = dict.fromkeys(layer.kind for layer in layers)
    handles = [Line2D([], [], color=KINDS[kind][1], linewidth=2) for kind in kinds]
    handles.append(Line2D([], [], color="0.3"))
    handles.append(Line2D([], [], color="0.6", linestyle=NOT_KEPT))
    labels = [*map(kind_name, kinds), f"kept by size {size}", "not kept by it"]
    if len(figure.axes) > 1:
        handles.append(Line2D([], [], color="0.2", linewidth=1.2))
        labels.append("k (right axis)")
    # Two rows: one is too wide for the names that some encoders' layers have.
    columns = -(-len(handles) // 2)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8,
                  columnspacing=1.2, handlelength=1.8)  # fmt: skip
