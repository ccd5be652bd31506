"""The workload in pfl 0.6 (pip install "pfl[pytorch]==0.6.0"): `run_pfl.py NET --rounds N`, also under torchrun."""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.central_evaluation import CentralEvaluationCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import workload


class Model(nn.Module):
    """The workload's network with the two functions that pfl requires."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net = workload.NETWORKS[name]()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, x: Tensor, y: Tensor, eval: bool = False) -> Tensor:
        self.train(not eval)
        return F.cross_entropy(self(x), y)

    def metrics(self, x: Tensor, y: Tensor, eval: bool = True) -> dict[str, Weighted]:
        self.eval()
        return {"accuracy": Weighted(int((self(x).argmax(1) == y).sum()), len(y))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("net")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    began = time.time()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002  (pfl draws from it)
    torch.manual_seed(0)
    work = workload.Workload(rounds=options.rounds)
    data = workload.images(work)
    users = [f"c-{client}" for client in range(work.clients)]
    tensors = dict(zip(users, zip(data.train, data.train_labels, strict=True), strict=True))
    federated = FederatedDataset(lambda user: Dataset(tensors[user], user_id=user), get_user_sampler("random", users))
    net = Model(options.net)
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    backend = SimulatedBackend(federated, federated)
    evaluation = CentralEvaluationCallback(
        Dataset((data.test, data.test_labels)), NNEvalHyperParams(local_batch_size=256)
    )
    train = NNTrainHyperParams(
        local_num_epochs=1, local_learning_rate=workload.LEARNING_RATE[options.net], local_batch_size=work.batch
    )

    def fit(rounds: int) -> None:
        settings = NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,
            train_cohort_size=work.cohort,
            val_cohort_size=0,
        )
        FederatedAveraging().run(
            settings, backend, model, train, callbacks=[evaluation], send_metrics_to_platform=False
        )

    fit(1)  # torch imports parts of itself at first use
    start = time.time()
    fit(work.rounds)
    seconds = time.time() - start
    line = {
        "clients_per_second": round(work.cohort * work.rounds / seconds, 2),
        "seconds": round(seconds, 3),
        "startup": round(start - began, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "accuracy": round(workload.accuracy(net.eval(), data), 2),
    }
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
