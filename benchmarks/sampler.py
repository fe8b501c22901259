"""Exact sampling: every activation once, against one decoder forward for every token.

    python benchmarks/sampler.py [--quick] [--threads 1]

The default colorizer with random weights draws colours on chroma grids of 16, 32 and 64, one photo
and 16 at once; `/attention` adds a block of self-attention to encoder and decoder. Both samplers
use the same weights and the same noise and give the same tokens, which is checked on the smallest
grid (`metrics.same_tokens`: share; float32 may differ at a near-tie).

naive         decoder forwards over the whole grid, one for each token, with the encoder's output
              kept: `naive_s`. This is what ratio compares with
uncached      the encoder runs for every token as well: `uncached_s`
step          one position of the cached sampler, both channels, with its share of the noise, of the
              row and of rewriting the weights: the sample without the encoder, over positions
floor         one matrix product (B, D) x (D, n) with as many multiply-adds as a position's layers
              and its attention. With attention this is less than any sampler needs: the product
              reads its right side once for all images, and keys and values are each image's own
read_floor    the product of the layers, and the two of attention on as many keys and values of each
              image as a position sees on average, which must be read from memory
exponent      slope of log time over log positions, 16x16 to 64x64

With one thread, times are those that the core worked for the candidate, which another program on
the machine cannot lengthen; with more, they are by the clock. More threads help the naive sampler's
large forwards, and not the small products of a step.

All forwards of the naive sampler cost the same, because each computes the whole grid: FORWARDS of
them are timed and multiplied by the number of tokens. The smallest grid is also run in full
(`metrics.naive_16x16_B1_in_full_s`) to hold that against.
"""

import argparse
import math
import time
from collections.abc import Callable

import torch
from side_by_side import interleaved, report
from torch import Tensor, nn

from tintlab.model.attention import HEAD_CHANNELS
from tintlab.model.colorizer import Colorizer
from tintlab.model.noise import gumbel_row
from tintlab.model.sampler import choose, sample
from tintlab.settings import BinsConfig, ModelConfig

FORWARDS = 2
GRIDS, BATCHES = (16, 32, 64), (1, 16)
FLOOR_PRODUCTS = 200


def built(attention: int) -> Colorizer:
    """The default colorizer; the layers that start at zero are filled, so that tokens depend on
    all of them."""
    torch.manual_seed(0)
    config = ModelConfig(encoder_attention_blocks=attention, decoder_attention_blocks=attention)
    model = Colorizer(config, BinsConfig()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def photos(model: Colorizer, grid: int, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    side_px = grid * model.stride
    return 100 * torch.rand((batch, 1, side_px, side_px), generator=generator)


def timed(work: Callable[[], object]) -> float:
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started_s = now()
    work()
    return now() - started_s


def cached_candidate(model: Colorizer, grid: int, batch: int) -> Callable[[], dict[str, float]]:
    L, seeds = photos(model, grid, batch), range(batch)

    def measure() -> dict[str, float]:
        with torch.inference_mode():
            encode_s = timed(lambda: model.encode(L))
        sample_s = timed(lambda: sample(model, L, seeds=seeds))
        return {"sample_s": sample_s, "step_s": (sample_s - encode_s) / grid**2}

    return measure


def naive_candidate(model: Colorizer, grid: int, batch: int) -> Callable[[], dict[str, float]]:
    """What one token costs, with the encoder's output kept and without, times the tokens."""
    L = photos(model, grid, batch)
    channels, bins = model.bins.channels, model.bins.count
    tokens = torch.zeros((batch, channels, grid, grid), dtype=torch.int64)
    noise = gumbel_row(range(batch), 0, grid, channels, bins)[:, 0, 0]
    count = grid * grid * channels

    def token(cond: Tensor) -> None:
        logits = model.decoder_logits(cond, tokens)[:, 0, :, 0, 0]
        tokens[:, 0, 0, 0] = choose(logits, noise, 1.0, 1.0).token

    def measure() -> dict[str, float]:
        with torch.inference_mode():
            encode_s = timed(lambda: model.encode(L))
            cond = model.encode(L)
            token_s = timed(lambda: [token(cond) for _ in range(FORWARDS)]) / FORWARDS
        return {
            "naive_s": encode_s + token_s * count,
            "uncached_s": (encode_s + token_s) * count,
        }

    return measure


def naive_in_full(model: Colorizer, L: Tensor) -> tuple[Tensor, float]:
    """The tokens of the naive sampler, and its time."""
    found: list[Tensor] = []
    seconds = timed(lambda: found.append(sample(model, L, seeds=[0], naive=True)))
    return found[0], seconds


def layers_multiply_adds(model: Colorizer) -> int:
    """Of one position of one photo: every weight of the decoder is used once, but for tables."""
    layers = [m for m in model.decoder.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return sum(layer.weight.numel() for layer in layers)


def attention_multiply_adds(model: Colorizer, positions: int) -> int:
    """Attention reads the keys and the values of half of the positions on average."""
    return len(model.decoder.attention) * 2 * model.model_config.width * (positions // 2)


def floor_candidate(model: Colorizer, grid: int, batch: int) -> Callable[[], dict[str, float]]:
    width, seen = model.model_config.width, grid * grid // 2
    layers, attention = layers_multiply_adds(model), attention_multiply_adds(model, grid * grid)
    whole = product(batch, width, (layers + attention) // width)
    of_layers = product(batch, width, layers // width)
    heads = width // HEAD_CHANNELS
    blocks = len(model.decoder.attention)
    keys = torch.rand(blocks, batch * heads, HEAD_CHANNELS, seen)
    values = torch.rand(blocks, batch * heads, seen, HEAD_CHANNELS)
    query = torch.rand(batch * heads, 1, HEAD_CHANNELS)
    scores = torch.empty(batch * heads, 1, seen)
    mixed = torch.empty(batch * heads, 1, HEAD_CHANNELS)

    def reading() -> None:
        of_layers()
        for block in range(blocks):
            torch.bmm(query, keys[block], out=scores)
            torch.bmm(scores, values[block], out=mixed)

    def per_call_s(work: Callable[[], object]) -> float:
        with torch.inference_mode():
            return timed(lambda: [work() for _ in range(FLOOR_PRODUCTS)]) / FLOOR_PRODUCTS

    return lambda: {"floor_s": per_call_s(whole), "read_floor_s": per_call_s(reading)}


def product(batch: int, width: int, columns: int) -> Callable[[], object]:
    """(B, D) x (D, n), into memory that is there."""
    left, right = torch.rand(batch, width), torch.rand(width, columns)
    out = torch.empty(batch, columns)
    return lambda: torch.mm(left, right, out=out)


def exponent(positions: list[int], seconds: list[float]) -> float:
    """Least-squares slope of log seconds over log positions."""
    x, y = [math.log(p) for p in positions], [math.log(s) for s in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="grids 16 and 32, without attention")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    quick = given.quick
    grids = GRIDS[:2] if quick else GRIDS
    models = {"": built(0)} if quick else {"": built(0), "/attention": built(1)}

    metrics: dict[str, dict[str, float]] = {
        name: {}
        for name in (
            "sample_s",
            "step_us",
            "step_over_floor",
            "step_over_read_floor",
            "exponent",
            "same_tokens",
        )
    }
    baseline: dict[str, dict[str, float]] = {
        "naive_s": {},
        "uncached_s": {},
        "floor_us": {},
        "read_floor_us": {},
    }
    ratio: dict[str, float] = {}
    in_full: dict[str, float] = {}
    for kind, model in models.items():
        L = photos(model, GRIDS[0], 1)
        cached = sample(model, L, seeds=[0])
        naive, in_full[f"16x16/B1{kind}"] = naive_in_full(model, L)
        metrics["same_tokens"][f"16x16/B1{kind}"] = (cached == naive).double().mean().item()
        for batch in BATCHES:
            for grid in grids:
                key = f"{grid}x{grid}/B{batch}{kind}"
                makers = {"ours": cached_candidate, "naive": naive_candidate}
                found = interleaved(
                    {
                        f"{key} {name}": make(model, grid, batch)
                        for name, make in (*makers.items(), ("floor", floor_candidate))
                    }
                )
                ours, theirs, least = found.values()
                metrics["sample_s"][key] = ours["sample_s"]
                metrics["step_us"][key] = 1e6 * ours["step_s"]
                metrics["step_over_floor"][key] = ours["step_s"] / least["floor_s"]
                metrics["step_over_read_floor"][key] = ours["step_s"] / least["read_floor_s"]
                baseline["naive_s"][key] = theirs["naive_s"]
                baseline["uncached_s"][key] = theirs["uncached_s"]
                baseline["floor_us"][key] = 1e6 * least["floor_s"]
                baseline["read_floor_us"][key] = 1e6 * least["read_floor_s"]
                ratio[key] = theirs["naive_s"] / ours["sample_s"]
            times = [metrics["sample_s"][f"{grid}x{grid}/B{batch}{kind}"] for grid in grids]
            slope = exponent([grid**2 for grid in grids], times)
            metrics["exponent"][f"B{batch}{kind}"] = slope
    extra = {
        "naive_16x16_B1_in_full_s": in_full,
        "naive_forwards_timed": FORWARDS,
        "torch_threads": given.threads,
        "clock": "core" if given.threads == 1 else "wall",
    }
    print(report("sampler", metrics | extra, baseline, ratio, ("torch",)))


if __name__ == "__main__":
    main()
