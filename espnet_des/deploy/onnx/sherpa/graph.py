"""The graph of an export with one input and one output, as sherpa-onnx runs it.

sherpa-onnx subtracts an utterance's mean, divides by ``sqrt(variance + 1e-5)``, and gives
``x`` ``(1, samples)`` without its length. The features of such samples are not those that the
model was trained with. The graph finds out what was subtracted and divided by, and undoes it.

With :func:`mark` before the audio, two values that are known, it does so up to rounding, which
it undoes as well where the audio has 16 bits. The mark is cut off again. Without it there are
two signs:

- Since that small number is added, the mean square that is left is a little below 1, the more
  so the softer the audio was: ``1 - mean(x**2) = 1e-5 / (variance + 1e-5)``. sherpa-onnx sums
  in float32, so the level of very long and very loud audio is found inexactly. It is bounded
  there: samples were no louder than full scale.
- Zeros all have one value now, where there is digital silence. Log-mels of zeros are at their
  floor, and those of a small constant far above it. In other audio the mean is lost.
"""

from pathlib import Path

import numpy
import onnx
import onnx.compose
import onnx.numpy_helper
import onnx.parser

from espnet_des.deploy.onnx.graph import INPUTS, OUTPUTS
from espnet_des.nn.losses import CTC_BLANK
from espnet_des.utils.files import write_atomically

INPUT = "x"  # as the files of Omnilingual ASR name it
ADDED = 1e-5  # to the variance
IMPOSSIBLE = -1e4  # log-probability of all but blank where there is nothing to recognise
# The mark: as many samples of this value, and as many of its negative.
MARK, MARK_HALF = 0.125, 64

# Digital silence is where so many samples are equal, and small beside the audio's deviation.
EQUAL, STEP, SMALL = 32, 16, 0.1
# What rounding leaves of zeros is below it, and a sample of 24 bits above.
SILENCE = 5e-8
# Samples of 16 bits come back bit by bit: float32 leaves them as near to whole steps as this.
ROUNDING = 0.02
# Audio that is too short for a frame of output gets zeros, and nothing but blank; so does
# silence. In float64 (11), since 1 - mean(x**2) is a small difference; 1 is float32, 6 int32,
# 9 bool.
HEAD = """
head (float[1, S] x) => (float[1, P] speech, int64[1] speech_lengths, bool[1, 1, 1] audible)
<int64[1] shortest = {SHORTEST}, int64[1] none = {0}, int64[1] time = {1}, int64[1] two = {2},
 int64[3] before = {0, 0, 0}, int64[1] mark_length = {MARK_LENGTH}, int64[2] halves = {2, -1},
 int64 first = {0}, int64 second = {1}, double twice = {MARK_STEP}, double half = {0.5},
 double all = {1}, double added = {ADDED}, double tiny = {1e-30}, double silence = {SILENCE},
 double steps_of_16_bits = {32768}, double rounding = {ROUNDING},
 float small = {SMALL}, float far = {1e30}, float middle = {0}>
{
  given = Shape <start = 1, end = 2> (x)
  most = Add (shortest, mark_length)
  lacking = Sub (most, given)
  after = Max (lacking, none)
  pads = Concat <axis = 0> (before, after)
  padded = Pad (x, pads)

  start = Slice (padded, none, mark_length, time)
  parts = Reshape (start, halves)
  tops = ReduceMax <keepdims = 0> (parts, time)
  bottoms = ReduceMin <keepdims = 0> (parts, time)
  even = Equal (tops, bottoms)
  numbers = Cast <to = 6> (even)
  least = ReduceMin <keepdims = 0> (numbers)
  both_even = Cast <to = 9> (least)
  values = Cast <to = 11> (tops)
  up = Gather (values, first)
  down = Gather (values, second)
  height = Sub (up, down)
  falls = Greater (height, tiny)
  marked = And (both_even, falls)
  positive_height = Max (height, tiny)
  marked_factor = Div (twice, positive_height)
  up_and_down = Add (up, down)
  marked_zero = Mul (up_and_down, half)

  cut = Where (marked, mark_length, none)
  count = Sub (given, cut)
  speech_lengths = Max (count, shortest)
  end = Add (cut, speech_lengths)
  own = Slice (padded, cut, end, time)
  samples = Cast <to = 11> (own)

  squares = Mul (samples, samples)
  sum = ReduceSum (squares, time)
  divisor = Cast <to = 11> (count)
  mean_square = Div (sum, divisor)
  difference = Sub (all, mean_square)
  positive = Max (difference, tiny)
  variance = Div (added, positive)
  divided_by = Sqrt (variance)
  sizes = Abs (samples)
  peak = ReduceMax (sizes, time)
  above_zero = Max (peak, tiny)
  full_scale = Div (all, above_zero)
  found_factor = Min (divided_by, full_scale)

  channel = Unsqueeze (own, time)
  negative = Neg (channel)
  highest = MaxPool <kernel_shape = [EQUAL], strides = [STEP]> (channel)
  negative_lowest = MaxPool <kernel_shape = [EQUAL], strides = [STEP]> (negative)
  lowest = Neg (negative_lowest)
  distances = Abs (highest)
  constant = Equal (highest, lowest)
  near = Less (distances, small)
  silent = And (constant, near)
  ranks = Where (silent, distances, far)
  nearest = ArgMin <axis = 2> (ranks)
  zeros = Where (silent, highest, middle)
  found = GatherElements <axis = 2> (zeros, nearest)
  zero_of_one = Squeeze (found, two)
  found_zero = Cast <to = 11> (zero_of_one)

  zero = Where (marked, marked_zero, found_zero)
  factor = Where (marked, marked_factor, found_factor)
  centred = Sub (samples, zero)
  restored = Mul (centred, factor)

  steps = Mul (restored, steps_of_16_bits)
  whole_steps = Round (steps)
  wrong = Sub (steps, whole_steps)
  errors = Abs (wrong)
  largest = ReduceMax (errors, time)
  are_whole = Less (largest, rounding)
  has_16_bits = And (marked, are_whole)
  whole = Div (whole_steps, steps_of_16_bits)
  exact = Where (has_16_bits, whole, restored)
  speech = Cast <to = 1> (exact)

  heights = Abs (restored)
  loudest = ReduceMax (heights, time)
  sounds = Greater (loudest, silence)
  suffices = GreaterOrEqual (count, shortest)
  both = And (sounds, suffices)
  audible = Unsqueeze (both, two)
}
"""
TAIL = """
tail (float[N, T, V] log_probs, bool[1, 1, 1] audible, float[V] blank) => (float[N, T, V] logits)
{
  logits = Where (audible, log_probs, blank)
}
"""
PREFIX = "sherpa."


def wrap(source: Path, target: Path, shortest: int, metadata: dict[str, str]) -> None:
    """Write an export, of waveforms, as sherpa-onnx takes it.

    Args:
        source: what :func:`espnet_des.deploy.onnx.graph.export` or int8's quantize wrote.
        target: takes ``x`` ``(1, samples)`` and gives ``logits`` ``(1, time, vocab)``.
        shortest: the fewest samples that give a frame.
        metadata: what to change of the file's.
    """
    model = onnx.load(source)
    graph = model.graph
    values = {
        "SHORTEST": shortest, "MARK_LENGTH": 2 * MARK_HALF, "MARK_STEP": 2 * MARK,
        "ADDED": ADDED, "SILENCE": SILENCE, "ROUNDING": ROUNDING, "SMALL": SMALL,
        "EQUAL": EQUAL, "STEP": STEP,
    }  # fmt: skip
    text = HEAD
    for name, value in values.items():
        text = text.replace(name, str(value))
    head, tail = (_inner_names(onnx.parser.parse_graph(t)) for t in (text, TAIL))
    (log_probs,) = (out for out in graph.output if out.name == OUTPUTS[0])
    # sherpa-onnx reads the size of the vocabulary from the shape.
    vocabulary = log_probs.type.tensor_type.shape.dim[2].dim_value
    blank = numpy.full(vocabulary, IMPOSSIBLE, dtype=numpy.float32)
    blank[CTC_BLANK] = 0.0
    nodes = [*head.node, *graph.node, *tail.node]
    outputs = [*tail.output]
    outputs[0].type.CopyFrom(log_probs.type)
    for field, parts in (
        (graph.node, nodes), (graph.input, [*head.input]), (graph.output, outputs)
    ):  # fmt: skip
        del field[:]
        field.extend(parts)
    graph.initializer.extend([*head.initializer, onnx.numpy_helper.from_array(blank, "blank")])
    props = {prop.key: prop.value for prop in model.metadata_props} | metadata
    onnx.helper.set_model_props(model, props)
    write_atomically(target, lambda partial: onnx.save(model, partial))


def _inner_names(graph: onnx.GraphProto) -> onnx.GraphProto:
    """With inner names that no export has; those of inputs and outputs stay."""
    return onnx.compose.add_prefix_graph(
        graph, PREFIX, rename_inputs=False, rename_outputs=False
    )


def mark() -> numpy.ndarray:
    """What tells the graph how the samples behind it are normalised ``(num_samples,)``."""
    return numpy.repeat(numpy.array([MARK, -MARK], numpy.float32), MARK_HALF)


def normalised(samples: numpy.ndarray) -> numpy.ndarray:
    """Samples ``(num_samples,)`` as sherpa-onnx gives them to the graph."""
    samples = samples.astype(numpy.float32)
    mean = samples.mean()
    variance = numpy.maximum(numpy.square(samples).mean() - mean * mean, numpy.float32(0))
    return (samples - mean) / numpy.sqrt(variance + numpy.float32(ADDED))


class AsSherpa:
    """A session of a wrapped file that is called as one of its export.

    It does what sherpa-onnx does between the audio and the text: each utterance is alone, and
    normalised.

    Args:
        session: of the file.
        marked: with :func:`mark` before each utterance.
    """

    def __init__(self, session, marked: bool):
        self.session, self.before = session, mark()[: None if marked else 0]

    def run(self, _, feeds: dict[str, numpy.ndarray]) -> tuple[numpy.ndarray, numpy.ndarray]:
        """``log_probs`` ``(batch, time, vocab)`` and ``lengths`` ``(batch,)``."""
        speech, lengths = (feeds[name] for name in INPUTS)
        rows = []
        for row, n in zip(speech, lengths):
            x = normalised(numpy.concatenate((self.before, row[:n])))
            rows.append(self.session.run(None, {INPUT: x[None]})[0][0])
        found = numpy.array([len(row) for row in rows])
        padded = [numpy.pad(row, ((0, found.max() - len(row)), (0, 0))) for row in rows]
        return numpy.stack(padded), found
