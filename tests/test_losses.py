"""Bits per dimension and the training loss, against values worked out by hand."""

import math

import pytest
import torch

from tintlab.config import LossConfig
from tintlab.model.colorizer import Logits
from tintlab.training.losses import bits_per_dim, training_loss

B, K, H, W = 3, 8, 2, 5


def random_case(channels: int, seed: int = 0) -> tuple[Logits, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (B, channels, K, H, W)
    autoregressive = torch.randn(shape, generator=generator)
    parallel = torch.randn(shape, generator=generator)
    tokens = torch.randint(K, (B, channels, H, W), generator=generator)
    return Logits(autoregressive, parallel), tokens


@pytest.mark.parametrize(("channels", "expected"), [(2, 3.0), (1, 1.5)])
def test_uniform_logits_cost_log2_k_per_token(channels, expected):
    # 8 bins are 3 bits a token: two tokens for two dimensions, or one token for both.
    logits = torch.zeros(B, channels, K, H, W)
    tokens = torch.zeros(B, channels, H, W, dtype=torch.int64)
    torch.testing.assert_close(bits_per_dim(logits, tokens), torch.full((B,), expected))


@pytest.mark.parametrize("channels", [1, 2])
def test_bits_are_minus_log2_of_the_grids_probability(channels):
    logits, tokens = random_case(channels)
    probability = logits.autoregressive.double().softmax(dim=2)
    for b in range(B):
        bits = 0.0
        for c in range(channels):
            for i in range(H):
                for j in range(W):
                    bits -= math.log2(probability[b, c, tokens[b, c, i, j], i, j])
        got = bits_per_dim(logits.autoregressive, tokens)[b].item()
        assert got == pytest.approx(bits / (2 * H * W), rel=1e-6)


def test_one_photos_bits_do_not_depend_on_the_others():
    logits, tokens = random_case(2)
    alone = bits_per_dim(logits.autoregressive[1:2], tokens[1:2])
    torch.testing.assert_close(bits_per_dim(logits.autoregressive, tokens)[1:2], alone)


def test_bf16_logits_are_measured_in_fp32():
    logits, tokens = random_case(2)
    half = logits.autoregressive.bfloat16()
    got = bits_per_dim(half, tokens)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, bits_per_dim(half.float(), tokens), rtol=0, atol=0)


def test_total_is_the_autoregressive_plus_the_weighted_parallel_term():
    logits, tokens = random_case(2)
    total, terms = training_loss(logits, tokens, LossConfig(parallel=0.5))
    assert set(terms) == {"bits_per_dim", "parallel_bits_per_dim"}
    expected = bits_per_dim(logits.autoregressive, tokens).mean()
    expected_parallel = bits_per_dim(logits.parallel, tokens).mean()
    torch.testing.assert_close(terms["bits_per_dim"], expected)
    torch.testing.assert_close(terms["parallel_bits_per_dim"], expected_parallel)
    torch.testing.assert_close(total, expected + 0.5 * expected_parallel)


def test_label_smoothing_changes_what_is_learned_and_not_what_is_reported():
    logits, tokens = random_case(2)
    plain, plain_terms = training_loss(logits, tokens, LossConfig(parallel=0.0))
    smooth, smooth_terms = training_loss(
        logits, tokens, LossConfig(parallel=0.0, label_smoothing=0.1)
    )
    assert smooth_terms == plain_terms
    # The smoothed target gives 0.9 to the token and 0.1 / K to every bin.
    nats = -logits.autoregressive.double().log_softmax(dim=2)
    uniform_bits = nats.mean(dim=2).sum(dim=(1, 2, 3)) / (math.log(2) * 2 * H * W)
    expected = 0.9 * plain.item() + 0.1 * uniform_bits.mean().item()
    assert smooth.item() == pytest.approx(expected, rel=1e-6)


def test_terms_carry_no_gradient_and_weight_zero_keeps_every_weight_in_the_graph():
    logits, tokens = random_case(2)
    leaves = Logits(*(part.requires_grad_() for part in logits))
    total, terms = training_loss(leaves, tokens, LossConfig(parallel=0.0))
    assert not any(term.requires_grad for term in terms.values())
    total.backward()
    assert leaves.autoregressive.grad.abs().sum() > 0
    assert leaves.parallel.grad.abs().sum() == 0  # there (DDP waits for it), and zero
