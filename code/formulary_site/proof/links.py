"""Which test proves which object, read from the source of `tests/formulary`."""

import ast
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from formulary_site.definitions import PACKAGE, Definition, Definitions
from formulary_site.problems import Problem
from formulary_site.project import Project
from formulary_site.proof.test_files import TestFile
from formulary_site.snippets.builder import example_needs

Kind = Literal["oracle", "property", "negative"]

# A claim's first words say how the test proves its object.
KINDS: dict[str, Kind] = {
    "matches_": "oracle",
    "equals_": "property",
    "preserves_": "property",
    "depends_only_on_": "property",
    "is_": "property",
    "limit_": "property",
    "bounds_": "property",
    "differs_from_": "negative",
    "rejects_": "negative",
}

_NAME = re.compile(r"test_(?P<object>[A-Za-z0-9]\w*?)__(?P<claim>\w+)")


@dataclass(frozen=True)
class Test:
    """One test function; all cases of a parametrised one count as one test.

    Attributes:
        node_id: `tests/formulary/rope/test_rotation.py::test_rotate__preserves_norms`.
        file: Path relative to the project's root, with forward slashes.
        line: Line of the `def`.
        end_line: Last line.
        object: Path of the definition that the test proves.
        claim: `preserves_norms`.
        kind: How it proves it.
        docstring: What the site shows as evidence.
    """

    __test__: ClassVar[bool] = False  # or pytest collects it wherever it is imported

    node_id: str
    file: str
    line: int
    end_line: int
    object: str
    claim: str
    kind: Kind
    docstring: str

    @property
    def name(self) -> str:
        return self.node_id.rpartition("::")[2]


def tests_of(project: Project, definitions: Definitions) -> dict[str, list[Test]]:
    """Every proven definition's path and its tests, in source order.

    A test proves the object in its name, provided that the file imports the object and that
    the test uses it, itself or through functions, fixtures and constants of the same file.
    """
    return _grouped(_read(project, definitions))


def problems(
    project: Project,
    definitions: Definitions,
    objects: Collection[str],
    scripts: Collection[str] = (),
) -> list[Problem]:
    """What is missing from the proof of `objects`, the definitions that formulas or listings name.

    Functions of `scripts`, modules that listings show whole, need not be named one by one.
    """
    read = list(_read(project, definitions))
    broken = [found for found in read if isinstance(found, Problem)]
    linked = _grouped(read)
    for path in sorted(set(objects)):
        if path in definitions:
            kinds = {test.kind for test in linked.get(path, [])}
            broken += _missing_kinds(project, definitions[path], kinds)
    needed = {
        helper.path
        for path in objects
        if path in definitions
        for used in (path, *example_needs(definitions, path))
        for helper in definitions.closure(used)
    }
    shown = {f"{PACKAGE}.{script}" for script in scripts}
    for definition in definitions.public():
        if definition.path in objects:
            continue
        if definition.path not in needed and definition.module not in shown:
            broken.append(
                _at(
                    project,
                    definition,
                    "unused-function",
                    f"no formula or listing names `{definition.path}`, nor needs it",
                    "name it in a fence's `code` option, use it, or delete it",
                )
            )
        elif not definition.docstring:
            broken.append(
                _at(
                    project,
                    definition,
                    "undocumented-helper",
                    f"`{definition.path}` helps to compute a formula and has no docstring",
                    "add a docstring",
                )
            )
    return sorted(broken)


def _grouped(read: Iterable[Test | Problem]) -> dict[str, list[Test]]:
    linked: dict[str, list[Test]] = {}
    for found in read:
        if isinstance(found, Test):
            linked.setdefault(found.object, []).append(found)
    return linked


def _missing_kinds(
    project: Project, definition: Definition, kinds: Collection[str]
) -> Iterator[Problem]:
    name = definition.name
    if "oracle" not in kinds:
        yield _at(
            project,
            definition,
            "no-oracle",
            f"no test compares `{definition.path}` with code that it does not share",
            f"add a test `test_{name}__matches_<oracle>` that calls it",
        )
    if "property" not in kinds:
        prefixes = ", ".join(prefix for prefix, kind in KINDS.items() if kind == "property")
        yield _at(
            project,
            definition,
            "no-property",
            f"no test shows a property or a worked example of `{definition.path}`",
            f"add a test `test_{name}__<claim>` whose claim begins with one of {prefixes}",
        )


def _at(project: Project, definition: Definition, rule: str, message: str, mend: str) -> Problem:
    return Problem(project.relative(definition.file), definition.line, rule, message, mend)


def _read(project: Project, definitions: Definitions) -> Iterator[Test | Problem]:
    for path in sorted((project.tests / PACKAGE).rglob("test_*.py")):
        name = project.relative(path)
        try:
            file = TestFile(ast.parse(path.read_text("utf-8")))
        except SyntaxError as error:
            line = error.lineno or 1
            yield Problem(name, line, "test-syntax", f"not Python: {error.msg}", "mend the syntax")
            continue
        for line in file.unrecorded_assertions:
            yield Problem(
                name,
                line,
                "unrecorded-assertion",
                "imports `assert_close` by name, which hides its differences from the evidence",
                "call it as `torch.testing.assert_close(actual, expected)`",
            )
        for line in file.test_classes:
            yield Problem(
                name,
                line,
                "test-name",
                "tests inside a class prove nothing here",
                "make them functions of the module",
            )
        for node in file.tests:
            yield from _judge(name, file, node, definitions)


def _judge(
    name: str, file: TestFile, node: ast.FunctionDef, definitions: Definitions
) -> Iterator[Test | Problem]:
    def problem(rule: str, message: str, mend: str) -> Problem:
        return Problem(name, node.lineno, rule, message, mend)

    docstring = (ast.get_docstring(node) or "").strip()
    if not docstring:
        yield problem(
            "missing-test-docstring",
            f"`{node.name}` has no docstring to show as evidence",
            "say in one Chinese sentence what it shows",
        )
    match = _NAME.fullmatch(node.name)
    claim = match["claim"] if match else ""
    kind = next((kind for prefix, kind in KINDS.items() if claim.startswith(prefix)), None)
    if match is None or kind is None or claim in KINDS:
        yield problem(
            "test-name",
            f"`{node.name}` does not say what it claims",
            f"name it `test_<object>__<claim>`; a claim begins with one of {', '.join(KINDS)}",
        )
        return
    path = next(
        (
            target
            for target in sorted(file.uses(node))
            if target in definitions
            and definitions[target].name == match["object"]
            and definitions[target].kind != "constant"
        ),
        None,
    )
    if path is None:
        yield problem(
            "test-name",
            f"`{node.name}` does not use a function or class `{match['object']}` of `{PACKAGE}`",
            "import the object in this file and call it in the test, or mend the test's name",
        )
        return
    end = node.end_lineno or node.lineno
    yield Test(f"{name}::{node.name}", name, node.lineno, end, path, claim, kind, docstring)
