"""Benchmarks: `make bench`, or some by name. Ratios within one run count, seconds don't."""

import sys

import autoregressive
import build
import nade
import paint
import rotation

ALL = {
    "rotation": rotation.main,
    "nade": nade.main,
    "autoregressive": autoregressive.main,
    "build": build.main,
    "paint": paint.main,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or ALL:
        ALL[name]()
