"""Forward mode loads its decompositions on first use, which warns of torch.jit.script (2.13)."""

import importlib
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, not ours to mend
    importlib.import_module("torch._decomp.decompositions_for_jvp")
