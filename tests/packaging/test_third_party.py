"""The built wheels: what they carry, and that a stranger's plugin works beside them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = (
    "model.config.hidden_size=32 model.config.num_hidden_layers=1 "
    "model.config.intermediate_size=64 "
    "model.config.num_attention_heads=2 model.config.num_key_value_heads=2 data.max_length=64 "
    "data.batch_size=4 tokenizer.vocab_size=300 stage.sample_tokens=0 trainer.max_steps=5"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel and the sdist of Ontogeny and the wheel of the example."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    subprocess.run(
        [*build, "--wheel", str(ROOT / "examples" / "third_party")], check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="module")
def python(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of a new environment with both wheels, and the dependencies of this one."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    own = next(place.glob("lib/python*/site-packages"))
    wheels = [str(wheel) for wheel in built.glob("*.whl")]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(own), *wheels], check=True, capture_output=True)
    # Seen after the environment's own packages; its editable installs are not followed from here.
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin" / "python"


def ontogeny(python: Path, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command of the built wheel in a foreign folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = {**kept, "ONTOGENY_HOME": str(place / "home")}
    command = [str(python), "-m", "ontogeny", *arguments]
    return subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, check=False
    )


def names(built: Path, pattern: str) -> set[str]:
    archive = next(built.glob(pattern))
    if archive.suffix == ".whl":
        return set(zipfile.ZipFile(archive).namelist())
    with tarfile.open(archive) as sdist:
        return {name.partition("/")[2] for name in sdist.getnames()}


@pytest.mark.parametrize("pattern", ["ontogeny-*.whl", "ontogeny-*.tar.gz"])
def test_wheel_and_sdist_carry_every_config_and_the_example_data(built: Path, pattern: str) -> None:
    carried = names(built, pattern)
    for source in ("conf/ontogeny_conf", "plugins/ontogeny_plugins", "core/ontogeny"):
        files = [each for each in (ROOT / source).rglob("*") if each.is_file()]
        wanted = [each for each in files if not re.search(r"/(__pycache__|\.)", str(each))]
        base = ROOT if pattern.endswith("gz") else (ROOT / source).parent
        missing = {each.relative_to(base).as_posix() for each in wanted} - carried
        assert missing == set()


def test_the_wheel_is_what_runs(python: Path, tmp_path: Path) -> None:
    code = "import ontogeny; print(ontogeny.__file__)"
    command = [str(python), "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(python.parents[1])


def test_the_plugin_is_listed_with_its_version(python: Path, tmp_path: Path) -> None:
    done = ontogeny(python, tmp_path, "plugins")
    line = next(line for line in done.stdout.splitlines() if line.startswith("focal"))
    assert line.split()[1:3] == ["ontogeny-focal", "0.1.0"]


def test_the_plugins_config_file_composes(python: Path, tmp_path: Path) -> None:
    done = ontogeny(python, tmp_path, "--cfg", "job", "objective=focal_strong")
    assert done.returncode == 0, done.stderr
    assert "gamma: 5.0" in done.stdout


def test_a_value_of_the_wrong_type_is_refused(python: Path, tmp_path: Path) -> None:
    done = ontogeny(python, tmp_path, "objective=focal", "objective.gamma=abc")
    assert done.returncode == 2
    assert done.stderr == "ontogeny: objective.gamma is 'abc'; expected a number\n"


def test_a_run_with_the_plugin_trains(python: Path, tmp_path: Path) -> None:
    done = ontogeny(python, tmp_path, "objective=focal_strong", *SMALL.split())
    assert done.returncode == 0, done.stderr
    metrics = json.loads(next(tmp_path.glob("outputs/*/*/metrics.json")).read_text())
    assert metrics["pretraining"]["perplexity"]["bits_per_byte"]["value"] > 0


def test_the_plugins_own_tests_pass(python: Path, tmp_path: Path) -> None:
    tests = ROOT / "examples" / "third_party" / "tests"
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
