"""Files and folders that appear whole or not at all."""

import errno
import os
import subprocess
import sys

import pytest

from bayesflat.files import filling, naming, owned_folder, remove_left_over, replacing
from tests.helpers import message


def left(folder):
    return sorted(path.name for path in folder.rglob("*"))


def fill(folder, overwrite=False, **contents):
    with filling(folder, sorted(contents) or ["a"], overwrite) as temporary:
        for name, text in contents.items():
            (temporary / name).write_text(text)


# ---- places that cannot be written to, said at the start ----


@pytest.mark.parametrize("below", ["", "deep/er"])
@pytest.mark.parametrize("to", ["nowhere", "loop"])
def test_links_that_lead_nowhere(tmp_path, to, below):
    link = tmp_path / "loop"
    link.symlink_to(tmp_path / to)
    out = link / below
    said = message(fill, out)
    assert said.startswith(f"{out}: ")
    assert "is a link that leads nowhere, or to itself; -o needs a folder" in said
    assert left(tmp_path) == ["loop"]


def test_files_in_the_place_of_folders(tmp_path):
    (tmp_path / "file").write_text("")
    assert message(fill, tmp_path / "file") == f"{tmp_path / 'file'}: is a file; -o needs a folder"
    assert (
        message(fill, tmp_path / "file" / "deeper")
        == f"{tmp_path / 'file' / 'deeper'}: {tmp_path / 'file'} is a file; -o needs a folder"
    )


def test_a_link_to_a_folder_is_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    fill(tmp_path / "link", a="1")
    assert left(tmp_path / "real") == ["a"]


def test_what_lies_in_the_place_of_a_file(tmp_path):
    (tmp_path / "a").symlink_to("nowhere")
    assert "holds a already" in message(fill, tmp_path, a="1")
    fill(tmp_path, overwrite=True, a="1")
    assert (tmp_path / "a").read_text() == "1"
    assert not (tmp_path / "a").is_symlink()
    (tmp_path / "b").mkdir()
    assert message(fill, tmp_path, overwrite=True, b="1").startswith(f"{tmp_path / 'b'}: is a folder, where a file")


# ---- disks that are full ----


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("[Errno 28] No space left on device"),  # astropy's
        OSError("Not enough space on disk: requested 20, available 10. "),
        OSError("16 requested and 0 written"),  # NumPy's
    ],
)
def test_a_full_disk_names_what_is_written(tmp_path, error):
    with pytest.raises(OSError, match="No space left on device") as caught, filling(tmp_path / "out", ["a"]):
        raise error
    assert caught.value.filename == str(tmp_path / "out")
    assert left(tmp_path) == []


def test_files_that_are_not_finished_have_the_name_that_they_were_to_get(tmp_path):
    with pytest.raises(OSError, match="Input/output") as caught, filling(tmp_path / "out", ["a"]) as folder:
        raise OSError(errno.EIO, "Input/output error", str(folder / "a"))
    assert caught.value.filename == str(tmp_path / "out" / "a")


def test_a_single_file_that_is_not_finished_too(tmp_path):
    with pytest.raises(OSError, match="File too large") as caught, replacing(tmp_path / "b.fits") as path:
        raise OSError(errno.EFBIG, "File too large", str(path))
    assert path.name == "b.fits"
    assert caught.value.filename == str(tmp_path / "b.fits")


def test_other_errors_stay_as_they_are(tmp_path):
    with pytest.raises(OSError, match="Input/output error") as caught, naming(tmp_path):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.filename is None


# ---- what killed processes leave ----

_HOLD = """
import sys, time
from bayesflat.files import owned_folder
with owned_folder(sys.argv[1]) as folder:
    (folder / "half").write_text("half")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    yield process, process.stdout.readline().strip()
    process.kill()
    process.wait()
    process.stdout.close()


def test_only_what_no_living_process_owns_is_removed(tmp_path, holder):
    process, folder = holder
    others = tmp_path / ".bayesflat-notes"
    others.mkdir()  # the user's
    fill(tmp_path, a="1")
    assert os.path.exists(os.path.join(folder, "half"))  # its process lives
    process.kill()
    process.wait()
    assert os.path.exists(os.path.join(folder, "half"))
    fill(tmp_path, overwrite=True, a="2")
    assert left(tmp_path) == [".bayesflat-notes", "a"]


def test_a_link_of_that_name_is_not_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("")
    (tmp_path / ".bayesflat-abcdefgh").symlink_to("precious")
    remove_left_over(tmp_path)
    assert left(tmp_path) == [".bayesflat-abcdefgh", "file", "precious"]


def test_the_folder_goes_on_errors(tmp_path):
    with pytest.raises(FileNotFoundError), owned_folder(tmp_path) as folder:
        (folder / "a").rename(folder / "b")
    assert left(tmp_path) == []
