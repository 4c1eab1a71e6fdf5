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
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from formulary_site.definitions import PACKAGE, Definition, Definitions
from formulary_site.problems import Problem, SourceError
from formulary_site.project import Project
from formulary_site.proof import forks
from formulary_site.proof.links import Test, tests_of
from formulary_site.proof.mutations import Mutant, mutants

Excuse = tuple[str, str]  # file and changed line
Group = tuple[str, ...]  # node ids of the tests that prove one object


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
    # Now, lest somebody edit the files meanwhile
    made = {definition.path: mutants(definition) for definition in chosen}
    provers = _provers(definitions, chosen, tests_of(project, definitions))
    groups = list(dict.fromkeys(group for needed in provers.values() for group in needed))
    forks.warm(
        {definition.file for definition in chosen}
        | {project.root / test.partition("::")[0] for group in groups for test in group}
        | {*project.tests.glob("conftest.py"), *(project.tests / PACKAGE).rglob("conftest.py")}
    )
    # Tests that fail anyway can't judge
    seconds = {
        task.tests: result.seconds
        for task, result in _bar(project, [forks.Task(group) for group in groups], processes)
        if result.passed
    }
    tasks: list[forks.Task] = []
    for definition in chosen:
        sound = [group for group in provers[definition.path] if group in seconds]
        tests = tuple(test for group in sound for test in group)
        limit = 3 + 5 * sum(seconds[group] for group in sound)
        if tests:
            tasks += [forks.Task(tests, mutant, limit) for mutant in made[definition.path]]
    survivors = [
        task.mutant
        for task, result in _bar(project, tasks, processes)
        if task.mutant and result.passed
    ]
    alive = [mutant for mutant in survivors if _excuse(project, mutant) not in excuses]
    print(_table([task.mutant for task in tasks if task.mutant], survivors, alive))
    complaints = [
        *(f"fails without any change: {group[0]} …" for group in groups if group not in seconds),
        *(
            f"{project.relative(definition.file)}:{definition.line}: "
            f"no test proves {definition.path} or anything that needs it"
            for definition in chosen
            if not provers[definition.path]
        ),
        *(
            f"{project.relative(mutant.definition.file)}:{mutant.line}: no test notices\n"
            f"  - {mutant.before}\n  + {mutant.after}"
            for mutant in sorted(alive, key=lambda found: (found.definition.file, found.line))
        ),
    ]
    if everything:
        unused = excuses.keys() - {_excuse(project, mutant) for mutant in survivors}
        complaints += [
            f"tests/equivalent_mutants.toml: no mutant that survives reads so: {file}: {line}"
            for file, line in sorted(unused)
        ]
    for complaint in complaints:
        print(f"\n{complaint}")
    return 1 if complaints else 0


def _bar(
    project: Project, tasks: Sequence[forks.Task], processes: int
) -> Iterator[tuple[forks.Task, forks.Result]]:
    title = "mutants" if tasks and tasks[0].mutant else "tests as they are"
    # disable=None: no bar in a log file
    yield from tqdm(forks.run(project, tasks, processes), title, len(tasks), disable=None)


def _provers(
    definitions: Definitions, chosen: Sequence[Definition], tests: Mapping[str, Sequence[Test]]
) -> dict[str, list[Group]]:
    """By definition: its own tests, then those of each object that needs it."""
    needs = {path: {needed.path for needed in definitions.closure(path)} for path in tests}
    found: dict[str, list[Group]] = {}
    for definition in chosen:
        paths = [path for path in tests if definition.path in needs[path]]
        paths.sort(key=lambda path: path != definition.path)
        found[definition.path] = [tuple(test.node_id for test in tests[path]) for path in paths]
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


def _table(made: Sequence[Mutant], survivors: Sequence[Mutant], alive: Sequence[Mutant]) -> str:
    totals, left, counted = (
        Counter(mutant.definition.path for mutant in group) for group in (made, survivors, alive)
    )
    for counts in (totals, left, counted):
        counts["total"] = counts.total()
    width = max(map(len, totals))
    rows = [f"{'object':<{width}}  mutants  killed  excused  survived"]
    for path in totals:
        killed, excused = totals[path] - left[path], left[path] - counted[path]
        rows.append(
            f"{path:<{width}}  {totals[path]:>7}  {killed:>6}  {excused:>7}  {counted[path]:>8}"
        )
    return "\n".join(rows)
