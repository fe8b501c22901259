"""If these fail, a user's photo loses its lightness or size, or one photo overwrites another."""

import copy
import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut, chelsea, coffee

from tintlab.color.lab import lab_to_srgb, out_of_gamut, srgb_to_lab
from tintlab.config import ExperimentConfig
from tintlab.data.preparation.out_folder import claimed
from tintlab.data.storage import resolve
from tintlab.errors import ConfigError, ConflictError, EnvironmentFault, IntegrityError
from tintlab.evaluation.picture import into_gamut, joined, rgb_from, save_png, strip
from tintlab.model.colorizer import Colorizer
from tintlab.model.sampler import MAX_POSITIONS
from tintlab.serving.account import ColorizeReport
from tintlab.serving.colorize import colorize_files, colorize_photos
from tintlab.serving.drawing import PLAIN, Drawing
from tintlab.serving.given_photos import find_photos
from tintlab.serving.painter import Style
from tintlab.serving.painting import colored_samples, colorize_photo, small_copy
from tintlab.serving.picture_file import PictureFormat
from tintlab.serving.pyfunc_model import PyfuncColorizer
from tintlab.settings import BinsConfig, ModelConfig

SHORT_SIDE_PX = 16
PNG = PictureFormat()


@pytest.fixture(scope="module")
def model() -> Colorizer:
    """Untrained, so it paints wild colours: most are far outside sRGB."""
    torch.manual_seed(0)
    return Colorizer(ModelConfig(depth=1), BinsConfig())


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def lightness(rgb: np.ndarray) -> np.ndarray:
    return srgb_to_lab(rgb)[..., 0]


def put(folder: Path, name: str, seed: int = 0, **save: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(20, 24, seed)).save(folder / name, **save)
    return folder / name


def colorize(
    model: Colorizer,
    sources: list[Path],
    out: Path,
    drawing: Drawing = PLAIN,
    seed: int = 0,
    form: PictureFormat = PNG,
    show: Callable[[str], None] = lambda line: None,
) -> ColorizeReport:
    return colorize_files(model, sources, out, Style(SHORT_SIDE_PX, drawing, seed, form), show)


def test_mlflow_s_model_colours_as_the_command_does(model: Colorizer) -> None:
    own = {"data.crop_px": SHORT_SIDE_PX, "evaluation.temperature": 0.7, "model.depth": 1}
    served = PyfuncColorizer(model, ExperimentConfig().replaced(own))
    photos = np.stack([noise(50, 70, seed) for seed in range(3)])
    got = served.predict(photos, params={"seed": 5})
    for number, photo in enumerate(photos):
        expected = colorize_photo(model, photo, SHORT_SIDE_PX, temperature=0.7, seed=5 + number)
        np.testing.assert_array_equal(got[number], expected)


# ---- lightness and size


@pytest.mark.parametrize(
    "photo",
    [astronaut(), chelsea(), coffee(), noise(64, 64), noise(61, 47), noise(1, 1), noise(3, 200)],
    ids=["astronaut", "chelsea", "coffee", "noise", "odd", "one pixel", "long"],
)
def test_photo_keeps_its_size_and_its_lightness_at_every_pixel(model, photo):
    [coloured] = colored_samples(model, photo, SHORT_SIDE_PX, Drawing(), seed=3)
    assert coloured.rgb.shape == photo.shape
    assert np.abs(lightness(coloured.rgb) - lightness(photo)).max() <= 1.0


def test_colours_outside_srgb_are_counted_and_would_break_lightness_if_clipped():
    rng = np.random.default_rng(1)
    L = rng.uniform(0, 100, (128, 128)).astype(np.float32)
    ab = rng.uniform(-110, 110, (2, 128, 128)).astype(np.float32)
    rgb, reduced_pixels = joined(L, ab)
    lab = np.concatenate([L[None], ab]).transpose(1, 2, 0)
    assert reduced_pixels == out_of_gamut(lab).sum() > 128 * 128 / 2
    assert np.abs(lightness(rgb) - L).max() <= 0.5
    assert np.abs(lightness(lab_to_srgb(lab)) - L).max() > 10


def test_chroma_is_reduced_no_more_than_needed_and_hue_is_kept():
    rng = np.random.default_rng(2)
    lab = rng.uniform([0, -110, -110], [100, 110, 110], (64, 64, 3)).astype(np.float32)
    fitted, reduced = into_gamut(lab)
    assert not out_of_gamut(fitted).any()
    np.testing.assert_array_equal(fitted[~reduced], lab[~reduced])
    np.testing.assert_array_equal(fitted[..., 0], lab[..., 0])
    before, after = lab[reduced], fitted[reduced]
    cross = before[:, 1] * after[:, 2] - before[:, 2] * after[:, 1]
    assert np.abs(cross).max() < 1e-2 * 110
    assert (np.sum(before[:, 1:] * after[:, 1:], axis=1) >= 0).all()
    slightly_more = after.copy()
    slightly_more[:, 1:] += (before - after)[:, 1:] * 0.001 + before[:, 1:] * 0.0005
    assert out_of_gamut(slightly_more[None]).all()


def test_a_true_photo_comes_back_from_its_own_lab_bit_for_bit():
    photo = chelsea()[:100, :100]
    L, a, b = srgb_to_lab(photo).transpose(2, 0, 1)
    np.testing.assert_array_equal(rgb_from(L, np.stack([a, b])), photo)


def test_bands_do_not_show(monkeypatch):
    rng = np.random.default_rng(3)
    L = rng.uniform(0, 100, (37, 20)).astype(np.float32)
    ab = rng.uniform(-110, 110, (2, 37, 20)).astype(np.float32)
    whole = joined(L, ab)
    monkeypatch.setattr("tintlab.evaluation.picture.BAND_PIXELS", 45)  # 2 rows at a time
    banded = joined(L, ab)
    np.testing.assert_array_equal(banded[0], whole[0])
    assert banded[1] == whole[1]


def test_model_sees_area_means_on_a_grid_it_divides():
    L = np.arange(32 * 64, dtype=np.float32).reshape(32, 64) / 32
    seen = small_copy(L, 8, stride=4)
    np.testing.assert_allclose(seen, L.reshape(8, 4, 16, 4).mean(axis=(1, 3)), rtol=1e-5)
    assert small_copy(L.T.copy(), 8, stride=4).shape == (16, 8)
    assert small_copy(np.zeros((30, 47), np.float32), 12, stride=4).shape == (12, 20)
    # However long a photo is, the work is bounded.
    assert small_copy(np.zeros((2, 5000), np.float32), 8, stride=4).shape == (8, 64)


def test_same_seed_same_picture(model):
    photo = astronaut()[::4, ::4]
    first = colorize_photo(model, photo, SHORT_SIDE_PX, temperature=1.0, seed=7)
    np.testing.assert_array_equal(colorize_photo(model, photo, SHORT_SIDE_PX, seed=7), first)
    assert not np.array_equal(colorize_photo(model, photo, SHORT_SIDE_PX, seed=8), first)
    assert np.ptp(first.astype(int), axis=-1).max() > 20  # it is in colour


def test_samples_differ_and_the_first_is_the_one_that_is_drawn_alone(model, tmp_path):
    photo = put(tmp_path, "a.png")
    alone = colorize(model, [photo], tmp_path / "one")
    report = colorize(model, [photo], tmp_path / "three", drawing=Drawing(samples=3))
    assert [path.name for path in report.outputs] == ["a_1.png", "a_2.png", "a_3.png"]
    assert (report.inputs, report.colored, len(report.sources)) == (1, 1, 3)
    first, *others = [np.array(Image.open(path)) for path in report.outputs]
    np.testing.assert_array_equal(first, np.array(Image.open(alone.outputs[0])))
    assert not np.array_equal(others[0], others[1])
    again = colorize(model, [photo], tmp_path / "three", drawing=Drawing(samples=3))
    assert again.outputs == report.outputs


def test_the_best_of_several_is_one_of_the_samples(model):
    photo = noise(24, 32)
    drawn = colored_samples(model, photo, SHORT_SIDE_PX, Drawing(samples=4), seed=5)
    samples = [sample.rgb.tobytes() for sample in drawn]
    [best] = colored_samples(model, photo, SHORT_SIDE_PX, Drawing(best_of=4), seed=5)
    assert samples.count(best.rgb.tobytes()) == 1


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        (Drawing(samples=0), "samples must be in .1, 64., got 0"),
        (Drawing(samples=2, best_of=2), "not both"),
        (Drawing(top_p=0.0), "top_p must be above 0"),
        (Drawing(temperature=-1.0), "temperature must be 0 or a positive number"),
    ],
)
def test_an_impossible_drawing_is_refused(model, drawing, message):
    with pytest.raises(ConfigError, match=message):
        list(colored_samples(model, noise(8, 8), SHORT_SIDE_PX, drawing, seed=0))


def test_colorizing_leaves_the_model_in_its_mode(model):
    model.train()
    colorize_photo(model, noise(16, 16), SHORT_SIDE_PX)
    assert model.training


@pytest.mark.parametrize(("px", "nearest"), [(18, "16 or 20"), (3, "4"), (0, "4"), (-4, "4")])
def test_short_side_that_does_not_fit_is_refused(model, px, nearest):
    with pytest.raises(ConfigError, match=rf"chroma_stride=4, got {px}; use {nearest}$"):
        colorize_photo(model, noise(16, 16), px)


# ---- files


def test_a_short_side_beyond_the_largest_grid_is_refused_with_the_limit(model):
    with pytest.raises(ConfigError, match="short_side_px must be at most 2048, got 2052"):
        colorize_photo(model, chelsea()[:24, :24], 2052)


def test_a_long_photo_is_squeezed_into_the_largest_grid():
    L = np.zeros((40, 400), np.float32)
    assert small_copy(L, 64, 4).shape == (64, 512)  # eight times longer, as ever
    rows, columns = small_copy(L, 2048, 4).shape
    assert (rows // 4) * (columns // 4) == MAX_POSITIONS
    assert rows == 2048


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2)])
def test_photos_one_pixel_wide_are_coloured_at_their_size(model, shape):
    rgb = np.full((*shape, 3), 120, np.uint8)
    coloured = colorize_photo(model, rgb, 16)
    assert coloured.shape == rgb.shape
    assert np.abs(srgb_to_lab(coloured)[..., 0] - srgb_to_lab(rgb)[..., 0]).max() <= 1.0


def test_colours_lie_where_they_belong_in_a_photo_that_the_stride_does_not_divide(
    model, monkeypatch
):
    """A ramp over the grid is the same ramp over the photo, to its last pixel."""
    width, cells = 101, 16
    ramp = torch.linspace(-30, 30, cells).expand(1, 2, 4, cells)
    monkeypatch.setattr(type(model.bins), "decode", lambda self, tokens: ramp)
    seen = []
    monkeypatch.setattr(
        "tintlab.serving.painting.joined", lambda L, ab: seen.append(ab) or (np.zeros((1, 1, 3)), 0)
    )
    list(colored_samples(model, np.full((25, width, 3), 128, np.uint8), 16, Drawing(), seed=0))
    place = ((np.arange(width) + 0.5) * cells / width - 0.5).clip(0, cells - 1)
    expected = -30 + 60 * place / (cells - 1)
    np.testing.assert_allclose(seen[0][0, 12], expected, atol=1e-3)


def test_a_damaged_upsampler_is_named(model, tmp_path):
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.upsampler.change[1].weight.fill_(float("nan"))
    with pytest.raises(IntegrityError, match="upsampler gives colours that are not finite"):
        list(colored_samples(damaged, noise(16, 16), 16, Drawing(), seed=0))


def test_damaged_weights_stop_before_an_earlier_picture_is_written_over(model, tmp_path):
    photo = tmp_path / "photo.png"
    save_png(photo, chelsea()[:24, :32])
    colorize(model, [photo], tmp_path / "out")
    before = (tmp_path / "out" / "photo.png").read_bytes()
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.decoder.head.hidden.weight.fill_(float("nan"))
    with pytest.raises(IntegrityError, match="logits are not finite in row 0 .* training diverged"):
        colorize(damaged, [photo], tmp_path / "out", seed=1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["photo.png"]
    assert (tmp_path / "out" / "photo.png").read_bytes() == before


def test_every_input_is_coloured_or_quarantined(model, tmp_path):
    put(tmp_path / "in" / "deep", "a.jpg")
    put(tmp_path / "in", "b.png")
    (tmp_path / "in" / "broken.jpg").write_bytes(b"\xff\xd8\xff not a photo")
    (tmp_path / "in" / "notes.txt").write_text("not a photo, and not named like one")
    put(tmp_path / "in", ".hidden.png")
    seen = []
    report = colorize(model, [tmp_path / "in"], tmp_path / "out", show=seen.append)
    assert report.inputs == 3
    assert report.colored == 2
    assert [bad.source.name for bad in report.quarantined] == ["broken.jpg"]
    assert report.quarantined[0].reason
    assert "3 of 3 photos" in seen[-1]
    made = [tmp_path / "out" / "b.png", tmp_path / "out" / "deep" / "a.png"]
    assert report.outputs == made
    assert [path for path in sorted((tmp_path / "out").rglob("*")) if path.is_file()] == made
    assert report.pixels == 2 * 20 * 24
    assert 0 < report.reduced_pixels < report.pixels
    for source, output in zip(report.sources, report.outputs, strict=True):
        with Image.open(source) as before, Image.open(output) as after:
            assert after.size == before.size
            difference = lightness(np.asarray(after)) - lightness(np.asarray(before))
        assert np.abs(difference).max() <= 1.0


def test_equal_stems_never_overwrite_each_other(model, tmp_path):
    sources = [
        put(tmp_path / "a", "x.jpg", seed=1),
        put(tmp_path / "b", "x.jpg", seed=2),
        put(tmp_path / "b", "x.png", seed=3),
        put(tmp_path / "c", "X.png", seed=4),
        put(tmp_path / "c", "x-2.png", seed=5),
    ]
    report = colorize(model, sources, tmp_path / "out")
    assert report.colored == len(set(report.outputs)) == 5
    assert len({path.name.casefold() for path in report.outputs}) == 5
    assert report.outputs[0].name == "x.png"
    for source, output in zip(sources, report.outputs, strict=True):
        with Image.open(source) as before, Image.open(output) as after:
            difference = lightness(np.asarray(after)) - lightness(np.asarray(before))
        assert np.abs(difference).max() <= 1.0  # each output is of its own source


def test_a_second_call_replaces_its_own_outputs_and_nothing_else(model, tmp_path):
    first, second = put(tmp_path / "a", "x.png", seed=1), put(tmp_path / "b", "x.png", seed=2)
    out = tmp_path / "out"
    foreign = put(out, "y.png", seed=9)
    kept = foreign.read_bytes()
    y = put(tmp_path / "a", "y.jpg", seed=3)
    once = colorize(model, [first, y], out)
    assert [path.name for path in once.outputs] == ["x.png", "y-2.png"]
    assert colorize(model, [first, y], out).outputs == once.outputs
    assert [path.name for path in colorize(model, [second], out).outputs] == ["x-2.png"]
    assert foreign.read_bytes() == kept
    assert sorted(p.name for p in out.iterdir()) == ["x-2.png", "x.png", "y-2.png", "y.png"]


def test_out_may_be_the_folder_of_the_photos(model, tmp_path):
    original = put(tmp_path, "x.png")
    kept = original.read_bytes()
    for _ in range(2):  # the second call must not colour the first one's output
        report = colorize(model, [tmp_path], tmp_path)
        assert [path.name for path in report.outputs] == ["x-2.png"]
        assert report.inputs == 1
    assert original.read_bytes() == kept


def test_a_photo_given_twice_is_coloured_once(model, tmp_path):
    photo = put(tmp_path / "in", "x.png")
    assert colorize(model, [photo, tmp_path / "in"], tmp_path / "out").inputs == 1


def test_a_photo_looks_the_same_in_any_company(model, tmp_path):
    photo = put(tmp_path / "in", "x.png", seed=1)
    put(tmp_path / "in", "a.png", seed=2)
    alone = colorize(model, [photo], tmp_path / "alone", seed=5)
    together = colorize(model, [tmp_path / "in"], tmp_path / "together", seed=5)
    assert (tmp_path / "together" / "x.png").read_bytes() == alone.outputs[0].read_bytes()
    assert together.colored == 2


def test_metadata_is_dropped_but_the_photo_stands_upright(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF orientation: lies on its side
    exif[0x010E] = "taken at my home"
    photo = put(tmp_path / "secret place", "x.jpg", exif=exif)
    output = colorize(model, [photo], tmp_path / "out").outputs[0]
    with Image.open(output) as image:
        assert not image.getexif()
        assert image.size == (20, 24)  # put() stores 24 by 20
    content = output.read_bytes()
    assert b"home" not in content
    assert b"secret" not in content


def test_missing_source_stops_before_anything_is_written(model, tmp_path):
    photo = put(tmp_path, "x.png")
    with pytest.raises(EnvironmentFault, match=r"no such file or folder: .*nowhere; check"):
        colorize(model, [photo, tmp_path / "nowhere"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_decodable_is_one_clear_fault(model, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(EnvironmentFault, match=r"no photo found in .*in; looked for"):
        colorize(model, [tmp_path / "in"], tmp_path / "out")
    (tmp_path / "in" / "x.jpg").write_bytes(b"no photo")
    with pytest.raises(EnvironmentFault, match=r"none of 1 files could be decoded; .*x\.jpg"):
        colorize(model, [tmp_path / "in"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_out_that_is_a_file_is_refused(model, tmp_path):
    photo = put(tmp_path, "x.png")
    with pytest.raises(EnvironmentFault, match="must be a folder"):
        colorize(model, [photo], photo)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_no_half_written_file(model, tmp_path, monkeypatch, step):
    photo = put(tmp_path / "in", "x.png")
    out = tmp_path / "out"
    before = colorize(model, [photo], out).outputs[0].read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(EnvironmentFault, match=r"cannot write .*x\.png: No space left"):
            colorize(model, [photo], out, seed=1)
    assert [path.name for path in out.iterdir()] == ["x.png"]
    assert (out / "x.png").read_bytes() == before


# ---- batches, and going on


def test_pictures_of_a_batch_are_those_that_are_made_alone(model, tmp_path):
    photos = [put(tmp_path / "in", f"{seed:02}.png", seed) for seed in range(19)]
    together = colorize(model, [tmp_path / "in"], tmp_path / "together")
    for photo, picture in zip(photos, together.outputs, strict=True):
        [alone] = colorize(model, [photo], tmp_path / "alone").outputs
        assert alone.read_bytes() == picture.read_bytes()


def test_threads_change_no_picture(model, tmp_path):
    for seed in range(5):
        put(tmp_path / "in", f"{seed}.png", seed)
    photos = find_photos([tmp_path / "in"], None)
    style = Style(SHORT_SIDE_PX, PLAIN)
    one = colorize_photos(model, photos, tmp_path / "one", style)
    three = colorize_photos(model, photos, tmp_path / "three", style, threads=3)
    for a, b in zip(one.outputs, three.outputs, strict=True):
        assert a.read_bytes() == b.read_bytes()
    assert torch.get_num_threads() > 0


def test_only_what_is_missing_is_made_again(model, tmp_path):
    for seed in range(4):
        put(tmp_path / "in", f"{seed}.png", seed)
    out = tmp_path / "out"
    first = colorize(model, [tmp_path / "in"], out)
    assert first.done_before == 0
    content = [path.read_bytes() for path in first.outputs]
    first.outputs[0].unlink()
    first.outputs[1].write_bytes(content[1][:-9])  # torn
    kept = first.outputs[2].stat().st_mtime_ns
    put(tmp_path / "in", "3.png", seed=9)  # another photo now
    again = colorize(model, [tmp_path / "in"], out)
    assert (again.colored, again.done_before) == (4, 1)
    assert first.outputs[2].stat().st_mtime_ns == kept
    assert [path.read_bytes() for path in again.outputs[:3]] == content[:3]
    assert again.outputs[3].read_bytes() != content[3]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"drawing": Drawing(temperature=0.0)},
        {"drawing": Drawing(top_p=0.5)},
        {"drawing": Drawing(best_of=2)},
        {"form": PictureFormat(side_by_side=True)},
    ],
)
def test_other_settings_make_another_picture(model, tmp_path, change):
    photo = put(tmp_path, "x.png")
    colorize(model, [photo], tmp_path / "out")
    assert colorize(model, [photo], tmp_path / "out", **change).done_before == 0
    assert colorize(model, [photo], tmp_path / "out", **change).done_before == 1


def test_another_model_makes_another_picture(model, tmp_path):
    photo = put(tmp_path, "x.png")
    before = colorize(model, [photo], tmp_path / "out").outputs[0].read_bytes()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.decoder.head.hidden.weight.add_(0.5)
    report = colorize(other, [photo], tmp_path / "out")
    assert report.done_before == 0
    assert report.outputs[0].read_bytes() != before


def test_more_samples_make_only_those_that_are_missing(model, tmp_path):
    photo = put(tmp_path, "x.png")
    two = colorize(model, [photo], tmp_path / "out", drawing=Drawing(samples=2))
    kept = [path.stat().st_mtime_ns for path in two.outputs]
    three = colorize(model, [photo], tmp_path / "out", drawing=Drawing(samples=3))
    assert [path.stat().st_mtime_ns for path in three.outputs[:2]] == kept
    assert three.pixels == 20 * 24  # of the one that was made


def test_what_a_killed_call_left_is_cleared_up_and_nothing_else(model, tmp_path):
    photo = put(tmp_path / "in", "x.png")
    out = tmp_path / "out"
    out.mkdir()
    left = out / ".x.png.tmp-0123456789abcdef"
    left.write_bytes(b"half a picture")
    foreign = out / ".notes.tmp-mine"
    foreign.write_text("keep")
    colorize(model, [photo], out)
    assert sorted(path.name for path in out.iterdir()) == [".notes.tmp-mine", "x.png"]


def test_two_calls_do_not_write_into_one_folder_at_once(model, tmp_path):
    photo = put(tmp_path / "in", "x.png")
    with (
        claimed(*resolve(str(tmp_path / "out")), command="colorize"),
        pytest.raises(ConflictError, match="another tintlab colorize .process .* is writing to"),
    ):
        colorize(model, [photo], tmp_path / "out")


def test_a_picture_that_a_format_cannot_hold_is_quarantined(model, tmp_path):
    put(tmp_path / "in", "x.png")
    Image.new("L", (16_384, 2)).save(tmp_path / "in" / "wide.png")
    report = colorize(model, [tmp_path / "in"], tmp_path / "out", form=PictureFormat("webp"))
    [bad] = report.quarantined
    assert (bad.source.name, bad.reason) == ("wide.png", "too_many_pixels")
    assert report.outputs == [tmp_path / "out" / "x.webp"]


# ---- pictures


def test_strip_shows_each_picture_once_with_gaps():
    grey, coloured, truth = (np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30))
    picture = strip([(grey, coloured, truth), (truth, grey, coloured[:2, :3])])
    assert picture.shape == (2 * 4 + 2, 3 * 6 + 2 * 2, 3)
    np.testing.assert_array_equal(picture[:4, 8:14], coloured)
    np.testing.assert_array_equal(picture[6:, :6], truth)
    assert (picture[4:6] == 255).all()
    assert (picture[:, 6:8] == 255).all()
    assert (picture[8:, 16:] == 255).all()  # a smaller picture leaves white


def test_png_is_lossless_and_readable_by_others(tmp_path):
    photo = noise(9, 7)
    save_png(tmp_path / "new" / "x.png", photo)
    with Image.open(tmp_path / "new" / "x.png") as image:
        np.testing.assert_array_equal(np.asarray(image), photo)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "new" / "x.png").stat().st_mode & 0o777 == 0o666 & ~umask
