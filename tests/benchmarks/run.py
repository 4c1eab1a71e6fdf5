"""Benchmarks: `make bench`, or some by name. Ratios within one run count, seconds don't."""

import sys

import autoregressive
import build
import checkpointing
import nade
import paint
import ring
import rotation
import tape

ALL = {
    "rotation": rotation.main,
    "tape": tape.main,
    "nade": nade.main,
    "autoregressive": autoregressive.main,
    "build": build.main,
    "checkpointing": checkpointing.main,
    "paint": paint.main,
    "ring": ring.main,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or ALL:
        ALL[name]()
