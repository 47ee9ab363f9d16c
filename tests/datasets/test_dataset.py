import functools
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch

from initguide import datasets
from initguide.datasets import Dataset, Provenance


def make(**changes):
    fields = {
        "name": "own",
        "train_inputs": torch.zeros(6, 2),
        "train_targets": torch.tensor([0, 1, 2, 0, 1, 2]),
        "test_inputs": torch.ones(3, 2),
        "test_targets": torch.tensor([0, 1, 2]),
        "classes": ("a", "b", "c"),
        "provenance": Provenance("own", "generated"),
    }
    return Dataset(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_inputs": torch.zeros(5, 2)}, "train_inputs has 5 and train_targets 6 .*same num"),
        ({"test_targets": torch.zeros(4).long()}, "test_inputs has 3 and test_targets 4"),
        (
            {"test_inputs": torch.zeros(0, 2), "test_targets": torch.zeros(0).long()},
            "test_inputs has 0 .*at least 1",
        ),
        (
            {"test_inputs": torch.ones(3, 4)},
            r"test_inputs .*\(4,\)\); expected .*\(2,\)\).*reshape",
        ),
        ({"train_inputs": torch.zeros(6, 2).long()}, r"torch.int64.*floating.*\.float\(\)"),
        ({"train_inputs": torch.full((6, 2), torch.nan)}, "train_inputs .*NaN.*finite"),
        ({"test_inputs": torch.tensor([[1.0, torch.inf]] * 3)}, "test_inputs .*infinity.*finite"),
        ({"test_targets": torch.tensor([0, 1, 3])}, r"from 0 to 3; expected .*range\(3\).*Relabel"),
        ({"train_targets": torch.tensor([0, 1, 2, 0, 1, -1])}, "from -1 to 2; expected"),
        ({"test_targets": torch.zeros(3)}, r"test_targets .*float32.*expected \(torch\.int64"),
        (
            {"train_targets": torch.zeros(6, 1), "test_targets": torch.full((3, 1), torch.nan)},
            "test_targets holds NaN or infinity",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_inputs": np.zeros((6, 2))}, "train_inputs is .*; expected a torch.Tensor.*as_ten"),
        ({"train_targets": [0, 1, 2, 0, 1, 2]}, "train_targets is .*; expected a torch.Tensor"),
        ({"test_inputs": None}, "test_inputs is None; expected a torch.Tensor"),
        ({"classes": "abc"}, "classes is 'abc'; expected a tuple of str"),
        ({"classes": 3}, "classes is 3; expected a tuple of str"),
        ({"classes": range(3)}, "classes holds 0; expected str only"),
        ({"name": None}, "name is None; expected a str"),
        ({"provenance": "mine"}, "provenance is 'mine'; expected a Provenance"),
    ],
)
def test_parts_of_another_type_are_refused(changes, words):
    with pytest.raises(TypeError, match=words):
        make(**changes)


TARGETS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.faults
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_inputs": torch.tensor(1.0)}, "train_inputs is a single number.*Reshape"),
        ({"train_targets": torch.tensor(1)}, "train_targets is a single number.*Reshape"),
        ({"train_inputs": torch.zeros(6, 0)}, r"train_inputs has shape \(6, 0\), no values"),
        ({"train_inputs": torch.zeros(6, 2).to_sparse()}, "is torch.sparse_coo.*to_dense"),
        ({"train_inputs": torch.zeros(6, 2, device="meta")}, "train_inputs is meta"),
        ({"train_inputs": torch.zeros(6, 2).cfloat()}, "torch.complex64; expected floating"),
        (
            {"train_inputs": torch.ones(6, 2, requires_grad=True) * 2},
            "history of MulBackward.*deta",
        ),
        ({"train_targets": TARGETS.int()}, r"torch.int32; expected torch.int64.*\.long\(\)"),
        ({"train_targets": TARGETS.byte()}, "torch.uint8; expected torch.int64"),
        ({"train_targets": TARGETS.bool()}, r"torch.bool; expected torch.int64.*\.float\(\)"),
        ({"train_targets": TARGETS.cfloat()}, "torch.complex64; expected torch.int64"),
        ({"classes": ("a", "b", "a")}, "expected different names"),
        ({"classes": ()}, r"from 0 to 2; expected .*range\(0\)"),
    ],
)
def test_tensors_that_cannot_be_learned_from_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes)


def test_class_names_may_come_as_a_list():
    assert make(classes=["a", "b", "c"]).classes == ("a", "b", "c")


def test_own_data_travel_to_another_process():
    data = pickle.loads(pickle.dumps(make()))
    assert torch.equal(data.test_inputs, torch.ones(3, 2))
    assert data.provenance == Provenance("own", "generated")


def test_images_travel_to_another_process():
    assert pickle.loads(pickle.dumps(datasets.mnist(download=False))).is_sample


@pytest.mark.parametrize("part", [800, 0.2])
def test_holdout_splits_the_training_set(part):
    data = datasets.mnist(download=False)
    split = data.holdout(part, seed=3)
    assert (len(split.train_inputs), len(split.test_inputs)) == (3200, 800)
    every = [x.numpy().tobytes() for x in data.train_inputs]
    kept = [x.numpy().tobytes() for x in split.train_inputs]
    held = [x.numpy().tobytes() for x in split.test_inputs]
    assert sorted(kept + held) == sorted(every)


@pytest.mark.parametrize("part", [800, 0.2])
def test_holdout_keeps_image_and_label_together(part):
    data = datasets.mnist(download=False)
    split = data.holdout(part, seed=3)
    every, kept, held = (
        [x.numpy().tobytes() for x in inputs]
        for inputs in (data.train_inputs, split.train_inputs, split.test_inputs)
    )
    labels = dict(zip(every, data.train_targets.tolist(), strict=True))
    assert [labels[x] for x in held] == split.test_targets.tolist()
    assert [labels[x] for x in kept] == split.train_targets.tolist()


def test_holdout_is_recorded():
    data = datasets.mnist(download=False)
    split = data.holdout(800, seed=3)
    assert "800 of 4,000 training examples held out for validation, seed 3" in repr(split)
    assert split.is_sample
    assert split.provenance.fingerprint != data.provenance.fingerprint


def test_holdout_depends_on_its_seed_only():
    data = datasets.mnist(download=False)
    first = data.holdout(100, seed=0).test_targets
    torch.manual_seed(1)
    assert torch.equal(first, data.holdout(100, seed=0).test_targets)
    assert not torch.equal(first, data.holdout(100, seed=1).test_targets)


@pytest.mark.parametrize("part", [0, 6, -1, 0.0, 1.0, 0.01])
def test_holdout_leaves_no_part_empty(part):
    with pytest.raises(ValueError, match=rf"is {part}, .* of 6 .*expected 1 to 5, or a fraction"):
        make().holdout(part, seed=0)


@pytest.mark.faults
@pytest.mark.parametrize("part", ["3", None, True, torch.tensor(0.2), 1j])
def test_holdout_takes_a_number(part):
    with pytest.raises(TypeError, match=r"count_or_fraction is .*; expected an int or a float"):
        make().holdout(part, seed=0)


@pytest.mark.faults
@pytest.mark.parametrize("part", [float("nan"), float("inf"), -0.5, 10**400])
def test_holdout_takes_no_other_number(part):
    with pytest.raises(ValueError, match=r"count_or_fraction is .*expected 1 to 5"):
        make().holdout(part, seed=0)


@pytest.mark.parametrize("part", [np.int64(3), np.float32(0.5), Fraction(1, 2)])
def test_holdout_takes_numbers_of_other_libraries(part):
    assert len(make().holdout(part, seed=0).test_inputs) == 3


@pytest.mark.faults
@pytest.mark.parametrize("seed", [None, "0", 1.5, 2**64, -1])
def test_holdout_takes_a_seed(seed):
    with pytest.raises((TypeError, ValueError), match=r"seed is .*; expected"):
        make().holdout(2, seed=seed)


def test_first_keeps_the_first_of_each_set():
    data = datasets.mnist(download=False)
    few = data.first(30, 20)
    for part, count in (("train", 30), ("test", 20)):
        for kind in ("inputs", "targets"):
            kept, whole = (getattr(d, f"{part}_{kind}") for d in (few, data))
            assert torch.equal(kept, whole[:count])


def test_first_is_recorded():
    data = datasets.mnist(download=False)
    few = data.first(30, 20)
    assert "the first 30 + 20" in repr(few)
    assert few.provenance.fingerprint != data.provenance.fingerprint


@pytest.mark.parametrize("counts", [(0, 1), (7, 1), (1, 0), (1, -1), (1, 7)])
def test_first_takes_no_more_than_there_is(counts):
    with pytest.raises(ValueError, match=r"(train|test)=-?\d: expected 1 to \d"):
        make().first(*counts)


@pytest.mark.faults
@pytest.mark.parametrize("counts", [(2.5, 1), ("3", 1), (1, None), (True, 1), (1, [2])])
def test_first_takes_whole_numbers(counts):
    with pytest.raises(TypeError, match=r"(train|test) is .*; expected a whole number"):
        make().first(*counts)


def test_map_changes_the_inputs_of_both_sets():
    data = datasets.mnist(download=False)
    small = data.map(torch.nn.functional.avg_pool2d, 2)
    for part in ("train_inputs", "test_inputs"):
        blocks = getattr(data, part).reshape(-1, 1, 14, 2, 14, 2).mean((3, 5))
        torch.testing.assert_close(getattr(small, part), blocks)
    assert torch.equal(small.train_targets, data.train_targets)
    assert "avg_pool2d(inputs, 2)" in repr(small)


def test_map_is_recorded_without_addresses():
    data = make()
    twice = [data.map(functools.partial(torch.mul, other=2)).provenance for _ in range(2)]
    assert twice[0].fingerprint == twice[1].fingerprint and "0x" not in repr(twice[0])


@pytest.mark.faults
def test_map_that_works_in_place_changes_a_copy():
    data = make()
    assert data.map(lambda x: x.add_(1)).train_inputs.eq(1).all()
    assert data.train_inputs.eq(0).all()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (3, TypeError, "function is 3; expected a callable"),
        (lambda x: x.numpy(), TypeError, "train_inputs is .*; expected a torch.Tensor"),
        (lambda x: None, TypeError, "train_inputs is None; expected a torch.Tensor"),
        (lambda x: x[:2], ValueError, "train_inputs has 2 and train_targets 6"),
        (torch.nn.Linear(2, 1), ValueError, "gradient history .*detach"),
        (torch.log, ValueError, "train_inputs holds NaN or infinity"),
    ],
)
def test_map_to_no_data_is_refused(function, error, words):
    with pytest.raises(error, match=words):
        make().map(function)


def test_standardized_inputs_have_mean_0_and_mean_square_1_over_the_training_set():
    data = datasets.mnist(download=False)
    same = data.standardized()
    train = same.train_inputs.double()
    assert abs(train.mean()) < 1e-5 and abs(train.square().mean() - 1) < 1e-5
    x = data.train_inputs.double()
    expected = (data.test_inputs.double() - x.mean()) / x.std(correction=0)
    torch.testing.assert_close(same.test_inputs.double(), expected, rtol=1e-4, atol=1e-5)


def test_equal_inputs_cannot_be_standardized():
    with pytest.raises(ValueError, match="all training inputs of mine are 0: expected different"):
        make(name="mine", train_inputs=torch.zeros(6, 2)).standardized()


@pytest.mark.faults
def test_inputs_whose_squares_overflow_cannot_be_standardized():
    huge = torch.tensor([[1e200, -1e200]] * 6, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"overflow torch\.float64: expected a finite"):
        make(train_inputs=huge, test_inputs=huge[:3]).standardized()


@pytest.mark.parametrize("classes", [["Bag", "Shirt"], [8, 6], ["Bag", 6]])
def test_select_classes_relabels_in_the_order_given(classes):
    data = datasets.fashion_mnist(download=False)
    pair = data.select_classes(classes)
    assert pair.classes == ("Bag", "Shirt")
    assert (len(pair.train_inputs), len(pair.test_inputs)) == (1000, 200)
    assert torch.equal(
        pair.train_inputs[pair.train_targets == 0], data.train_inputs[data.train_targets == 8]
    )
    assert torch.equal(
        pair.test_inputs[pair.test_targets == 1], data.test_inputs[data.test_targets == 6]
    )
    assert "classes Bag, Shirt" in repr(pair)


@pytest.mark.parametrize(
    "classes",
    [
        [],
        ["a", "a"],
        ["a", 0],
        ["d"],
        [3],
        [-1],
        [True, False],
        [1.0],
        [None],
        [["a"]],
        ["a", "b", "c", 0],
    ],
)
def test_select_classes_refuses_other_classes(classes):
    with pytest.raises(
        ValueError, match=r"expected different ones of \['a', 'b', 'c'\], or of their indices"
    ):
        make().select_classes(classes)


@pytest.mark.faults
@pytest.mark.parametrize("classes", ["Bag", 3, None])
def test_select_classes_takes_a_list(classes):
    with pytest.raises(TypeError, match=r"classes is .*; expected a list"):
        make().select_classes(classes)


def test_select_classes_takes_any_iterable_and_numpys_integers():
    assert make().select_classes(iter([np.int64(2), "a"])).classes == ("c", "a")


def test_select_classes_needs_class_indices():
    with pytest.raises(ValueError, match=r"threshold are torch\.float32; expected integer"):
        datasets.threshold().select_classes([0])


def test_global_generators_are_untouched():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    datasets.plane()
    datasets.threshold().holdout(0.5, seed=0)
    datasets.mnist(download=False).select_classes(["1", "7"])
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])
