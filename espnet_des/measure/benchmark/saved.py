"""How many bytes wait for the backward at the worst moment of a step."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator

import torch


class SavedTensors:
    """Counts tensors that autograd holds for a backward, each storage once.

    >>> with count_saved(model.parameters()) as saved:
    ...     model(**batch)[0].backward()
    >>> saved.peak

    Attributes:
        now: bytes that are held at present.
        peak: the most that were held at one time.
    """

    def __init__(self, ignored: Iterable[torch.Tensor]):
        self.now = self.peak = 0
        self._ignored = {tensor.untyped_storage().data_ptr() for tensor in ignored}
        self._holders: Counter = Counter()

    def take(self, storage: torch.UntypedStorage) -> None:
        address = storage.data_ptr()
        if address not in self._ignored:
            self._holders[address] += 1
            if self._holders[address] == 1:
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)

    def give(self, storage: torch.UntypedStorage) -> None:
        address = storage.data_ptr()
        if address not in self._ignored:
            self._holders[address] -= 1
            if not self._holders[address]:
                self.now -= storage.nbytes()


class _Saved:
    """A saved tensor; what holds it drops it as soon as its graph is freed."""

    def __init__(self, tensor: torch.Tensor, counter: SavedTensors):
        self.tensor, self.counter = tensor, counter
        counter.take(tensor.untyped_storage())

    def __del__(self):
        self.counter.give(self.tensor.untyped_storage())


@contextlib.contextmanager
def count_saved(ignored: Iterable[torch.Tensor] = ()) -> Iterator[SavedTensors]:
    """Count what is saved for backward by operations run in this context.

    Args:
        ignored: tensors that are there anyway: the parameters.
    """
    counter = SavedTensors(ignored)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: _Saved(tensor, counter), lambda saved: saved.tensor
    ):
        yield counter
