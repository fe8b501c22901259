"""If these fail, two models that are compared were not measured with the same ruler."""

import copy
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from PIL import Image
from skimage.data import astronaut, chelsea, coffee
from torch import distributed, multiprocessing

from tintlab.color.lab import srgb_to_lab
from tintlab.config import ExperimentConfig, Workspace
from tintlab.data.batches import eval_batches
from tintlab.data.shard_format.manifest import (
    NO_COPIES,
    Manifest,
    QuarantineSummary,
    fingerprint,
)
from tintlab.data.shard_format.rows import make_row
from tintlab.data.shard_format.shard_writer import ShardWriter, entry_of
from tintlab.data.shard_format.split import RULE
from tintlab.data.shards import Shards, open_shards
from tintlab.data.storage import written
from tintlab.errors import ConfigError, EnvironmentFault, IntegrityError
from tintlab.evaluation import decodes
from tintlab.evaluation import evaluate as evaluation_module
from tintlab.evaluation.at_scale import on_ray
from tintlab.evaluation.decodes import DECODES, decoded, photo_seed
from tintlab.evaluation.definitions import METRICS
from tintlab.evaluation.evaluate import (
    Evaluation,
    Run,
    evaluate,
    one_by_one,
    paint,
    save_evaluation,
)
from tintlab.evaluation.intervals import interval
from tintlab.evaluation.ladder import (
    LEVELS,
    RUNGS,
    bits_under,
    ladder,
    levels,
    marginal_bits,
    train_histogram,
)
from tintlab.evaluation.metrics import colorfulness, psnr_db
from tintlab.evaluation.validate import validate
from tintlab.model.colorizer import Colorizer, Logits
from tintlab.settings import BinsConfig, EvaluationConfig, ModelConfig
from tintlab.tracking.evaluations import flat_metrics
from tintlab.training.perceptual import RANDOM_FEATURES, PerceptualDistance

SETTINGS = EvaluationConfig(crop_px=16, batch_size=4, panel_images=3)
COUNTS = {"train": 7, "val": 5, "test": 6}


def experiment(settings: EvaluationConfig = SETTINGS) -> ExperimentConfig:
    return ExperimentConfig(model=ModelConfig(depth=1), evaluation=settings)


def write_shards(folder: Path, photos: dict[str, list[np.ndarray]]) -> Shards:
    """A data set by the real writer, with each photo in the split it is given for."""
    fs, path = LocalFileSystem(), f"{folder}/shard-0000000000000000.parquet"
    with written(fs, path) as file:
        writer = ShardWriter(file, key="test")
        for split, pictures in photos.items():
            for i, rgb in enumerate(pictures):
                bmp = folder / "photo.bmp"
                Image.fromarray(rgb).save(bmp)
                row = make_row(bmp.read_bytes(), f"{split}/{i}.bmp", None, 8, 10**6)
                writer.add(replace(row, split=split))
        summary = writer.finish()
    entry = entry_of(fs, path, sum(summary.counts.values()))
    Manifest(
        generation=1,
        parameters={"made by": "test_evaluation"},
        split_rule=RULE,
        shards=[entry],
        counts=summary.counts,
        smallest=summary.smallest,
        ab=summary.ab,
        copies=NO_COPIES,
        quarantine=QuarantineSummary(table=None, reasons={}),
        fingerprint=fingerprint({"made by": "test_evaluation"}, [entry], NO_COPIES),
    ).write(fs, str(folder))
    return open_shards(str(folder))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Tiles of three photographs, 24 by 20, so that centre crops are real crops."""
    tiles = [
        photo[top : top + 24, left : left + 20]
        for photo in (astronaut(), chelsea(), coffee())
        for top in (40, 120, 200)
        for left in (60, 160)
    ]
    every_split = iter(tiles)
    photos = {split: [next(every_split) for _ in range(n)] for split, n in COUNTS.items()}
    return write_shards(tmp_path_factory.mktemp("shards"), photos)


@pytest.fixture(scope="module")
def model() -> Colorizer:
    return tiny_model()


def tiny_model(bins: BinsConfig | None = None) -> Colorizer:
    """Random weights throughout: fresh ones have heads of zeros, which price all photos alike."""
    torch.manual_seed(1)
    model = Colorizer(ModelConfig(depth=1, dropout=0.5), bins or BinsConfig(per_channel=16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


# ---- the ladder


def test_uniform_is_log2_of_the_bins_per_dimension(shards):
    factored = ladder(tiny_model(BinsConfig(per_channel=16)), shards, "test", SETTINGS)
    assert factored.uniform == pytest.approx(4.0)
    joint = tiny_model(BinsConfig(kind="joint"))
    assert ladder(joint, shards, "test", SETTINGS).uniform == pytest.approx(
        math.log2(joint.bins.count) / 2
    )


def test_a_model_that_has_diverged_is_scored_and_not_painted(shards):
    """So that training says it diverged, and not that a checkpoint is damaged."""
    diverged = tiny_model()
    with torch.no_grad():
        diverged.decoder.head.hidden.weight.fill_(float("nan"))
    metrics, panel = validate(diverged, shards, SETTINGS)
    assert np.isnan(metrics["val/bits_per_dim"])
    assert panel is None


def test_marginal_price_by_hand():
    # Add one: 4 and 2 of 6, 1 and 1 of 2. So log2(6/4), log2(6/2), and one bit each.
    price = marginal_bits(np.array([[3, 1], [0, 0]]))
    np.testing.assert_allclose(price, [[0.5849625, 1.5849625], [1.0, 1.0]])
    tokens = torch.tensor([[[[0, 0]], [[0, 1]]], [[[1, 0]], [[1, 1]]]])  # (B=2, C=2, h=1, w=2)
    np.testing.assert_allclose(
        bits_under(price, tokens),
        [(2 * 0.5849625 + 2.0) / 4, (1.5849625 + 0.5849625 + 2.0) / 4],
    )


def test_marginal_lies_between_certainty_and_ignorance():
    even = marginal_bits(np.full((2, 8), 50))
    np.testing.assert_allclose(even, 3.0)  # every bin as often: nothing gained over uniform
    one_colour = marginal_bits(np.array([[10**6, 0, 0, 0]]))
    assert one_colour[0, 0] < 0.001
    assert 3.0 < one_colour[0, 1] < 25.0  # never seen: dear, but not infinitely
    skewed = np.array([[100, 50, 25, 1]])
    entropy = (skewed / skewed.sum() * marginal_bits(skewed)).sum()
    assert entropy < 2.0


def test_marginal_knows_the_train_split_and_only_that(model, tmp_path):
    red, green, grey = (
        np.full((16, 16, 3), colour, np.uint8)
        for colour in ((200, 0, 0), (0, 200, 0), (90, 90, 90))
    )
    shards = write_shards(tmp_path, {"train": [red] * 3, "val": [green], "test": [red, grey]})
    counts = train_histogram(model, shards, SETTINGS).sum(axis=0)  # over levels of lightness
    assert counts.sum(axis=1).tolist() == [3 * 16, 3 * 16]
    assert (counts == 3 * 16).sum(axis=1).tolist() == [1, 1]
    seen, unseen = ladder(model, shards, "test", SETTINGS).per_image["marginal"]
    assert seen == pytest.approx(math.log2((48 + 16) / 49))
    assert unseen == pytest.approx(math.log2(48 + 16))


def test_the_lightness_rung_knows_what_the_marginal_does_not(model, tmp_path):
    """Dark red and light green photos: who knows L knows the colour."""
    red, green = (np.full((16, 16, 3), colour, np.uint8) for colour in ((90, 0, 0), (90, 255, 90)))
    shards = write_shards(tmp_path, {"train": [red, green] * 3, "test": [red, green]})
    counts = train_histogram(model, shards, SETTINGS)
    assert counts.shape == (LEVELS, 2, 16)
    assert sorted(counts.sum(axis=(1, 2)).tolist())[-3:] == [0, 2 * 48, 2 * 48]
    rungs = ladder(model, shards, "test", SETTINGS)
    # 48 of 48 positions of that level, add-one smoothed over 16 bins.
    assert rungs.lightness == pytest.approx(math.log2((48 + 16) / 49))
    assert rungs.marginal == pytest.approx(math.log2((96 + 16) / 49))
    # A level that training never saw costs what guessing costs.
    other = tmp_path / "other"
    other.mkdir()
    grey = np.full((16, 16, 3), 250, np.uint8)
    unseen = write_shards(other, {"train": [red], "test": [grey]})
    assert ladder(model, unseen, "test", SETTINGS).lightness == pytest.approx(4.0)


def test_levels_are_of_the_mean_lightness_of_a_block(model):
    L = torch.zeros(1, 1, 4, 12)
    L[..., 2:4] = 50.0  # half of the first block: mean 25, level 8 of 32
    L[..., 4:8] = 100.0
    assert levels(model, L).tolist() == [[[8, 31, 0]]]


def test_a_model_that_knows_pays_nothing_and_one_that_does_not_pays_uniform(shards, monkeypatch):
    model = tiny_model()

    def forward(L: torch.Tensor, tokens: torch.Tensor) -> Logits:
        known = torch.nn.functional.one_hot(tokens, model.bins.count).movedim(-1, 2).float()
        return Logits(autoregressive=50 * known, parallel=0 * known)

    monkeypatch.setattr(model, "forward", forward)
    rungs = ladder(model, shards, "test", SETTINGS)
    assert rungs.autoregressive == pytest.approx(0.0, abs=1e-6)
    assert rungs.parallel == pytest.approx(4.0)
    assert list(rungs.means()) == [
        "uniform",
        "marginal",
        "lightness",
        "parallel",
        "autoregressive",
    ]


def test_ladder_has_every_photo_once_and_its_means(model, shards):
    rungs = ladder(model, shards, "test", SETTINGS)
    assert rungs.ids == shards.ids("test")
    for rung, mean in rungs.means().items():
        assert rungs.per_image[rung].shape == (COUNTS["test"],)
        assert mean == pytest.approx(rungs.per_image[rung].mean())
    for rung in ("marginal", "parallel", "autoregressive"):
        assert np.ptp(rungs.per_image[rung]) > 0.01


# ---- validation


def test_validation_is_over_all_photos_and_equals_the_ladder(model, shards):
    metrics, panel = validate(model, shards, SETTINGS)
    rungs = ladder(model, shards, "val", SETTINGS)
    assert metrics["val/bits_per_dim"] == pytest.approx(rungs.autoregressive, abs=1e-5)
    assert metrics["val/parallel_bits_per_dim"] == pytest.approx(rungs.parallel, abs=1e-5)
    assert set(metrics) == {
        "val/bits_per_dim",
        "val/parallel_bits_per_dim",
        "val/psnr_db",
        "val/ssim",
        "val/colorfulness_ratio",
    }
    assert panel.shape == (3 * 16 + 2 * 2, 3 * 16 + 2 * 2, 3)
    assert np.ptp(panel[:16, :16].astype(int), axis=-1).max() <= 1  # grey
    np.testing.assert_array_less(5, np.ptp(panel[:16, 18:34].astype(int), axis=-1).max())


def test_validation_figures_are_of_the_panel_it_shows(model, shards):
    metrics, panel = validate(model, shards, SETTINGS)
    rows = [panel[top : top + 16] for top in (0, 18, 36)]
    sampled, truth = ([row[:, left : left + 16] for row in rows] for left in (18, 36))
    assert metrics["val/psnr_db"] == pytest.approx(
        np.mean([psnr_db(p, t) for p, t in zip(sampled, truth, strict=True)])
    )
    assert metrics["val/colorfulness_ratio"] == pytest.approx(
        sum(map(colorfulness, sampled)) / sum(map(colorfulness, truth))
    )


def test_validation_repeats_itself_and_restores_the_model(shards):
    model = tiny_model().train()
    first, first_panel = validate(model, shards, SETTINGS)
    assert model.training
    second, second_panel = validate(model, shards, SETTINGS)  # dropout would show here
    assert first == second
    np.testing.assert_array_equal(first_panel, second_panel)


def _validate_on_rank(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    try:
        metrics, panel = validate(tiny_model(), open_shards(f"{folder}/shards"), SETTINGS)
        shape = None if panel is None else panel.shape
        Path(folder, f"rank-{rank}.json").write_text(json.dumps([metrics, shape]))
    finally:
        distributed.destroy_process_group()


def test_two_ranks_report_what_one_does(model, shards, tmp_path):
    (tmp_path / "shards").symlink_to(shards.uri)
    multiprocessing.spawn(_validate_on_rank, args=(2, str(tmp_path)), nprocs=2)
    (first, panel), (second, no_panel) = (
        json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)
    )
    alone, _ = validate(model, shards, SETTINGS)
    assert first == second == pytest.approx(alone, abs=1e-5)
    assert panel
    assert no_panel is None


# ---- evaluation


def test_evaluation_does_not_depend_on_the_batch_size(model, shards):
    of_sizes = [
        evaluate(model, experiment(SETTINGS.model_copy(update={"batch_size": size})), shards)
        for size in (1, 4, 32)
    ]
    one = of_sizes[0]
    for other in of_sizes[1:]:
        for a, b in zip(one.per_image, other.per_image, strict=True):
            assert a.columns() == pytest.approx(b.columns(), abs=1e-5)
            assert a.decodes == b.decodes
        np.testing.assert_array_equal(one.panel, other.panel)
        assert one.ladder.means() == pytest.approx(other.ladder.means(), abs=1e-5)


def summary_bytes(evaluation: Evaluation, folder: Path) -> bytes:
    save_evaluation(evaluation, folder)
    return (folder / "summary.json").read_bytes()


def test_no_printed_digit_depends_on_batches_or_on_workers(model, shards, tmp_path, ray_cluster):
    """Batches of 1 and 5 in this process, and two workers of another number of threads."""
    workspace = Workspace.at(str(tmp_path))

    def of(size: int, run: Run = one_by_one) -> Evaluation:
        config = experiment(SETTINGS.model_copy(update={"batch_size": size}))
        return evaluate(model, config, shards, run=run)

    one, five = of(1), of(5)
    two_workers = of(2, partial(on_ray, workspace=workspace, workers=2))
    first = summary_bytes(one, tmp_path / "one")
    for name, other in (("five", five), ("two", two_workers)):
        assert summary_bytes(other, tmp_path / name) == first
        for file in ("per_image.parquet", "panel.png", "best.png", "worst.png"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "one" / file).read_bytes()


def test_what_goes_wrong_on_a_worker_is_said_as_here(model, shards, tmp_path, ray_cluster):
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.decoder.head.hidden.weight.fill_(float("nan"))
    run = partial(on_ray, workspace=Workspace.at(str(tmp_path)), workers=1)
    with pytest.raises(IntegrityError) as there:
        evaluate(damaged, experiment(), shards, run=run)
    with pytest.raises(IntegrityError) as here:
        evaluate(damaged, experiment(), shards)
    assert str(there.value) == str(here.value)
    too_many = partial(on_ray, workspace=Workspace.at(str(tmp_path)), workers=4096)
    with pytest.raises(ConfigError, match="4096 workers need 4096 cores, the cluster has"):
        evaluate(model, experiment(), shards, run=too_many)


def test_every_number_of_an_evaluation_has_an_id(model, shards):
    evaluation = evaluate(model, experiment(SETTINGS.model_copy(update={"crop_px": 20})), shards)
    columns = evaluation.per_image[0].columns()
    numbers = {name for name, value in columns.items() if isinstance(value, float)}
    decodes_of = {f"{decode}_" for decode in DECODES} | {"", "truth_"}
    known = {prefix + name for prefix in decodes_of for name in METRICS}
    assert numbers - known == set()
    assert {"psnr_db_basicsr_crop4", "ssim_ct2", "colorfulness_gap"} <= numbers
    for name in flat_metrics(evaluation.summary, "test"):
        bare = re.sub(r"^test/(\w+?)(_low|_high)?$", r"\1", name)
        assert bare in known or bare.endswith("_bits_per_dim"), name
    for figures in evaluation.summary["decodes"].values():
        assert set(figures) - set(METRICS) == set()
    assert set(evaluation.summary["intervals"]) - set(METRICS) == set()


def test_intervals_are_of_the_photos_and_of_their_scenes(model, shards):
    evaluation = evaluate(model, experiment(), shards)
    bits = np.array([row.bits_per_dim for row in evaluation.per_image])
    assert evaluation.summary["scenes"] == COUNTS["test"]  # no tiles of packaged photographs
    expected = interval(bits, [row.id for row in evaluation.per_image])
    assert evaluation.summary["intervals"]["bits_per_dim"] == [expected.low, expected.high]
    flat = flat_metrics(evaluation.summary, "test")
    assert (
        flat["test/bits_per_dim_low"] < flat["test/bits_per_dim"] < flat["test/bits_per_dim_high"]
    )


def test_the_best_and_worst_photos_are_shown_as_they_were_measured(model, shards, tmp_path):
    evaluation = evaluate(model, experiment(), shards)
    order = sorted(evaluation.per_image, key=lambda row: row.decodes["sampled"].ciede2000)
    assert [row.id for row, _ in evaluation.extremes["best"]] == [row.id for row in order[:4]]
    assert [row.id for row, _ in evaluation.extremes["worst"]] == [row.id for row in order[:-5:-1]]
    for photos in evaluation.extremes.values():
        for row, (_, sampled, truth) in photos:
            assert psnr_db(sampled, truth) == row.decodes["sampled"].psnr_db
    save_evaluation(evaluation, tmp_path, "Evaluation of <it>")
    page = (tmp_path / "report.html").read_text()
    assert "<h1>Evaluation of &lt;it&gt;</h1>" in page
    assert page.count("data:image/png") == sum(map(len, evaluation.extremes.values()))
    assert f"{evaluation.summary['ciede2000']:.4f}" in page
    assert "http" not in page
    for name in METRICS:
        assert name in page


def test_evaluation_has_a_row_for_every_photo_and_means_that_are_theirs(model, shards):
    evaluation = evaluate(model, experiment(), shards)
    rows = evaluation.per_image
    assert [row.id for row in rows] == shards.ids("test")
    assert [row.source for row in rows] == [f"test/{i}.bmp" for i in range(COUNTS["test"])]
    summary = evaluation.summary
    assert summary["images"] == COUNTS["test"]
    assert summary["fingerprint"] == evaluation.fingerprint == shards.manifest.fingerprint
    assert summary["psnr_db"] == pytest.approx(
        np.mean([row.decodes["sampled"].psnr_db for row in rows])
    )
    assert summary["ssim"] == pytest.approx(np.mean([row.decodes["sampled"].ssim for row in rows]))
    assert summary["colorfulness_ratio"] == pytest.approx(
        sum(row.decodes["sampled"].colorfulness for row in rows)
        / sum(row.truth.colorfulness for row in rows)
    )
    assert summary["bits_per_dim"]["autoregressive"] == pytest.approx(
        np.mean([row.bits_per_dim for row in rows])
    )
    assert evaluation.panel.shape == (3 * 16 + 2 * 2, 3 * 16 + 2 * 2, 3)


def test_paintings_keep_lightness_and_show_the_stored_truth(model, shards):
    (batch,) = eval_batches(shards, "test", 16, 32)
    for i, painting in enumerate(paint(model, batch, temperature=1.0, seed=0)):
        L = batch.L[i, 0].numpy()
        for picture in (painting.grey, painting.coloured, painting.truth):
            assert np.abs(srgb_to_lab(picture)[..., 0] - L).max() <= 1.0
    stored = coffee()[200:224, 160:180][4:20, 2:18]  # the last tile is the last test photo
    assert np.abs(painting.truth.astype(int) - stored).max() <= 1


def test_decodes_are_what_they_say(model, shards):
    (batch,) = eval_batches(shards, "test", 16, 32)
    found = list(decoded(model, batch, SETTINGS))
    assert [photo.id for photo in found] == batch.ids
    painted = paint(model, batch, SETTINGS.temperature, SETTINGS.seed)
    other = list(decoded(model, batch, SETTINGS.model_copy(update={"seed": 1})))
    for photo, again, painting in zip(found, other, painted, strict=True):
        assert set(photo.pictures) == set(DECODES)
        np.testing.assert_array_equal(photo.pictures["sampled"], painting.coloured)
        np.testing.assert_array_equal(photo.truth, painting.truth)
        for name in DECODES:
            same = np.array_equal(photo.pictures[name], again.pictures[name])
            assert same == (name != "sampled")
        of_grid, of_bins = (
            psnr_db(photo.pictures[name], photo.truth) for name in ("ceiling_grid", "ceiling")
        )
        assert of_grid > of_bins > psnr_db(photo.pictures["sampled"], photo.truth)


def test_the_mean_decode_of_a_model_that_knows_nothing_is_grey(shards):
    fresh = Colorizer(ModelConfig(depth=1), BinsConfig(per_channel=16)).eval()
    (batch,) = eval_batches(shards, "test", 16, 32)
    for photo in decoded(fresh, batch, SETTINGS):
        assert colorfulness(photo.pictures["parallel_mean"]) < 1.0  # all bins alike: their centre
        assert colorfulness(photo.pictures["sampled"]) > 20.0


def test_the_summary_has_every_decode_and_the_figures_around_it(model, shards):
    summary = evaluate(model, experiment(), shards).summary
    assert list(summary["bits_per_dim"]) == list(RUNGS)
    assert set(summary["decodes"]) == set(DECODES)
    for name, value in summary["decodes"]["sampled"].items():
        assert summary[name] == value  # the sample's figures are the evaluation's own
    assert set(summary["calibration_error"]) == {"parallel", "autoregressive"}
    for errors in summary["calibration_error"].values():
        assert set(errors) == {"a", "b"}
        assert all(0.0 < error < 1.0 for error in errors.values())
    assert summary["diversity_ab"] > 1.0
    flat = flat_metrics(summary, "test")
    assert {
        "test/bits_per_dim",
        "test/lightness_bits_per_dim",
        "test/ciede2000",
        "test/colorfulness_ratio",
        "test/parallel_mean_colorfulness_ratio",
        "test/calibration_error",
        "test/diversity_ab",
    } <= flat.keys()


def test_one_sample_has_no_diversity_and_changes_no_other_figure(model, shards):
    one, three = (
        evaluate(
            model, experiment(SETTINGS.model_copy(update={"samples_per_photo": count})), shards
        )
        for count in (1, 3)
    )
    assert one.summary["diversity_ab"] is None
    assert "test/diversity_ab" not in flat_metrics(one.summary, "test")
    assert one.summary["decodes"] == three.summary["decodes"]


# ---- LPIPS, only with calibrated weights


def test_lpips_is_absent_without_its_weights(model, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    evaluation = evaluate(model, experiment(), shards)
    assert not [name for name in evaluation.summary if "lpips" in name]
    assert "lpips" not in evaluation.per_image[0].columns()


def test_lpips_is_measured_under_its_nets_name_where_the_weights_are(
    model, shards, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth").write_bytes(b"")
    # The weights themselves are 5 MB that nobody may assume; what is done with them is tested here.
    stand_in = PerceptualDistance(RANDOM_FEATURES)
    monkeypatch.setattr(decodes, "PerceptualDistance", lambda net, file: stand_in)
    settings = SETTINGS.model_copy(update={"lpips_net": "squeeze"})
    summary = evaluate(model, experiment(settings), shards).summary
    assert summary["lpips_squeeze"] > 0.0
    assert summary["decodes"]["ceiling_grid"]["lpips_squeeze"] < summary["lpips_squeeze"]
    assert flat_metrics(summary, "test")["test/lpips_squeeze"] == summary["lpips_squeeze"]
    never = SETTINGS.model_copy(update={"lpips_net": "none"})
    assert "lpips_squeeze" not in evaluate(model, experiment(never), shards).summary


def test_a_file_of_weights_that_is_not_there_is_a_clear_fault(model, shards):
    settings = SETTINGS.model_copy(update={"lpips_weights": "/nowhere/alex.pth"})
    with pytest.raises(
        EnvironmentFault, match=r"there is no file /nowhere/alex.pth; .* alexnet-owt-7be5be79.pth"
    ):
        evaluate(model, experiment(settings), shards)


def test_each_photo_has_noise_of_its_own():
    seeds = {photo_seed(seed, photo) for seed in range(10) for photo in "abcdefgh"}
    assert len(seeds) == 80
    assert photo_seed(0, "a") == photo_seed(0, "a")
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seed_and_temperature_of_the_config_are_used(model, shards):
    def colours(**changed: object) -> Sequence[float]:
        settings = SETTINGS.model_copy(update=changed)
        rows = evaluate(model, experiment(settings), shards).per_image
        return [row.decodes["sampled"].colorfulness for row in rows]

    assert colours() != colours(seed=1)
    assert colours(temperature=0.0, seed=0) == colours(temperature=0.0, seed=1)


@pytest.mark.parametrize("measure", [lambda m, s: evaluate(m, experiment(), s, "val"), validate])
def test_an_empty_split_is_a_clear_fault(model, tmp_path, measure):
    shards = write_shards(tmp_path, {"train": [astronaut()[:16, :16]]})
    arguments = (model, shards) if measure is not validate else (model, shards, SETTINGS)
    with pytest.raises(EnvironmentFault, match="the val split holds no photo"):
        measure(*arguments)


def test_crops_too_small_for_ssim_are_refused():
    with pytest.raises(ConfigError, match="crop_px must be greater than or equal to 12, got 8"):
        ExperimentConfig().replaced({"evaluation.crop_px": 8})


# ---- saved


def test_saved_evaluation_reads_back(model, shards, tmp_path):
    evaluation = evaluate(model, experiment(), shards)
    save_evaluation(evaluation, tmp_path / "report")
    table = pd.read_parquet(tmp_path / "report" / "per_image.parquet")
    assert table.to_dict("records") == [row.columns() for row in evaluation.per_image]
    assert json.loads((tmp_path / "report" / "summary.json").read_text()) == evaluation.summary
    with Image.open(tmp_path / "report" / "panel.png") as image:
        np.testing.assert_array_equal(np.asarray(image), evaluation.panel)
    names = {file.name for file in (tmp_path / "report").iterdir()}
    pictures = {"panel.png", "best.png", "median.png", "worst.png"}
    assert names == pictures | {"per_image.parquet", "summary.json", "report.html"}


def test_infinite_and_undefined_figures_are_null_in_json(model, shards, tmp_path):
    evaluation = evaluate(model, experiment(), shards)
    figures = {"psnr_db": math.inf, "colorfulness_ratio": math.nan}
    save_evaluation(replace(evaluation, summary={**evaluation.summary, **figures}), tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert found["psnr_db"] is None
    assert found["colorfulness_ratio"] is None


def test_an_interrupted_save_is_no_evaluation(model, shards, tmp_path, monkeypatch):
    evaluation = evaluate(model, experiment(), shards)
    save_evaluation(evaluation, tmp_path)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation_module, "save_png", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_evaluation(evaluation, tmp_path)
    assert not (tmp_path / "summary.json").exists()  # the old figures do not vouch for new rows
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_evaluation(evaluation, tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert "summary.json" not in left
    assert left >= {"panel.png", "per_image.parquet"}
    assert not [name for name in left if "." not in name or name.startswith(".")]
