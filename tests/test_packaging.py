"""What is in the wheel, and where the version stands."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import wdpurify

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    clone = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, clone.stdout.split("\0")):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        elif (ROOT / name).exists():
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_core_and_the_integrations_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    expected = {"wdpurify/py.typed"}
    expected |= {f"wdpurify/{path.relative_to(ROOT / 'wdpurify')}" for path in (ROOT / "wdpurify").rglob("*.py")}
    expected |= {f"wdpurify/integrations/{path.name}" for path in (ROOT / "integrations").glob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_works_outside_the_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = "import wdpurify, wdpurify.integrations; print(wdpurify.__file__, wdpurify.__version__)"
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    path, version = run.stdout.split()
    assert Path(path).is_relative_to(tmp_path)
    assert version == wdpurify.__version__


def test_version_stands_in_pyproject_alone():
    assert f'version = "{wdpurify.__version__}"' in (ROOT / "pyproject.toml").read_text()
