"""NADE and MADE beside karpathy/pytorch-made and zuko: log-likelihood, a training step, sampling.

pytorch-made is no package. Name the folder that holds its made.py in the environment variable
PYTORCH_MADE to have it in the tables.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module

import torch
from timing import alternate, table
from torch import Tensor, nn
from zuko.nn import MaskedMLP

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.made import MADE
from formulary.autoregressive_models.made_sampling import (
    folded_layers,
    folded_logits,
    made_sample,
    made_sample_by_degree,
    made_sample_incremental,
)
from formulary.autoregressive_models.nade import NADE, nade_logits, nade_logits_naive, nade_sample

N, WIDTH, BATCH = 784, 500, 100
ROUNDS, SAMPLING_ROUNDS = 9, 3

Logits = Callable[[Tensor], Tensor]


def peers() -> dict[str, nn.Module]:
    """The same network by others: one hidden layer of ReLU units, natural order."""
    found: dict[str, nn.Module] = {}
    if folder := os.environ.get("PYTORCH_MADE"):
        sys.path.insert(0, folder)
        found["pytorch-made"] = import_module("made").MADE(N, [WIDTH], N, natural_ordering=True)
    adjacency = torch.ones(N, N, dtype=torch.bool).tril(-1)
    found["zuko MaskedMLP"] = MaskedMLP(adjacency, hidden_features=[WIDTH])
    return found


@torch.no_grad()
def sample_by_passes(logits: Logits, uniforms: Tensor) -> Tensor:
    """What is left to do with a network that has no sampler: one whole pass a variable."""
    x = torch.zeros_like(uniforms)
    for i in range(x.shape[1]):
        x[:, i] = (uniforms[:, i] < torch.sigmoid(logits(x)[:, i])).to(x.dtype)
    return x


def log_likelihood(logits: Logits, x: Tensor) -> Tensor:
    with torch.no_grad():
        return bernoulli_log_prob(logits(x), x)


def training_step(logits: Logits, parameters: list[Tensor], x: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(-bernoulli_log_prob(logits(x), x).mean(), parameters)


def report(title: str, runs: dict[str, Callable[[], object]], theirs: list[str], rounds: int):
    """A row a candidate; its ratio to each peer is of medians of alternating turns."""
    for run in runs.values():
        run()
    times = alternate(runs, rounds)
    header = ("what", "ms", *(f"ratio to {peer}" for peer in theirs))
    rows = [
        (name, f"{seconds * 1e3:.1f}", *(f"{seconds / times[peer]:.2f}" for peer in theirs))
        for name, seconds in times.items()
    ]
    table(f"{title}: n = {N}, hidden {WIDTH}, batch {BATCH}, float32, 2 threads", header, rows)


def main() -> None:
    """Whoever has no fast path of its own gets the plain one."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(BATCH, N, generator=generator) < 0.2).float()
    uniforms = torch.rand(BATCH, N, generator=generator)
    others = peers()
    made, nade = MADE(N, [WIDTH], generator=generator), NADE(N, WIDTH, generator)
    folded = folded_layers(made)
    weights = (nade.weight, nade.bias, nade.output_weight, nade.output_bias)
    models: dict[str, Logits] = {
        "MADE": made,
        "MADE, masks folded in": partial(folded_logits, folded),
        "NADE, naive": lambda x: nade_logits_naive(x, *weights),
        "NADE, recursion": lambda x: nade_logits(x, *weights),
        "NADE, fast": nade,
        **others,
    }
    runs = {name: partial(log_likelihood, model, x) for name, model in models.items()}
    report("Log-likelihood", runs, list(others), ROUNDS)

    parameters = {name: list(model.parameters()) for name, model in others.items()}
    parameters |= {"MADE": list(made.parameters()), "NADE, fast": list(nade.parameters())}
    parameters["NADE, recursion"] = parameters["NADE, fast"]
    runs = {
        name: partial(training_step, models[name], parameters[name], x)
        for name in ("MADE", "NADE, recursion", "NADE, fast", *others)
    }
    report("Gradient of the log-likelihood", runs, list(others), ROUNDS)

    runs = {
        "MADE, a pass a variable": partial(made_sample, made, uniforms),
        "MADE, incremental": partial(made_sample_incremental, made, uniforms),
        "MADE, by degree": partial(made_sample_by_degree, made, uniforms),
        "NADE": partial(nade_sample, uniforms, *weights),
        **{name: partial(sample_by_passes, model, uniforms) for name, model in others.items()},
    }
    report("Sampling", runs, list(others), SAMPLING_ROUNDS)


if __name__ == "__main__":
    main()
