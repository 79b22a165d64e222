"""The examples of the documentation run, on a small camera; and nothing public is missing from the reference."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import bayesflat
from bayesflat.cli import run
from bayesflat.config import PRIOR_NAMES
from bayesflat.simulation.detectors import simulate_binned
from bayesflat.simulation.truth import Light, Noise
from tests.helpers import NODES, VALUES

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


SLOW_FROM = "(own-term)="  # what follows takes minutes


def blocks(page, language="python", until=None):
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text.split(until)[0] if until else text, re.M | re.S)


def test_there_are_examples():
    assert {page.name for page in PAGES if blocks(page)} >= {"start.md", "howto.md", "model.md"}


@pytest.fixture(scope="module")
def folder(small_camera, tmp_path_factory):
    """What the pages call ``demo``."""
    out = tmp_path_factory.mktemp("docs")
    (out / "demo" / "dome").mkdir(parents=True)
    small_camera.write(out / "demo" / "dome" / "camera.ecsv")
    noise = Noise(white=0.001, detector_scatter=0.01, amplifier_scatter=0.003)
    for kind, gradient in (("sky", (0.0, 0.0)), ("dome", (2e-4, -1e-4))):
        light = Light(radial=(NODES, VALUES), gradient=gradient, itl_ratio=0.9)
        binned = simulate_binned(small_camera, light, noise, 5, kind=kind, bin_factor=10, detector_boundary=0)
        binned.write(out / f"{kind}.fits")
        arguments = ["fit", out / f"{kind}.fits", "-o", out / "demo" / f"{kind}_fit", "-q", "--no-report",
                     "--camera", out / "demo" / "dome" / "camera.ecsv", "-c", f"radial_spline_nodes={NODES}",
                     "-c", "do_fit_gradient=true", "-c", "do_fit_centroid=true", "-c", "centroid_max=2",
                     "-c", "do_constrain_zero=false", "-c", f"do_reference_gradient={kind == 'sky'}"]  # fmt: skip
        assert run([str(a) for a in arguments]) == 0
    return out


# those of the pages on LSST's data need a repository: tests/rubin does what they show
RUN = [page for page in PAGES if blocks(page) and not page.name.startswith("lsst")]


# of few draws, which Pareto's k of single detectors is near the limit for
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_examples_of_a_page_run_in_their_order(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    for number, block in enumerate(blocks(page, until=SLOW_FROM), 1):
        exec(compile(block, f"{page.name}, example {number}", "exec"), names)
    if page.name == "start.md":
        assert names["comparison"].method == "paired"
        assert abs(names["comparison"].differences["gradient_x"].mean - 2e-4) < 1e-5
        assert "</html>" in Path("report.html").read_text(encoding="utf-8")
    if page.name == "statistics.md":
        check_statistics(**names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
def test_a_term_of_ones_own_is_found(folder, monkeypatch):
    """The whole page for statisticians, whose second model takes as long as the first."""
    monkeypatch.chdir(folder)
    names = {}
    for number, block in enumerate(blocks(ROOT / "docs" / "statistics.md"), 1):
        exec(compile(block, f"statistics.md, example {number}", "exec"), names)
    bend, compared = names["with_bend"]["posterior"]["bend"], names["compared"]
    assert abs(float(bend.mean()) - 5.0) < 4 * float(bend.std())
    assert list(compared.index) == ["bend", "plain"]
    assert compared.loc["plain", "elpd_diff"] < -2 * compared.loc["plain", "dse"]


def check_statistics(*, result, noise, draws, by_detector, loo, tree, **_):
    """What the page's calls give, against simulated truth and against what is computed in another way."""
    detector = result.data.binned.detector
    logs = np.log(draws["posterior_predictive"]["flat"].values.reshape(-1, len(result.data)))
    # replicated detectors scatter as the simulated ones do, to the error of nine of them and the prior's pull
    middle = [logs[:, detector == d].mean(1) for d in (1, 4, 7)]
    known = np.log(noise.detector_scatter)
    scales = draws["posterior"]["log_noise_scales"].sel(noise_scale=["detector itl", "detector rest"])
    low, high = np.quantile(scales, (0.01, 0.99), axis=(0, 1))
    assert np.all((low < known) & (known < high))
    spread = np.std(middle[0] - middle[1]) / 2**0.5
    expected = float(np.sqrt(np.mean(np.exp(2 * scales.sel(noise_scale="detector rest")))))
    assert 0.7 < spread / expected < 1.8  # amplifiers, surfaces and planes add to it
    assert list(draws["log_likelihood"].data_vars) == ["flat"]
    # leave-one-out: what PSIS makes of the draws, against the normal integrals at the fitted scales
    exact, k = bayesflat.leave_one_out(result).elpd, loo.pareto_k.values
    assert np.all(np.abs(loo.elpd_i.values - exact)[k < 0.7] < 0.02 * np.abs(exact)[k < 0.7])
    assert tree["posterior"].attrs["corrected"] == 1
    ours, theirs = (of["posterior"]["gradient"] for of in (tree, draws))
    ratio = (ours.std(("chain", "draw")) / theirs.std(("chain", "draw"))).values
    assert np.all(np.abs(np.log(ratio)) < 0.5)  # of 150 draws that are correlated
    throughput = by_detector["posterior"]["throughput"].mean(("chain", "draw"))
    np.testing.assert_allclose(
        throughput, result.gradient.offsets.mean[result.gradient.offsets.amplifier < 0], atol=2e-3
    )


def test_the_reference_has_every_public_name():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^   (\w+)$", text.split("currentmodule:: bayesflat.simulation.truth")[0], re.M)
    assert sorted(listed) == list(bayesflat.__all__)


def test_every_prior_is_explained():
    text = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
    assert [name for name in PRIOR_NAMES if f"| `{name}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page):
    """Every ``bayesflat`` line in a shell example names a command and options that there are."""
    from bayesflat.cli import cli

    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.split("#")[0].split()
            if words[:1] != ["bayesflat"]:
                continue
            known = {option for parameter in cli.commands[words[1]].params for option in parameter.opts}
            assert {word for word in words if re.fullmatch(r"--?[a-zA-Z][\w-]*", word)} <= known, line
            fields = re.findall(r"-c '?([\w.]+)=", line)
            assert {field.split(".")[0] for field in fields} <= set(bayesflat.RunConfig.model_fields), line


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_output_and_say_what_one_should_see(path):
    """`make docs` runs them; this checks what is easily forgotten."""
    before = ""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            if re.search(r"\bplot_\w+\(|plt\.subplots\(", source):
                assert "one should see" in before.replace("\n", " "), source
        else:
            before = source


def test_promises_name_tests_that_exist():
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")))
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).is_file()] == []
