"""A small stand-in for s3prl, which no current torchaudio can import: its interface alone."""

import types

import torch


class Any(list):
    """Holds whatever is looked for."""

    def __contains__(self, name):
        return True


class S3PRLUpstream(torch.nn.Module):
    """Two layers of features of every 160 samples, as s3prl gives those of its upstreams."""

    def __init__(self, name, path_or_url=None, normalize=False, extra_conf=None):
        super().__init__()
        self.upstream = torch.nn.Module()
        self.conv = torch.nn.Conv1d(1, 8, 320, stride=160)
        self.linear = torch.nn.Linear(8, 8)

    @classmethod
    def available_names(cls):
        return Any()

    def forward(self, waves, lengths):
        first = self.conv(waves[:, None]).transpose(1, 2)
        frames = (lengths - 320) // 160 + 1
        return [first, self.linear(first).tanh()], [frames, frames]


class Featurizer(torch.nn.Module):
    """A weighted sum of an upstream's layers."""

    output_size, downsample_rate = 8, 160

    def __init__(self, upstream, layer_selections=None):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(2))

    def forward(self, layers, lengths):
        weights = self.weights[: len(layers)].softmax(0)
        return sum(w * layer for w, layer in zip(weights, layers)), lengths[0]


def modules() -> dict[str, types.ModuleType]:
    """What stands for s3prl in ``sys.modules``."""
    s3prl, nn = types.ModuleType("s3prl"), types.ModuleType("s3prl.nn")
    nn.S3PRLUpstream, nn.Featurizer = S3PRLUpstream, Featurizer
    s3prl.nn = nn
    s3prl.util = types.SimpleNamespace(
        download=types.SimpleNamespace(set_dir=lambda folder: None)
    )
    return {"s3prl": s3prl, "s3prl.nn": nn}
