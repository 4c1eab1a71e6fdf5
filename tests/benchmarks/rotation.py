"""`rotate_*` beside rotary-embedding-torch's and transformers' application, on the CPU."""

import torch
from rotary_embedding_torch import RotaryEmbedding
from timing import alternate, table
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from formulary.rope.rotation import (
    rotate_half_split,
    rotate_half_split_fast,
    rotate_interleaved,
    rotate_interleaved_fast,
)

SHAPE = (8, 16, 1024, 64)
ROUNDS = 15


def main() -> None:
    """Each side gets what its own callers give it: theirs a cached table, ours the positions."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    x = torch.randn(SHAPE)
    tokens, d = SHAPE[-2:]
    positions = torch.arange(tokens)
    lucidrains = RotaryEmbedding(d, cache_max_seq_len=tokens)
    config = LlamaConfig(hidden_size=d, num_attention_heads=1, head_dim=d)
    cos, sin = LlamaRotaryEmbedding(config)(x, positions[None])
    # transformers rotates query and key in one call: its time is halved below
    candidates = {
        "rotary-embedding-torch": lambda: lucidrains.rotate_queries_or_keys(x),
        "rotate_interleaved": lambda: rotate_interleaved(x, positions),
        "rotate_interleaved_fast": lambda: rotate_interleaved_fast(x, positions),
        "transformers (one of two)": lambda: apply_rotary_pos_emb(x, x, cos, sin),
        "rotate_half_split": lambda: rotate_half_split(x, positions),
        "rotate_half_split_fast": lambda: rotate_half_split_fast(x, positions),
    }
    with torch.no_grad():
        for run in candidates.values():
            run()
        times = alternate(candidates, ROUNDS)
    times["transformers (one of two)"] /= 2
    rows = []
    for name, seconds in times.items():
        peer = "rotary-embedding-torch" if len(rows) < 3 else "transformers (one of two)"
        rows.append((name, f"{seconds * 1e3:.1f}", f"{seconds / times[peer]:.2f}"))
    table(
        f"Rotation of float32 {SHAPE}, 2 threads, median of {ROUNDS} turns",
        ("what", "ms", "ratio to the peer"),
        rows,
    )


if __name__ == "__main__":
    main()
