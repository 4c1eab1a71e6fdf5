"""How the parts of the snippet builder report what they cannot convert."""

from formulary_site.definitions import Definition
from formulary_site.problems import Problem, SourceError
from formulary_site.snippets.source import Source, parse


def source_of(definition: Definition) -> Source:
    return parse(definition.file.read_text("utf-8"))


def relative(definition: Definition) -> str:
    """The definition's file below the project's root: `code/formulary/rope/rotation.py`."""
    file = definition.file
    depth = len(definition.module.split(".")) + (file.name == "__init__.py")
    return file.relative_to(file.parents[depth]).as_posix()


def problem(definition: Definition, line: int, rule: str, message: str, mend: str) -> Problem:
    return Problem(relative(definition), line, rule, f"`{definition.path}` {message}", mend)


def refusal(definition: Definition, line: int, rule: str, message: str, mend: str) -> SourceError:
    return SourceError([problem(definition, line, rule, message, mend)])
