"""One process of a training under torchrun: `headrace train`, which writes a digest of its final weights to a file.

torchrun --nproc-per-node 2 one_of_two.py FOLDER OPTION...
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch

from models.cli import train as train_command
from models.jobs import training_job
from models.training import fit

torch.set_num_threads(1)


def train_and_record(*arguments: object, **named: object) -> fit.TrainingResult:
    trained = fit.train(*arguments, **named)  # type: ignore[arg-type] # passed through
    digest = hashlib.sha256()
    for parameter in trained.encoder.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    ndcg = [progress.ndcg for progress in trained.validations]
    file = Path(sys.argv[1]) / f"{os.environ['RANK']}.json"
    file.write_text(json.dumps({"weights": digest.hexdigest(), "ndcg": ndcg}))
    return trained


training_job.train = train_and_record  # type: ignore[attr-defined] # the name that `run` calls
train_command.train(sys.argv[2:])
