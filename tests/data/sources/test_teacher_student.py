import logging

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier

from lpft.data.sources import teacher_student
from lpft.data.sources.teacher_student import TeacherStudent, answer
from lpft.types import DataSpec
from tests.data.made import opened


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def make(cache_dir, **settings):
    return opened(TeacherStudent, cache_dir=cache_dir, **settings)


def inputs(data, positions):
    return data.normalize(data.images[positions]).flatten(1).numpy()


def trained(client):
    return torch.cat([client.train, client.val])


def test_clients_and_sizes(cache_dir):
    data = make(cache_dir)
    assert [client.name for client in data.clients] == [f"client-{k}" for k in range(5)]
    assert {(len(c.train), len(c.val), len(c.test)) for c in data.clients} == {(90, 10, 200)}
    assert data.images.shape == (1500, 1, 5, 5)
    assert data.spec == DataSpec(1, 5, 4)


def test_pixels_are_centred_and_scaled_and_hardly_cut(cache_dir):
    """By the affine map a normalized pixel is the input by its root mean square."""
    data = make(cache_dir, test_per_client=2000)
    pixels = data.normalize(data.images)
    assert pixels.mean().item() == pytest.approx(0, abs=0.05)
    assert pixels.square().mean().item() == pytest.approx(1, abs=0.03)
    assert ((data.images == 0) | (data.images == 255)).float().mean().item() < 1e-3


def test_an_image_stands_for_its_input(cache_dir):
    """An input within 4 root mean squares comes back to half a grey level."""
    source = TeacherStudent()
    mean = source._means()[0]
    drawn = mean + source.noise * source.rng(0, "inputs", "train", 0, 0).standard_normal((100, 25))
    error = np.abs(source._inputs(source._images(mean, 100, "train", 0, 0)) - drawn)
    level = source._scale / (127.5 / 4)
    assert error[np.abs(drawn) < 4 * source._scale].max() <= level / 2 + 1e-12


def test_no_image_twice(cache_dir):
    data = make(cache_dir)
    assert len({image.numpy().tobytes() for image in data.images}) == len(data.images)


def test_at_shift_zero_all_teachers_answer_alike(cache_dir):
    x = np.random.default_rng(0).standard_normal((100, 25))
    for shift, equal in ((0.0, True), (0.1, False)):
        answers = [answer(teacher, x) for teacher in TeacherStudent(shift=shift)._teachers()]
        assert all(np.allclose(answers[0], other) for other in answers[1:]) == equal


def test_shift_leaves_inputs_and_common_part_as_they_are(cache_dir):
    """Without own units there is nothing to weigh; with them the images stay, the labels change."""
    assert (
        make(cache_dir, shared_share=1.0).arrays.content_hash
        == make(cache_dir, shared_share=1.0, shift=4.0).arrays.content_hash
    )
    test = [[data.images[c.test] for c in data.clients] for data in (make(cache_dir), make(cache_dir, shift=4.0))]
    assert all(torch.equal(one, other) for one, other in zip(*test, strict=True))
    labels = [torch.cat([data.labels[c.test] for c in data.clients]) for data in (make(cache_dir, shift=0.0),
              make(cache_dir, shift=0.1), make(cache_dir, shift=4.0))]  # fmt: skip
    moved = [(labels[0] != other).float().mean().item() for other in labels[1:]]
    assert 0 < moved[0] < 0.2 < moved[1]


def test_more_training_images_leave_the_test_images(cache_dir):
    few, many = make(cache_dir, samples_per_client=20), make(cache_dir, samples_per_client=300)
    for one, other in zip(few.clients, many.clients, strict=True):
        assert torch.equal(few.images[one.test], many.images[other.test])
        assert torch.equal(few.labels[one.test], many.labels[other.test])


@pytest.mark.parametrize("settings", [{}, {"mean_norm": 0.0, "shift": 4.0}, {"shared_share": 0.0, "num_classes": 7}])
def test_classes_are_equally_frequent_over_all_clients(cache_dir, settings):
    data = make(cache_dir, test_per_client=1000, **settings)
    labels = data.labels[torch.cat([client.test for client in data.clients])]
    frequency = torch.bincount(labels) / len(labels)
    assert frequency.numpy() == pytest.approx(1 / data.spec.num_classes, abs=0.03)


def test_without_shift_and_means_all_clients_have_one_distribution(cache_dir):
    data = make(cache_dir, shift=0.0, mean_norm=0.0, test_per_client=2000)
    for client in data.clients:
        assert inputs(data, client.test).mean(0) == pytest.approx(0, abs=0.1)
        assert (torch.bincount(data.labels[client.test]) / 2000).numpy() == pytest.approx(0.25, abs=0.05)


def test_a_pooled_network_learns_it_the_better_the_less_clients_differ(cache_dir):
    """Chance is about 35%, the most frequent class of a client."""
    accuracy = []
    for shift in (0.0, 1.0, 4.0):
        data = make(cache_dir, shift=shift, samples_per_client=400)
        rows = torch.cat([trained(client) for client in data.clients])
        net = MLPClassifier(64, random_state=0, max_iter=40, alpha=1e-3, learning_rate_init=3e-3)
        with pytest.warns(UserWarning, match="converged"):
            net.fit(inputs(data, rows), data.labels[rows])
        test = torch.cat([client.test for client in data.clients])
        accuracy.append(net.score(inputs(data, test), data.labels[test]))
    assert accuracy[0] > 0.8
    assert accuracy[0] - 0.1 > accuracy[1] > accuracy[2]


def test_disjoint_labels(cache_dir, caplog):
    data = make(cache_dir, num_classes=10, disjoint_labels=True)
    classes = [set(data.labels[trained(client)].tolist()) for client in data.clients]
    assert sorted(label for own in classes for label in own) == list(range(10))
    assert classes == [set(data.labels[client.test].tolist()) for client in data.clients]
    with caplog.at_level(logging.WARNING, "lpft"):
        data.prepare_data()
    assert "5 of 5 clients lack some of the 10 classes" in caplog.text


def test_the_seed_decides_everything(cache_dir, tmp_path):
    assert make(cache_dir).arrays.content_hash == make(str(tmp_path)).arrays.content_hash
    assert make(cache_dir).arrays.content_hash != make(cache_dir, seed=1).arrays.content_hash


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_features": 20}, r"40 units \(15 shared and 5 for each of 5.*the 25 pixels.*`image_size` to 7"),
        ({"shared_share": 0.0, "shift": 0.0}, "no output. HINT"),
        ({"num_classes": 1}, "nothing to learn"),
        ({"disjoint_labels": True}, "class for each of the 5 clients, there are 4. HINT"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        TeacherStudent(**settings)


def test_images_that_rounding_makes_equal_are_refused(cache_dir):
    with pytest.raises(ValueError, match=r"differ after rounding to 8 bits.*`noise=0.001` is too small"):
        make(cache_dir, noise=0.001)


def test_outputs_that_are_mostly_zero_are_refused(cache_dir):
    """A single unit with ReLU answers 0 to half of all inputs."""
    with pytest.raises(ValueError, match=r"cut into 4 classes.*HINT: raise `num_features`"):
        make(cache_dir, num_features=1, shared_share=1.0, mean_norm=0.0)


def test_classes_that_a_client_hardly_ever_has_are_named(cache_dir, monkeypatch):
    """One draw of a hundred inputs holds about twenty of a class that a fifth of all inputs have."""
    monkeypatch.setattr(teacher_student, "MAX_BATCHES", 1)
    with pytest.raises(ValueError, match=r"client-0 has only \d\d of 100 images of the classes \[\d\] after 100 draws"):
        make(cache_dir, num_classes=5, mean_norm=0.0, disjoint_labels=True)
