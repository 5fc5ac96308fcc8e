"""What the documentation names exists and works: links, lessons, commands, settings, tags, hooks, and its code."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from helpers import ROOT

from course_utils import cli
from course_utils.lessons import catalogue, placeholders, source
from course_utils.lessons.build import build
from course_utils.repository import REPOSITORY

README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
PAGES = [README, CONTRIBUTING, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "data").glob("*.md"))]
PAGES.append(ROOT / "benchmarks" / "README.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A page without fenced blocks and inline code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def python_blocks(path: Path) -> list[str]:
    return [code for language, code in FENCE.findall(read(path)) if language == "python"]


def commands(text: str) -> list[str]:
    """Every command line of a page: indented lines, and inline code, without comments."""
    unfenced = FENCE.sub("", text)
    lines = re.findall(r"^ {4}(\S.*)$", unfenced, re.MULTILINE) + re.findall(r"`([^`\n]+)`", unfenced)
    return [line.partition(" #")[0].strip() for line in lines]


def starting(word: str) -> list[tuple[str, str]]:
    """(page, command) of every command of a program that some page names, settings before it taken off."""
    found = []
    for path in PAGES:
        for line in commands(read(path)):
            bare = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line)
            if bare.startswith(word + " "):
                found.append((path.relative_to(ROOT).as_posix(), bare))
    return found


def table(text: str, heading: str) -> list[list[str]]:
    """Rows of the table that follows a table head starting with `heading`: cells without their margins."""
    _, found, rest = text.partition(f"\n| {heading} |")
    assert found, f"there is no table that begins with {heading!r}"
    rows = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]


def code_in_first_column(text: str, heading: str) -> list[str]:
    return [row[0].strip("`") for row in table(text, heading)]


# ---- links -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_of_the_project(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(read(path))):
        if re.match(r"https?:|#", link):
            continue
        target = (path.parent / link.partition("#")[0]).resolve()
        assert target.exists(), f"{path.name} links to {link}, which does not exist"
        assert target.is_relative_to(ROOT), f"{path.name} links to {link}, outside of the project"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_named_in_code_exist(path):
    """`course_utils/x.py` and the like, where they are not patterns such as `lesson_NN.py`."""
    folders = "course_utils|solutions|notebooks|tests|docs|data|results|benchmarks"
    for name in re.findall(rf"`((?:{folders})/[\w./]+)`", FENCE.sub("", read(path))):
        if re.search(r"NN|NAME", name) or name in (
            "data/cache",
            "results/timings.json",
            "results/benchmark_learner.json",
        ):
            continue  # patterns, and what only a run writes
        assert (ROOT / name).exists(), f"{path.name} names {name}, which does not exist"


# ---- lessons -----------------------------------------------------------------------------------------------------


def expected_row(lesson: catalogue.Lesson) -> list[str]:
    name = f"{lesson.number} {lesson.title}"
    if not lesson.available:
        return [f"{name} (planned)", lesson.question, "", ""]
    solution = ROOT / "solutions" / f"{lesson.slug}.py"
    badge = placeholders.badges(source.Lesson(solution, ()), REPOSITORY)
    link = f"[{name}](notebooks/{lesson.slug}.ipynb) ([solution](solutions/{lesson.slug}.ipynb)) {badge}".strip()
    return [link, lesson.question, str(lesson.minutes), str(lesson.points)]


def test_the_lesson_table_is_the_catalogue():
    assert table(read(README), "lesson") == [expected_row(lesson) for lesson in catalogue.LESSONS]


def test_the_address_stands_in_one_place():
    """While there is no address, no page pretends that there is; with one, pages and citation agree with it."""
    citation = yaml.safe_load(read(ROOT / "CITATION.cff"))
    assert citation.get("repository-code", "") == REPOSITORY
    assert ("colab.research.google.com" in read(README)) == bool(REPOSITORY)
    assert ("while that address is empty, as it is now" in read(README)) == (not REPOSITORY)


def test_the_citation_names_this_version():
    project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    citation = yaml.safe_load(read(ROOT / "CITATION.cff"))
    assert {"cff-version", "message", "title", "authors", "version", "license", "type"} <= set(citation)
    assert str(citation["version"]) == project["version"] and citation["license"] == project["license"]
    assert f"*{citation['title']}*, version {project['version']}." in read(README)


def test_the_supported_versions_of_python_are_named():
    project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    versions = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    assert f"Python {', '.join(versions[:-1])} or {versions[-1]}" in read(README)


# ---- commands ----------------------------------------------------------------------------------------------------


def make_rules() -> tuple[set[str], set[str]]:
    """Targets and variables of the Makefile."""
    text = read(ROOT / "Makefile")
    targets = set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    return targets, set(re.findall(r"^([A-Z_]+) *\?=", text, re.MULTILINE))


@pytest.mark.parametrize("page,command", sorted(set(starting("make"))), ids=lambda value: value)
def test_make_commands_exist(page, command):
    targets, variables = make_rules()
    for word in shlex.split(command)[1:]:
        name, setting, _ = word.partition("=")
        if word == "-n":
            continue
        assert name in (variables if setting else targets), f"{page}: the Makefile has no {name}"


def planned() -> list[str]:
    """What docs/DECISIONS.md calls planned: commands and make targets by their bare names."""
    paragraph = re.search(r"\*\*Not there yet:\*\*(.*?)come with", read(ROOT / "docs" / "DECISIONS.md"), re.DOTALL)
    assert paragraph, "docs/DECISIONS.md no longer says what is not there yet"
    return re.findall(r"`(?:course )?(\w+)`", paragraph[1])


@pytest.mark.parametrize("page,command", sorted(set(starting("course"))), ids=lambda value: value)
def test_course_commands_are_understood(page, command, capsys):
    """The command's own parser takes them, with NN, NAME and the like as they stand."""
    words = shlex.split(command)[1:]
    if page == "docs/DECISIONS.md" and words[0] in planned():
        return
    try:
        cli._parser().parse_args(words)
    except SystemExit:
        pytest.fail(f"{page} names `{command}`, which is not understood: {capsys.readouterr().err}")


def test_what_is_called_planned_is_not_there():
    assert {"release", "grade", "slides"} <= set(planned())
    have = cli._parser().format_help() + " ".join(make_rules()[0])
    for name in planned():
        assert not re.search(rf"\b{name}\b", have), f"{name} exists; docs/DECISIONS.md calls it planned"


def test_the_readmes_main_commands_are_what_ci_runs():
    script = [line for line in read(ROOT / ".ci" / "run").splitlines() if line.startswith("make ")]
    assert script == ["make run", "make test"]
    shown = [command for command in commands(read(README)) if command.startswith("make ")]
    assert shown[:3] == ["make run", "make test", "make lab"]
    offline = re.findall(r"^(\w+): env ; \$\(EXPORTS\)", read(ROOT / "Makefile"), re.MULTILINE)
    assert set(offline) >= {"run", "test"} and "lab" not in offline


def test_every_setting_is_documented_and_every_documented_one_is_read():
    files = [*(ROOT / "course_utils").rglob("*.py"), *(ROOT / "solutions").glob("*.py")]
    used = {name for file in files for name in re.findall(r"environ(?:\.get\(|\[)\"(COURSE_\w+)\"", read(file))}
    used |= {"COURSE_STATIC"}  # read in a loop over names
    assert "COURSE_STATIC" in read(ROOT / "course_utils" / "screen.py")
    assert set(code_in_first_column(read(README), "variable")) == used
    for path in PAGES:
        named = set(re.findall(r"\bCOURSE_[A-Z]+\b", read(path)))
        assert named <= used, f"{path.name} names {named - used}, which nothing reads"


def test_presets_and_data_sets_are_the_real_ones():
    from course_utils import datasets
    from course_utils.lessons.run import PRESETS

    assert code_in_first_column(read(README), "preset") == list(PRESETS)
    fetched = {command.split()[3] for _, command in starting("course") if command.startswith("course data get ")}
    assert {"gtsrb"} <= fetched - {"NAME"} <= set(datasets.names())
    cards = {Path(link).stem for link in re.findall(r"\((\w+\.md)\)", read(ROOT / "data" / "README.md"))}
    assert cards == set(datasets.names()) == {path.stem for path in (ROOT / "data").glob("*.md")} - {"README"}


# ---- the grammar in CONTRIBUTING ---------------------------------------------------------------------------------


def test_every_tag_and_placeholder_is_explained():
    text = read(CONTRIBUTING)
    tags = code_in_first_column(text, "tag")
    assert len(tags) == len(set(tags)) and set(tags) == source.ROLES | source.FLAGS
    names = [name.strip("{}") for name in code_in_first_column(text, "placeholder")]
    assert sorted(names) == sorted(placeholders.NAMES)


def test_every_hook_is_explained_in_its_order():
    """With the arguments that it has in the base class."""
    tree = ast.parse(read(ROOT / "course_utils" / "methods" / "base.py"))
    (base,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    hooks = [node for node in base.body if isinstance(node, ast.FunctionDef) and "state_dict" not in node.name]
    signatures = [f"{hook.name}({', '.join(argument.arg for argument in hook.args.args[1:])})" for hook in hooks]
    assert code_in_first_column(read(CONTRIBUTING), "hook") == signatures


@pytest.fixture(scope="module")
def examples() -> dict[str, str]:
    """The three code examples of CONTRIBUTING, by what they show."""
    blocks = python_blocks(CONTRIBUTING)
    assert len(blocks) == 3, "a new example in CONTRIBUTING needs a test of its own"
    return dict(zip(("lesson", "exercises", "method"), blocks, strict=True))


def run_block(code: str, folder: Path) -> dict:
    path = folder / "example.py"
    path.write_text(code, encoding="utf-8")
    return runpy.run_path(str(path))


def test_the_example_lesson_builds_and_uses_the_whole_grammar(examples, tmp_path):
    exercises = {task.id: task for task in run_block(examples["exercises"], tmp_path)["EXERCISES"]}
    path = tmp_path / "solutions" / "03_ewc.py"
    path.parent.mkdir()
    path.write_text(examples["lesson"], encoding="utf-8")
    points = sum(task.points for task in exercises.values()) + 1  # of the reflection
    listing = catalogue.Lesson("03_ewc", "Protecting weights", "Why?", available=True, minutes=5, points=points)
    built = build(path, placeholders.Context(tmp_path, exercises.__getitem__, (listing,)))
    assert {tag for cell in built.lesson.cells for tag in cell.tags} == source.ROLES - {"widget"}
    student = nbformat.reads(built.student, as_version=4)
    text = "\n".join(cell.source for cell in student.cells)
    assert 'raise NotImplementedError("Exercise 03.1: The Fisher diagonal")' in text
    assert "mean(axis=0)" not in text and "HIDDEN" not in text and "Rubric" not in text and "{{" not in text
    # What CONTRIBUTING quotes as the stub is what the builder writes.
    assert '`raise NotImplementedError("Exercise 03.1: The Fisher diagonal")`' in read(CONTRIBUTING)


def test_the_example_exercise_diagnoses(examples, tmp_path):
    from course_utils.lessons import checking

    (task,) = run_block(examples["exercises"], tmp_path)["EXERCISES"]
    assert checking.examine(task, lambda g: (g * g).sum(axis=0) / len(g)).status == "passed"
    wrong = {
        "square of the mean gradient": lambda g: g.mean(axis=0) ** 2,
        "sum over samples": lambda g: (g**2).sum(axis=0),
        "over the parameters": lambda g: (g**2).mean(axis=1),
    }
    for fragment, answer in wrong.items():
        report = checking.examine(task, answer)
        assert report.status == "wrong" and fragment in report.outcomes[0].message


def test_the_example_method_does_what_it_says(examples, tmp_path):
    from course_utils import Learner, datasets, models, streams

    freeze = run_block(examples["method"], tmp_path)["FreezeFeatures"]
    stream = streams.class_incremental(datasets.load("digits"), num_tasks=2)

    def body_after(tasks: int, methods: list) -> bytes:
        learner = Learner(models.build("mlp", stream), methods, steps_per_task=3, show_progress=False)
        learner.fit(stream.first(tasks))
        return learner.model.body[1].weight.detach().numpy().tobytes()

    assert body_after(2, [freeze()]) == body_after(1, [freeze()]) == body_after(1, [])
    assert body_after(2, []) != body_after(1, [])


# ---- the README's own code ---------------------------------------------------------------------------------------


def test_the_readmes_code_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "solutions").symlink_to(ROOT / "solutions")
    monkeypatch.chdir(tmp_path)
    adapters, language, library, grading = (run_block(code, tmp_path) for code in python_blocks(README))
    out = capsys.readouterr().out
    assert library["history"].accuracy.shape == (5, 5) and "ACC" in out
    assert "ParameterCount(trainable=" in out and not adapters["lora"].adapted(adapters["learner"].model)
    accuracy = language["paired"].history.accuracy
    assert accuracy.shape == (5, 5) and accuracy[-1].mean() > 0.25  # chance is 10 %, the last task alone 20 %
    released = nbformat.read(grading["target"] / f"{grading['slug']}.ipynb", as_version=4)
    tags = [tag for cell in released.cells for tag in cell.metadata.get("tags", ())]
    assert "exercise" in tags and "instructor" not in tags
