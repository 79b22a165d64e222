"""Damaged inputs, and runs that are killed: what becomes of them, counted.

`make fuzz` runs both in full.  What is damaged are files of a small camera: products, binned tables, camera tables,
flats, defects, configurations.  A case is wrong if it ends in anything but one line and status 2 or in a result, if
something is left of a run that failed, if it takes too long, or if a damaged product is applied as if it were another.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bayesflat.cli import run
from bayesflat.data.camera import Camera, Detector
from bayesflat.data.fitsfile import opened_fits
from bayesflat.errors import InputError
from bayesflat.gradient.product import FlatGradient
from bayesflat.simulation.flats import write_simulation
from bayesflat.simulation.truth import Light, Noise

COMMANDS = ("fit", "apply", "compare", "fit --overwrite")
LONGEST = 60.0  # seconds that a damaged input may take
NODES, VALUES = [0.0, 20.0, 35.0, 45.0, 52.0, 60.0], [1.0, 0.97, 0.9, 0.75, 0.5, 0.3]
FIT = (
    "-c",
    "bin_factor=10",
    "-c",
    "detector_boundary=0",
    "-c",
    "do_fit_gradient=true",
    "-c",
    "normalize_center_radius=60",
)


def small_camera() -> Camera:
    """Nine detectors of 20 mm."""
    detectors = [
        Detector(
            id=3 * j + i, name=f"R{j}{i}_S00", physical_type="ITL" if i == 0 else "E2V", purpose="science",
            x=(i - 1) * 21.0, y=(j - 1) * 21.0, yaw=0.0, nx=200, ny=200, pixel_size=0.1, refpos_x=99.5, refpos_y=99.5,
        )
        for j in range(3) for i in range(3)
    ]  # fmt: skip
    return Camera("Nine", detectors)


@dataclass(frozen=True)
class Inputs:
    """Files of a small camera, whole."""

    folder: Path

    @property
    def camera(self) -> Path:
        """Its table."""
        return self.folder / "dome" / "camera.ecsv"

    @property
    def products(self) -> dict[str, Path]:
        """Of sky and dome."""
        return {"sky": self.folder / "sky_fit" / "flat_gradient_reference.fits",
                "dome": self.folder / "dome_fit" / "flat_gradient.fits"}  # fmt: skip

    def fit(self, kind: str, out: Path, inputs: Path | None = None) -> list[str]:
        """Arguments that fit its flats, or other inputs."""
        flats = inputs or self.folder / kind / "flats"
        return [str(a) for a in ("fit", flats, "-o", out, "--camera", self.camera, *FIT,
                                 "-c", f"do_reference_gradient={kind == 'sky'}", "--no-report", "-q")]  # fmt: skip

    def apply(self, out: Path, dome: Path | None = None, flats: Path | None = None) -> list[str]:
        """Arguments that correct the dome's flats."""
        return [str(a) for a in ("apply", flats or self.folder / "dome" / "flats", "-o", out, "--camera", self.camera,
                                 "--gradient", dome or self.products["dome"],
                                 "--reference", self.products["sky"], "-q")]  # fmt: skip

    def compare(self, out: Path, dome: Path | None = None) -> list[str]:
        """Arguments that compare sky and dome."""
        return [str(a) for a in ("compare", self.products["sky"], dome or self.products["dome"], "-o", out,
                                 "--no-report", "-q")]  # fmt: skip


def make_inputs(folder: Path) -> Inputs:
    """Simulate sky and dome, and fit both."""
    inputs = Inputs(folder)
    light = Light(radial=(NODES, VALUES), itl_ratio=0.9)
    for kind in ("sky", "dome"):
        write_simulation(
            folder / kind, kind=kind, seed=3, camera=small_camera(), light=light,
            noise=Noise(white=5e-4, detector_scatter=0.005, dead_columns=1),
        )  # fmt: skip
    for kind in ("sky", "dome"):
        status = run(inputs.fit(kind, folder / f"{kind}_fit"))
        if status not in (0, 3):
            raise RuntimeError(f"the whole inputs of the {kind} end with status {status}")
    return inputs


# ---- damage ----


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    """The first part only."""
    return content[: rng.integers(len(content))]


def flip(content: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bits are the other way round."""
    damaged = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
    return bytes(damaged)


def fill(content: bytes, rng: np.random.Generator) -> bytes:
    """A stretch of zeros, or of random bytes."""
    start, length = rng.integers(len(content)), rng.integers(1, 3000)
    stretch = bytes(length) if rng.random() < 0.5 else rng.bytes(int(length))
    return content[:start] + stretch[: len(content) - start] + content[start + length :]


def double(content: bytes, rng: np.random.Generator) -> bytes:
    """A stretch is there twice."""
    start, length = rng.integers(len(content)), rng.integers(1, 6000)
    return content[: start + length] + content[start:]


def renumber(content: bytes, rng: np.random.Generator) -> bytes:
    """A number of a header or a table is another one."""
    places = [k for k in range(len(content)) if content[k : k + 1].isdigit() and not content[k - 1 : k].isdigit()]
    if not places:
        return flip(content, rng)
    at = places[rng.integers(len(places))]
    end = at
    while content[end : end + 1].isdigit():
        end += 1
    new = [b"0", b"-1", b"9" * 18, b"1e308", b"nan", b"2147483648"][rng.integers(6)]
    # a card has 80 columns
    room = content[at : at + max(end - at, 20)]
    if content[:6] == b"SIMPLE" and room.strip().isdigit():
        return content[:at] + new.ljust(len(room))[: len(room)] + content[at + len(room) :]
    return content[:at] + new + content[end:]


DAMAGE: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "cut": cut, "bits": flip, "filled": fill, "doubled": double, "number": renumber,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What became of a damaged input."""

    kind: str
    damage: str
    seed: int
    outcome: str  # "refused", "result", or what is wrong with it
    detail: str = ""

    @property
    def wrong(self) -> bool:
        """Whether it should not be."""
        return self.outcome not in ("refused", "result", "not converged")


def _targets(inputs: Inputs, work: Path) -> dict[str, tuple[Path, Callable[[Path], list[str]]]]:
    """What is damaged, and the command that reads it."""
    out = work / "out"
    flat = sorted((inputs.folder / "dome" / "flats").iterdir())[0]
    config = work / "whole.toml"
    config.write_bytes((inputs.folder / "dome_fit" / "config.toml").read_bytes())
    table = inputs.folder / "dome_fit" / "binned_image.fits"
    defects = sorted((inputs.folder / "dome" / "defects").iterdir())[0]
    return {
        "product, applied": (inputs.products["dome"], lambda path: inputs.apply(out, path, flat)),
        "product, compared": (inputs.products["dome"], lambda path: [*inputs.compare(out, path), "--unpaired"]),
        "flat, corrected": (flat, lambda path: inputs.apply(out, flats=path)),
        "binned table, fitted": (table, lambda path: inputs.fit("dome", out, path)),
        "camera table": (inputs.camera, lambda path: [*inputs.fit("dome", out, table), "--camera", str(path)]),
        "configuration": (
            config,
            lambda path: ["fit", str(table), "-C", str(path), "-o", str(out), "--no-report", "-q"],
        ),
        "defects": (defects, lambda path: [*inputs.fit("dome", out, flat), "--defects", str(path)]),
    }


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(inputs: Inputs, work: Path, n: int, seed: int) -> list[Case]:
    """Damage each kind of file in each way, ``n`` times, and run the command that reads it."""
    cases = []
    for kind, (path, arguments) in _targets(inputs, work).items():
        content = path.read_bytes()
        for name, damage in DAMAGE.items():
            for k in range(n):
                number = seed + k
                rng = np.random.default_rng([number, *f"{kind} {name}".encode()])
                damaged = work / f"damaged{''.join(path.suffixes)}"
                damaged.write_bytes(damage(content, rng))
                outcome, detail = _outcome(arguments(damaged), work / "out")
                if outcome == "result" and kind.startswith("product"):
                    outcome, detail = _same(path, damaged)
                cases.append(Case(kind, name, number, outcome, detail))
                shutil.rmtree(work / "out", ignore_errors=True)
    return cases


def _outcome(arguments: list[str], out: Path) -> tuple[str, str]:
    """How a command ends, and why that is wrong where it is."""
    said = io.StringIO()
    try:
        with _within(LONGEST), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            status = run(arguments)
    except TimeoutError:
        return "takes too long", ""
    except BaseException:
        return "traceback", traceback.format_exc(limit=-3)
    lines = [line for line in said.getvalue().splitlines() if line.startswith("bayesflat: ")]
    left = _left(out)
    if left or (status == 2 and out.exists()):
        return "leaves something behind", ", ".join(left)
    if status == 2:
        return ("refused", lines[0]) if len(lines) == 1 else ("more than one line", said.getvalue()[-500:])
    return {0: ("result", ""), 3: ("not converged", "")}.get(status, (f"status {status}", said.getvalue()[-500:]))


def _left(out: Path) -> list[str]:
    """What is not finished, in a folder and beside it."""
    folders = [folder for folder in (out.parent, out) if folder.is_dir()]
    return [
        path.name for folder in folders for path in folder.iterdir() if path.name.startswith((".bayesflat", ".out"))
    ]


def _same(whole: Path, damaged: Path) -> tuple[str, str]:
    """Whether a damaged product that was used holds the same numbers."""
    one, other = (FlatGradient.read(path) for path in (whole, damaged))
    for name in ("itl_ratio", "gradient_x", "gradient_y", "centroid_delta_x", "normalization_factor"):
        if getattr(one, name) != getattr(other, name):
            return "used with other numbers", name
    same = np.array_equal(one.radial_spline_values, other.radial_spline_values)
    return ("result", "") if same else ("used with other numbers", "radial_spline_values")


# ---- kills ----


def kill(inputs: Inputs, work: Path, n: int, seed: int, commands: Sequence[str] = COMMANDS) -> list[Case]:
    """Kill each command at ``n`` moments, and run it again."""
    rng, out = np.random.default_rng(seed), work / "out"
    cases = []
    known = {
        "fit": inputs.fit("dome", out), "apply": inputs.apply(out), "compare": inputs.compare(out),
        "fit --overwrite": [*inputs.fit("dome", out), "--overwrite"],
    }  # fmt: skip
    for name in commands:
        arguments = known[name]
        whole = _timed(arguments, out)
        for k in range(n):
            shutil.rmtree(out, ignore_errors=True)
            if name.endswith("--overwrite"):
                _timed(arguments, out)
            # the last tenth is where files move: half of the moments fall there
            part = rng.uniform(0.9, 1.05) if k % 2 else rng.uniform(0.0, 1.0)
            number = signal.SIGKILL if rng.random() < 0.7 else signal.SIGTERM
            outcome, detail = _killed(arguments, out, part * whole, number)
            cases.append(Case(name, number.name, k, outcome, detail))
    shutil.rmtree(out, ignore_errors=True)
    return cases


def _timed(arguments: list[str], out: Path) -> float:
    """Seconds that a whole run takes."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "bayesflat", *arguments], check=False, capture_output=True)
    return time.perf_counter() - began


def _killed(arguments: list[str], out: Path, after: float, number: signal.Signals) -> tuple[str, str]:
    """What a run that is killed leaves, and whether the next one works."""
    process = subprocess.Popen([sys.executable, "-m", "bayesflat", *arguments], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after)
    ended = process.poll() is not None
    process.send_signal(number)
    process.wait()
    broken = _broken(out)
    if broken:
        return "half a product", broken
    left = _left(out)
    if left and number != signal.SIGKILL:
        return "leaves something behind", ", ".join(left)
    again = [*arguments, *([] if "--overwrite" in arguments else ["--overwrite"])]
    status = subprocess.run([sys.executable, "-m", "bayesflat", *again], check=False, capture_output=True, text=True)
    if status.returncode not in (0, 3):
        return "the next run fails", status.stderr
    left = _left(out)
    if left or _broken(out):
        return "the next run leaves something behind", ", ".join(left)
    return "result" if ended else "refused", ""


def _broken(out: Path) -> str:
    """What is wrong with the files of a folder: cut short, or of two runs, or some without the product."""
    if not out.exists():
        return ""
    runs = set()
    files = sorted(out.iterdir())
    for path in files:
        if path.suffix == ".fits":
            try:
                with opened_fits(path) as hdus:
                    for hdu in hdus:
                        _ = hdu.data
                        runs |= {hdu.header[key] for key in ("RUNID",) if key in hdu.header}
            except InputError as error:
                return f"{path.name}: {error}"
        elif path.suffix == ".json":
            try:
                runs.add(json.loads(path.read_text())["run_id"])
            except ValueError as error:
                return f"{path.name}: {error}"
    if len(runs) > 1:
        return f"files of runs {', '.join(sorted(runs))}"
    return ""


# ---- the table ----


def table(cases: list[Case]) -> str:
    """Cases by kind and outcome."""
    lines = []
    for kind in dict.fromkeys(case.kind for case in cases):
        of_kind = [case for case in cases if case.kind == kind]
        counts = Counter(case.outcome for case in of_kind)
        lines.append(f"{kind:22} {len(of_kind):5}   " + ", ".join(f"{n} {what}" for what, n in counts.most_common()))
    return "\n".join(lines)


def main() -> None:
    """Print a table, write the cases that are wrong, and end with status 1 where there are some."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("-n", type=int, default=40, help="damaged files of each kind and damage (default 40)")
    parser.add_argument("--kills", type=int, default=25, help="moments at which each command is killed (default 25)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("reliability.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inputs, work = make_inputs(Path(folder) / "whole"), Path(folder) / "work"
        work.mkdir()
        cases = fuzz(inputs, work, arguments.n, arguments.seed)
        print(table(cases), flush=True)
        killed = kill(inputs, work, arguments.kills, arguments.seed)
        print("killed (refused: before it was done)\n" + table(killed))
    wrong = [vars(case) for case in cases + killed if case.wrong]
    arguments.output.write_text(json.dumps(wrong, indent=1) + "\n")
    print(f"{len(cases)} damaged inputs, {len(killed)} kills; {len(wrong)} wrong, in {arguments.output}")
    sys.exit(1 if wrong else os.EX_OK)


if __name__ == "__main__":
    main()
