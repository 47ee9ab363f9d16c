"""A run's weights depend on its scheme and seed only."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from initguide import Ensemble, Scheme, he_normal_, initialize_, mlp
from initguide.ensemble import run_generator


def small():
    return mlp(5, 4, 3, batch_norm=True)


def with_embedding():
    return nn.Sequential(nn.Embedding(6, 4), nn.Flatten(), nn.Linear(8, 3))


def build(make=small, schemes=("he_normal", "zeros"), seeds=(0, 1)):
    return Ensemble.build(make, schemes=schemes, seeds=seeds)


def assert_same_model(left, right):
    left, right = left.state_dict(), right.state_dict()
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("make", [small, with_embedding])
def test_a_run_does_not_depend_on_the_others(make):
    alone = build(make, ["xavier_normal"], [3]).model("xavier_normal", 3)
    torch.rand(3)  # nor on the global generator
    others = build(make, ["he_uniform", "xavier_normal", "torch_default"], [7, 3, 0])
    assert_same_model(others.model("xavier_normal", 3), alone)


def test_global_generator_is_left_as_it_was():
    state = torch.get_rng_state()
    build(with_embedding)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_seed_draws_the_same_weights_whatever_the_processor(tmp_path):
    code = """if True:
        import sys
        import torch
        from initguide import SCHEMES, Ensemble, mlp
        ensemble = Ensemble.build(lambda: mlp(40, 50, 10), schemes=SCHEMES, seeds=[0, 1])
        torch.save(ensemble.parameters, sys.argv[1])
    """
    drawn = []
    for capability in ("default", "avx2", "avx512"):  # those that the machine lacks are ignored
        path = tmp_path / f"{capability}.pt"
        environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
        subprocess.run([sys.executable, "-c", code, path], env=environment, check=True)
        drawn.append(torch.load(path))
    for other in drawn[1:]:  # float32 rounds, and an orthogonal matrix adds roundings up
        torch.testing.assert_close(other, drawn[0], rtol=1e-5, atol=1e-5)


def test_runs_are_seeds_times_schemes():
    ensemble = build(seeds=(4, 2))
    assert len(ensemble) == 4
    assert ensemble.schemes == ("he_normal", "zeros", "he_normal", "zeros")
    assert ensemble.seeds == (4, 4, 2, 2)
    assert ensemble.parameters["hidden1.weight"].shape == (4, 4, 5)
    assert ensemble.buffers["norm1.running_var"].shape == (4, 4)
    assert "4 runs (2 schemes x 2 seeds) of 47 parameters" in repr(ensemble)


def test_a_run_is_what_initialize_does_with_its_seed():
    expected = small()
    initialize_(expected, "he_normal", generator=torch.Generator().manual_seed(1))
    assert_same_model(build().model("he_normal", 1), expected)


def test_schemes_of_a_seed_share_their_draws():
    ensemble = build(lambda: mlp(5, 4, 3), ["he_normal", "lecun_normal"], [0])
    he, lecun = ensemble.parameters["hidden1.weight"]
    torch.testing.assert_close(he, 2**0.5 * lecun)


def test_seeds_differ_and_uncovered_layers_follow_the_seed():
    ensemble = build(with_embedding, ["he_normal", "lecun_normal"], range(2))
    embedding, linear = ensemble.parameters["0.weight"], ensemble.parameters["2.weight"]
    assert torch.equal(embedding[0], embedding[1]) and not torch.equal(embedding[0], embedding[2])
    assert not torch.equal(linear[0], linear[2])


def test_uncovered_layers_and_weights_have_independent_draws():
    def make():
        return nn.Sequential(nn.Embedding(30, 40), nn.Linear(40, 30))

    ensemble = build(make, ["standard_normal"], [0])
    a, b = (ensemble.parameters[f"{i}.weight"].flatten() for i in (0, 1))
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 5 / 1200**0.5


def test_streams_are_reproducible_and_different():
    keys = [(s, t) for s in range(20) for t in ("weights", "batches", "dropout", "evaluation")]
    draws = [torch.rand(2, generator=run_generator(*key)) for key in keys]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(keys)
    assert torch.equal(torch.rand(2, generator=run_generator(*keys[5])), draws[5])


def test_model_is_a_copy():
    ensemble = build()
    model = ensemble.model("he_normal", 0)
    nn.init.zeros_(model.hidden1.weight)
    model.norm1.running_mean += 1
    assert ensemble.model("he_normal", 0).hidden1.weight.any()
    assert not ensemble.model("he_normal", 0).norm1.running_mean.any()


def test_tied_and_frozen_parameters_stay_so():
    def make():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        model[0].bias.requires_grad_(False)
        return model

    model = build(make).model("he_normal", 1)
    assert model[0].weight is model[1].weight
    assert not model[0].bias.requires_grad and model[1].bias.requires_grad


def test_select_and_concatenate_are_inverse():
    ensemble = build(seeds=range(3))
    first, rest = ensemble.select(slice(0, 2)), ensemble.select([2, 3, 4, 5])
    assert first.seeds == (0, 0) and rest.schemes == ("he_normal", "zeros") * 2
    whole = Ensemble.concatenate([first, rest])
    assert (whole.schemes, whole.seeds) == (ensemble.schemes, ensemble.seeds)
    for name in ensemble.parameters:
        assert torch.equal(whole.parameters[name], ensemble.parameters[name])
    for name in ensemble.buffers:
        assert torch.equal(whole.buffers[name], ensemble.buffers[name])
    first.parameters["hidden1.weight"].zero_()
    assert ensemble.parameters["hidden1.weight"][0].any()
    assert ensemble.select([-1]).seeds == (2,)
    last = torch.tensor(ensemble.seeds) == 2
    for runs in (slice(4, 6), [4, 5], (4, 5), range(4, 6), last):
        assert ensemble.select(runs).seeds == (2, 2)


def test_schemes_in_every_form():
    mine = Scheme("mine", he_normal_)
    assert build(schemes="zeros").schemes == ("zeros", "zeros")
    assert build(schemes=mine, seeds=[0]).schemes == ("mine",)
    named = build(schemes={"a": "he_normal", "b": mine}, seeds=[0])
    assert named.schemes == ("a", "b")
    assert torch.equal(*named.parameters["output.weight"])


@pytest.mark.parametrize(
    ("schemes", "seeds", "words"),
    [
        (["zeros"], [], "1 schemes and 0 seeds.*range"),
        ([], [0], "0 schemes and 1 seeds.*he_normal"),
        (["zeros"], [0, 1, 0], r"seed 0 in seeds=\(0, 1, 0\).*different whole"),
        (["zeros"], [-1], "seed -1.*from 0 up"),
        (["zeros"], [0.5], "seed 0.5.*whole numbers"),
        (["zeros", "he_normal", "zeros"], [0], "'zeros' stands twice.*mapping"),
        (["zeors"], [0], "unknown scheme 'zeors'"),
    ],
)
def test_errors(schemes, seeds, words):
    with pytest.raises(ValueError, match=words):
        build(schemes=schemes, seeds=seeds)


def test_models_of_different_shapes():
    widths = iter([4, 6])
    with pytest.raises(
        ValueError, match=r"model 1 differs.*hidden1\.weight.*one ensemble for each"
    ):
        build(lambda: mlp(5, next(widths), 3), ["zeros"])


@pytest.mark.parametrize("run", [("zeros", 9), ("ones", 0)])
def test_unknown_run(run):
    with pytest.raises(KeyError, match=r"he_normal.*zeros.*\[0, 1\]") as error:
        build().model(*run)
    assert repr(run[0]) in str(error.value) and str(run[1]) in str(error.value)


def test_accepts_numpy_seeds():
    import numpy as np

    ensemble = build(seeds=np.arange(2))
    assert ensemble.seeds == (0, 0, 1, 1) and all(type(seed) is int for seed in ensemble.seeds)
