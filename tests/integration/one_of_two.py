"""One process of a training under torchrun: the command `headrace train`, and then a note of the weights it ended with.

torchrun --nproc-per-node 2 one_of_two.py NOTES OPTION...
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch

from models.cli import train as train_command
from models.jobs import training_job as training_run
from models.training import fit as training

torch.set_num_threads(1)
original = training.train


def noted(*arguments: object, **named: object) -> training.Trained:
    trained = original(*arguments, **named)  # type: ignore[arg-type] # handed on as it came
    found = hashlib.sha256()
    for parameter in trained.encoder.parameters():
        found.update(parameter.detach().numpy().tobytes())
    ndcg = [progress.ndcg for progress in trained.rounds]
    note = Path(sys.argv[1]) / f"{os.environ['RANK']}.json"
    note.write_text(json.dumps({"weights": found.hexdigest(), "ndcg": ndcg}))
    return trained


training_run.train = noted  # type: ignore[attr-defined] # it is imported there, and called from there
train_command.train(sys.argv[2:])
