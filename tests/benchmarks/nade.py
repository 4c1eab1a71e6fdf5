"""NADE's logits five ways on the CPU: values alone, and log-likelihood with gradients."""

import time
from collections.abc import Callable, Mapping

import torch
from timing import table
from torch import Tensor

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.nade import nade_logits, nade_logits_naive
from formulary.autoregressive_models.nade_cumsum import nade_logits_cumsum
from formulary.autoregressive_models.nade_fast import nade_logits_fast

SIZES = ((784, 500, 100, 5), (64, 64, 100, 40))  # n, d, B, rounds


def indexed_recursion(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, b: Tensor) -> Tensor:
    """The recursion with `weight[:, i]` in the loop, whose backward pass fills n matrices."""
    a, logits = bias.expand(len(x), -1), []
    for i in range(x.shape[1]):
        logits.append(torch.sigmoid(a) @ out[i] + b[i])
        a = a + x[:, i, None] * weight[:, i]
    return torch.stack(logits, dim=1)


def cheapest(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least CPU seconds of each candidate; they take turns, so that noise hits all alike."""
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return best


def main() -> None:
    """All get the same float32 parameters."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    functions = (
        nade_logits_naive,
        nade_logits,
        indexed_recursion,
        nade_logits_cumsum,
        nade_logits_fast,
    )
    for n, d, batch, rounds in SIZES:
        shapes = ((d, n), (d,), (n, d), (n,))
        parameters = [
            (0.05 * torch.randn(*shape, generator=generator)).requires_grad_() for shape in shapes
        ]
        x = (torch.rand(batch, n, generator=generator) < 0.3).float()

        def values(logits: Callable[..., Tensor], x=x, parameters=parameters) -> None:
            with torch.no_grad():
                logits(x, *parameters)

        def gradients(logits: Callable[..., Tensor], x=x, parameters=parameters) -> None:
            nll = -bernoulli_log_prob(logits(x, *parameters), x).mean()
            torch.autograd.grad(nll, parameters)

        for what, run in (("logits", values), ("log-likelihood and gradients", gradients)):
            candidates = {f.__name__: lambda f=f, run=run: run(f) for f in functions}
            times = cheapest(candidates, rounds)
            base = times["nade_logits"]
            table(
                f"NADE, {what}: n={n}, d={d}, B={batch}, 1 thread, least CPU time of {rounds}",
                ("what", "ms", "ratio to nade_logits"),
                [(name, f"{s * 1e3:.1f}", f"{s / base:.2f}") for name, s in times.items()],
            )


if __name__ == "__main__":
    main()
