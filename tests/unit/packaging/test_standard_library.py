"""The folder `operator/` never shadows the standard library's module of that name, however PeftJob is installed."""

import subprocess
import venv
import zipfile
from pathlib import Path

import pytest
from build import ProjectBuilder
from pyproject_hooks import quiet_subprocess_runner

ROOT = Path(__file__).resolve().parents[3]
USE = "import operator; print(operator.add(1, 1)); print(operator.__file__)"
FOLDERS = {
    "peftjob_api": "crds",
    "peftjob_operator": "operator",
    "peftjob_bottleneck": "trainer",
    "peftjob_trainer": "trainer",
}
FIND = f"import importlib.util as u; [print(s.origin if s else None) for s in map(u.find_spec, {list(FOLDERS)})]"


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return clean interpreters: one without PeftJob, one with an editable and one with a wheel install."""
    builder = ProjectBuilder(ROOT, runner=quiet_subprocess_runner)  # without isolation: needs no network
    found = {}
    for kind in ("nothing", "editable", "wheel"):
        folder = tmp_path_factory.mktemp(kind)
        venv.create(folder, with_pip=False, symlinks=True)
        found[kind] = folder / "bin/python"
        if kind != "nothing":
            (site,) = folder.glob("lib/python*/site-packages")
            zipfile.ZipFile(builder.build(kind, folder)).extractall(site)
    return found


def in_root(python: Path, code: str, pythonpath: str | None) -> list[str]:
    """Run code in an interpreter whose working directory is the project's root; return the lines it printed."""
    env = {"PYTHONDONTWRITEBYTECODE": "1", **({} if pythonpath is None else {"PYTHONPATH": pythonpath})}
    done = subprocess.run([python, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("pythonpath", [None, "."], ids=["no PYTHONPATH", "the root on PYTHONPATH"])
@pytest.mark.parametrize("installed", ["nothing", "editable", "wheel"])
def test_operator_is_the_standard_librarys(pythons: dict[str, Path], installed: str, pythonpath: str | None) -> None:
    total, file = in_root(pythons[installed], USE, pythonpath)
    assert total == "2"
    assert ROOT not in Path(file).parents
    assert Path(file).name == "operator.py"


def test_the_editable_install_finds_our_packages_in_the_tree(pythons: dict[str, Path]) -> None:
    want = [str(ROOT / folder / name / "__init__.py") for name, folder in FOLDERS.items()]
    assert in_root(pythons["editable"], FIND, None) == want


def test_the_wheel_brings_our_packages_and_nothing_else(pythons: dict[str, Path]) -> None:
    (site,) = pythons["wheel"].parents[1].glob("lib/python*/site-packages")
    assert in_root(pythons["wheel"], FIND, None) == [str(site / name / "__init__.py") for name in FOLDERS]
    top = {path.name for path in site.iterdir() if path.suffix != ".dist-info"}
    assert top == set(FOLDERS)


def test_nothing_of_ours_is_found_without_an_install(pythons: dict[str, Path]) -> None:
    assert in_root(pythons["nothing"], FIND, ".") == ["None"] * len(FOLDERS)
