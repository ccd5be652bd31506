"""Fine-tuning a linear model from the shared solution: closed forms, for the population and for finite samples.

Clients share a body B* with orthonormal rows and a part of the head, and differ in the rest of it:
``y_i = V*_i^T B* x`` with ``V*_i = [V*_com; lambda e_i]``. FedAvg is taken to have found the shared part: every client
starts at ``B_0 = B*, V_0 = [V*_com; 0]``. FT is one full-batch gradient step of size eta on head and body; LP-FT solves
for the head first, and then takes that step. All losses are mean squared errors, without a factor 1/2.

References:
    arXiv:2511.12695, section 4: assumptions 4.1 and 4.2, lemma 4.3, theorems 4.4 (concept shift) and 4.5 (combined).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy import ndarray
from scipy.optimize import brentq


@dataclass(frozen=True)
class LinearClients:
    """The clients of the linear model.

    Args:
        body: B*, orthonormal rows, ``(m + C, d)``.
        common: V*_com, ``(m,)``.
        means: mu_i, unit norm, ``(C, d)``.
        shift: lambda, the distance between the clients' heads.
        noise: eps: inputs are ``mu_i + eps z`` (combined shift). None: ``E[x x^T]`` is the identity for all clients
            (concept shift).
    """

    body: ndarray
    common: ndarray
    means: ndarray
    shift: float
    noise: float | None = None

    @property
    def num_clients(self) -> int:
        """C."""
        return len(self.means)

    @property
    def signal(self) -> float:
        """s, the squared norm of V*_com."""
        return float(self.common @ self.common)

    @cached_property
    def own(self) -> ndarray:
        """u_i = B*^T [0; e_i], ``(C, d)``."""
        return self.body[len(self.common) :]

    @cached_property
    def common_predictor(self) -> ndarray:
        """w_com = B*^T V_0, the predictor that every client starts from, ``(d,)``."""
        return self.body[: len(self.common)].T @ self.common

    @cached_property
    def covariances(self) -> ndarray:
        """Sigma_i = E[x x^T], ``(C, d, d)``."""
        identity = np.eye(self.body.shape[1])
        if self.noise is None:
            return np.broadcast_to(identity, (self.num_clients, *identity.shape))
        return np.einsum("ci,cj->cij", self.means, self.means) + self.noise**2 * identity

    @property
    def start(self) -> tuple[ndarray, ndarray]:
        """V_0 and B_0."""
        return np.concatenate([self.common, np.zeros(self.num_clients)]), self.body

    def head(self, client: int) -> ndarray:
        """V*_i, ``(m + C,)``."""
        return np.concatenate([self.common, self.shift * np.eye(self.num_clients)[client]])

    # Losses

    def local_loss(self, client: int, predictor: ndarray) -> float:
        """Return the loss of a predictor ``w = B^T V``, ``(d,)``, on one client's distribution."""
        off = predictor - self.common_predictor - self.shift * self.own[client]
        return float(off @ self.covariances[client] @ off)

    def global_loss(self, predictor: ndarray) -> float:
        """Return the mean loss of a predictor over all clients."""
        return float(np.mean([self.local_loss(client, predictor) for client in range(self.num_clients)]))

    # Methods

    def ft(self, client: int, eta: float) -> tuple[ndarray, ndarray]:
        """Return head and body after FT: ``V_0 + a B* g`` and ``B* + a V_0 g^T``, a = 2 eta lambda, g = Sigma_i u_i."""
        moved = 2 * eta * self.shift * (self.covariances[client] @ self.own[client])
        head, body = self.start
        return head + body @ moved, body + np.outer(head, moved)

    def lpft(self, client: int) -> tuple[ndarray, ndarray]:
        """Return head and body after LP-FT: the exact head and B*, since the residual and hence the step are 0."""
        return self.head(client), self.body


def draw(
    dim: int, shared: int, num_clients: int, signal: float, shift: float, noise: float | None = None, seed: int = 0
) -> LinearClients:
    """Draw the linear model: body, then common head, then means.

    Args:
        dim: d, dimension of the inputs; at least ``shared + num_clients``.
        shared: m, rows of the body that all clients use.
        num_clients: C.
        signal: s, squared norm of the common head.
        shift: lambda.
        noise: eps, None for concept shift.
        seed: of NumPy's generator.

    Raises:
        ValueError: if the body's rows cannot be orthonormal.
    """
    if dim < shared + num_clients:
        raise ValueError(
            f"{shared} shared rows and one for each of {num_clients} clients do not fit into {dim} dimensions."
            f" HINT: set the dimension to {shared + num_clients} or more."
        )
    rng = np.random.default_rng(seed)
    q, r = np.linalg.qr(rng.standard_normal((dim, shared + num_clients)))
    body = (q * np.sign(np.diag(r))).T
    common = rng.standard_normal(shared)
    means = rng.standard_normal((num_clients, dim))
    return LinearClients(
        body,
        common * np.sqrt(signal) / np.linalg.norm(common),
        means / np.linalg.norm(means, axis=1, keepdims=True),
        shift,
        noise,
    )


@dataclass(frozen=True)
class Comparison:
    """FT and LP-FT at one step size, means over the clients.

    Args:
        eta: step size of the full gradient step.
        global_ft: L_G after FT.
        global_lpft: L_G after LP-FT.
        local_ft: L_i after FT; after LP-FT it is 0.
        distortion_ft: Frobenius norm of B - B* after FT; after LP-FT it is 0.
    """

    eta: float
    global_ft: float
    global_lpft: float
    local_ft: float
    distortion_ft: float

    @property
    def verdict(self) -> str:
        """Name the method with the lower global loss."""
        if np.isclose(self.global_ft, self.global_lpft, rtol=1e-9, atol=0):
            return "tie"
        return "LP-FT" if self.global_lpft < self.global_ft else "FT"


def compare(clients: LinearClients, eta: float) -> Comparison:
    """Compare FT and LP-FT at one step size."""
    rows = []
    for client in range(clients.num_clients):
        head, body = clients.ft(client, eta)
        lp_head, lp_body = clients.lpft(client)
        rows.append(
            (
                clients.global_loss(body.T @ head),
                clients.global_loss(lp_body.T @ lp_head),
                clients.local_loss(client, body.T @ head),
                float(np.linalg.norm(body - clients.body)),
            )
        )
    return Comparison(eta, *np.mean(rows, axis=0).tolist())


def critical_eta(clients: LinearClients) -> float | None:
    """Return the smallest step size above which LP-FT has the lower global loss, in the mean over the clients.

    Concept shift: ``c = 2 eta (1 + s) = 1``, so ``eta = 1 / (2 (1 + s))``. Otherwise it is a root between 1e-6 and
    1000; None if there is none.
    """
    if clients.noise is None:
        return 1 / (2 * (1 + clients.signal))

    def difference(eta: float) -> float:
        both = compare(clients, eta)
        return both.global_ft - both.global_lpft

    grid = np.geomspace(1e-6, 1e3, 200).tolist()
    for low, high in pairwise(grid):
        if difference(low) < 0 <= difference(high):
            return float(brentq(difference, low, high))
    return None


def partial_lp(clients: LinearClients, client: int, eta: float, eta_lp: float, steps: int) -> tuple[ndarray, ndarray]:
    """Return head and body after gradient steps on only the head and one step on everything (concept shift).

    The predictor stays on the ray ``w_com + t u_i``.
    """
    head, body = clients.start
    target = clients.head(client)
    for _ in range(steps):
        head = head - 2 * eta_lp * (head - target)
    off = body.T @ head - body.T @ target
    return head - 2 * eta * body @ off, body - 2 * eta * np.outer(head, off)


@dataclass(frozen=True)
class Trained:
    """A client's model after gradient descent on finite samples: population losses, and the distance of B from B*."""

    global_loss: float
    local_loss: float
    distortion: float


def train_on_samples(
    clients: LinearClients, client: int, inputs: ndarray, targets: ndarray, lp_steps: int, ft_steps: int, eta: float
) -> Trained:
    """Train one client by full-batch gradient descent: first only the head, then head and body.

    Args:
        clients: the linear model.
        client: number of the client.
        inputs: ``(n, d)``.
        targets: ``(n,)``.
        lp_steps: steps on the head alone.
        ft_steps: steps on everything after that.
        eta: size of all steps.
    """
    head, body = (part.copy() for part in clients.start)
    for step in range(lp_steps + ft_steps):
        gradient = 2 / len(inputs) * inputs.T @ (inputs @ (body.T @ head) - targets)
        new_head = head - eta * body @ gradient
        if step >= lp_steps:
            body = body - eta * np.outer(head, gradient)
        head = new_head
    predictor = body.T @ head
    return Trained(
        clients.global_loss(predictor),
        clients.local_loss(client, predictor),
        float(np.linalg.norm(body - clients.body)),
    )


def sample(clients: LinearClients, num: int, label_noise: float, seed: int) -> list[tuple[ndarray, ndarray]]:
    """Draw every client's inputs and noisy targets (concept shift), client by client."""
    rng = np.random.default_rng(10_000 + seed)
    drawn = []
    for client in range(clients.num_clients):
        inputs = rng.standard_normal((num, clients.body.shape[1]))
        noise = label_noise * rng.standard_normal(num)
        drawn.append((inputs, inputs @ (clients.body.T @ clients.head(client)) + noise))
    return drawn
