import numpy as np
import pytest
import torch

from initguide import datasets


def test_threshold_is_the_tutorials_forty_points():
    data = datasets.threshold()
    x, y = data.train_inputs, data.train_targets
    assert x.shape == y.shape == (40, 1)
    assert x.dtype == y.dtype == torch.float32
    assert torch.equal(x.squeeze(1), torch.tensor([k / 10 for k in range(-20, 20)]))
    assert (y == 0).sum() == 23
    assert y[x == torch.tensor(0.2)].tolist() == [0]  # 0.2 is not above 0.2
    assert torch.equal(y, (x > 0.2).float())


def test_threshold_tests_off_the_grid():
    data = datasets.threshold()
    x, y = data.test_inputs, data.test_targets
    assert x.shape == y.shape == (1000, 1)
    assert torch.equal(y, (x > 0.2).float())
    assert torch.cdist(x.double(), data.train_inputs.double()).min() > 1e-3
    assert (x > -2).all()
    assert (x < 2).all()


def test_plane_follows_its_rule():
    data = datasets.plane()
    assert data.train_inputs.shape == (100, 2)
    assert data.test_inputs.shape == (10_000, 2)
    for x, y in (
        (data.train_inputs, data.train_targets),
        (data.test_inputs, data.test_targets),
    ):
        assert x.dtype == y.dtype == torch.float32
        assert (x >= 0).all()
        assert (x < 1).all()
        assert y.shape == (len(x), 1)
        assert torch.equal(y.bool(), x.double().sum(1, keepdim=True) > 1)


def test_plane_is_uniform():
    data = datasets.plane()
    # Half the square lies above: 5 standard errors, 0.5 / sqrt(10,000) each.
    assert abs(data.test_targets.mean() - 0.5) < 5 * 0.005
    # Uniform coordinates: mean 1/2, standard error 1 / sqrt(12 x 10,000).
    assert ((data.test_inputs.mean(0) - 0.5).abs() < 5 / np.sqrt(12 * 10_000)).all()


def test_plane_draws_fresh_test_points_from_its_seed_only():
    first, again, longer = datasets.plane(), datasets.plane(), datasets.plane(200, n_test=50)
    assert torch.equal(first.train_inputs, again.train_inputs)
    assert torch.equal(first.train_inputs, longer.train_inputs[:100])
    assert torch.equal(first.test_inputs[:50], longer.test_inputs)
    assert not torch.equal(first.train_inputs, datasets.plane(seed=1).train_inputs)


def test_planes_test_points_are_fresh():
    first = datasets.plane()
    train = {tuple(point) for point in first.train_inputs.tolist()}
    assert train.isdisjoint(tuple(point) for point in first.test_inputs.tolist())


@pytest.mark.parametrize(("n", "n_test"), [(0, 10), (10, -1)])
def test_plane_needs_points(n, n_test):
    with pytest.raises(ValueError, match=f"n is {n} and n_test {n_test}; expected at least 1"):
        datasets.plane(n, n_test=n_test)


@pytest.mark.faults
@pytest.mark.parametrize("changes", [{"n": 2.5}, {"n": "3"}, {"n_test": None}, {"n": True}])
def test_plane_takes_whole_numbers(changes):
    with pytest.raises(TypeError, match=r"n(_test)? is .*; expected a whole number"):
        datasets.plane(**changes)


@pytest.mark.faults
@pytest.mark.parametrize("seed", [None, 1.5, "0", [1, 2], True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(TypeError, match=r"seed is .*; expected a whole number"):
        datasets.plane(seed=seed)


@pytest.mark.faults
@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_is_within_64_bits(seed):
    with pytest.raises(ValueError, match=rf"seed is {seed}; expected 0 to 2\*\*64 - 1"):
        datasets.plane(seed=seed)


def test_numbers_of_numpy_are_whole_numbers():
    plane = datasets.plane(np.int64(5), n_test=np.uint8(3), seed=np.int32(1))
    assert torch.equal(plane.train_inputs, datasets.plane(5, seed=1).train_inputs)
