"""The command line: `python -m formulary_site check | list | show | publish | …`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from formulary_site.project import Project
from formulary_site.site import Site


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 when the source has problems, 2 on wrong use."""
    parser = argparse.ArgumentParser(prog="python -m formulary_site", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="report all that is wrong with the source")
    listing = commands.add_parser("list", help="list the formulas of the site")
    listing.add_argument("--json", action="store_true", help="print the registry as JSON")
    show = commands.add_parser("show", help="show one formula with its code and its proof")
    show.add_argument("id", metavar="ID")
    publish = commands.add_parser("publish", help="write registry, snippets, figures and fonts")
    publish.add_argument("folder", type=Path, metavar="FOLDER", help="the built site")
    notebooks = commands.add_parser("notebooks", help="run the notebooks that are not fresh")
    notebooks.add_argument("--all", action="store_true", help="run the fresh ones, too")
    # Has options of its own, `mutants --help` among them
    mutants = "change each counterpart; does a test notice?"
    commands.add_parser("mutants", add_help=False, help=mutants)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "mutants":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        site = Site(Project.find()).make_current()
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        match options.command:
            case "check":
                return _check(site)
            case "list":
                return _list(site, options.json)
            case "show":
                return _show(site, options.id)
            case "publish":
                from formulary_site.check import render_all
                from formulary_site.publish import publish as write

                render_all(site)  # what the pages use decides which glyphs the stylesheet holds
                write(site, options.folder)
                return 0
            case "notebooks":
                from formulary_site.notebooks import runs as rooms

                return rooms.run(site.project, site.definitions, everything=options.all)
            case _:
                from formulary_site.proof import mutants as mutation

                return mutation.main(site.project, rest)
    finally:
        site.close()


def _check(site: Site) -> int:
    from formulary_site.check import check

    problems = check(site)
    for problem in problems:
        print(problem)
    registry = site.registry
    print(
        f"{len(registry.formulas)} formulas, {len(registry.figures)} figures, "
        f"{len(registry.listings)} listings, {len(problems)} problems",
        file=sys.stderr,
    )
    return 1 if problems else 0


def _list(site: Site, as_json: bool) -> int:
    from formulary_site.publish import entries

    if as_json:
        print(json.dumps(entries(site), ensure_ascii=False, indent=1))
        return 0
    for entry in entries(site):
        tests = len(entry["tests"])
        print(
            f"{entry['url']:<44} ({entry['number']:>2})  {entry['state']:<8} {tests:>2} tests"
            f"  {entry['object']}"
        )
    return 0


def _show(site: Site, name: str) -> int:
    from formulary_site.publish import entries

    if name not in site.registry.formulas:
        print(f"no formula has the id '{name}'; `list` shows them all", file=sys.stderr)
        return 2
    entry = next(entry for entry in entries(site) if entry["id"] == name)
    print(f"{entry['title']}  {entry['url']}  ({entry['number']})\n\n{entry['latex']}\n")
    print(f"{entry['file']}:{entry['line']}\n")
    print(site.definitions[entry["object"].removeprefix("formulary.")].source)
    print(f"{entry['state']}, largest error {entry['max_error']}")
    for test in entry["tests"]:
        print(f"  {test['outcome']:<7} {test['name']}\n          {test['claim']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
