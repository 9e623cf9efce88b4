"""``asr_train`` that also saves what this rank ends with: DUMP.pth args..."""

import sys

import torch

from espnet2.bin.asr_train import main
from espnet_des.training.trainer import SupernetTrainer

path, *arguments = sys.argv[1:]
run = SupernetTrainer.run.__func__


def run_and_dump(cls, model, **kwargs):
    run(cls, model=model, **kwargs)
    torch.save(model.state_dict(), path)


SupernetTrainer.run = classmethod(run_and_dump)
main(cmd=arguments)
