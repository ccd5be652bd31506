"""What a method costs, in passes over a client's training data."""

from __future__ import annotations

from lpft.methods.base import Method
from lpft.personalization.batchnorm import has_batch_norm
from lpft.personalization.module import Personalizer


def train_passes(module: Personalizer) -> list[float]:
    """Return each client's cost in forward and backward passes of single samples, per training sample.

    A full pass is 1, a forward pass alone 1/3, and a head trained on stored features 0; features of augmented images
    are not stored, so that a head, and a comparison with the global model, take a forward pass in every epoch. Scoring
    heads, candidates or epochs on validation data counts too: a method that needs it pays for it. The
    training before, on pooled data or in a federation of the method's own, is what a client's samples have cost there.
    """
    method: Method = module.hooks.method
    phases, data = module.schedule.phases, module.data
    tuned = sum(phase.epochs for phase in phases if phase.trains != "head")
    full = tuned + min(method.num_prepare_batches, data.samples.num_steps) / data.samples.num_steps
    probed = sum(phase.epochs for phase in phases if phase.trains == "head")
    solved = method.starts_head and not method.counts_only
    compared = tuned * module.hooks.compares
    forward = solved + probed + compared if data.augments else int(solved or probed + compared > 0)
    if method.refresh_norm and has_batch_norm(module.stack.module):
        forward += method.num_candidates + 1
    scored = method.num_candidates + method.keep_best * (module.schedule.num_epochs + 1) + solved
    before = module.settings.epochs if method.start in ("pooled", "federated") else 0
    held_out = set(data.global_features.data.held_out) if before else set()
    clients = [data.global_features.data.clients[client] for client in data.clients]
    return [
        full + before * (client.name not in held_out) + (forward + scored * len(client.val) / len(client.train)) / 3
        for client in clients
    ]
