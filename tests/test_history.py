"""Histories are taken apart and put together by run."""

from dataclasses import replace

import pytest
import torch
from sweeps import DATA, assert_same, build, train

from initguide import History


def test_select_and_concatenate_are_inverse():
    whole = train(build(), DATA, evaluate_every=3)
    parts = [whole.select([0]), whole.select(slice(1, 3)), whole.select((3,))]
    assert [part.ensemble.seeds for part in parts] == [(0,), (1, 2), (3,)]
    assert_same(History.concatenate(parts), whole)
    assert_same(whole.select([3, 0]), History.concatenate([parts[2], parts[0]]))
    parts[0].batch_loss.zero_()
    assert whole.batch_loss.all()


def test_histories_that_do_not_fit_together():
    one = train(build([0]), DATA)
    for other, words in [
        (replace(one, steps=(0, 7)), r"\(0, 7\) and \(0, 8\).*same steps"),
        (replace(one, values={("test", "loss"): torch.zeros(2, 1)}), "same steps and metrics"),
        (replace(one, batch_loss=torch.zeros(3, 1)), "3 and 8.*Train them alike"),
    ]:
        with pytest.raises(ValueError, match=words):
            History.concatenate([one, other])
    with pytest.raises(ValueError, match="no histories: expected at least one"):
        History.concatenate([])
