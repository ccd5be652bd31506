from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lpft.methods.adabn import AdaBN
from lpft.methods.base import Method
from lpft.methods.ft import FT, NoFineTuning
from lpft.methods.peft import PEFT
from lpft.methods.wise import WiseFT
from lpft.models.base import BodyHeadNet
from lpft.models.lora import load_personalized
from lpft.models.weights import load_model, save_model
from lpft.personalization.jobs import PersonalTask
from lpft.personalization.module import Personalizer
from lpft.personalization.pool import personalize
from lpft.personalization.settings import Personalization
from lpft.personalization.trainer import StackTrainer
from lpft.runtime.devices import Devices
from lpft.storage.run import Run, read_client_result
from tests.toy import ToyNet, same_bits, toy_module, toy_net

METHODS = {"none": NoFineTuning(), "adabn": AdaBN(), "lora": PEFT("lora"), "adapter": PEFT("adapter")}


def task_of(folder: Path, devices: int = 1) -> PersonalTask:
    optimizer = partial(torch.optim.SGD, lr=0.05)
    task = PersonalTask(
        run=Run(folder),
        seeds=[0],
        data=toy_module(counts=(20, 33, 0)),
        network=partial(ToyNet, norm=True),
        settings=Personalization(epochs=2, optimizer=optimizer, eval_every=1),
        methods=dict(METHODS),
        devices=Devices("cpu", devices),
        clients_per_stack=2,
        heads_per_stack=2,
        fingerprints=dict.fromkeys([*METHODS, "broken"], "f"),
    )
    net = toy_net(norm=True, dtype=torch.float32)
    save_model(task.run.global_model(0), dict(net.state_dict()), "g")
    task.data.setup()
    return task


def test_a_task_can_be_pickled(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    copy: PersonalTask = pickle.loads(pickle.dumps(task))
    assert copy.jobs() == task.jobs()
    assert personalize(copy) == []
    assert task.count() == (0, len(task.jobs()))


@pytest.mark.parametrize("devices", [1, 2])
def test_stacks_are_announced_when_their_results_exist(tmp_path: Path, devices: int) -> None:
    class Broken(FT):
        def extend(self, net: BodyHeadNet, generator: torch.Generator) -> BodyHeadNet:
            raise FloatingPointError("by a test")

    task = task_of(tmp_path, devices)
    announced: list[tuple[int, str]] = []
    task.methods["broken"] = Broken()

    def on_stack(seed: int, method: str) -> None:
        assert task.run.methods(seed).count(method) == 1
        announced.append((seed, method))

    failures = personalize(task, on_stack=on_stack)
    assert len(failures) == 2
    assert all("FloatingPointError: by a test" in text for text in failures)
    done = [(job.seed, job.method) for job in task.jobs() if job.method != "broken" or not task.missing(job)]
    assert sorted(announced) == sorted(done)
    assert announced.count((0, "broken")) == 1  # clients without training data are not trained


def test_saved_models_are_those_that_were_tested(tmp_path: Path) -> None:
    """Plain networks but for adapters; a client without training data keeps the global model."""
    task = task_of(tmp_path)
    personalize(task)
    net = toy_net(norm=True, dtype=torch.float32)
    evaluation = {}
    for method in METHODS:
        for client in task.data.clients:
            cell = read_client_result(task.run.cell(0, method, client.name))
            state, _ = load_model(task.run.model(0, method, client.name))
            assert (state.keys() == net.state_dict().keys()) == (method != "adapter" or not len(client.train))
            loaded = load_personalized(net, state).eval()
            for other, accuracy in zip(task.data.clients, cell.accuracy, strict=True):
                images = task.data.normalize(task.data.images[other.test], torch.float32)
                hits = loaded(images).argmax(1) == task.data.labels[other.test]
                assert accuracy == pytest.approx(100 * float(hits.double().mean()))
            evaluation[method, client.name] = cell
            if not len(client.train):
                assert cell.status == "no_train"
                assert same_bits(state, dict(net.state_dict()))
    assert evaluation["adabn", "c0"].train_passes == pytest.approx(20 / 3)
    assert evaluation["adabn", "c0"].distortion_own > 0  # type: ignore[operator]
    assert evaluation["adabn", "c0"].depth
    assert [row["epoch"] for row in evaluation["lora", "c0"].epochs] == [0, 1, 2]
    assert [row["epoch"] for row in evaluation["adabn", "c0"].epochs] == [0]
    assert evaluation["none", "c0"].depth is None


@pytest.mark.parametrize("a", [0.5, "val"])
def test_a_method_that_follows_another_uses_its_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a: Any) -> None:
    alone, beside = task_of(tmp_path / "alone"), task_of(tmp_path / "beside")
    alone.methods = {"wise": WiseFT(a=a)}
    beside.methods = {"ft": FT(), "other": FT(lr=0.5), "wise": WiseFT(a=a)}
    for task in (alone, beside):
        task.fingerprints = dict.fromkeys(task.methods, "f")
    assert personalize(alone) == []
    fitted: list[Method] = []
    fit = StackTrainer.fit

    def recorded(self: StackTrainer, module: Personalizer) -> None:
        fitted.append(module.hooks.method)
        fit(self, module)

    monkeypatch.setattr(StackTrainer, "fit", recorded)
    assert personalize(beside) == []
    assert {id(method) for method in fitted} == {id(beside.methods[name]) for name in ("ft", "other")}
    for client in ("c0", "c1", "c2"):
        states = [load_model(task.run.model(0, "wise", client))[0] for task in (alone, beside)]
        assert same_bits(*states)
        cells = [replace(read_client_result(task.run.cell(0, "wise", client)), seconds=0) for task in (alone, beside)]
        assert cells[0] == cells[1]
