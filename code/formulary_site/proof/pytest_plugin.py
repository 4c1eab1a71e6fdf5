"""pytest plugin: with `--evidence`, a whole run of tests/formulary rewrites docs/evidence.json.

pytest loads this module wherever the distribution is installed, so that it imports nothing heavy
and does nothing without the option.
"""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("formulary").addoption(
        "--evidence",
        action="store_true",
        help="record what each test of tests/formulary shows; a whole run writes "
        "docs/evidence.json",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--evidence"):
        from formulary_site.proof.recorder import Recorder

        config.pluginmanager.register(Recorder(config), "formulary-recorder")
