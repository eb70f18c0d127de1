"""Files of the commands: whole or absent, and a folder that cannot be written to is refused before the work starts."""

import errno
import sys

import pytest

from wdpurify.audit import __main__ as command
from wdpurify.audit import features
from wdpurify.audit._files import check_folder, whole, write_whole


def _unwritable(tmp_path):
    (tmp_path / "file").write_text("kept")
    return {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "out", "read-only": "/proc/self/out"}


@pytest.mark.parametrize("kind", ["a file", "below a file", "read-only"])
@pytest.mark.parametrize("main", [command.main, features.main], ids=["audit", "features"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(main, kind, tmp_path, monkeypatch):
    if kind == "read-only" and sys.platform != "linux":
        pytest.skip("needs a folder that nobody may write to")
    for module in (command, features):
        monkeypatch.setattr(module, "run", lambda *_: pytest.fail("the work has started"))
    out = _unwritable(tmp_path)[kind]
    given = ["--task", "x", "--columns", "y", "--out", str(out)]
    if main is features.main:
        given = ["--backbone", "x", "--checkpoints", "a=b", "--rows", "x", "--out", f"{out}/map.png"]
        given += ["--class-column", "y", "--nuisance-column", "z"]
    with pytest.raises(SystemExit, match=r"--out needs a folder to write to, got .*Give another folder"):
        main(given)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_full_disk_leaves_the_former_file_whole_and_says_so(tmp_path):
    path = tmp_path / "audit.md"
    write_whole(path, "former")

    def fill(unfinished):
        unfinished.write_text("half of")
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(ValueError, match=r"audit.md cannot be written \(No space left on device\). Make room"),
        whole(path) as file,
    ):
        fill(file)
    assert path.read_text() == "former"
    assert [each.name for each in tmp_path.iterdir()] == ["audit.md"]


def test_names_that_are_no_unicode_are_written_as_escape_sequences(tmp_path):
    write_whole(tmp_path / "audit.md", "name \ud800")
    assert (tmp_path / "audit.md").read_text() == "name \\ud800"
    check_folder(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
