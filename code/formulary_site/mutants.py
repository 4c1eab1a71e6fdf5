"""Do the tests notice when the code is wrong? `python -m formulary_site mutants [OBJECT …]`.

Every definition that a test proves, or that a proven one needs, is changed in small ways; of the
tests that prove it or whatever needs it, one must fail. A change that no test could tell from the
original is excused, with the reason, in `tests/equivalent_mutants.toml`:

    [[mutant]]
    file = "code/formulary/rope/rotation.py"
    mutated = "the changed line"
    reason = "why it computes the same"

Of mutmut 3 and cosmic-ray, the first mutates messages but no minus signs or orders of arguments,
the second edits the working tree and starts an interpreter, 5 s of imports, for each mutant.
"""

import argparse
import os
import subprocess
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from formulary_site import forks
from formulary_site.definitions import PACKAGE, Definition, Definitions
from formulary_site.mutations import Mutant, mutants
from formulary_site.problems import Problem, SourceError
from formulary_site.project import Project
from formulary_site.proof import tests_of

Excuse = tuple[str, str]  # file and changed line


def main(project: Project, arguments: Sequence[str] = ()) -> int:
    """Report what the tests don't notice; 1 if there is anything, else 0."""
    parser = argparse.ArgumentParser(prog="python -m formulary_site mutants")
    parser.add_argument("objects", nargs="*", help="paths or their beginnings: rope.rotation")
    parser.add_argument(
        "--changed",
        nargs="?",
        const="HEAD",
        metavar="COMMIT",
        help="only files of the package that differ from the commit (default: HEAD)",
    )
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(list(arguments))
    definitions = Definitions.load(project)
    changed = _changed(project, options.changed) if options.changed else None
    chosen = [
        definition
        for definition in definitions
        if not definition.module.endswith(".figures")  # drawings prove nothing
        and _is_below(definition.path, options.objects)
        and (changed is None or definition.file in changed)
    ]
    everything = not options.objects and not options.changed
    return _hunt(project, definitions, chosen, options.processes, everything)


def _hunt(
    project: Project,
    definitions: Definitions,
    chosen: Sequence[Definition],
    processes: int,
    everything: bool,
) -> int:
    excuses = _excuses(project)
    tests = _provers(project, definitions, chosen)
    forks.warm(
        {definition.file for definition in chosen}
        | {project.root / test.partition("::")[0] for group in tests.values() for test in group}
        | {*project.tests.glob("conftest.py"), *(project.tests / PACKAGE).rglob("conftest.py")}
    )
    sound = list(dict.fromkeys(forks.Task(group) for group in tests.values() if group))
    seconds: dict[tuple[str, ...], float] = {}
    for task, result in tqdm(
        forks.run(project, sound, processes), "tests as they are", len(sound), disable=None
    ):
        if not result.passed:
            print(f"fails without any change, so it can't judge one: {' '.join(task.tests)}")
            return 1
        seconds[task.tests] = result.seconds
    tasks = [
        forks.Task(tests[definition.path], mutant, 3 + 5 * seconds[tests[definition.path]])
        for definition in chosen
        if tests[definition.path]
        for mutant in mutants(definition)
    ]
    survivors: list[Mutant] = []
    for task, result in tqdm(
        forks.run(project, tasks, processes), "mutants", len(tasks), disable=None
    ):
        if result.passed and task.mutant:
            survivors.append(task.mutant)
    unused = set(excuses) - {_excuse(project, mutant) for mutant in survivors}
    alive = [mutant for mutant in survivors if _excuse(project, mutant) not in excuses]
    made = [task.mutant for task in tasks if task.mutant]
    print(_table(made, alive, [mutant for mutant in survivors if mutant not in alive]))
    for mutant in sorted(alive, key=lambda mutant: (mutant.definition.file, mutant.line)):
        print(f"\n{project.relative(mutant.definition.file)}:{mutant.line}: no test notices")
        print(f"  - {mutant.before}\n  + {mutant.after}")
    idle = [definition for definition in chosen if not tests[definition.path]]
    for definition in idle:
        place = f"{project.relative(definition.file)}:{definition.line}"
        print(f"\n{place}: no test proves {definition.path} or anything that needs it")
    for file, line in sorted(unused if everything else ()):
        print(f"\ntests/equivalent_mutants.toml: no mutant that survives reads so: {file}: {line}")
    return 1 if alive or idle or (everything and unused) else 0


def _provers(
    project: Project, definitions: Definitions, chosen: Sequence[Definition]
) -> dict[str, tuple[str, ...]]:
    """Node ids by definition: its own tests, then those of all that needs it."""
    linked = tests_of(project, definitions)
    needs = {path: {d.path for d in definitions.closure(path)} for path in linked}
    found: dict[str, tuple[str, ...]] = {}
    for definition in chosen:
        paths = [path for path in linked if definition.path in needs[path]]
        paths.sort(key=lambda path: path != definition.path)
        found[definition.path] = tuple(test.node_id for path in paths for test in linked[path])
    return found


def _is_below(path: str, prefixes: Collection[str]) -> bool:
    return not prefixes or any(
        f"{path}.".startswith(f"{prefix.removeprefix(f'{PACKAGE}.')}.") for prefix in prefixes
    )


def _changed(project: Project, commit: str) -> set[Path]:
    """Files that differ from the commit, new ones included."""
    commands = (
        ["git", "diff", "--name-only", "--relative", commit],
        ["git", "ls-files", "--others", "--exclude-standard"],
    )
    names: list[str] = []
    for command in commands:
        done = subprocess.run(command, cwd=project.root, check=True, capture_output=True, text=True)
        names += done.stdout.splitlines()
    return {project.root / name for name in names}


def _excuse(project: Project, mutant: Mutant) -> Excuse:
    return project.relative(mutant.definition.file), mutant.after


def _excuses(project: Project) -> Mapping[Excuse, str]:
    path = project.tests / "equivalent_mutants.toml"
    if not path.is_file():
        return {}
    found: dict[Excuse, str] = {}
    for entry in tomllib.loads(path.read_text("utf-8")).get("mutant", []):
        if set(entry) != {"file", "mutated", "reason"} or not str(entry["reason"]).strip():
            message = f"an entry has {sorted(entry)}, not file, mutated and reason"
            mend = "say why the change computes the same, or delete the entry"
            raise SourceError([Problem(project.relative(path), 1, "bad-excuse", message, mend)])
        found[entry["file"], entry["mutated"].strip()] = entry["reason"]
    return found


def _table(made: Sequence[Mutant], alive: Sequence[Mutant], excused: Sequence[Mutant]) -> str:
    paths = sorted({mutant.definition.path for mutant in made})
    width = max((len(path) for path in paths), default=0)
    rows = [f"{'object':<{width}}  mutants  killed  excused  survived"]

    def count(group: Sequence[Mutant], path: str) -> int:
        return sum(path in ("total", mutant.definition.path) for mutant in group)

    for path in [*paths, "total"]:
        total, left, kept = (count(group, path) for group in (made, alive, excused))
        rows.append(f"{path:<{width}}  {total:>7}  {total - left - kept:>6}  {kept:>7}  {left:>8}")
    return "\n".join(rows)
