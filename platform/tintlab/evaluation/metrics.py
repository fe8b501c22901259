"""What is measured between a coloured photo and the true one, on 8-bit sRGB as a viewer gets it.

No metric crops a border, resizes or rescales: what is compared is exactly what would be saved. The
exceptions are other systems' variants; each has an id of its own in `definitions`. PSNR and SSIM
punish every plausible colour that is not the true one, so a greyer model scores better on them;
read them beside colourfulness and bits per dimension.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from skimage.color import deltaE_ciede2000, lab2rgb, rgb2lab
from skimage.metrics import structural_similarity

from tintlab.color.lab import srgb_to_lab

PEAK = 255.0
"""Largest value of an 8-bit channel."""
SSIM_SIGMA_PX = 1.5
"""Width of the Gaussian window of Wang et al. 2004, sec. III-B."""
SSIM_WINDOW_PX = 11
"""Side of that window: scikit-image cuts the Gaussian off at 3.5 sigma."""
BASICSR_BORDER_PX = 4
"""`crop_border` of BasicSR's own options for super-resolution, which DDColor's are made from."""
CT2_RANGE = 225.0
"""`data_range` of CT2's SSIM, where 8 bits have 255."""


def psnr_db(pred: UInt8[np.ndarray, "H W 3"], truth: UInt8[np.ndarray, "H W 3"]) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(255^2 / MSE), the MSE over all channels jointly.

    Two equal photos have no error and so an infinite ratio: the result is then `inf`.
    """
    error = pred.astype(np.float64) - truth.astype(np.float64)
    mean_squared_error = float(np.mean(error**2))
    if mean_squared_error == 0.0:
        return float("inf")
    return float(10.0 * np.log10(PEAK**2 / mean_squared_error))


def mean_psnr_db(values: Sequence[float]) -> float:
    """Mean over photos of their PSNR in dB, over those that are not infinite.

    A grey photo coloured grey is exactly right, and one such photo would make the plain mean
    infinite. The result is `inf` only if every photo is exactly right.
    """
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("inf")


def ssim(pred: UInt8[np.ndarray, "H W 3"], truth: UInt8[np.ndarray, "H W 3"]) -> float:
    """Structural similarity in [-1, 1], per channel, then averaged.

    Gaussian window of 11 px and sigma 1.5, population covariance, data range 255, mean over the
    pixels whose window lies wholly inside the photo.

    Raises: ValueError: a side is shorter than the window.
    Source: Wang et al. 2004, Image quality assessment: from error visibility to structural
    similarity; the settings reproduce their reference code.
    """
    if min(pred.shape[:2]) < SSIM_WINDOW_PX:
        raise ValueError(f"SSIM needs sides of at least {SSIM_WINDOW_PX} px, got {pred.shape[:2]}")
    return float(
        structural_similarity(
            pred,
            truth,
            gaussian_weights=True,
            sigma=SSIM_SIGMA_PX,
            use_sample_covariance=False,
            data_range=PEAK,
            channel_axis=-1,
        )
    )


def basicsr_cropped(rgb: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Without the border that BasicSR leaves out with `crop_border: 4`.

    BasicSR's PSNR and SSIM of what is left are `psnr_db` and `ssim`, to the last digit but three.
    Source: XPixelGroup/BasicSR, basicsr/metrics/psnr_ssim.py.
    """
    inside = slice(BASICSR_BORDER_PX, -BASICSR_BORDER_PX)
    return rgb[inside, inside]


def ct2_truth(truth: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The truth after CT2's way to Lab and back, which rounds down: up to one level darker.

    Source: shuchenweng/CT2, segm/metrics.py, rgb_to_lab and lab_to_rgb.
    """
    back = lab2rgb(rgb2lab(truth).astype(np.float32))
    return (PEAK * np.clip(back, 0, 1)).astype(np.uint8)


def ssim_ct2(pred: UInt8[np.ndarray, "H W 3"], truth: UInt8[np.ndarray, "H W 3"]) -> float:
    """Structural similarity as CT2 computes it: another window, and a data range of 225.

    Uniform window of 7 px and sample covariance, which were scikit-image's defaults. The smaller
    range makes both constants of the formula smaller, and nearly every figure lower than `ssim`.

    Raises: ValueError: a side is shorter than 7 px.
    Source: shuchenweng/CT2, segm/metrics.py, avg_ssim_psnr.
    """
    return float(structural_similarity(pred, truth, data_range=CT2_RANGE, channel_axis=-1))


def ciede2000(pred: UInt8[np.ndarray, "H W 3"], truth: UInt8[np.ndarray, "H W 3"]) -> float:
    """Mean over pixels of the CIEDE2000 colour difference: 0 is equal, 1 about just noticeable.

    Source: Sharma et al. 2005, The CIEDE2000 Color-Difference Formula, with kL = kC = kH = 1.
    """
    difference = deltaE_ciede2000(srgb_to_lab(truth), srgb_to_lab(pred))
    return float(difference.mean(dtype=np.float64))


def colorfulness(rgb: UInt8[np.ndarray, "H W 3"]) -> float:
    """How colourful a photo looks: 0 for grey, about 33 "moderately", 109 "extremely colorful".

        rg = R - G,  yb = (R + G) / 2 - B                         (signed, on 0..255)
        M  = sqrt(std(rg)^2 + std(yb)^2) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2)

    Signed, as published; compare `colorfulness_absolute`. Standard deviations are over the
    population of pixels.

    Source: Hasler & Suesstrunk 2003, Measuring colourfulness in natural images, eq. 3 and table 2.
    """
    return _colorfulness(*_opponents(rgb))


def colorfulness_absolute(rgb: UInt8[np.ndarray, "H W 3"]) -> float:
    """Colourfulness as CT2 and DDColor compute it: with |rg| and |yb| in place of rg and yb.

    Not the published formula and not comparable with it: a photo of two opposite colours, whose
    signs are what makes it colourful, gets less.

    Source: CT2's segm/eval_colorfullness.py and DDColor's basicsr/metrics/colorfulness.py.
    """
    rg, yb = _opponents(rgb)
    return _colorfulness(np.abs(rg), np.abs(yb))


def _opponents(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    red, green, blue = np.moveaxis(rgb.astype(np.float64), -1, 0)
    return red - green, 0.5 * (red + green) - blue


def _colorfulness(rg: np.ndarray, yb: np.ndarray) -> float:
    spread = np.hypot(rg.std(), yb.std())
    return float(spread + 0.3 * np.hypot(rg.mean(), yb.mean()))


def colorfulness_ratio(coloured: Sequence[float], truth: Sequence[float]) -> float:
    """Mean colourfulness of what a model paints over the mean of the true photos; 1 is right.

    `nan` where every true photo is grey: there is nothing to compare with.
    """
    of_truth = float(np.mean(truth))
    return float(np.mean(coloured)) / of_truth if of_truth > 0.0 else float("nan")


def colorfulness_difference(coloured: Sequence[float], truth: Sequence[float]) -> float:
    """How far the mean colourfulness of a data set is from the truth's.

    Of `colorfulness_absolute` it is the delta CF of CT2's and DDColor's tables.
    0 even if every photo is wrong, some too grey and some too colourful; the mean over photos of
    the absolute difference, the gap, is not.
    """
    return abs(float(np.mean(coloured)) - float(np.mean(truth)))
