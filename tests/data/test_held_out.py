"""Clients that are held out take no part in training, and are checked for leaks like the others."""

import copy
import pickle

import pytest
import torch

from lpft.data.datamodule import FederatedDataModule
from lpft.data.partition import Dirichlet
from lpft.data.sources import Digits, SklearnTable
from lpft.data.summary import describe
from tests.data.made import assert_no_leaks, made, opened, parse
from tests.toy import ToySource


def names(data):
    return [client.name for client in data.clients]


@pytest.fixture
def digits(tmp_path):
    return lambda held_out, **more: opened(Digits, num_clients=10, held_out=held_out, cache_dir=str(tmp_path), **more)


def test_by_default_everybody_takes_part(digits):
    for nobody in (None, 0, []):
        data = digits(nobody)
        assert data.held_out == []
        assert names(data.participants()) == names(data)


def test_names_are_held_out_in_the_order_of_clients(digits):
    data = digits(["inverted-1", "plain-0"])
    assert data.held_out == ["plain-0", "inverted-1"]
    assert names(data.participants()) == [name for name in names(data) if name not in data.held_out]
    assert len(names(data)) == 10


def test_a_number_is_drawn_by_the_seed_of_the_data_alone(digits):
    drawn = digits(3).held_out
    assert digits(3).held_out == drawn
    assert set(digits(2).held_out) < set(drawn)
    assert any(digits(3, seed=seed).held_out != drawn for seed in (1, 2, 3))


def test_the_arrays_do_not_depend_on_it(digits):
    assert digits(3).arrays.content_hash == digits(None).arrays.content_hash


@pytest.mark.parametrize(
    ("held_out", "message"),
    [(["nobody"], "'nobody'.*plain-0.*inverted-1"), (10, "there are 10 clients"), (99, "hold out")],
)
def test_what_cannot_be_is_refused(digits, held_out, message):
    with pytest.raises(ValueError, match=f"(?s)held_out.*{message}"):
        digits(held_out)


def test_some_clients_with_training_samples_must_remain(tmp_path):
    with pytest.raises(ValueError, match="leaves nobody"):
        made(ToySource, counts=(0, 10), held_out=["c1"], cache_dir=str(tmp_path)).prepare_data()


def test_the_command_line_takes_both_forms():
    base = ["--data.source=lpft.data.sources.Digits"]
    assert parse(*base, "--data.held_out=2")._held_out == 2
    assert parse(*base, "--data.held_out=[plain-0]")._held_out == ["plain-0"]


def test_views_survive_pickling_and_copying(digits):
    data = digits(["plain-0"])
    for view in (data.participants(), data.pooled()):
        for other in (pickle.loads(pickle.dumps(view)), copy.deepcopy(view)):
            assert names(other) == names(view)
    assert names(data.pooled()) == ["pooled"]


def test_pooled_data_are_those_of_all_who_take_part(digits):
    data = digits(["plain-0"])
    (everything,) = data.pooled().clients
    for split in ("train", "val", "test"):
        own = torch.cat([getattr(client, split) for client in data.clients if client.name != "plain-0"])
        assert torch.equal(getattr(everything, split), own)


def test_no_image_of_training_is_in_a_new_clients_test_part(tmp_path):
    """Images are in two clients' parts: the new client's test part keeps them, training does not."""

    shared = []

    class Overlapping(ToySource):
        def draw(self, rng, client, split, num):
            images, labels = super().draw(rng, client, split, num)
            if (client, split) == (0, "train"):
                shared[:] = images[:5].copy()
            if (client, split) == (1, "test"):
                images[:5] = shared
            return images, labels

    data = opened(Overlapping, held_out=["c1"], max_left_out=0.25, cache_dir=str(tmp_path))
    assert data.arrays.left_out == {"c0": {"train": 5}}
    assert_no_leaks(data)
    trained = {data.images[i].numpy().tobytes() for i in data.pooled().clients[0].train.tolist()}
    tested = {data.images[i].numpy().tobytes() for i in data.clients[1].test.tolist()}
    assert len(tested) == 12
    assert not trained & tested


def test_prepare_lists_held_out_clients(digits, capsys):
    from rich.console import Console

    describe(digits(["plain-0", "inverted-1"]), Console(width=200))
    assert "held out, 2 of 10 clients: plain-0, inverted-1" in capsys.readouterr().out


def test_what_is_kept_is_the_same_as_with_all_clients(digits):
    held_out = names(digits(None))[:2]
    everything, part = digits(held_out), digits(held_out, keep="1/3")
    assert names(part) == names(everything)[1::3]
    by_name = {client.name: client for client in everything.clients}
    assert all(torch.equal(client.train, by_name[client.name].train) for client in part.clients)
    assert part.held_out == held_out[1:]
    assert names(part.participants()) == names(part)[1:]
    assert names(digits(None, keep=["inverted-1", "plain-0"])) == ["plain-0", "inverted-1"]


def test_features_are_standardized_by_all_that_take_part_wherever_they_are(tmp_path):
    def table(keep):
        clients = Dirichlet(4, 1.0, 10, within_domains=False)
        shared = {"clients": clients, "held_out": 2, "max_left_out": 1.0, "cache_dir": str(tmp_path)}
        data = FederatedDataModule(SklearnTable("wine"), keep=keep, **shared)
        data.setup()
        return data

    assert table("1/4").normalize == table("0/2").normalize == table(None).normalize


@pytest.mark.parametrize(
    ("keep", "message"),
    [(["nobody"], "'nobody'.*plain-0"), ("3/3", "0 <= I < N"), ("plain-0", "a list"), ("10/11", "there are 10")],
)
def test_to_keep_what_is_not_there_is_refused(digits, keep, message):
    with pytest.raises(ValueError, match=f"(?s)data.keep.*{message}"):
        digits(None, keep=keep)
