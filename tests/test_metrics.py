"""If these fail, the figures in a report are not the ones their papers define."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio

from tintlab.evaluation.calibration import Calibration
from tintlab.evaluation.decodes import (
    Measures,
    diversity_ab,
    measured,
    summarised,
    variants,
)
from tintlab.evaluation.definitions import METRICS, of_photos
from tintlab.evaluation.metrics import (
    ciede2000,
    colorfulness,
    colorfulness_absolute,
    colorfulness_difference,
    colorfulness_ratio,
    ct2_truth,
    mean_psnr_db,
    psnr_db,
    ssim,
    ssim_ct2,
)


def flat(value: tuple[int, int, int], side_px: int = 16) -> np.ndarray:
    return np.full((side_px, side_px, 3), value, np.uint8)


def noisy(rgb: np.ndarray, spread: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(-spread, spread + 1, rgb.shape)
    return np.clip(rgb.astype(int) + noise, 0, 255).astype(np.uint8)


def test_psnr_by_hand():
    # An error of 10 everywhere is a mean squared error of 100: 10 log10(65025 / 100).
    assert psnr_db(flat((100, 100, 100)), flat((110, 110, 110))) == pytest.approx(28.13080)
    # An error of 30 in one channel only is 900 / 3 over the channels jointly.
    assert psnr_db(flat((130, 90, 7)), flat((100, 90, 7))) == pytest.approx(23.35959)


def test_psnr_does_not_wrap_around_at_8_bits():
    assert psnr_db(flat((0, 0, 0)), flat((255, 255, 255))) == pytest.approx(0.0)
    assert psnr_db(flat((255, 255, 255)), flat((0, 0, 0))) == pytest.approx(0.0)


def test_psnr_and_ssim_are_torchmetrics_s():
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio as psnr_of_torchmetrics,
    )
    from torchmetrics.functional.image import (
        structural_similarity_index_measure as ssim_of_torchmetrics,
    )

    truth = astronaut()[100:180, 150:246]
    pred = noisy(truth, 40)
    pair = [torch.from_numpy(rgb).permute(2, 0, 1)[None].double() for rgb in (pred, truth)]
    assert psnr_db(pred, truth) == pytest.approx(
        float(psnr_of_torchmetrics(*pair, data_range=255.0)), rel=1e-6
    )
    # Its mean goes on over mirrored borders, which Wang et al. leave out.
    _, full = ssim_of_torchmetrics(*pair, data_range=255.0, return_full_image=True)
    inside = full[..., 5:-5, 5:-5]
    assert ssim(pred, truth) == pytest.approx(float(inside.mean()), abs=1e-6)


def test_psnr_is_scikit_images():
    truth = astronaut()[:64, :80]
    pred = noisy(truth, 25)
    assert psnr_db(pred, truth) == pytest.approx(peak_signal_noise_ratio(truth, pred), abs=1e-9)


def test_psnr_of_equal_photos_is_infinite_and_does_not_swallow_the_mean():
    assert psnr_db(flat((1, 2, 3)), flat((1, 2, 3))) == math.inf
    assert mean_psnr_db([20.0, math.inf, 30.0]) == 25.0
    assert mean_psnr_db([math.inf, math.inf]) == math.inf


def test_ssim_by_hand_on_flat_photos():
    # Without variance only the luminance term is left: (2 x y + C1) / (x^2 + y^2 + C1), with
    # C1 = (0.01 * 255)^2 = 6.5025; here 30006.5025 / 32506.5025.
    assert ssim(flat((100,) * 3), flat((150,) * 3)) == pytest.approx(0.9230923, abs=1e-6)
    assert ssim(flat((9, 80, 200)), flat((9, 80, 200))) == pytest.approx(1.0)


def test_ssim_is_the_published_formula():
    """Wang et al. 2004, eq. 13, window by window, valid region only, as BasicSR computes it."""
    truth = astronaut()[100:148, 200:240]
    pred = noisy(truth, 40)
    offset = np.arange(11) - 5
    bell = np.exp(-(offset**2) / (2 * 1.5**2))
    window = np.outer(bell, bell) / bell.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    of_channels = []
    for channel in range(3):
        x, y = pred[..., channel].astype(float), truth[..., channel].astype(float)
        mx, my, mxx, myy, mxy = (
            convolve2d(z, window, mode="valid") for z in (x, y, x * x, y * y, x * y)
        )
        luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
        structure = (2 * (mxy - mx * my) + c2) / (mxx - mx**2 + myy - my**2 + c2)
        of_channels.append((luminance * structure).mean())
    assert ssim(pred, truth) == pytest.approx(np.mean(of_channels), abs=1e-6)
    assert ssim(pred, truth) < 0.9


def test_ssim_names_the_setting_when_a_crop_is_too_small():
    with pytest.raises(ValueError, match=r"at least 11 px, got \(8, 8\)"):
        ssim(flat((1, 1, 1), 8), flat((1, 1, 1), 8))


def test_colorfulness_by_hand():
    """Half red, half blue: rg = 255 or 0, yb = 127.5 or -255; the signs matter.

    Means 127.5 and -63.75, deviations 127.5 and 191.25:
    sqrt(127.5^2 + 191.25^2) + 0.3 sqrt(127.5^2 + 63.75^2) = 229.85389 + 42.76480.
    """
    rgb = flat((255, 0, 0))
    rgb[:8] = (0, 0, 255)
    assert colorfulness(rgb) == pytest.approx(272.61869, abs=1e-4)


def test_colorfulness_of_grey_is_zero_and_grows_with_saturation():
    truth = astronaut()[:64, :64]
    grey = np.repeat(truth[..., :1], 3, axis=-1)
    half = ((truth.astype(int) + grey) // 2).astype(np.uint8)
    assert colorfulness(grey) == 0.0
    assert 0.0 < colorfulness(half) < colorfulness(truth)


def test_colorfulness_ratio_compares_the_means():
    assert colorfulness_ratio([10.0, 20.0], [20.0, 40.0]) == pytest.approx(0.5)
    assert math.isnan(colorfulness_ratio([1.0], [0.0]))


def test_colorfulness_of_ct2_and_ddcolor_takes_absolute_values_first():
    """The same half red, half blue: |yb| = 127.5 or 255, whose deviation is 63.75, mean 191.25.

    sqrt(127.5^2 + 63.75^2) + 0.3 sqrt(127.5^2 + 191.25^2) = 142.54933 + 68.95617.
    """
    rgb = flat((255, 0, 0))
    rgb[:8] = (0, 0, 255)
    assert colorfulness_absolute(rgb) == pytest.approx(211.50550, abs=1e-4)
    assert colorfulness_absolute(flat((9, 9, 9))) == 0.0


def test_ciede2000_of_known_colours():
    assert ciede2000(flat((10, 200, 30)), flat((10, 200, 30))) == 0.0
    # Lab of these: (53.24, 80.09, 67.20), (87.73, -86.18, 83.18), (32.30, 79.19, -107.86);
    # differences as computed by ColorMine and Bruce Lindbloom's calculator.
    red, green, blue = flat((255, 0, 0)), flat((0, 255, 0)), flat((0, 0, 255))
    assert ciede2000(red, green) == pytest.approx(86.61, abs=0.02)
    assert ciede2000(red, blue) == pytest.approx(52.88, abs=0.02)
    half = flat((255, 0, 0))
    half[:8] = (0, 0, 255)
    assert ciede2000(half, red) == pytest.approx(52.88 / 2, abs=0.02)


# ---- calibration


def logits_of(probability: torch.Tensor) -> torch.Tensor:
    """(n, K) probabilities as logits of n positions in a row, one channel, one photo."""
    return probability.log().T[None, None, :, None]  # (1, 1, K, 1, n)


def test_calibration_error_by_hand():
    # 10 positions at 0.9, of which 6 right; 10 at 0.6, of which 6 right: (10 * 0.3 + 0) / 20.
    sure, unsure = torch.tensor([0.9, 0.1]), torch.tensor([0.6, 0.4])
    logits = logits_of(torch.stack([sure] * 10 + [unsure] * 10))
    tokens = torch.tensor(([0] * 6 + [1] * 4) * 2)[None, None, None]
    calibration = Calibration(channels=1)
    calibration.add(logits, tokens)
    assert calibration.error() == [pytest.approx(0.15)]


def test_calibration_of_true_probabilities_is_near_zero_and_of_false_ones_is_not():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn((1, 2, 6, 100, 200), generator=generator)
    flat_probability = logits.softmax(dim=2).movedim(2, -1).reshape(-1, 6)
    tokens = torch.multinomial(flat_probability, 1, generator=generator).view(1, 2, 100, 200)
    honest, boastful = Calibration(2), Calibration(2)
    honest.add(logits, tokens)
    boastful.add(3 * logits, tokens)
    assert max(honest.error()) < 0.02
    assert min(boastful.error()) > 0.15


def test_calibration_does_not_depend_on_how_photos_are_grouped():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((6, 1, 4, 3, 3), generator=generator)
    tokens = torch.randint(4, (6, 1, 3, 3), generator=generator)
    together, apart = Calibration(1), Calibration(1)
    together.add(logits, tokens)
    for photo in range(6):
        apart.add(logits[photo : photo + 1], tokens[photo : photo + 1])
    assert together.error() == pytest.approx(apart.error())
    assert math.isnan(Calibration(1).error()[0])


# ---- diversity and summaries


def test_diversity_is_the_mean_distance_of_pairs():
    samples = torch.zeros(2, 3, 2, 4, 5)
    samples[0, 1, 0] = 3.0  # 3, 4 and 5 apart
    samples[0, 2, 1] = 4.0
    assert diversity_ab(samples) == [pytest.approx(4.0), 0.0]
    assert diversity_ab(samples[:, :1]) is None


def test_a_gap_shows_what_a_ratio_of_means_hides():
    grey, vivid = flat((90, 90, 90)), flat((200, 10, 10))
    truth = [measured(rgb, rgb, None) for rgb in (grey, vivid)]
    swapped = [measured(vivid, grey, None), measured(grey, vivid, None)]
    figures = summarised(swapped, truth)
    assert figures["colorfulness_ratio"] == pytest.approx(1.0)
    assert figures["colorfulness_gap"] == pytest.approx(colorfulness(vivid))
    assert figures["lpips"] is None
    assert summarised(truth, truth)["colorfulness_absolute_gap"] == 0.0


def test_a_mean_over_photos_is_of_every_measure():
    one = Measures(20.0, 0.5, 2.0, 10.0, 8.0, 0.25)
    other = Measures(math.inf, 0.7, 4.0, 30.0, 24.0, 0.75)
    assert summarised([one, other], [other, other]) == {
        "psnr_db": 20.0,
        "ssim": pytest.approx(0.6),
        "ciede2000": 3.0,
        "colorfulness": 20.0,
        "colorfulness_absolute": 16.0,
        "lpips": 0.5,
        "colorfulness_ratio": pytest.approx(2 / 3),
        "colorfulness_absolute_ratio": pytest.approx(2 / 3),
        "colorfulness_gap": 10.0,
        "colorfulness_absolute_gap": 8.0,
        "colorfulness_difference": 10.0,
        "colorfulness_absolute_difference": 8.0,
    }


# ---- variants of other systems


def test_ct2s_ssim_by_hand_has_its_range_in_the_constants():
    # C1 = (0.01 * 225)^2 = 5.0625: (30000 + 5.0625) / (32500 + 5.0625), where 255 gives 0.9230923.
    assert ssim_ct2(flat((100,) * 3), flat((150,) * 3)) == pytest.approx(0.9230889, abs=1e-7)


def test_ct2s_ssim_is_of_uniform_windows_of_7_px():
    truth = astronaut()[100:130, 200:224]
    pred = noisy(truth, 40)
    c1, c2 = (0.01 * 225) ** 2, (0.03 * 225) ** 2
    x, y = (
        np.lib.stride_tricks.sliding_window_view(z.astype(float), (7, 7), axis=(0, 1)).reshape(
            24, 18, 3, 49
        )
        for z in (pred, truth)
    )
    mx, my = x.mean(-1), y.mean(-1)
    vx, vy = x.var(-1, ddof=1), y.var(-1, ddof=1)
    vxy = ((x - mx[..., None]) * (y - my[..., None])).sum(-1) / 48
    by_hand = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim_ct2(pred, truth) == pytest.approx(by_hand.mean(), abs=1e-9)
    assert ssim_ct2(pred, truth) != pytest.approx(ssim(pred, truth), abs=1e-3)


def test_ct2s_truth_is_rounded_down_once():
    truth = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    lost = truth.astype(int) - ct2_truth(truth)
    assert set(np.unique(lost)) == {0, 1}
    assert 0.2 < lost.mean() < 0.8
    # So the true photo itself is not right: its PSNR is that of an error of 1 in some values.
    expected = 10 * math.log10(255**2 / lost.mean())
    assert variants(truth, truth)["psnr_db_ct2_lab"] == pytest.approx(expected)


def test_basicsrs_crop_leaves_out_four_pixels_on_each_side():
    truth = astronaut()[100:140, 200:236]
    pred = noisy(truth, 20)
    spoiled = pred.copy()
    spoiled[:4] = spoiled[-4:] = 0
    spoiled[:, :4] = spoiled[:, -4:] = 0
    of_both = variants(pred, truth), variants(spoiled, truth)
    for name in ("psnr_db_basicsr_crop4", "ssim_basicsr_crop4"):
        assert of_both[0][name] == of_both[1][name]
    inner = pred[4:36, 4:32].astype(float) - truth[4:36, 4:32]
    by_hand = 10 * math.log10(255**2 / (inner**2).mean())
    assert of_both[0]["psnr_db_basicsr_crop4"] == pytest.approx(by_hand)
    assert psnr_db(spoiled, truth) < by_hand - 5


def test_basicsrs_ssim_is_what_opencv_gives_as_there():
    """BasicSR's own way of computing it: cv2.filter2D with the window, cut to where it fits."""
    truth = astronaut()[100:150, 200:240]
    pred = noisy(truth, 30)
    kernel = cv2.getGaussianKernel(11, 1.5)
    window = kernel @ kernel.T

    def blurred(z: np.ndarray) -> np.ndarray:
        return cv2.filter2D(z, -1, window)[5:-5, 5:-5]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    of_channels = []
    for channel in range(3):
        x, y = (z[4:-4, 4:-4, channel].astype(float) for z in (pred, truth))
        mx, my = blurred(x), blurred(y)
        vx, vy = blurred(x * x) - mx**2, blurred(y * y) - my**2
        vxy = blurred(x * y) - mx * my
        of_channels.append(
            (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
        )
    found = variants(pred, truth)["ssim_basicsr_crop4"]
    assert found == pytest.approx(np.mean([one.mean() for one in of_channels]), abs=1e-7)


def test_a_photo_too_small_for_a_variant_has_no_number_under_its_id():
    small = variants(flat((9, 9, 9), 16), flat((9, 9, 9), 16))
    assert set(small) == {"psnr_db_ct2_lab", "ssim_ct2", "ssim_ct2_lab"}


def test_a_difference_of_means_is_zero_where_the_gap_is_not():
    assert colorfulness_difference([10.0, 30.0], [30.0, 10.0]) == 0.0
    assert colorfulness_difference([10.0, 20.0], [30.0, 10.0]) == pytest.approx(5.0)


# ---- identities


def test_every_definition_says_all_there_is_to_say_and_is_documented():
    documented = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    for name, metric in METRICS.items():
        assert metric.id == name
        for field in (metric.unit, metric.space, metric.crop, metric.reference, metric.source):
            assert field, name
        assert f"`{name}`" in documented, name


def test_only_metrics_with_a_better_side_are_compared():
    found = [metric.id for metric in of_photos(["ssim", "colorfulness", "id", "greedy_ssim"])]
    assert found == ["ssim"]
