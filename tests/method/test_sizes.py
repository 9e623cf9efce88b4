"""Sizes of a supernet: given ones, and any."""

import pytest

from espnet_des.errors import ConfigError
from espnet_des.method.sizes import check_sizes, evenly_spaced, sizes_of_supernet


@pytest.mark.parametrize(
    "sizes, says",
    [
        ([], "must be a list"),
        (8, "must be a list"),
        ([4, 3, 8], "ascending"),
        ([4, 4, 8], "each size once"),
        ([4.0, 8], "integers"),
        ([True, 8], "integers"),
        (["4", 8], "integers"),
        ([0, 8], "between 1 and the 8 layers"),
        ([-2, 8], "between 1 and the 8 layers"),
        ([4, 9], "the last one being all 8"),
        ([2, 4], "the last one being all 8"),
        ([8], "at least two"),
    ],
)
def test_bad_sizes(sizes, says):
    with pytest.raises(ConfigError, match=says) as error:
        check_sizes(sizes, 8)
    assert "encoder_conf: sizes" in str(error.value) and str(sizes) in str(error.value)


@pytest.mark.parametrize(
    "layers, sizes", [(48, [16, 32, 48]), (24, [8, 16, 24]), (8, [3, 5, 8]), (2, [1, 2])]
)
def test_default_sizes(layers, sizes):
    assert check_sizes(None, layers) == sizes


def test_given_sizes_are_their_own_anchors():
    assert sizes_of_supernet([2, 4, 8], 8) == ([2, 4, 8], [2, 4, 8])


@pytest.mark.parametrize(
    "layers, smallest, step, anchors, everything",
    [
        (24, None, None, [8, 16, 24], list(range(8, 25))),
        (24, 6, 2, [6, 14, 24], list(range(6, 25, 2))),
        (24, 5, 4, [5, 13, 24], [5, 9, 13, 17, 21, 24]),
        (3, 2, None, [2, 3], [2, 3]),
    ],
)
def test_any_size(layers, smallest, step, anchors, everything):
    found = sizes_of_supernet("any", layers, smallest, step)
    assert found == (anchors, everything)


@pytest.mark.parametrize(
    "sizes, smallest, step, says",
    [
        ("any", 24, None, "smallest_size: 24 .* from 1 to 23"),
        ("any", 0, None, "smallest_size: 0"),
        ("any", True, None, "smallest_size: True"),
        ("any", 8, 0, "size_step: 0 .* from 1 to 16"),
        ("any", 8, 17, "size_step: 17"),
        ("all", None, None, "must be a list such as .* or any"),
        ([8, 24], 8, None, "smallest_size: 8 belongs to sizes: any"),
        (None, None, 2, "size_step: 2 belongs to sizes: any"),
    ],
)
def test_bad_any_size(sizes, smallest, step, says):
    with pytest.raises(ConfigError, match=f"encoder_conf: .*{says}"):
        sizes_of_supernet(sizes, 24, smallest, step)


@pytest.mark.parametrize(
    "layers, smallest, step, count, chosen",
    [
        (48, None, None, 11, [16, 19, 22, 26, 29, 32, 35, 38, 42, 45, 48]),
        (48, 16, None, 4, [16, 32, 37, 48]),  # the middle one instead of its neighbour 27
        (24, None, None, 3, [8, 16, 24]),
        (24, None, None, 17, list(range(8, 25))),
        (24, None, None, 99, list(range(8, 25))),
        (24, 5, 4, 11, [5, 9, 13, 17, 21, 24]),
        (24, 23, None, 11, [23, 24]),
    ],
)
def test_evenly_spaced_sizes_have_the_anchors(layers, smallest, step, count, chosen):
    assert evenly_spaced(sizes_of_supernet("any", layers, smallest, step), count) == chosen


@pytest.mark.parametrize("count", range(3, 13))
def test_evenly_spaced_sizes_are_as_many_as_asked_for(count):
    for layers in range(2, 50):
        for smallest in range(1, layers):
            for step in range(1, min(5, layers - smallest + 1)):
                sizes = sizes_of_supernet("any", layers, smallest, step)
                chosen = evenly_spaced(sizes, count)
                assert chosen == sorted(set(chosen)) and set(sizes.anchors) <= set(chosen)
                assert len(chosen) == min(count, len(sizes.all))


def test_of_given_sizes_all_are_taken():
    assert evenly_spaced(sizes_of_supernet([2, 4, 6, 8], 8), 3) == [2, 4, 6, 8]
