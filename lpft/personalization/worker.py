"""Personalize one stack of clients: take the global model, fit, test, save."""

from __future__ import annotations

import time

import torch

from lpft.clients.features import GlobalFeatures
from lpft.clients.stack import ClientStack
from lpft.evaluation.matrix import Evaluator
from lpft.models.weights import load_model, save_model
from lpft.personalization.cost import train_passes
from lpft.personalization.jobs import Job, PersonalTask
from lpft.personalization.module import Personalizer
from lpft.personalization.results import EvaluatedStack, ResultMaker, TrainedStack, evaluate_stack
from lpft.personalization.starts import start_network
from lpft.personalization.trainer import fit
from lpft.storage.atomic import write_atomically
from lpft.storage.client_result import ClientResult
from lpft.types import State


class StackWorker:
    """Does jobs on one device, one after the other, in one process.

    Args:
        task: the personalization of the experiment.
        device: the device.
    """

    def __init__(self, task: PersonalTask, device: torch.device) -> None:
        self.task = task
        self.device = device
        self._evaluators: dict[int, Evaluator] = {}

    def do(self, job: Job) -> str:
        """Personalize the clients of a stack, and write the results that are missing; return a summary."""
        if not self.task.missing(job):
            return "done elsewhere"
        began = time.perf_counter()
        evaluator = self._take_global_model(job.seed)
        trained = self._fit(job, evaluator)
        evaluated = evaluate_stack(evaluator, trained, job.clients)
        maker = ResultMaker(self.task, job, evaluator, trained, evaluated)
        seconds = (time.perf_counter() - began) / len(job.clients)
        missing = self.task.missing(job)  # another process may have written some meanwhile
        for k, client in enumerate(job.clients):
            if client in missing:
                self._save(maker.result(k, seconds), evaluated.states[k])
        return _summary(job, evaluated)

    def _take_global_model(self, seed: int) -> Evaluator:
        """Load a seed's global model; only the last one is kept."""
        if seed not in self._evaluators:
            task = self.task
            state, _ = load_model(task.run.global_model(seed))
            net = task.network(task.data.spec).to(task.devices.dtype)
            net.load_state_dict(state)
            self._evaluators = {seed: Evaluator(GlobalFeatures(net, task.data, self.device))}
        return self._evaluators[seed]

    def _fit(self, job: Job, evaluator: Evaluator) -> TrainedStack:
        """Train the stack; clients without training data keep what they start from."""
        num_clients = len(job.clients)
        net = start_network(self.task, job, evaluator.global_features.net)
        if not len(self.task.data.clients[job.clients[0]].train):  # then that is so for the whole stack
            return TrainedStack(ClientStack(net, num_clients).to(self.device), net, [], [0.0] * num_clients)
        settings, method = self.task.settings_of(job.method), self.task.methods[job.method]
        module = Personalizer(evaluator, list(job.clients), method, settings, job.seed, net).to(self.device)
        if module.schedule.num_epochs:
            fit(module, self.task.devices, self.device, self.task.run.method_file(job.seed, job.method, ""))
        else:
            module.hooks.start()
            module.hooks.finish()
        return TrainedStack(*module.hooks.merged(), module.records, train_passes(module))

    def _save(self, result: ClientResult, state: State) -> None:
        run, names = self.task.run, (result.seed, result.method, result.client)
        if self.task.settings.save_models:
            save_model(run.model(*names), state, result.fingerprint)
        write_atomically(run.cell(*names), result.to_json())  # last: its presence means done


def _summary(job: Job, evaluated: EvaluatedStack) -> str:
    local = torch.stack([evaluated.test.accuracy[k, client] for k, client in enumerate(job.clients)])
    return f"local {float(local.nanmean()):.2f}%  global {float(evaluated.test.accuracy.nanmean()):.2f}%"
