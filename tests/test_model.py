"""The colorizer: what a token may know, what a photo's size may be, how training starts."""

import pytest
import torch
from torch import Tensor

from tintlab.model.attention import Rotation, attention_places, grid_rotation, rotate
from tintlab.model.colorizer import Colorizer
from tintlab.settings import BinsConfig, ModelConfig

FACTORED = BinsConfig(kind="factored", per_channel=8)
JOINT = BinsConfig(kind="joint", joint_step=40)


def built(model: ModelConfig, bins: BinsConfig = FACTORED, seed: int = 0) -> Colorizer:
    """A float64 model whose every layer matters: the zero-initialised ones are filled, too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        colorizer = Colorizer(model, bins).double().eval()
    with torch.no_grad():
        for parameter in colorizer.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise, alpha=0.2)
    return colorizer


def random_inputs(
    model: Colorizer, batch: int, rows: int, columns: int, seed: int = 1
) -> tuple[Tensor, Tensor]:
    """L and tokens for a chroma grid of this size."""
    generator = torch.Generator().manual_seed(seed)
    height, width = rows * model.stride, columns * model.stride
    L = 100 * torch.rand((batch, 1, height, width), generator=generator, dtype=torch.float64)
    shape = (batch, model.bins.channels, rows, columns)
    return L, torch.randint(model.bins.count, shape, generator=generator)


def influence(model: Colorizer, rows: int, columns: int) -> Tensor:
    """[i, j]: does changing token i change the logits of token j? Tokens in the sampler's order."""
    L, tokens = random_inputs(model, 1, rows, columns)
    channels = model.bins.channels
    count = rows * columns * channels
    changed = tokens.movedim(1, -1).flatten(1).repeat(count, 1)  # (i, j)
    changed += torch.eye(count, dtype=torch.int64)
    changed %= model.bins.count
    changed = changed.unflatten(1, (rows, columns, channels)).movedim(-1, 1)
    with torch.no_grad():
        cond = model.encode(L)
        before = model.decoder_logits(cond, tokens)
        after = model.decoder_logits(cond.expand(count, -1, -1, -1), changed)
    differs = (after != before).any(dim=2)  # (i, C, h, w)
    return differs.movedim(1, -1).flatten(1)


@pytest.mark.parametrize("bins", [FACTORED, JOINT], ids=["factored", "joint"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decoder_attention_blocks": 1},
        {"decoder_attention_blocks": 3, "encoder_attention_blocks": 1},
        {"encoder_norm": "batch"},
        {"encoder_norm": "none", "chroma_stride": 1},
    ],
    ids=["plain", "attention", "much-attention", "batch-norm", "stride-1"],
)
def test_each_token_knows_exactly_the_tokens_before_it(options: dict, bins: BinsConfig) -> None:
    # A 1 above the diagonal for every pair: no future, no own value, and no blind spot.
    seen = influence(built(ModelConfig(depth=2, **options), bins), rows=3, columns=4)
    before = torch.ones_like(seen).triu(diagonal=1)
    assert torch.equal(seen, before)


@pytest.mark.parametrize("bins", [FACTORED, JOINT], ids=["factored", "joint"])
def test_no_blind_spot_on_a_6x6_grid_at_the_default_depth(bins: BinsConfig) -> None:
    seen = influence(built(ModelConfig(), bins), rows=6, columns=6)
    assert torch.equal(seen, torch.ones_like(seen).triu(diagonal=1))


def test_convolutions_reach_no_farther_than_stated_and_attention_reaches_everything() -> None:
    # The 6x6 test above would say nothing if a shallow model already saw the whole grid.
    plain = influence(built(ModelConfig(depth=1), JOINT), rows=1, columns=6)
    assert plain[0].tolist() == [False, True, True, False, False, False]
    attending = ModelConfig(depth=1, decoder_attention_blocks=1)
    assert influence(built(attending, JOINT), rows=1, columns=6)[0, 1:].all()


def test_every_decoder_gate_sees_the_photo_and_the_parallel_head_sees_no_tokens() -> None:
    model = built(ModelConfig(depth=2))
    L, tokens = random_inputs(model, 1, 3, 3)
    other = model.forward(L.flip(-1), tokens)
    logits = model.forward(L, tokens)
    assert (logits.autoregressive != other.autoregressive).flatten(2).any(dim=2).all()
    assert torch.equal(logits.parallel, model.forward(L, (tokens + 1) % 8).parallel)


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_a_batch_of_2_equals_two_of_1(norm: str) -> None:
    options = {"encoder_attention_blocks": 1, "decoder_attention_blocks": 1, "dropout": 0.5}
    model = built(ModelConfig(depth=2, encoder_norm=norm, **options))  # type: ignore[arg-type]
    L, tokens = random_inputs(model, 2, 3, 4)
    together = model.forward(L, tokens)
    for image in range(2):
        alone = model.forward(L[image : image + 1], tokens[image : image + 1])
        for one, both in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], both[image], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bins", [FACTORED, JOINT], ids=["factored", "joint"])
def test_an_untrained_model_is_uniform(bins: BinsConfig) -> None:
    # Training starts at log2(K) bits per token, whatever the seed and the depth.
    model = Colorizer(ModelConfig(depth=5, decoder_attention_blocks=1), bins).double()
    L, tokens = random_inputs(model, 2, 4, 4)
    logits = model.forward(L, tokens)
    assert logits.autoregressive.shape == (2, model.bins.channels, model.bins.count, 4, 4)
    assert not logits.autoregressive.any()
    assert not logits.parallel.any()


def test_every_parameter_is_trained() -> None:
    # Distributed training refuses a parameter that never gets a gradient.
    options = {"encoder_attention_blocks": 2, "decoder_attention_blocks": 2}
    model = built(ModelConfig(depth=2, **options)).train()  # type: ignore[arg-type]
    L, tokens = random_inputs(model, 2, 4, 4)
    logits = model.forward(L, tokens)
    (logits.autoregressive.square().sum() + logits.parallel.square().sum()).backward()
    unused = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # The upsampler has a loss of its own, which tests/test_losses.py looks at.
    assert [name for name in unused if not name.startswith("upsampler.")] == []


def test_bf16_autocast_runs_and_stays_near_fp32() -> None:
    options = {"encoder_attention_blocks": 1, "decoder_attention_blocks": 1}
    model = built(ModelConfig(depth=2, **options)).float()  # type: ignore[arg-type]
    L, tokens = random_inputs(model, 2, 4, 4)
    exact = model.forward(L.float(), tokens).autoregressive
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model.forward(L.float(), tokens).autoregressive
    # bfloat16 keeps 8 bits of each product: a few per cent of the logits' spread.
    assert (rough.float() - exact).abs().max() < 0.1 * exact.std()


def test_depth_is_the_one_dial() -> None:
    counts = [Colorizer(ModelConfig(depth=d), BinsConfig()).parameter_count for d in (2, 4, 6)]
    assert counts == sorted(counts)
    assert 300_000 < counts[1] < 500_000


def test_positions_turn_scores_by_their_offset_alone() -> None:
    # Why attention works on grids larger than any it was trained on.
    rows, columns = 7, 9
    table = grid_rotation(rows, columns, torch.zeros(1, dtype=torch.float64))
    query, key = torch.randn(
        (2, 1, 1, 1, 16), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )

    def score(query_at: tuple[int, int], key_at: tuple[int, int]) -> float:
        turned = []
        for vector, (row, column) in ((query, query_at), (key, key_at)):
            at = row * columns + column
            here = Rotation(table.cos[at : at + 1], table.sin[at : at + 1])
            turned.append(rotate(vector, *here).flatten())
        return float(turned[0] @ turned[1])

    assert score((1, 2), (0, 0)) == pytest.approx(score((6, 8), (5, 6)), abs=1e-12)
    assert score((1, 2), (0, 0)) != pytest.approx(score((2, 1), (0, 0)), abs=1e-3)
    assert score((0, 0), (0, 0)) == pytest.approx(float(query.flatten() @ key.flatten()))


@pytest.mark.parametrize(
    ("depth", "blocks", "places"),
    [(4, 0, [0, 0, 0, 0]), (4, 1, [0, 1, 0, 0]), (3, 2, [1, 1, 0]), (1, 3, [3])],
)
def test_attention_blocks_are_spread_over_the_depth(
    depth: int, blocks: int, places: list[int]
) -> None:
    assert attention_places(depth, blocks) == places


@pytest.mark.parametrize(("height", "width"), [(13, 7), (1, 1), (1, 30), (16, 8), (3, 5)])
@pytest.mark.parametrize("stride", [1, 4, 8])
def test_any_size_goes_through_and_comes_back(height: int, width: int, stride: int) -> None:
    model = built(ModelConfig(depth=1, chroma_stride=stride))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    L = 100 * torch.rand((2, 1, height, width), generator=generator, dtype=torch.float64)
    ab = 40 * torch.randn((2, 2, 1, 1), generator=generator, dtype=torch.float64)
    ab = ab.clamp(-100, 100).expand(2, 2, height, width)
    rows, columns = -(-height // stride), -(-width // stride)
    tokens = model.tokens(ab)
    assert tokens.shape == (2, 2, rows, columns)
    assert model.forward(L, tokens).autoregressive.shape[3:] == (rows, columns)
    # One colour stays that colour: padding brings in none of its own.
    torch.testing.assert_close(model.upsample(model.coarsen(ab), L), ab)


def test_padding_repeats_the_edge_and_never_moves_the_photo() -> None:
    model = built(ModelConfig(depth=1))
    L, _ = random_inputs(model, 1, 2, 2)
    cropped = L[:, :, :5, :6]
    by_hand = cropped[:, :, [0, 1, 2, 3, 4, 4, 4, 4]][:, :, :, [0, 1, 2, 3, 4, 5, 5, 5]]
    assert torch.equal(model.padded(cropped), by_hand)
    assert torch.equal(model.encode(cropped), model.encode(by_hand))
    assert model.padded(L) is L


@pytest.mark.parametrize(("stride", "finer"), [(1, []), (2, []), (4, [2]), (8, [2, 4])])
def test_skip_features_are_those_of_the_stem_on_its_way_to_the_chroma_grid(stride, finer) -> None:
    model = built(ModelConfig(depth=2, chroma_stride=stride))
    L = 100 * torch.rand((2, 1, 24, 40), dtype=torch.float64)
    skips = model.encoder.skips(L)
    assert [skip.shape[2:] for skip in skips] == [(24 // by, 40 // by) for by in finer]
    assert [skip.shape[1] for skip in skips] == list(model.encoder.skip_widths)
    if skips:  # the stem goes on from the last of them
        torch.testing.assert_close(
            model.encoder.stem[-1](skips[-1]), model.encoder.stem(L / 50 - 1)
        )


def test_a_photo_of_the_size_that_was_looked_at_is_upsampled_the_same_way() -> None:
    model = built(ModelConfig(depth=2))
    L = 100 * torch.rand((2, 1, 24, 40), dtype=torch.float64)
    ab = 80 * torch.rand((2, 2, 6, 10), dtype=torch.float64) - 40
    same = model.upsample(ab, L)
    torch.testing.assert_close(model.upsample_to(ab, L, L), same, rtol=0, atol=0)
    assert not torch.allclose(model.upsample_to(ab, 100 - L, L), same)  # skip features matter
    assert model.upsample_to(ab, L, L[:, :, :7, :31]).shape == (2, 2, 7, 31)


@pytest.mark.parametrize("upsampler", ["learned", "bilinear"])
def test_chroma_down_and_up_keeps_a_gradient_in_place(upsampler: str) -> None:
    # A shift by half a chroma cell, the classic mistake, would move the ramp by 2 units here.
    # The learned upsampler is bilinear before it has learned anything.
    model = Colorizer(ModelConfig(depth=1, upsampler=upsampler), FACTORED).double()  # type: ignore[arg-type]
    ramp = torch.arange(32, dtype=torch.float64)
    ab = torch.stack((ramp.expand(32, 32), ramp[:, None].expand(32, 32)))[None]
    coarse = model.coarsen(ab)
    assert coarse[0, 0, 0].tolist() == [1.5 + 4 * k for k in range(8)]  # area means
    up = model.upsample(coarse, torch.zeros((1, 1, 32, 32), dtype=torch.float64))
    inner = slice(2, -2)  # beyond the outermost cell centres nothing is known
    torch.testing.assert_close(up[:, :, inner, inner], ab[:, :, inner, inner])
