"""The `course` command: run, build, check, data, grid, iqa, bench. Each subcommand imports what it needs when it is called."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from course_utils.grid import commands as grid
from course_utils.quality import commands as quality


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Returns the exit status: 0 if all went well, 1 if something failed, 2 for a wrong call."""
    options = _parser().parse_args(arguments)
    try:
        return options.action(options)
    except Exception as problem:
        # An error of ours says what to do: a traceback would bury it. Anything else is a bug and keeps its traceback.
        if type(problem).__module__.startswith("course_utils."):
            print(f"course: {problem}", file=sys.stderr)
            return 1
        raise


def checkout() -> Path:
    """The course's checkout: the nearest folder with `solutions` above the working directory, or above the package.

    Exits with a message if there is none.
    """
    folder = _find_checkout()
    if folder is None:
        sys.exit("course: no checkout of the course here; go to the folder that holds solutions/ and pyproject.toml")
    return folder


def _find_checkout() -> Path | None:
    package = Path(__file__).resolve().parent
    for folder in (Path.cwd(), *Path.cwd().parents, package.parent):
        if (folder / "solutions").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="course", description="Continual Learning, Hands-On")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="execute lessons and write an HTML report")
    run.add_argument("lessons", nargs="*", metavar="NN", help="numbers or slugs")
    run.add_argument("--all", action="store_true", help="every lesson")
    run.add_argument("--preset", choices=("smoke", "quick", "full"), default="quick")
    run.add_argument("--output", type=Path, help="folder of the report (default: build in the checkout)")
    run.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes for the full preset's experiments"
    )
    run.add_argument("--together", type=int, default=1, help="lessons at a time (smoke and quick preset)")
    run.add_argument("--record-timings", action="store_true", help="write results/timings.json (quick preset)")
    run.set_defaults(action=_run)

    build = commands.add_parser("build", help="build both notebooks of each lesson from its source")
    build.add_argument("lessons", nargs="*", metavar="NN", help="numbers or slugs (default: all)")
    build.add_argument("--execute", action="store_true", help="execute the solution and store its outputs")
    build.add_argument("--preset", choices=("smoke", "quick", "full"), default="full", help="for --execute")
    build.add_argument("--check", action="store_true", help="write nothing; fail if a build would change a byte")
    build.set_defaults(action=_build)

    check = commands.add_parser("check", help="run the checks of a student's notebook and print the score")
    check.add_argument("notebook", type=Path)
    check.set_defaults(action=_check)

    data = commands.add_parser("data", help="list, fetch or show data sets").add_subparsers(
        required=True, metavar="COMMAND"
    )
    get = data.add_parser("get", help="download a data set from its publisher")
    get.add_argument("name")
    get.set_defaults(action=_data_get)
    card = data.add_parser("card", help="write a data set's card as a page, with your own images")
    card.add_argument("name")
    card.set_defaults(action=_data_card)
    data.add_parser("list", help="names of the data sets").set_defaults(action=_data_list)

    grid.add_to(commands)
    quality.add_to(commands)

    bench = commands.add_parser("bench", help="measure the Learner against a bare loop and Avalanche")
    bench.set_defaults(action=_bench)
    return parser


def _run(options: argparse.Namespace) -> int:
    from course_utils.lessons import placeholders, run

    if options.all == bool(options.lessons):
        print("course run: name lessons (course run 01 02), or say --all", file=sys.stderr)
        return 2
    if options.record_timings and options.preset != "quick":
        print(f"course run: --record-timings measures the quick preset, not {options.preset}", file=sys.stderr)
        return 2
    if options.together < 1:
        print(f"course run: --together {options.together}; at least one lesson at a time", file=sys.stderr)
        return 2
    if options.together > 1 and (options.record_timings or options.preset == "full"):
        print(
            "course run: --together is for the smoke and quick presets, and minutes are measured alone", file=sys.stderr
        )
        return 2
    context = placeholders.of_checkout(checkout())
    results = run.run(
        context,
        options.lessons,
        parameters={"PRESET": options.preset},
        output=options.output and options.output.resolve(),
        jobs=options.jobs,
        together=options.together,
        say=lambda line: print(line, flush=True),
    )
    if options.record_timings:
        print(f"minutes written to {run.record_timings(context, results)}; now run `course build`")
    return int(any(result.status != "ok" for result in results))


def _build(options: argparse.Namespace) -> int:
    from course_utils.lessons import build, placeholders

    context = placeholders.of_checkout(checkout())
    failed = False
    for path in build.sources(context.root, options.lessons):
        if options.execute and not options.check:
            from course_utils.lessons import run

            print(f"{path.stem}: executing in the {options.preset} preset ...", flush=True)
            executed = run.execute_solution(path, context, options.preset)
            path.with_suffix(".ipynb").write_text(executed, encoding="utf-8", newline="\n")
            print(f"{path.stem}: executed, {len(executed.encode()) // 1000} kB")
        built = build.build(path, context)
        if options.check:
            problems = build.differences(built, context.root)
            failed = failed or bool(problems)
            print("\n".join(problems) if problems else f"{path.stem}: up to date")
        else:
            changed = [file.relative_to(context.root).as_posix() for file in build.write(built, context.root)]
            print(f"{path.stem}: {'wrote ' + ' and '.join(changed) if changed else 'both notebooks are up to date'}")
        if built.stale:
            print(f"{path.stem}: no outputs of this code; `course build {built.lesson.number} --execute` records them")
    return int(failed)


def _check(options: argparse.Namespace) -> int:
    from course_utils.lessons import scoring

    return int(not scoring.print_score(options.notebook))


def _data_get(options: argparse.Namespace) -> int:
    from course_utils import datasets

    if os.environ.get("COURSE_OFFLINE", "") not in ("", "0"):
        print("COURSE_OFFLINE is set, so nothing is downloaded; unset it and try again", file=sys.stderr)
        return 1
    try:
        print(datasets.get(options.name), flush=True)
        root = _find_checkout()
        if root is not None:  # an installed package without the checkout has no cards
            from course_utils.lessons import cards

            print(f"its card, with a contact sheet of your images: {cards.write_card(options.name, root)}")
    except (ValueError, OSError) as problem:  # an unknown name, a broken file, no network: the message says which
        print(f"course data get: {problem}", file=sys.stderr)
        return 1
    return 0


def _data_card(options: argparse.Namespace) -> int:
    from course_utils.lessons import cards

    try:
        print(cards.write_card(options.name, checkout()))
    except (ValueError, OSError) as problem:  # an unknown name, a broken file: the message says which
        print(f"course data card: {problem}", file=sys.stderr)
        return 1
    return 0


def _data_list(options: argparse.Namespace) -> int:
    from course_utils import datasets

    print("\n".join(datasets.names()))
    return 0


def _bench(options: argparse.Namespace) -> int:
    script = checkout() / "benchmarks" / "learner.py"
    return subprocess.run([sys.executable, str(script)], cwd=script.parent.parent, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
