"""The closed forms against numbers that were worked out independently, and against gradient descent by autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lpft.theory.linear import compare, critical_eta, draw, partial_lp, sample, train_on_samples

CONCEPT = {"dim": 20, "shared": 4, "num_clients": 5, "signal": 1.0}


def test_the_draws_are_those_of_the_test_vectors():
    clients = draw(**CONCEPT, shift=0.5)
    assert clients.body[0, :4] == pytest.approx([0.029743, -0.299349, 0.097376, -0.218044], abs=1e-6)
    assert clients.common == pytest.approx([-0.164519, -0.838881, 0.493199, -0.161146], abs=1e-6)
    assert clients.means[0, :3] == pytest.approx([-0.100487, 0.119572, -0.109621], abs=1e-6)
    assert clients.body @ clients.body.T == pytest.approx(np.eye(9), abs=1e-12)


@pytest.mark.parametrize(
    ("eta", "global_ft", "local_ft", "distortion", "verdict"),
    [
        (0.01, 0.2464, 0.2304, 0.01, "FT"),
        (0.05, 0.24, 0.16, 0.05, "FT"),
        (0.1, 0.25, 0.09, 0.1, "FT"),
        (0.25, 0.40, 0.0, 0.25, "tie"),
        (0.5, 1.05, 0.25, 0.5, "LP-FT"),
        (1.0, 3.85, 2.25, 1.0, "LP-FT"),
    ],
)
def test_concept_shift_by_hand(eta, global_ft, local_ft, distortion, verdict):
    """L_G(FT) = lambda^2 (1 + c^2 - 2 c rho), L_G(LP-FT) = lambda^2 (2 - 2 rho), c = 2 eta (1 + s), rho = 1/C."""
    found = compare(draw(**CONCEPT, shift=0.5), eta)
    assert found.global_ft == pytest.approx(global_ft)
    assert found.global_lpft == pytest.approx(0.4)
    assert found.local_ft == pytest.approx(local_ft, abs=1e-12)
    assert found.distortion_ft == pytest.approx(distortion)
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("eta", "global_ft"), [(0.01, 0.2475), (0.05, 0.2875), (0.1, 0.45), (0.25, 1.6875), (0.5, 6.25)]
)
def test_a_larger_common_head_lowers_the_critical_step(eta, global_ft):
    """With s = 4 it is 1 / (2 (1 + s)) = 0.1; L_G(LP-FT) = 0.25 (2 - 2/10)."""
    found = compare(draw(30, 5, 10, 4.0, shift=0.5), eta)
    assert found.global_ft == pytest.approx(global_ft)
    assert found.global_lpft == pytest.approx(0.45)
    assert found.verdict == ("FT" if eta < 0.1 else "tie" if eta == 0.1 else "LP-FT")


@pytest.mark.parametrize(
    ("config", "eta", "shift", "expected"),
    [
        ((20, 4, 5, 1, 0.5, 0), 0.1, 0.5, (0.069835, 0.105763)),
        ((20, 4, 5, 1, 0.5, 0), 0.5, 0.5, (0.077491, 0.105763)),
        ((20, 4, 5, 1, 0.5, 0), 1.0, 0.5, (0.147769, 0.105763)),
        ((20, 4, 5, 1, 0.5, 0), 2.0, 2.0, (5.440148, 1.692212)),
        ((20, 4, 5, 1, 0.1, 0), 0.1, 0.5, (0.013739, 0.009763)),
        ((20, 4, 5, 1, 0.1, 0), 1.0, 0.5, (0.022137, 0.009763)),
        ((20, 4, 5, 1, 0.1, 0), 1.0, 2.0, (0.319956, 0.156212)),
        ((12, 4, 4, 1, 1, 1), 0.1, 0.5, (0.288643, 0.399816)),
        ((12, 4, 4, 1, 1, 1), 0.5, 0.5, (2.280042, 0.399816)),
    ],
)
def test_single_clients_under_combined_shift_by_reference(config, eta, shift, expected):
    """Of client 0; with noise 0.1 and eta 0.1 or lambda 2, LP-FT is better for it, and worse in the mean of all."""
    dim, shared, num_clients, signal, noise, seed = config
    clients = draw(dim, shared, num_clients, signal, shift, noise, seed)
    losses = (clients.global_loss(body.T @ head) for head, body in (clients.ft(0, eta), clients.lpft(0)))
    assert tuple(losses) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(
    ("config", "eta", "shift", "global_ft", "global_lpft"),
    [
        ((20, 4, 5, 1, 0.5, 0), 0.1, 0.5, 0.071886, 0.120669),
        ((20, 4, 5, 1, 0.5, 0), 0.5, 0.5, 0.093748, 0.120669),
        ((20, 4, 5, 1, 0.5, 0), 1.0, 0.5, 0.197142, 0.120669),
        ((20, 4, 5, 1, 0.5, 0), 2.0, 2.0, 9.898716, 1.930707),
        ((20, 4, 5, 1, 0.1, 0), 0.1, 0.5, 0.013497, 0.024669),
        ((20, 4, 5, 1, 0.1, 0), 1.0, 0.5, 0.024738, 0.024669),
        ((20, 4, 5, 1, 0.1, 0), 1.0, 2.0, 0.384106, 0.394707),
        ((12, 4, 4, 1, 1, 1), 0.1, 0.5, 0.273903, 0.415682),
        ((12, 4, 4, 1, 1, 1), 0.5, 0.5, 1.432048, 0.415682),
    ],
)
def test_combined_shift_by_reference(config, eta, shift, global_ft, global_lpft):
    dim, shared, num_clients, signal, noise, seed = config
    found = compare(draw(dim, shared, num_clients, signal, shift, noise, seed), eta)
    assert found.global_ft == pytest.approx(global_ft, abs=5e-7)
    assert found.global_lpft == pytest.approx(global_lpft, abs=5e-7)


@pytest.mark.parametrize("noise", [None, 0.3])
def test_a_step_is_that_of_autograd(noise):
    clients = draw(15, 4, 5, 1.3, shift=0.8, noise=noise, seed=3)
    head, body = (torch.tensor(part, requires_grad=True) for part in clients.start)
    off = body.T @ head - torch.tensor(clients.body.T @ clients.head(2))
    (off @ torch.tensor(clients.covariances[2].copy()) @ off).backward()
    found_head, found_body = clients.ft(2, eta=0.05)
    assert found_head == pytest.approx((head - 0.05 * head.grad).detach().numpy(), abs=1e-12)
    assert found_body == pytest.approx((body - 0.05 * body.grad).detach().numpy(), abs=1e-12)


def test_rows_of_the_body_that_the_common_head_does_not_use_stay():
    """Lemma 4.3 with Sigma = I: row j moves by 2 eta lambda (V_0)_j u_i, and (V_0)_j = 0 for j > m."""
    clients = draw(**CONCEPT, shift=0.5)
    body = clients.ft(1, eta=0.3)[1]
    assert np.array_equal(body[4:], clients.body[4:])
    assert body[:4] - clients.body[:4] == pytest.approx(0.3 * np.outer(clients.common, clients.own[1]), abs=1e-12)


def test_probing_solves_the_local_problem():
    clients = draw(**CONCEPT, shift=0.5, noise=0.2)
    head, body = clients.lpft(3)
    assert clients.local_loss(3, body.T @ head) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("shift", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("eta", [0.01, 0.2, 0.4])
def test_sign_rule_of_concept_shift(shift, eta):
    """L_G(FT) - L_G(LP-FT) = lambda^2 (c - 1)(c + 1 - 2 rho)."""
    clients = draw(**CONCEPT, shift=shift)
    found, c = compare(clients, eta), 2 * eta * (1 + clients.signal)
    assert found.global_ft - found.global_lpft == pytest.approx(shift**2 * (c - 1) * (c + 1 - 0.4))
    assert clients.global_loss(clients.common_predictor) == pytest.approx(shift**2)


def test_partial_probing_stays_on_the_ray():
    clients = draw(15, 4, 5, 1.3, shift=0.8, seed=3)
    head, body = partial_lp(clients, 2, eta=0.05, eta_lp=0.1, steps=6)
    moved = body.T @ head - clients.common_predictor
    t = float(moved @ clients.own[2])
    assert t == pytest.approx(0.6460861416, abs=1e-9)
    assert moved == pytest.approx(t * clients.own[2], abs=1e-12)
    assert np.linalg.norm(body - clients.body) == pytest.approx(0.0269256362, abs=1e-9)


def test_critical_step_sizes():
    assert critical_eta(draw(**CONCEPT, shift=0.5)) == pytest.approx(0.25)
    # (50, 10, 10, 1, .5), seeds 0 to 4, small shift: between 0.75 and 0.90
    found = [critical_eta(draw(50, 10, 10, 1, shift=1e-4, noise=0.5, seed=seed)) for seed in range(5)]
    assert min(found) == pytest.approx(0.75, abs=0.005)
    assert max(found) == pytest.approx(0.90, abs=0.005)


def test_thresholds_of_the_shift():
    """Seed 0, eps 0.1, eta 1: LP-FT is better below lambda 0.598 and above 5.067, and worse in between."""

    def difference(shift):
        found = compare(draw(**CONCEPT, shift=shift, noise=0.1), eta=1.0)
        return found.global_ft - found.global_lpft

    assert difference(0.59834 - 1e-3) > 0 > difference(0.59834 + 1e-3)
    assert difference(5.06719 - 1e-3) < 0 < difference(5.06719 + 1e-3)


def test_a_small_step_turns_the_threshold_around():
    """(12, 4, 4, 1, 1), seed 1, eta 0.1: LP-FT is worse for every lambda below 149.046, and better above."""

    def difference(shift):
        found = compare(draw(12, 4, 4, 1.0, shift=shift, noise=1.0, seed=1), eta=0.1)
        return found.global_ft - found.global_lpft

    assert all(difference(shift) < 0 for shift in (0.01, 0.5, 10.0, 149.04))
    assert all(difference(shift) > 0 for shift in (149.05, 200.0))


@pytest.mark.parametrize(
    ("noise", "shift", "num", "expected"),
    [
        (1.0, 0.1, 50, [(0.717, 0.66), (0.252, 0.39), (0.343, 0.35), (0.167, 0)]),
        (0.5, 0.5, 200, [(0.428, 0.30), (0.342, 0.23), (0.401, 0.12), (0.367, 0)]),
        (0.5, 0.5, 50, [(0.530, 0.40), (0.378, 0.28), (0.462, 0.19), (0.400, 0)]),
        (0.0, 0.5, 20, [(0.314, 0.21), (0.296, 0.19), (0.342, 0.05), (0.337, 0)]),
    ],
)
def test_finite_samples_by_reference(noise, shift, num, expected):
    """FT of 60 steps, FT of 20, LP-FT of 40 + 20, LP of 60; means over clients and seeds 0 to 4."""
    for (lp_steps, ft_steps), (global_loss, distortion) in zip(
        [(0, 60), (0, 20), (40, 20), (60, 0)], expected, strict=True
    ):
        found = []
        for seed in range(5):
            clients = draw(40, 4, 5, 1.0, shift, seed=seed)
            for client, data in enumerate(sample(clients, num, noise, seed)):
                found.append(train_on_samples(clients, client, *data, lp_steps, ft_steps, eta=0.02))
        assert np.mean([each.global_loss for each in found]) == pytest.approx(global_loss, abs=6e-4)
        assert np.mean([each.distortion for each in found]) == pytest.approx(distortion, abs=6e-3)


def test_invalid_input_is_reported():
    with pytest.raises(ValueError, match=r"do not fit into 8 dimensions. HINT: set the dimension to 9"):
        draw(8, 4, 5, 1.0, 0.5)
