"""From simulated flats of DECam and HSC to a corrected dome that looks like the sky, and what is printed on the way."""

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import bayesflat as bf
from bayesflat.cli import run
from bayesflat.commands.tables import fit_table
from tests.helpers import complaint

TERMS = ["-c", "do_fit_centroid=true", "-c", "do_fit_gradient=true"]
BINS = ["-c", "bin_factor=4", "-c", "detector_boundary=0"]  # of pixels 32 times as large: 1.92 mm


def walk(folder, camera, *options):
    """Simulate sky and dome, fit both, compare, correct the dome, fit and compare again."""
    at = {name: str(folder / name) for name in ("sky_fit", "dome_fit", "compare", "corrected", "refit", "closure")}

    def fit(flats, kind, out, *more):
        made = ["--camera", f"{folder / kind}/camera.ecsv", "--defects", f"{folder / kind}/defects"]
        assert run(["fit", str(flats), *made, *BINS, *TERMS, *more, "--no-report", "-q", "-o", out]) == 0

    for kind in ("sky", "dome"):
        made = ["simulate", "--camera", camera, "--coarse", "32", "--seed", "3", "--kind", kind]
        assert run([*made, *options, "-q", "-o", str(folder / kind)]) == 0
    fit(folder / "sky" / "flats", "sky", at["sky_fit"], "-c", "do_reference_gradient=true")
    fit(folder / "dome" / "flats", "dome", at["dome_fit"])
    table = ["--camera", f"{folder}/sky/camera.ecsv", "-q"]
    sky = f"{at['sky_fit']}/flat_gradient_reference.fits"
    assert run(["compare", sky, f"{at['dome_fit']}/flat_gradient.fits", *table, "-o", at["compare"]]) == 0
    paired = f"{at['compare']}/flat_gradient_paired.fits"
    flats = str(folder / "dome" / "flats")
    assert run(["apply", flats, "--gradient", paired, "--reference", sky, *table, "-o", at["corrected"]]) == 0
    fit(at["corrected"], "dome", at["refit"])
    assert run(["compare", sky, f"{at['refit']}/flat_gradient.fits", *table, "-o", at["closure"]]) == 0
    return folder


CASES = {"decam, one file": ("decam", "--mef"), "decam": ("decam",), "hsc": ("hsc",)}


@pytest.fixture(scope="module", params=CASES)
def walked(request, tmp_path_factory):
    return walk(tmp_path_factory.mktemp("walk"), *CASES[request.param])


@pytest.mark.slow
def test_refit_against_sky(walked):
    closure = json.loads((walked / "closure" / "comparison.json").read_text())
    radius, mean, sd = (np.array(closure["radial"][key]) for key in ("radius", "mean", "sd"))
    assert np.all(np.abs(mean[1:]) < 3 * sd[1:])
    assert np.sqrt(np.average(mean**2, weights=radius)) < 0.3  # mmag, over the area
    for name in ("centroid_delta_x", "centroid_delta_y"):
        assert abs(closure["differences"][name]["mean"]) < 3 * closure["differences"][name]["sd"]
    estimates = bf.FlatGradient.read(walked / "refit" / "flat_gradient.fits").estimates
    for name in ("gradient_x", "gradient_y"):  # a correction removes the plane
        assert abs(estimates[name]["map"]) < 3 * estimates[name]["sd"]


@pytest.mark.slow
def test_difference_is_the_truth(walked):
    truth = json.loads((walked / "dome" / "truth.json").read_text())
    found = json.loads((walked / "compare" / "comparison.json").read_text())["differences"]
    for name in ("centroid_delta_x", "centroid_delta_y", "gradient_x", "gradient_y"):
        assert abs(found[name]["mean"] - truth[name]) < 4 * found[name]["sd"]


@pytest.mark.slow
def test_every_image_is_corrected_by_the_model(walked):
    camera = bf.get_camera(walked / "dome" / "camera.ecsv")
    dome = bf.FlatGradient.read(walked / "compare" / "flat_gradient_paired.fits")
    sky = bf.FlatGradient.read(walked / "sky_fit" / "flat_gradient_reference.fits")
    seen = []
    for path in sorted((walked / "corrected").glob("*.fits")):
        with fits.open(path) as new, fits.open(walked / "dome" / "flats" / path.name) as old:
            assert [hdu.name for hdu in new] == [hdu.name for hdu in old]
            assert "CPPGRSUM" in new[0].header
            for after, before in zip(new, old, strict=True):
                if before.data is None:
                    continue
                assert len(new) == 2 or "CPPGRSUM" in after.header
                seen.append(before.header.get("CCDNUM", before.header.get("DET-ID")))
                detector = camera[seen[-1]]
                x, y = detector.pixel_to_focal_plane(*np.meshgrid(np.arange(detector.nx), np.arange(detector.ny)))
                factor = dome.compute_plane(x, y) / dome.normalization_factor
                factor *= sky.compute_radial(sky.radius(x, y)) / dome.compute_radial(dome.radius(x, y))
                known = np.isfinite(before.data) & (before.data != 0) & np.isfinite(after.data)
                assert known.mean() > 0.5
                ratio = after.data[known].astype(float) / before.data[known]
                np.testing.assert_allclose(ratio, factor[known], rtol=1e-6)
    assert sorted(seen) == [d.id for d in camera.science()]


# ---- in a moment ----


@pytest.fixture(scope="module")
def decam_fit():
    light = bf.default_light("dome", "i", bf.decam().scale)
    binned = bf.simulate_binned(
        bf.decam(), light, bf.Noise(white=5e-4, detector_scatter=0.005), 4, kind="dome", bin_factor=256
    )
    return bf.fit(binned, bf.FitConfig(do_fit_centroid=True, do_fit_gradient=True))


def test_lengths_follow_the_camera(decam_fit):
    # 224.3 mm over 350, times 10 and 325
    assert (decam_fit.config.centroid_max, decam_fit.config.outer_gradient_radius) == (6.41, 208.0)
    assert decam_fit.gradient.outer_gradient_radius == 208.0


def printed(gradient):
    table = fit_table(gradient)
    return dict(zip(table.columns[0].cells, table.columns[1].cells, strict=True))


def test_nothing_is_printed_beyond_the_bins(decam_fit):
    gradient = decam_fit.gradient
    rows = printed(gradient)
    radii = [float(name.split()[3]) for name in rows if name.startswith("radial function at")]
    reach = decam_fit.data.radius.max() + 0.6  # the centroid moved by 0.6 mm
    assert radii[0] == 0
    assert 0.85 * reach < radii[-1] < reach
    for radius in radii:
        assert float(rows[f"radial function at {radius:g} mm"]) == pytest.approx(
            gradient.compute_radial(radius), abs=1e-5
        )
    page = bf.fit_report(decam_fit)
    assert "radial function at 330 mm" not in page
    assert "radial at 310 mm" not in page


def test_one_group_has_no_ratio(decam_fit):
    assert "itl_ratio" not in printed(decam_fit.gradient)
    assert "GROUPS" not in decam_fit.gradient.estimates.header
    assert decam_fit.gradient.itl_ratio == 1.0
    assert "Not fitted: outer plane, throughput ratio (one vendor only)." in bf.fit_report(decam_fit)


def test_groups_are_named(small_camera, tmp_path):
    """What was ITL and E2V is called deep and thin by a column."""
    path = tmp_path / "camera.ecsv"
    small_camera.write(path)
    table = Table.read(path)
    table["group"] = ["deep" if kind == "ITL" else "thin" for kind in table["physical_type"]]
    table.write(path, overwrite=True)
    camera = bf.Camera.read(path)
    light = bf.Light(radial=([0.0, 40.0, 80.0], [1.0, 0.9, 0.6]), itl_ratio=0.8, gradient=(1e-4, 0.0))
    noise = bf.Noise(white=1e-3, detector_scatter=0.003)
    binned = bf.simulate_binned(camera, light, noise, 1, bin_factor=20, detector_boundary=0)
    assert binned.groups == ("deep", "thin")
    result = bf.fit(binned, bf.FitConfig(do_fit_gradient=True, normalize_center_radius=30.0))
    gradient = result.gradient
    assert abs(gradient.itl_ratio - 0.8) < 5 * gradient.estimates["itl_ratio"]["sd"] + 0.004
    assert gradient.estimates.header["GROUPS"][0] == "deep / thin"
    assert float(printed(gradient)["itl_ratio (deep / thin)"]) == pytest.approx(gradient.itl_ratio, rel=1e-5)
    page = bf.fit_report(result)
    assert "throughput ratio deep / thin" in page
    assert "ITL ratio" not in page
    sky = bf.simulate_binned(camera, light, noise, 1, kind="dome", bin_factor=20, detector_boundary=0)
    lines = bf.comparison_lines(bf.compare(result, bf.fit(sky, result.config)))
    assert any(line.startswith("itl_ratio (deep / thin): ") for line in lines)


def test_a_filter_without_a_band(tmp_path, capsys):
    arguments = ["simulate", "--camera", "hsc", "--physical-filter", "NB0921", "-o", tmp_path / "out"]
    expected = "bayesflat: filter 'NB0921': its first letter must be a band, one of u, g, r, i, z, y"
    assert complaint(arguments, capsys) == expected
    assert not (tmp_path / "out").exists()
