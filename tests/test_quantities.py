"""Where flats are compared and radial functions are shown."""

import pytest

from bayesflat.quantities import reference_radius, shown_radii


@pytest.mark.parametrize(
    ("reach", "expected"),
    # LSSTCam, with and without its rim; DECam and a small camera; one that is larger than LSSTCam
    [(349.2, 310.0), (312.0, 310.0), (310.0, 263.5), (224.3, 190.7), (60.0, 51.0), (500.0, 425.0)],
)
def test_reference_radius(reach, expected):
    assert reference_radius(reach) == expected


@pytest.mark.parametrize(
    ("reach", "expected"),
    [
        (349.2, (0, 200, 300, 310, 330)),
        (330.0, (0, 200, 300, 310, 330)),
        (325.0, (0, 160, 240, 290)),
        (224.3, (0, 110, 170, 200)),
        (500.0, (0, 250, 380, 450)),
        (1.04, (0, 0.52, 0.78, 0.94)),
    ],
)
def test_shown_radii(reach, expected):
    assert shown_radii(reach) == expected
    assert max(shown_radii(reach)) <= reach
