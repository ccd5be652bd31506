from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lpft.data.partition import Dirichlet, Iid, MainClasses, Pathological
from lpft.data.sources.digits import Digits, blend, enlarge, rotate
from tests.data.made import opened


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def make(cache_dir, **settings):
    return opened(Digits, cache_dir=cache_dir, **settings)


def everything(client):
    return torch.cat([client.train, client.val, client.test])


def as_text(digits, positions):
    return {digits.images[i].numpy().tobytes() for i in positions.tolist()}


def test_ten_clients_in_five_domains(cache_dir):
    digits = make(cache_dir)
    domains = ["plain", "inverted", "blended", "rotated", "noisy"]
    assert [client.name for client in digits.clients] == [f"{d}-{k}" for k in (0, 1) for d in domains]
    assert digits.images.shape == (1797, 3, 16, 16)
    assert digits.images.dtype == torch.uint8
    for client in digits.clients:
        sizes = len(client.train), len(client.val), len(client.test)
        assert sum(sizes) in (179, 180)
        assert sizes[2] == 45
        assert sizes[1] in (13, 14)
        for part in (client.train, client.test):
            assert len(digits.labels[part].unique()) == 10


def test_clients_share_no_image(cache_dir):
    """All 1,797 originals are different images; without shift each one must turn up exactly once."""
    digits = make(cache_dir, shift=0.0)
    assert sorted(torch.cat([everything(c) for c in digits.clients]).tolist()) == list(range(1797))
    originals = {image.tobytes() for image in enlarge(load_digits().images.astype(np.int64))}
    assert len(originals) == 1797
    assert {image[0].numpy().tobytes() for image in digits.images} == originals
    for one, other in combinations(digits.clients, 2):
        assert not as_text(digits, everything(one)) & as_text(digits, everything(other))


def test_domains_do_what_they_say(cache_dir):
    """The same clients with and without shift hold the same originals, row by row."""
    plain, shifted = make(cache_dir, shift=0.0), make(cache_dir)
    assert torch.equal(plain.labels, shifted.labels)
    for client in shifted.clients:
        before, after = plain.images[everything(client)], shifted.images[everything(client)]
        noise = after.float() - before.float()
        if client.name.startswith("plain"):
            assert torch.equal(after, before)
        if client.name.startswith("inverted"):
            assert torch.equal(after, 255 - before)
        if client.name.startswith("rotated"):
            assert torch.equal(after, torch.rot90(before, dims=(2, 3)))
        if client.name.startswith("noisy"):
            inside = (before > 96) & (before < 160)  # seldom cut off
            assert noise[inside].std().item() == pytest.approx(64, rel=0.1)
        if client.name.startswith("blended"):
            assert noise.flatten(1).any(1).all()


def test_shift_is_the_share_of_changed_images(cache_dir):
    plain, some, most = (make(cache_dir, shift=shift, domains=["inverted"]) for shift in (0.0, 0.3, 0.7))
    changed_some = (plain.images != some.images).flatten(1).any(1)
    changed_most = (plain.images != most.images).flatten(1).any(1)
    assert changed_some.float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert changed_most.float().mean().item() == pytest.approx(0.7, abs=0.05)
    assert not (changed_some & ~changed_most).any()


def test_the_seed_decides_everything(cache_dir, tmp_path):
    assert make(cache_dir).arrays.content_hash == make(str(tmp_path)).arrays.content_hash
    assert make(cache_dir).arrays.content_hash != make(cache_dir, seed=1).arrays.content_hash


def test_an_image_looks_the_same_whatever_the_number_of_clients(cache_dir):
    one, seven = (make(cache_dir, num_clients=n, domains=["noisy"]) for n in (1, 7))
    assert {image.numpy().tobytes() for image in one.images} == {image.numpy().tobytes() for image in seven.images}


@pytest.mark.parametrize("num_clients", [1, 179])
def test_any_number_of_clients(cache_dir, num_clients):
    digits = make(cache_dir, num_clients=num_clients)
    assert len(digits.clients) == num_clients
    assert all(len(part) for client in digits.clients for part in (client.train, client.val, client.test))


@pytest.mark.parametrize("partition", [Dirichlet(5, 0.1), MainClasses(5), Pathological(5)])
def test_label_shift_in_train_val_and_test_alike(cache_dir, partition):
    digits = make(cache_dir, num_clients=None, shift=0.0, domains=["plain"], clients=partition)
    assert [client.name for client in digits.clients] == [f"plain-{k}" for k in range(5)]
    assert len({image.numpy().tobytes() for image in digits.images}) == 1797
    for client in digits.clients:
        assert len(everything(client)) >= 40
        mix, test_mix = (torch.bincount(digits.labels[p], minlength=10) / len(p) for p in (client.train, client.test))
        assert (mix - test_mix).abs().sum().item() / 2 < 0.1
        assert (mix - 0.1).abs().sum().item() / 2 > 0.25  # far from all classes alike
    assert (
        digits.arrays.content_hash
        == make(cache_dir, num_clients=None, shift=0.0, domains=["plain"], clients=partition).arrays.content_hash
    )
    assert (
        digits.arrays.content_hash
        != make(cache_dir, num_clients=None, shift=0.0, domains=["plain"], clients=Iid(5)).arrays.content_hash
    )


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"`num_clients=180` is too many.*179 clients"):
        Digits(num_clients=180)
    with pytest.raises(ValueError, match="at least one, none of them twice"):
        Digits(domains=[])
    with pytest.raises(ValueError, match="none of them twice"):
        Digits(domains=["plain", "plain"])


def test_enlarging_keeps_ends_and_means():
    """By hand: between 0 and 16 stand 4 and 12 of 16, in units of 255/16."""
    assert enlarge(np.array([[[0, 16]]]))[0, 0].tolist() == [0, 64, 191, 255]
    assert (enlarge(np.full((1, 8, 8), 16)) == 255).all()


def test_rotation_is_anticlockwise():
    image = np.array([[1, 2], [3, 4]])[None, None]
    assert rotate(image, np.random.default_rng(0))[0, 0].tolist() == [[2, 4], [1, 3]]


def test_blending_a_black_image_shows_the_photograph_and_a_white_one_its_negative():
    black, white = (np.full((20, 3, 16, 16), value, np.uint8) for value in (0, 255))
    photo, negative = (blend(images, np.random.default_rng(0)) for images in (black, white))
    assert np.array_equal(photo, 255 - negative)
    assert photo.std() > 20
