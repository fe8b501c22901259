"""sRGB <-> Lab: agreement with scikit-image, exact round trips, gradients, gamut."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import lab2rgb, rgb2lab

from tintlab.color.lab import (
    BLOCK_PX,
    ENCODED_KNEE,
    lab_to_srgb,
    out_of_gamut,
    srgb_to_lab,
)
from tintlab.color.lab_tensor import lab_to_rgb_tensor, rgb_to_lab_tensor

LEVELS = np.arange(256, dtype=np.uint8)
# CIE 15: f changes from a line to a cube root at 6/29, which is L = 8 for a grey.
KNEE_L = 8.0


def cube(levels: np.ndarray) -> np.ndarray:
    """Every colour whose channels are among `levels`, as an image (N, N * N, 3)."""
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    return grid.reshape(len(levels), -1, 3)


def greys() -> np.ndarray:
    return np.repeat(LEVELS[None, :, None], 3, axis=-1)


def wild_lab(seed: int, shape: tuple[int, ...], spread: float = 1.0) -> np.ndarray:
    """Random Lab, mostly out of gamut."""
    random = np.random.default_rng(seed)
    low, high = np.array([-10, -128, -128]), np.array([110, 128, 128])
    return (spread * random.uniform(low, high, (*shape, 3))).astype(np.float32)


def skimage_rgb(lab: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns of the negative Z it clips
        return lab2rgb(lab.astype(np.float64))


def planes(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(image, -1, 0)[None].copy())


def image_of(planes_: torch.Tensor) -> np.ndarray:
    return np.moveaxis(planes_[0].numpy(), 0, -1)


@pytest.mark.parametrize(
    "rgb", [cube(LEVELS[::5]), cube(LEVELS[:24]), greys()], ids=["grid of 5", "dark", "greys"]
)
def test_lab_is_scikit_images(rgb: np.ndarray) -> None:
    lab = srgb_to_lab(rgb)
    assert lab.dtype == np.float32
    np.testing.assert_allclose(lab, rgb2lab(rgb / 255.0), atol=5e-4, rtol=0)


def test_known_colours() -> None:
    """Published values of the sRGB primaries, black and white."""
    rgb = np.array(
        [[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8
    )
    expected: list[list[float]] = [
        [0, 0, 0],
        [100, 0, 0],
        [53.24, 80.09, 67.20],
        [87.74, -86.18, 83.18],
        [32.30, 79.19, -107.86],
    ]
    np.testing.assert_allclose(srgb_to_lab(rgb)[0], expected, atol=0.01)


def test_greys_have_no_chroma_and_rising_lightness() -> None:
    lab = srgb_to_lab(greys())
    assert np.abs(lab[..., 1:]).max() < 0.006
    assert (np.diff(lab[0, :, 0]) > 0).all()


def test_all_colours_survive_the_round_trip_and_are_in_gamut() -> None:
    """Every one of the 16.7 million, exactly; one red level at a time keeps memory small."""
    green_blue = np.stack(np.meshgrid(LEVELS, LEVELS, indexing="ij"), axis=-1)
    for red in LEVELS:
        rgb = np.insert(green_blue, 0, red, axis=-1)
        lab = srgb_to_lab(rgb)
        assert np.array_equal(lab_to_srgb(lab), rgb), f"red {red}"
        assert not out_of_gamut(lab).any(), f"red {red}"


def test_out_of_gamut_lab_clips_as_scikit_image_does() -> None:
    lab = wild_lab(seed=1, shape=(200, 500))
    ours, theirs = lab_to_srgb(lab), skimage_rgb(lab) * 255
    assert out_of_gamut(lab).mean() > 0.5
    # Nearest level; where theirs is on the edge between two levels either is right.
    assert np.abs(ours - theirs).max() < 0.5 + 0.01
    np.testing.assert_allclose(
        image_of(lab_to_rgb_tensor(planes(lab))[0]), theirs / 255, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    "shape", [(1, 1), (0, 7), (3, 5), (2, 3, 4, 5), (1, BLOCK_PX), (1, BLOCK_PX + 1)]
)
def test_shapes_and_memory_layouts_do_not_matter(shape: tuple[int, ...]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    lab = srgb_to_lab(rgb)
    assert lab.shape == rgb.shape
    one_by_one = [srgb_to_lab(pixel.reshape(1, 1, 3)).ravel() for pixel in rgb.reshape(-1, 3)[-30:]]
    # Vector lanes and leftovers of a block may round differently in the last bit.
    np.testing.assert_allclose(
        lab.reshape(-1, 3)[-30:], np.reshape(one_by_one, (-1, 3)), atol=1e-4, rtol=0
    )
    mirrored = rgb[..., ::-1, :]
    mirrored.flags.writeable = False
    np.testing.assert_allclose(srgb_to_lab(mirrored), lab[..., ::-1, :], atol=1e-4, rtol=0)
    np.testing.assert_array_equal(lab_to_srgb(lab[..., ::-1, :]), mirrored)
    np.testing.assert_array_equal(lab_to_srgb(lab.astype(np.float64)), rgb)


def test_arguments_are_left_alone() -> None:
    lab = wild_lab(seed=5, shape=(4, 4))
    before = lab.copy()
    lab_to_srgb(lab)
    out_of_gamut(lab)
    np.testing.assert_array_equal(lab, before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_refused(value: float) -> None:
    lab = np.full((2, 2, 3), 50, np.float32)
    lab[1, 1, 2] = value
    with pytest.raises(ValueError, match="lab must be finite, got NaN or infinity"):
        lab_to_srgb(lab)
    with pytest.raises(ValueError, match="lab must be finite"):
        out_of_gamut(lab)


def test_torch_equals_numpy() -> None:
    rgb = cube(LEVELS[::15])
    lab = srgb_to_lab(rgb)
    ours = image_of(rgb_to_lab_tensor(planes(rgb).float() / 255))
    np.testing.assert_allclose(ours, lab, atol=1e-3, rtol=0)
    back, share = lab_to_rgb_tensor(planes(lab))
    np.testing.assert_allclose(image_of(back), rgb / 255, atol=1e-4, rtol=0)
    assert share == 0


def test_torch_keeps_double_precision_and_lifts_half() -> None:
    rgb = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lab = rgb_to_lab_tensor(rgb)
    assert lab.dtype == torch.float64
    # The standard's own digits make the two pieces of the transfer function miss by 3e-8.
    torch.testing.assert_close(lab_to_rgb_tensor(lab)[0], rgb, atol=1e-7, rtol=0)
    for half in (torch.float16, torch.bfloat16):
        assert rgb_to_lab_tensor(rgb.to(half)).dtype == torch.float32
        torch.testing.assert_close(
            rgb_to_lab_tensor(rgb.to(half)), rgb_to_lab_tensor(rgb.to(half).float())
        )


def test_autocast_does_not_coarsen_colours() -> None:
    rgb = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lab = rgb_to_lab_tensor(rgb)
        back, _ = lab_to_rgb_tensor(lab)
    torch.testing.assert_close(lab, rgb_to_lab_tensor(rgb))
    torch.testing.assert_close(back, rgb, atol=1e-4, rtol=0)


def test_tensors_stay_on_their_device() -> None:
    """The meta device refuses to mix with the CPU, as a GPU would."""
    lab = rgb_to_lab_tensor(torch.zeros(1, 3, 2, 2, device="meta"))
    rgb, share = lab_to_rgb_tensor(lab)
    assert lab.device == rgb.device == share.device == torch.device("meta")


def test_gamut_is_counted() -> None:
    inside, blue_beyond_srgb, whiter_than_white = [50, 0, 0], [32, 100, -110], [101, 0, 0]
    lab = np.array([[inside, blue_beyond_srgb], [whiter_than_white, inside]], np.float32)
    np.testing.assert_array_equal(out_of_gamut(lab), [[False, True], [True, False]])
    assert lab_to_rgb_tensor(planes(lab))[1] == 0.5


def test_gamut_tolerance_is_half_a_level() -> None:
    """A channel at -0.4 or 255.4 of 255 rounds back into the gamut; at -0.6 or 255.6 it clips."""
    for level, clips in [(-0.4, False), (-0.6, True), (255.4, False), (255.6, True)]:
        rgb = torch.tensor([level / 255, 0.5, 0.5], dtype=torch.float64).view(1, 3, 1, 1)
        lab = rgb_to_lab_tensor(rgb)
        assert lab_to_rgb_tensor(lab)[1] == float(clips), level
        assert out_of_gamut(image_of(lab).astype(np.float32)).all() == clips, level


def test_numpy_and_torch_count_the_same_pixels() -> None:
    lab = wild_lab(seed=2, shape=(100, 100), spread=0.7)
    share = lab_to_rgb_tensor(planes(lab))[1].item()
    assert 0.1 < share < 0.9
    assert share == pytest.approx(out_of_gamut(lab).mean(), abs=2e-4)


def test_gradients_are_the_derivatives() -> None:
    """Against finite differences, on bright colours and below every knee."""
    generator = torch.Generator().manual_seed(3)
    unit = torch.rand(1, 3, 4, 4, dtype=torch.float64, generator=generator)
    for rgb in (0.1 + 0.8 * unit, 0.005 + 0.02 * unit):
        assert torch.autograd.gradcheck(rgb_to_lab_tensor, rgb.clone().requires_grad_())
        lab = rgb_to_lab_tensor(rgb).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: lab_to_rgb_tensor(x)[0], lab)


NASTY_RGB = [0.0, -0.0, 1.0, ENCODED_KNEE, 1e-45, 1e-30, -1e-6, -0.5, 1.5, -1e9, 1e9, 3e38, -3e38]
NASTY_LAB = [
    *([L, 0.0, 0.0] for L in (0.0, KNEE_L, 100.0, 100.1, -16.0, -20.0, 3e38, -3e38)),
    [0.0, 20.0, -20.0],  # X and Z on their knees or near, Y = 0
    [KNEE_L, 0.0, 200 * 6 / 29],  # f(Z) = 0
    [50.0, -500.0, 500.0],
    [0.0, 128.0, -128.0],
    [0.0, -128.0, 128.0],  # X, Z negative
    [1e6, -1e6, 1e6],
    [1e20, 1e20, -1e20],
    [50.0, 3e38, 3e38],
    [50.0, -3e38, -3e38],
]


def test_gradients_of_lab_are_finite_everywhere() -> None:
    grid = torch.cartesian_prod(*[torch.tensor(NASTY_RGB)] * 3)  # (N, 3)
    rgb = grid.T.reshape(1, 3, 1, -1).requires_grad_()
    lab = rgb_to_lab_tensor(rgb)
    lab.abs().sum().backward()
    assert lab.isfinite().all()
    assert rgb.grad is not None
    assert rgb.grad.isfinite().all()


def test_gradients_of_rgb_are_finite_everywhere() -> None:
    lab = torch.tensor(NASTY_LAB).T.reshape(1, 3, 1, -1).requires_grad_()
    rgb, _ = lab_to_rgb_tensor(lab)
    rgb.sum().backward()
    assert ((rgb >= 0) & (rgb <= 1)).all()
    assert lab.grad is not None
    assert lab.grad.isfinite().all()
    # numpy neither overflows (a warning is an error here) nor shows another colour.
    pixels = image_of(lab.detach())
    assert np.abs(lab_to_srgb(pixels) - image_of(rgb.detach()) * 255).max() < 0.6
    assert out_of_gamut(pixels).any()


def test_gradient_at_a_knee_is_that_of_one_side() -> None:
    """Both pieces meet there; adding their gradients would double it."""
    L = torch.tensor([KNEE_L - 1e-3, KNEE_L, KNEE_L + 1e-3], dtype=torch.float64)
    lab = torch.stack([L, torch.zeros(3), torch.zeros(3)]).view(1, 3, 1, 3).requires_grad_()
    lab_to_rgb_tensor(lab)[0].sum().backward()
    assert lab.grad is not None
    torch.testing.assert_close(
        lab.grad[0, 0, 0], lab.grad[0, 0, 0, :1].expand(3), rtol=1e-3, atol=0
    )
    gray = torch.tensor([ENCODED_KNEE - 1e-9, ENCODED_KNEE], dtype=torch.float64)
    rgb = gray.expand(1, 3, 1, 2).clone().requires_grad_()
    rgb_to_lab_tensor(rgb)[:, 0].sum().backward()
    assert rgb.grad is not None
    torch.testing.assert_close(rgb.grad[..., 0], rgb.grad[..., 1], rtol=0.02, atol=0)


def test_gamut_share_has_no_gradient_but_colours_have() -> None:
    lab = torch.tensor([50.0, 10.0, -10.0]).view(1, 3, 1, 1).requires_grad_()
    rgb, share = lab_to_rgb_tensor(lab)
    assert not share.requires_grad
    rgb.sum().backward()
    assert lab.grad is not None
    assert (lab.grad != 0).all()


@settings(deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3))
def test_any_lab_gives_a_colour_near_scikit_images(values: list[float]) -> None:
    lab = np.array(values, np.float32).reshape(1, 1, 3)
    tensor = planes(lab).requires_grad_()
    rgb, _ = lab_to_rgb_tensor(tensor)
    rgb.sum().backward()
    assert tensor.grad is not None
    assert tensor.grad.isfinite().all()
    # Farther out float32 cancels: X, Y and Z are large there, and a channel is their difference.
    if np.abs(lab).max() < 300:
        levels = lab_to_srgb(lab)
        assert np.abs(levels - skimage_rgb(lab) * 255).max() < 0.7
        assert np.abs(levels - image_of(rgb.detach()) * 255).max() < 0.7
