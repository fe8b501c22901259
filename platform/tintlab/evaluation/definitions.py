"""What every figure of an evaluation is: an id that means one formula on one kind of picture.

Papers report numbers of one name that do not compare: other borders, ranges, windows, references.
So a number is never without its id here, and a variant of another system has an id of its own.
An id that ends in a variant's name is computed for comparison with that system only.
"""

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "near 1", "neither"]

HASLER = "Hasler & Süsstrunk 2003, Measuring colourfulness in natural images, eq. 3"
WANG = "Wang et al. 2004, Image quality assessment: from error visibility to structural similarity"
CT2 = "Weng et al. 2022, CT2; code: shuchenweng/CT2, segm/metrics.py"
BASICSR = "XPixelGroup/BasicSR, basicsr/metrics/psnr_ssim.py, as in DDColor (Kang et al. 2023)"
ZHANG_LPIPS = "Zhang et al. 2018, The Unreasonable Effectiveness of Deep Features; lpips 0.1"


@dataclass(frozen=True)
class Metric:
    """One figure: what it is called everywhere, and what exactly it is."""

    id: str
    """In tables, summaries and reports; in a run after the split: `test/psnr_db`."""
    unit: str
    better: Better
    space: str
    """Colour space and range of what is compared."""
    crop: str
    """Which pixels count."""
    reference: str
    """What the picture is compared with."""
    source: str
    """Paper, or code where a variant is only there."""
    of_photo: bool = True
    """Whether each photo has one; otherwise only the whole set has."""
    variant: bool = False
    """Whether it is another system's, for comparison with it only."""


_RGB = "sRGB, 8 bits, 0..255"
_CROP = "all of the centre crop"
_BORDER = "the centre crop without a border of 4 px"
_TRUTH = "the stored photo"
_LAB_TRUTH = "the stored photo after sRGB -> Lab -> sRGB, rounded down"
_TOKENS = "ab tokens on the chroma grid"

METRICS = {
    metric.id: metric
    for metric in (
        Metric(
            "bits_per_dim",
            "bits per dimension",
            "lower",
            _TOKENS,
            _CROP,
            "the true tokens, each given those before it",
            "van den Oord et al. 2016, Pixel Recurrent Neural Networks, sec. 5.1",
        ),
        Metric(
            "parallel_bits_per_dim",
            "bits per dimension",
            "lower",
            _TOKENS,
            _CROP,
            "the true tokens, each by itself",
            "Kumar et al. 2021, Colorization Transformer (the auxiliary head)",
        ),
        Metric(
            "psnr_db", "dB", "higher", _RGB, _CROP, _TRUTH, "10 log10(255² / MSE over channels)"
        ),
        Metric("ssim", "–1 to 1", "higher", _RGB, f"{_CROP}, valid windows", _TRUTH, WANG),
        Metric(
            "ciede2000",
            "ΔE00",
            "lower",
            "CIE Lab, D65",
            _CROP,
            _TRUTH,
            "Sharma et al. 2005, The CIEDE2000 Color-Difference Formula, kL = kC = kH = 1",
        ),
        *(
            Metric(f"lpips_{net}", "distance", "lower", "sRGB, –1..1", _CROP, _TRUTH, ZHANG_LPIPS)
            for net in ("alex", "vgg", "squeeze")
        ),
        Metric("colorfulness", "M", "neither", _RGB, _CROP, "none", HASLER),
        Metric("truth_colorfulness", "M", "neither", _RGB, _CROP, "none", HASLER),
        Metric(
            "colorfulness_absolute",
            "M",
            "neither",
            _RGB,
            _CROP,
            "none",
            f"{CT2} and DDColor's colorfulness.py: |rg| and |yb|",
        ),
        Metric("colorfulness_gap", "M", "lower", _RGB, _CROP, _TRUTH, f"{HASLER}; |difference|"),
        Metric(
            "colorfulness_absolute_gap",
            "M",
            "lower",
            _RGB,
            _CROP,
            _TRUTH,
            "|difference| of colorfulness_absolute, photo by photo",
        ),
        Metric(
            "diversity_ab",
            "ab units",
            "neither",
            "CIE ab on the chroma grid",
            _CROP,
            "the other samples of the photo",
            "mean Euclidean distance over positions and pairs",
        ),
        Metric(
            "colorfulness_ratio",
            "ratio",
            "near 1",
            _RGB,
            _CROP,
            _TRUTH,
            f"{HASLER}; mean over mean",
            of_photo=False,
        ),
        Metric(
            "colorfulness_absolute_ratio",
            "ratio",
            "near 1",
            _RGB,
            _CROP,
            _TRUTH,
            "colorfulness_absolute, mean over mean",
            of_photo=False,
        ),
        Metric(
            "colorfulness_difference",
            "M",
            "lower",
            _RGB,
            _CROP,
            _TRUTH,
            f"{HASLER}; |mean – mean|",
            of_photo=False,
        ),
        Metric(
            "colorfulness_absolute_difference",
            "M",
            "lower",
            _RGB,
            _CROP,
            _TRUTH,
            "ΔCF of CT2 and DDColor: |mean – mean| of colorfulness_absolute",
            of_photo=False,
        ),
        Metric(
            "calibration_error",
            "0 to 1",
            "lower",
            _TOKENS,
            _CROP,
            "how often the likeliest bin is right",
            "Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3",
            of_photo=False,
        ),
        Metric(
            "fid_torch_fidelity",
            "distance",
            "lower",
            "sRGB, 8 bits, enlarged to 299 px",
            _CROP,
            "the true photos of the same split",
            "Heusel et al. 2017; torch-fidelity, inception-v3-compat",
            of_photo=False,
        ),
        Metric(
            "psnr_db_basicsr_crop4",
            "dB",
            "higher",
            _RGB,
            _BORDER,
            _TRUTH,
            BASICSR,
            variant=True,
        ),
        Metric(
            "ssim_basicsr_crop4",
            "–1 to 1",
            "higher",
            _RGB,
            f"{_BORDER}, valid windows",
            _TRUTH,
            BASICSR,
            variant=True,
        ),
        Metric("psnr_db_ct2_lab", "dB", "higher", _RGB, _CROP, _LAB_TRUTH, CT2, variant=True),
        Metric(
            "ssim_ct2",
            "–1 to 1",
            "higher",
            "sRGB, 8 bits, taken for 0..225",
            f"{_CROP}, valid windows of 7 px",
            _TRUTH,
            CT2,
            variant=True,
        ),
        Metric(
            "ssim_ct2_lab",
            "–1 to 1",
            "higher",
            "sRGB, 8 bits, taken for 0..225",
            f"{_CROP}, valid windows of 7 px",
            _LAB_TRUTH,
            CT2,
            variant=True,
        ),
    )
}
"""Id -> definition, in the order of reports."""


def of_photos(names: list[str]) -> list[Metric]:
    """Those of the ids that a photo has and of which more or less is better, in order."""
    return [
        metric
        for metric in METRICS.values()
        if metric.id in names and metric.of_photo and metric.better in ("higher", "lower")
    ]
