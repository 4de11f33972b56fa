"""How found nuclei are compared with labelled ones; `segment` itself is tested through `segment_nuclei`."""

import numpy as np
import pytest

from protloc.nuclei import match_instances


def test_match_instances():
    true = np.zeros((20, 20), dtype=int)
    true[2:8, 2:8], true[10:18, 10:18] = 1, 7
    found = np.zeros_like(true)
    found[2:8, 2:7], found[10:13, 10:18], found[0:2, 15:20] = (
        3,
        4,
        5,
    )  # 30/36 and 24/64 of their nuclei, and one of none
    match = match_instances(true, found)
    assert (match["true"], match["found"]) == (2, 3)
    assert match["matched"] == [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]  # 0.833 is above 0.5 to 0.8
    assert match["average_precision"] == pytest.approx(0.7 * 1 / 4)
    assert match_instances(true, true)["average_precision"] == 1
    nothing = np.zeros_like(true)
    assert match_instances(nothing, nothing)["average_precision"] == 1
    assert match_instances(nothing, found)["average_precision"] == 0
    assert match_instances(true, nothing)["matched"] == [0] * 10
