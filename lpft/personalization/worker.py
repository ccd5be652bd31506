"""Personalize one stack of clients: take the global model, fit, test, save."""

from __future__ import annotations

import time
from functools import cached_property

import torch

from lpft.clients.features import GlobalFeatures
from lpft.clients.single_values import untrainable_clients
from lpft.clients.stack import ClientStack
from lpft.evaluation.matrix import Evaluator
from lpft.models.base import BodyHeadNet
from lpft.models.weights import DamagedFileError, load_model, save_model
from lpft.personalization.cost import train_passes
from lpft.personalization.jobs import Job, PersonalTask
from lpft.personalization.module import Personalizer
from lpft.personalization.results import EvaluatedStack, ResultMaker, TrainedStack, evaluate_stack
from lpft.personalization.starts import own_entries, start_network
from lpft.personalization.trainer import StackTrainer
from lpft.storage.atomic import write_atomically
from lpft.storage.client_result import ClientResult
from lpft.types import State


class StackWorker:
    """Runs personalization jobs sequentially on one device.

    Args:
        task: the personalization of the experiment.
        device: the device.
    """

    def __init__(self, task: PersonalTask, device: torch.device) -> None:
        self.task = task
        self.device = device
        self._evaluators: dict[int, Evaluator] = {}
        self._untrainable: list[int] | None = None

    @cached_property
    def _trainer(self) -> StackTrainer:
        return StackTrainer(self.task.devices, self.device, self.task.run.root)

    def do(self, job: Job) -> str:
        """Personalize the clients of a stack, write the missing results, and return a summary."""
        if not self.task.missing(job):
            return "done by another process"
        began = time.perf_counter()
        evaluator = self._evaluator(job)
        trained = self._fit(job, evaluator)
        from_global = self.task.methods[job.method].start == "global"  # other networks are not on a line with it
        num_between = self.task.evaluation.curve if from_global else 0
        evaluated = evaluate_stack(evaluator, trained, job.clients, num_between)
        maker = ResultMaker(self.task, job, evaluator, trained, evaluated)
        seconds = (time.perf_counter() - began) / len(job.clients)
        missing = self.task.missing(job)  # another process may have written some meanwhile
        for k, client in enumerate(job.clients):
            if client in missing:
                self._save(maker.result(k, seconds), evaluated.states[k])
        return _summary(job, evaluated)

    def _evaluator(self, job: Job) -> Evaluator:
        """Return the evaluator of a job: it tests on all clients, or on the job's own and those drawn."""
        evaluator = self._take_global_model(job.seed)
        drawn = self.task.drawn_clients(job.seed)
        if drawn is None:
            return evaluator
        features, metric = evaluator.global_features, self.task.evaluation.metric
        return Evaluator(features, metric=metric, drawn=drawn, own=job.clients)

    def _take_global_model(self, seed: int) -> Evaluator:
        """Load the global model of a seed; only the last one is cached."""
        if seed not in self._evaluators:
            task = self.task
            state, _ = load_model(task.run.global_model(seed))
            net = task.network(task.data.spec).to(task.devices.dtype)
            net.load_state_dict(state)
            self._evaluators = {
                seed: Evaluator(GlobalFeatures(net, task.data, self.device), metric=task.evaluation.metric)
            }
        return self._evaluators[seed]

    def _fit(self, job: Job, evaluator: Evaluator) -> TrainedStack:
        """Train the stack; clients without training data keep the initial network."""
        num_clients = len(job.clients)
        net = start_network(self.task, job, evaluator.global_features.net)
        if not len(self.task.data.clients[job.clients[0]].train):  # the same holds for the whole stack
            return TrainedStack(ClientStack(net, num_clients).to(self.device), net, [], [0.0] * num_clients)
        settings, method = self.task.settings_of(job.method), self.task.methods[job.method]
        module = Personalizer(evaluator, list(job.clients), method, settings, job.seed, net).to(self.device)
        if method.start == "federated":
            module.stack.write(own_entries(self.task, job, net))
        if self._take_trained(job, module):
            module.hooks.finish()
        elif module.schedule.num_epochs:
            self._trainer.fit(module)
        else:
            module.hooks.start()
            module.hooks.finish()
        records = [] if method.follows else module.records  # the same whether or not the models were loaded
        return TrainedStack(*module.hooks.merged(), records, train_passes(module), self._collapsed(job, net))

    def _collapsed(self, job: Job, net: BodyHeadNet) -> tuple[int, ...]:
        """Return the positions in the stack of clients with too little data for norm statistics."""
        if not self.task.methods[job.method].trains_norm(self.task.settings_of(job.method).epochs):
            return ()
        if self._untrainable is None:
            self._untrainable = untrainable_clients(net, self.task.data)
        return tuple(k for k, client in enumerate(job.clients) if client in self._untrainable)

    def _take_trained(self, job: Job, module: Personalizer) -> bool:
        """Load the models of the row that the job's method follows; return whether all of them exist."""
        task, method = self.task, self.task.methods[job.method]
        parents = [name for name, other in task.methods.items() if method.is_followed(other)]
        for parent in parents:
            if task.settings.save_models and task.stack_size(parent) == task.stack_size(job.method):
                try:
                    models = [load_model(task.run.model(job.seed, parent, name)) for name in job.names]
                except (FileNotFoundError, DamagedFileError):
                    continue
                if all(made_with == task.fingerprints[parent] for _, made_with in models):
                    states = [state for state, _ in models]
                    module.stack.write({key: torch.stack([state[key] for state in states]) for key in states[0]})
                    return True
        return False

    def _save(self, result: ClientResult, state: State) -> None:
        run, names = self.task.run, (result.seed, result.method, result.client)
        if self.task.settings.save_models:
            save_model(run.model(*names), state, result.fingerprint)
        write_atomically(run.cell(*names), result.to_json())  # last: an existing cell means that the job is done


def _summary(job: Job, evaluated: EvaluatedStack) -> str:
    local = torch.stack([evaluated.test.accuracy[k, client] for k, client in enumerate(job.clients)])
    return f"local {float(local.nanmean()):.2f}%  global {float(evaluated.test.accuracy.nanmean()):.2f}%"
