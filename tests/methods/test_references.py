"""References: training at home is fine-tuning from the initial network; nothing is compared with the global model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from lpft.methods.base import Phase
from lpft.methods.ft import FT
from lpft.methods.references import Local, Pooled
from lpft.models.base import build_network
from lpft.models.weights import load_model, save_model
from lpft.personalization.jobs import PersonalTask
from lpft.personalization.pool import personalize
from lpft.personalization.settings import Personalization
from lpft.runtime.devices import Devices
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run, read_client_result
from tests.toy import ToyNet, same_bits, toy_module, toy_net

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def task_of(folder: Path, **methods: FT | Local | Pooled) -> PersonalTask:
    data = toy_module(counts=(20, 33, 24, 0))
    data.setup()
    of_references = Personalization(epochs=4, batch_size=16, optimizer=SGD, clients_per_stack=2)
    return PersonalTask(
        Run(folder),
        [0],
        data,
        partial(ToyNet, norm=True),
        Personalization(epochs=4, batch_size=16, optimizer=SGD, eval_every=2),
        dict(methods),
        Devices("cpu", 1),
        2,
        2,
        dict.fromkeys(methods, "f"),
        own_settings={name: of_references for name, method in methods.items() if method.start != "global"},
    )


def cells(task: PersonalTask, method: str) -> list[ClientResult]:
    return [read_client_result(task.run.cell(0, method, client.name)) for client in task.data.clients]


def test_phases() -> None:
    assert Local().phases(40) == [Phase(40)]
    assert Local(epochs=7).phases(40) == [Phase(7)]
    assert Pooled().phases(40) == []
    assert not Pooled().leaves_body(40), "the body is another one"


def test_at_home_is_fine_tuning_of_the_initial_network(tmp_path: Path) -> None:
    """Bit for bit: FT of a run whose global model *is* the initial network, whatever the global model is."""
    home = task_of(tmp_path / "home", local=Local(keep_best=False))
    ft = task_of(tmp_path / "ft", ft=FT())
    initial = build_network(home.network, home.data.spec, torch.float32, 0).state_dict()
    save_model(home.run.global_model(0), dict(toy_net(norm=True, dtype=torch.float32, seed=7).state_dict()), "g")
    save_model(ft.run.global_model(0), dict(initial), "g")
    assert personalize(home) == personalize(ft) == []
    for name in ("c0", "c1", "c2"):
        mine, theirs = (load_model(task.run.model(0, m, name))[0] for task, m in ((home, "local"), (ft, "ft")))
        assert same_bits(mine, theirs)
    assert same_bits(load_model(home.run.model(0, "local", "c3"))[0], dict(initial))
    for mine, theirs in zip(cells(home, "local"), cells(ft, "ft"), strict=True):
        assert (mine.accuracy, mine.train_passes) == (theirs.accuracy, theirs.train_passes)
        assert (mine.distortion_own, mine.distortion_all, mine.distortion_relative, mine.depth) == (None,) * 4


def test_at_home_the_best_epoch_is_kept(tmp_path: Path) -> None:
    task = task_of(tmp_path, best=Local(), last=Local(keep_best=False))
    save_model(task.run.global_model(0), dict(toy_net(norm=True, dtype=torch.float32).state_dict()), "g")
    assert personalize(task) == []
    for best, last in zip(cells(task, "best"), cells(task, "last"), strict=True):
        assert best.val_after is not None
        assert last.val_after is not None
        assert best.val_after >= last.val_after


def test_everyone_uses_the_model_of_the_pooled_data(tmp_path: Path) -> None:
    task = task_of(tmp_path, pooled=Pooled())
    pooled = dict(toy_net(norm=True, dtype=torch.float32, seed=3).state_dict())
    save_model(task.run.global_model(0), dict(toy_net(norm=True, dtype=torch.float32).state_dict()), "g")
    save_model(task.run.reference("pooled").global_model(0), pooled, "p")
    assert personalize(task) == []
    rows = cells(task, "pooled")
    assert all(same_bits(load_model(task.run.model(0, "pooled", row.client))[0], pooled) for row in rows)
    assert len({tuple(row.accuracy) for row in rows}) == 1
    assert [row.train_passes for row in rows] == [4 * count for count in (20, 33, 24, 0)]
    assert all(row.distortion_own is None for row in rows)


def test_a_missing_model_of_the_pooled_data_is_named(tmp_path: Path) -> None:
    task = task_of(tmp_path, pooled=Pooled())
    save_model(task.run.global_model(0), dict(toy_net(norm=True, dtype=torch.float32).state_dict()), "g")
    failures = personalize(task)
    assert failures
    assert all("references/pooled" in failure for failure in failures)
