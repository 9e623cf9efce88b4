"""One training, every encoder size: a layer-wise supernet for ESPnet.

``import espnet_des`` makes ``encoder: des_conformer`` and ``model: des`` known to
ESPnet, before or after ``espnet2.tasks.asr`` is imported. It imports neither
ESPnet nor torch.
"""

from espnet_des import registry

__version__ = "0.1.0"

registry.install()
