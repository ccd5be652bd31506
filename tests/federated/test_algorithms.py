"""Algorithms beside FedAvg: hand-worked steps, and what they are equal to."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import LBFGS, SGD, Adam, Optimizer

from lpft.federated.algorithms import Algorithm, Ditto, FedBN, FedProx, FedRep, Scaffold
from lpft.federated.checkpoint import Checkpoint
from lpft.federated.federate import GlobalTask, train_global_models
from lpft.federated.memory import ClientMemory
from lpft.federated.server import ServerOptimizer, check_server_optimizer
from lpft.federated.settings import Federation
from lpft.federated.yogi import Yogi
from lpft.models.base import BodyHeadNet
from lpft.models.weights import load_model
from lpft.runtime.devices import Devices
from lpft.storage.run import CLIENTS, Run
from lpft.types import State
from tests.federated.rounds import fit, settings
from tests.toy import ToyNet, largest_difference, same_bits, toy_data, toy_module, toy_net

PLAIN = partial(SGD, lr=0.1)
ALGORITHMS: dict[str, Algorithm] = {
    "fedprox": FedProx(0.5),
    "scaffold": Scaffold(),
    "fedbn": FedBN(),
    "fedrep": FedRep(2),
    "ditto": Ditto(0.5),
}


def plain(algorithm: Algorithm | None = None, **changes: object) -> Federation:
    return settings(**{"algorithm": algorithm, "optimizer": PLAIN, **changes})


def kept_by(end: Checkpoint, client: int) -> State:
    """What a client keeps after federated training."""
    place = end.memory[CLIENTS].tolist().index(client)
    return {name: t[place] for name, t in end.memory.items() if name != CLIENTS}


def mean_gradient(net: ToyNet, client: int, data: object) -> State:
    own = data.clients[client].train  # type: ignore[attr-defined]
    loss = F.cross_entropy(net(data.normalize(data.images[own], torch.float64)), data.labels[own])  # type: ignore[attr-defined]
    grads = torch.autograd.grad(loss, list(net.parameters()))
    return {name: g for (name, _), g in zip(net.named_parameters(), grads, strict=True)}


# Hand-worked steps


def test_two_steps_of_fedprox() -> None:
    """One client, full batches: w2 = w1 - lr * (g(w1) + mu * (w1 - w0))."""
    data, net, mu, lr = toy_data(counts=(8,)), toy_net(), 0.5, 0.1
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    for _ in range(2):
        gradient = mean_gradient(net, 0, data)
        with torch.no_grad():
            for name, p in net.named_parameters():
                p -= lr * (gradient[name] + mu * (p - start[name]))
    end = fit(data, plain(FedProx(mu), rounds=1, local_epochs=2))
    assert largest_difference(end.state, {name: p.detach() for name, p in net.named_parameters()}) < 1e-12


def test_a_step_of_scaffold_by_hand() -> None:
    """g + c - c_i = 5 + 0.5 - 2; c_i becomes 2 - 0.5 + (1 - 0.2) / 0.4 = 3.5."""
    of = {"w": torch.tensor(2.0)}, {"w": torch.tensor(0.5)}
    corrected = Scaffold().gradient({}, {}, *of, {"w": torch.tensor(5.0)})
    assert corrected["w"].item() == 3.5
    after = Scaffold().end({"w": torch.tensor(0.2)}, {"w": torch.tensor(1.0)}, *of, path=0.4)
    assert after["w"].item() == pytest.approx(3.5)


def test_a_control_variate_is_the_mean_gradient() -> None:
    """After a first round of one step on the full batch it is the gradient at the initial network."""
    data, net = toy_data(counts=(8, 16)), toy_net()
    expected = {client: mean_gradient(net, client, data) for client in (0, 1)}
    end = fit(data, plain(Scaffold(), rounds=1, batch_size=16), size=1)
    own = kept_by(end, 1)
    assert largest_difference(own, expected[1]) < 1e-12
    assert largest_difference(kept_by(end, 0), expected[0]) < 1e-12


def test_a_step_of_ditto_by_hand() -> None:
    gradient = Ditto(0.5).gradient({"w": torch.tensor(3.0)}, {"w": torch.tensor(1.0)}, {}, {}, {"w": torch.tensor(4.0)})
    assert gradient["w"].item() == 4.0 + 0.5 * (3.0 - 1.0)


@pytest.mark.parametrize(
    ("make", "after"),
    [
        (partial(SGD, lr=0.5, momentum=0.5), [1 - 0.5 * 0.2, 0.9 - 0.5 * (0.5 * 0.2 + 0.2)]),
        (partial(Adam, lr=0.1), [1 - 0.1, 0.9 - 0.1]),
        # m = 0.02, v = 1e-4 + 0.1 * 0.04 = 0.0041; then m = 0.038, v = 0.0041 + 0.004 = 0.0081
        (
            partial(Yogi, lr=0.1, betas=(0.9, 0.9), tau=0.01),
            [1 - 0.1 * 0.02 / (0.0041**0.5 + 0.01), 1 - 0.1 * (0.02 / (0.0041**0.5 + 0.01) + 0.038 / (0.09 + 0.01))],
        ),
    ],
    ids=["momentum", "adam", "yogi"],
)
def test_steps_of_server_optimizers_by_hand(make: object, after: list[float]) -> None:
    """The clients' mean is always 0.2 below the global model: a pseudo-gradient of 0.2."""
    net = toy_net()
    state = {name: torch.ones_like(t) for name, t in net.state_dict().items()}
    server = ServerOptimizer(make, net, torch.device("cpu"))  # type: ignore[arg-type]
    for expected in after:
        state = server.step(state, {name: t - 0.2 for name, t in state.items()})
        assert all(t.double().numpy() == pytest.approx(expected, rel=1e-6) for t in state.values())


# Equivalences


def test_fedprox_without_a_penalty_is_fedavg() -> None:
    data = toy_data()
    assert same_bits(fit(data, plain(FedProx(0.0))).state, fit(data, plain()).state)


def test_scaffold_is_fedavg_for_clients_that_are_equal() -> None:
    data = toy_data(counts=(8, 8, 8))
    train = data.clients[0].train
    for client in data.clients:
        client.train.copy_(train)
    chosen = {"local_epochs": 3, "batch_size": 8}
    assert largest_difference(fit(data, plain(Scaffold(), **chosen)).state, fit(data, plain(**chosen)).state) < 1e-12


def test_scaffold_is_fedavg_for_single_steps_of_all_clients() -> None:
    """The corrections add up to zero, however the clients differ."""
    data, chosen = toy_data(), {"batch_size": 64, "weighting": "equal"}
    assert largest_difference(fit(data, plain(Scaffold(), **chosen)).state, fit(data, plain(**chosen)).state) < 1e-12
    several = {**chosen, "local_epochs": 3}
    differs = largest_difference(fit(data, plain(Scaffold(), **several)).state, fit(data, plain(**several)).state)
    assert differs > 1e-4


def test_fedbn_with_one_client_is_fedavg_and_with_more_the_norm_layers_are_their_own() -> None:
    alone = toy_data(counts=(20,))
    assert same_bits(fit(alone, plain(FedBN()), norm=True).state, fit(alone, plain(), norm=True).state)
    end = fit(toy_data(), plain(FedBN(), weighting="equal"), norm=True)
    kept = [kept_by(end, client) for client in range(5)]
    assert sorted(kept[0]) == [f"body.1.{name}" for name in ("bias", "running_mean", "running_var", "weight")]
    assert not torch.equal(kept[0]["body.1.running_mean"], kept[1]["body.1.running_mean"])
    for name in kept[0]:
        mean = torch.stack([own[name] for own in kept]).mean(0)
        assert torch.allclose(end.state[name], mean, rtol=1e-12)


def test_a_round_of_fedrep_with_one_client_trains_head_then_body() -> None:
    """Full batches; the frozen body is in evaluation mode while the head is trained."""
    data, net = toy_data(counts=(8,)), toy_net(norm=True)
    images, labels = data.normalize(data.images[data.clients[0].train], torch.float64), data.labels
    labels = labels[data.clients[0].train]
    for part in (net.head, net.head, net.body):
        net.train()
        net.body.train(part is net.body)
        grads = torch.autograd.grad(F.cross_entropy(net(images), labels), list(part.parameters()))
        with torch.no_grad():
            for p, g in zip(part.parameters(), grads, strict=True):
                p -= 0.1 * g
    end = fit(data, plain(FedRep(2), rounds=1), norm=True).state
    floats = {name: t for name, t in net.state_dict().items() if t.is_floating_point()}
    assert largest_difference({name: end[name] for name in floats}, floats) < 1e-12


def test_heads_of_fedrep_stay_with_the_clients() -> None:
    end = fit(toy_data(), plain(FedRep(2), weighting="equal"))
    heads = [kept_by(end, client)["head.weight"] for client in range(5)]
    assert not torch.equal(heads[0], heads[1])
    assert torch.allclose(end.state["head.weight"], torch.stack(heads).mean(0), rtol=1e-12)


def test_dittos_global_model_is_that_of_fedavg() -> None:
    data = toy_data()
    assert same_bits(fit(data, plain(Ditto(0.5)), norm=True).state, fit(data, plain(), norm=True).state)


def test_ditto_without_a_penalty_trains_clients_independently() -> None:
    """A client's own model is what FedAvg makes of that client alone; with a large penalty it is the global model's."""
    data = toy_data()
    end = fit(data, plain(Ditto(0.0)), size=2)
    of_two = toy_data()
    of_two.clients[:] = [of_two.clients[2]]
    alone = fit(of_two, plain()).state
    assert largest_difference(kept_by(end, 2), alone) < 1e-12
    held = kept_by(fit(data, plain(Ditto(9.0))), 2)  # 0.1 * 9: a step goes nine tenths of the way back
    assert largest_difference(held, end.state) < largest_difference(alone, end.state)


@pytest.mark.parametrize("optimizer", [partial(SGD, lr=1.0)])
def test_a_server_rate_of_one_is_fedavg(optimizer: object) -> None:
    data = toy_data()
    with_server = fit(data, plain(server_optimizer=optimizer), norm=True).state
    assert largest_difference(with_server, fit(data, plain(), norm=True).state) < 1e-12


# Invariances


@pytest.mark.parametrize("name", ALGORITHMS)
def test_stacked_equals_one_by_one(name: str) -> None:
    data, chosen = toy_data(), plain(ALGORITHMS[name], local_epochs=2)
    one, three = fit(data, chosen, 1, norm=True), fit(data, chosen, 3, norm=True)
    assert largest_difference(one.state, three.state) < 1e-12
    assert largest_difference(one.memory, three.memory) < 1e-11 if one.memory else not three.memory


class Decaying(Optimizer):
    """Momentum with a correction of its bias by a number of the state, and a rate that decays by one of the settings.

    Args:
        params: parameters.
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        super().__init__(params, {"lr": 0.5, "count": 0})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["count"] += 1
            for parameter in group["params"]:
                state = self.state[parameter]
                state["step"] = state.get("step", 0) + 1
                mean = state.setdefault("mean", torch.zeros_like(parameter))
                mean.mul_(0.9).add_(parameter.grad, alpha=0.1)
                parameter.sub_(group["lr"] / group["count"] * mean / (1 - 0.9 ** state["step"]))


OPTIMIZERS = {"fedprox": partial(SGD, lr=0.7, momentum=0.9), "server": partial(Yogi, lr=0.05), "decaying": Decaying}


@pytest.mark.parametrize("name", [*ALGORITHMS, "server", "decaying"])
@pytest.mark.parametrize("after", [1, 3])
def test_resumed_after_any_round_equals_uninterrupted(name: str, after: int, tmp_path: Path) -> None:
    changes = {"participation": 0.6, "server_optimizer": OPTIMIZERS.get(name)}
    algorithm, data = ALGORITHMS.get(name), toy_data()
    through = fit(data, plain(algorithm, **changes), norm=True)
    first = fit(data, plain(algorithm, **changes, rounds=after), norm=True)
    first.save(tmp_path / "checkpoint.pt", "f")
    resumed = fit(data, plain(algorithm, **changes), norm=True, start=Checkpoint.load(tmp_path / "checkpoint.pt")[0])
    assert same_bits(resumed.state, through.state)
    assert same_bits(resumed.memory, through.memory)
    assert same_bits(resumed.server, through.server)


@pytest.mark.parametrize("name", ["scaffold", "ditto"])
def test_any_number_of_processes_gives_the_same_global_model(name: str, tmp_path: Path) -> None:
    """With half of the clients in a round, a client is trained by another rank now and then."""
    models = []
    for devices in (1, 2):
        chosen = plain(ALGORITHMS[name], participation=0.6, server_optimizer=partial(Adam, lr=0.01))
        run = Run(tmp_path / str(devices))
        data, net = toy_module(), partial(ToyNet, norm=True)
        task = GlobalTask(run, [0], data, net, chosen, Devices("cpu", devices=devices), 2, "f")
        assert train_global_models(task) == []
        models.append(load_model(run.global_model(0))[0])
    assert same_bits(*models)


def test_a_diverged_client_keeps_its_memory() -> None:
    memory = ClientMemory(Scaffold(), toy_net(), 2, torch.device("cpu"))
    memory.put([0], torch.full((1, memory.size), 3.0, dtype=torch.float64))
    memory.put([0, 1], torch.full((2, memory.size), torch.nan, dtype=torch.float64))
    kept = memory.of([0, 1])
    assert all((t[0] == 3).all() and (t[1] == 0).all() for t in kept.values())
    assert all((t == 1.5).all() for t in memory.shared().values())


class Counts(Algorithm):
    """Clients count their rounds, as a single number."""

    def memory(self, net: BodyHeadNet) -> State:
        return {"rounds": torch.tensor(0.0)}

    def end(self, state: State, start: State, memory: State, shared: State, path: float) -> State:
        return {"rounds": memory["rounds"] + 1}


class NewHeads(Algorithm):
    """Clients keep nothing, and start every round from a head of zeros."""

    def begin(self, memory: State) -> State:
        return {"head.weight": torch.zeros(3, 10)}


@pytest.mark.parametrize("stack", [1, 2])
def test_memory_may_be_single_numbers(stack: int) -> None:
    end = fit(toy_data(), plain(Counts(), rounds=3), size=stack)
    assert end.memory["rounds"].tolist() == [3.0] * 5


@pytest.mark.parametrize("stack", [1, 2])
def test_begin_needs_no_memory(stack: int) -> None:
    end = fit(toy_data(), plain(NewHeads(), rounds=1), size=stack)
    fedavg = fit(toy_data(), plain(rounds=1), size=stack)
    assert largest_difference(end.state, fedavg.state) > 0


# Bad settings


@pytest.mark.parametrize("stack", [1, 2])
@pytest.mark.parametrize("hook", ["memory", "begin", "gradient", "end"])
@pytest.mark.parametrize("kind", ["type", "name", "shape"])
def test_results_of_the_wrong_type_name_or_shape_are_refused(hook: str, kind: str, stack: int) -> None:
    results = {"type": None, "name": {"other": torch.zeros(3)}, "shape": {"head.bias": torch.zeros(1)}}
    memory = {"head.bias": torch.zeros(3)}
    hooks = {"memory": lambda self, net: memory, hook: lambda self, *args: results[kind]}
    own = type("Own", (Algorithm,), hooks)()
    if hook == "memory" and kind != "type":
        return  # a client may keep anything
    with pytest.raises((TypeError, ValueError), match=f"`{hook}` of Own"):
        fit(toy_data(), plain(own, rounds=1), size=stack)


def test_combinations_that_do_not_fit_are_refused() -> None:
    net = toy_net()
    with pytest.raises(ValueError, match="plain SGD"):
        Scaffold().check(net, SGD(net.parameters(), lr=0.1, momentum=0.9))
    with pytest.raises(ValueError, match="plain SGD"):
        Scaffold().check(net, Adam(net.parameters()))
    with pytest.raises(ValueError, match="ToyNet has none"):
        FedBN().check(net, SGD(net.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="LBFGS cannot take a step"):
        check_server_optimizer(LBFGS)
    with pytest.raises(ValueError, match="betas"):
        check_server_optimizer(partial(Yogi, betas=(1.0, 0.9)))
    with pytest.raises(ValueError, match="`count` is not saved"):
        check_server_optimizer(Counting)
    with pytest.raises(ValueError, match="`old` is not saved"):
        check_server_optimizer(Remembering)
    check_server_optimizer(Decaying)


class Counting(SGD):
    """Counts its steps in an attribute."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        super().__init__(params, lr=1.0)
        self.count = 0

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        self.count += 1


class Remembering(SGD):
    """Keeps a list of gradients."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter].setdefault("old", []).append(parameter.grad)
