import gzip

import numpy as np
import pytest
from served import idx_bytes

from initguide.datasets import _idx


@pytest.mark.parametrize("shape", [(7,), (3, 28, 28), (2, 3, 4, 5)])
def test_read_idx_inverts_the_writer(shape, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (tmp_path / "plain").write_bytes(idx_bytes(values))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx_bytes(values)))
    for name in ("plain", "packed.gz"):
        assert np.array_equal(_idx.read_idx(tmp_path / name).numpy(), values)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "header is empty; expected 00000801"),
        (b"\0\0\x08", "header is 000008; expected"),
        (b"\0\0\x0d\x01" + b"\0" * 8, "header is 00000d01; expected"),  # floats, not bytes
        (b"\0\0\x08\x00", "header is 00000800; expected"),
        (b"\0\0\x08\x03" + b"\0" * 8, "header is 00000803; expected"),  # dimensions cut off
        (b"\0\0\x08\x01\0\0\0\0", "header is 00000801; expected .*above 0"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "has 11 bytes; its header announces 13. Replace"),
        (b"\0\0\x08\x01\0\0\0\x02abc", "has 11 bytes; its header announces 10. Replace"),
    ],
)
def test_read_idx_refuses_what_is_not_idx(content, words, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        _idx.read_idx(tmp_path / "file")
