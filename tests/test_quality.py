"""The code itself: style, types, direction of imports, what an import costs, and what must not stand in any file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib

import pytest
from helpers import ROOT

BIN = sys.executable.rsplit("/", 1)[0]
HEAVY = ("torch", "torchvision", "sklearn", "matplotlib", "wandb", "tensorboard", "IPython", "jax", "scipy", "pandas")
# Put together from parts, so that this file does not hold what it looks for.
REGISTRIES = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("anaconda", "org"))]
REGISTRIES += ["download.pytorch" + ".org", "artifact" + "ory", "index-" + "url =", "--extra-index-" + "url"]


def output_of(*command: str) -> tuple[int, str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def project_files() -> dict[str, str]:
    """Name -> text of every text file that belongs to the project: tracked, or new and not ignored."""
    status, names = output_of("git", "ls-files", "--cached", "--others", "--exclude-standard")
    if status != 0:
        pytest.skip("not a git checkout")
    texts = {}
    for name in sorted(set(names.splitlines())):
        path = ROOT / name
        if path.is_file():
            try:
                texts[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:  # a picture
                continue
    return texts


@pytest.mark.parametrize(
    "command",
    [
        (sys.executable, "-m", "ruff", "check", "."),
        (sys.executable, "-m", "ruff", "format", "--check", "."),
        (sys.executable, "-m", "mypy"),
        (f"{BIN}/lint-imports", "--no-cache"),
    ],
    ids=["ruff lint", "ruff format", "mypy", "import-linter"],
)
def test_tools_are_content(command):
    status, output = output_of(*command)
    assert status == 0, output[-4000:]


def imported(statement: str) -> set[str]:
    """Top-level packages in sys.modules after a statement, in a fresh interpreter."""
    code = f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))"
    status, output = output_of(sys.executable, "-c", code)
    assert status == 0, output
    return {name.partition(".")[0] for name in json.loads(output.splitlines()[-1])}


@pytest.mark.parametrize(
    "statement",
    [
        "import course_utils",
        "from course_utils import datasets",
        "import course_utils.cli",
        "import course_utils.lessons.catalogue",
        "import course_utils.lessons.build",
    ],
)
def test_import_loads_nothing_heavy(statement):
    assert imported(statement) & set(HEAVY) == set()


def test_import_is_instant():
    """Nothing outside the standard library is loaded: it takes hundredths of a second. No clock: machines are busy."""
    before, after = imported("pass"), imported("import course_utils")
    assert after - before - sys.stdlib_module_names == {"course_utils"}


def test_public_names_all_load():
    import course_utils

    assert {"start", "check", "hint", "points", "Learner", "datasets", "plots"} <= set(course_utils.__all__)
    for name in course_utils.__all__:
        assert getattr(course_utils, name) is not None


def test_no_registry_host_and_no_path_of_a_machine():
    home = re.compile(r"(?<![\w.~}])/(?:home|Users|root|work)/\w+")
    for name, text in project_files().items():
        for host in REGISTRIES:
            assert host not in text, f"{name} names {host}"
        if name != "requirements.lock":
            found = home.search(text)
            assert not found, f"{name} holds a path of some machine: {found[0]!r}"
            assert str(ROOT) not in text, f"{name} holds the path of this checkout"


def test_no_remote_style_sheets_fonts_or_scripts():
    from course_utils.lessons.report import REMOTE

    for name, text in project_files().items():
        if name.startswith("tests/") or not name.endswith((".py", ".ipynb", ".html", ".css", ".md")):
            continue
        for match in REMOTE.finditer(text.replace('\\"', '"')):
            assert not re.match(r"<(script|link)|@import|url", match[0], re.IGNORECASE), f"{name}: {match[0]}"
    assert not [name for name in project_files() if name.endswith((".woff", ".woff2", ".ttf"))]


def test_lock_names_every_dependency_with_hashes():
    """requirements.lock was made from this pyproject.toml: every direct dependency is in it, at or above its floor."""
    from packaging.requirements import Requirement

    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", lock, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *extras["teach"], *extras["test"], *extras["jax"], *extras["compress"]]:
        requirement = Requirement(line)
        if requirement.name == "course-utils":
            continue
        assert requirement.name in pinned, f"{line} is not in requirements.lock; run `make lock`"
        assert requirement.specifier.contains(pinned[requirement.name]), (
            f"{line} is locked at {pinned[requirement.name]}"
        )
    entries = re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in entry for entry in entries) and len(entries) > 100


def test_command_line_explains_itself():
    status, output = output_of(sys.executable, "-m", "course_utils.cli", "--help")
    assert status == 0 and all(command in output for command in ("run", "build", "check", "data", "bench"))
    status, output = output_of(sys.executable, "-m", "course_utils.cli", "run")
    assert status == 2 and "name lessons" in output
    status, output = output_of(sys.executable, "-m", "course_utils.cli", "build", "99")
    assert status == 1 and "there is no lesson '99'; the lessons are 00_start_here" in output
    assert "Traceback" not in output
    status, output = output_of(sys.executable, "-m", "course_utils.cli", "data", "get", "nothing")
    assert status == 1 and "nothing" in output and "Traceback" not in output
    status, output = output_of(sys.executable, "-m", "course_utils.cli", "data", "list")
    assert status == 0 and {"digits", "fashion_mnist", "gtsrb"} <= set(output.split())
    status, output = output_of(sys.executable, "-m", "course_utils.cli", "check", "README.md")
    assert status == 1 and "README.md is not a notebook" in output and "Traceback" not in output
