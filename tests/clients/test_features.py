from __future__ import annotations

import torch

from tests.toy import toy_features


def test_features_are_those_of_the_network_in_evaluation_mode() -> None:
    features = toy_features(norm=True)
    client = features.data.clients[1]
    expected = features.net.eval().body(features.data.normalize(features.data.images[client.train], torch.float64))
    torch.testing.assert_close(features.train(1), expected)


def test_features_are_computed_once() -> None:
    features = toy_features()
    assert features.train(0) is features.train(0)


def test_stacked_features_are_padded() -> None:
    features = toy_features()
    both = features.stacked([0, 1])
    assert torch.equal(both[0, :20], features.train(0))
    assert torch.equal(both[1], features.train(1))
    assert not both[0, 20:].any()


def test_features_do_not_depend_on_autocast() -> None:
    first, second = toy_features(dtype=torch.float32), toy_features(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(first.train(0), second.of(second.data.clients[0].train))
    assert torch.equal(first.train(0), second.train(0))
    assert first.train(0).dtype == torch.float32
