"""The perceptual distance: LPIPS with the weights it is meant to have, never with others."""

import hashlib
import warnings
from pathlib import Path

import pytest
import torch
import torchvision
from small_shards import small_shards

from tintlab.config import ExperimentConfig
from tintlab.data.shards import open_shards
from tintlab.errors import EnvironmentFault, IntegrityError
from tintlab.model.colorizer import Colorizer
from tintlab.settings import LossConfig
from tintlab.training import perceptual
from tintlab.training.loop import train
from tintlab.training.objective import Objective
from tintlab.training.perceptual import (
    TRUNK_FILES,
    PerceptualDistance,
    TrunkFile,
    metric_name,
    require_trunk,
    trunk_file,
)

TINY = ExperimentConfig().replaced(
    {
        "data.crop_px": 16,
        "evaluation.crop_px": 16,
        "bins.per_channel": 8,
        "model.depth": 1,
        "training.steps": 2,
        "training.batch_size": 2,
        "loss.perceptual": 0.5,
        "loss.perceptual_net": "random_features",
    }
)


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch hub cache that holds nothing."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def squeeze_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like torchvision's, of another training: random weights."""
    file = tmp_path_factory.mktemp("weights") / "mine.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), file)
    return file


@pytest.mark.parametrize("lpips", [False, True])
def test_it_is_the_distance_of_the_lpips_package(squeeze_file, monkeypatch, lpips):
    name = f"mine-{hashlib.sha256(squeeze_file.read_bytes()).hexdigest()[:8]}.pth"
    monkeypatch.setitem(perceptual.TRUNK_FILES, "squeeze", TrunkFile(name, 4.7))
    distance = (
        PerceptualDistance("squeeze", str(squeeze_file))
        if lpips
        else PerceptualDistance("random_features")
    )
    one, other = photo_pair(64)
    expected = distance.network(one, other, normalize=True).flatten()
    torch.testing.assert_close(distance(one, other), expected)


def test_features_that_are_all_zero_have_a_gradient() -> None:
    zero = torch.zeros(1, 3, 2, 2, requires_grad=True)
    (perceptual._unit(zero) - perceptual._unit(torch.ones(1, 3, 2, 2))).square().sum().backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


def photo_pair(side_px: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, 3, side_px, side_px)
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


@pytest.mark.parametrize(
    ("net", "weights"),
    [("alex", "AlexNet_Weights"), ("vgg", "VGG16_Weights"), ("squeeze", "SqueezeNet1_1_Weights")],
)
def test_the_files_are_those_that_torchvision_publishes(net, weights):
    published = getattr(torchvision.models, weights).IMAGENET1K_V1
    assert published.url.endswith("/" + TRUNK_FILES[net].name)
    assert published.meta["_file_size"] == pytest.approx(TRUNK_FILES[net].megabytes, abs=0.05)


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_a_missing_file_is_one_line_with_its_name_size_hash_and_place(empty_hub, net):
    wanted = TRUNK_FILES[net]
    with pytest.raises(EnvironmentFault) as caught:
        PerceptualDistance(net)
    message = str(caught.value)
    assert "\n" not in message
    for part in (wanted.name, f"{wanted.megabytes} MiB", wanted.sha256_start, str(empty_hub)):
        assert part in message
    with pytest.raises(EnvironmentFault, match="/nowhere/x.pth is not there"):
        require_trunk(
            LossConfig(perceptual=1, perceptual_net=net, perceptual_weights="/nowhere/x.pth")
        )


def test_what_is_not_used_is_not_required(empty_hub):
    require_trunk(LossConfig(perceptual=0.0, perceptual_net="alex"))
    require_trunk(LossConfig(perceptual=1.0, perceptual_net="random_features"))
    assert trunk_file("random_features") is None


def test_another_file_is_refused_by_its_hash(squeeze_file):
    digest = hashlib.sha256(squeeze_file.read_bytes()).hexdigest()
    with pytest.raises(IntegrityError, match=f"begins {digest[:8]}, not b8a52dc0"):
        PerceptualDistance("squeeze", str(squeeze_file))


@pytest.mark.parametrize("by_option", [True, False], ids=["given", "hub-cache"])
def test_the_trunk_is_that_of_the_file(squeeze_file, empty_hub, monkeypatch, by_option):
    digest = hashlib.sha256(squeeze_file.read_bytes()).hexdigest()
    name = f"squeezenet1_1-{digest[:8]}.pth"
    monkeypatch.setitem(perceptual.TRUNK_FILES, "squeeze", TrunkFile(name, 4.7))
    if not by_option:
        empty_hub.mkdir(parents=True)
        (empty_hub / name).write_bytes(squeeze_file.read_bytes())
    distance = PerceptualDistance("squeeze", str(squeeze_file) if by_option else "")
    assert distance.name == "lpips_squeeze"
    # The reference: torchvision's own network, its layers read where LPIPS reads them.
    trunk = torchvision.models.squeezenet1_1(weights=None)
    trunk.load_state_dict(torch.load(squeeze_file, weights_only=True))
    features = trunk.features.eval()
    rgb, _ = photo_pair(64, batch=1)
    with torch.no_grad():
        inside = distance.network.net((rgb - 0.5) * 2)
        for got, layer in zip(inside, (2, 5, 8, 10, 11, 12, 13), strict=True):
            torch.testing.assert_close(got, features[:layer]((rgb - 0.5) * 2))
    # The calibration is the package's, whose weights are not negative; random ones would be.
    weights = [p for n, p in distance.network.named_parameters() if n.startswith("lin")]
    assert all((w >= 0).all() for w in weights)


def test_random_features_are_the_same_everywhere_and_never_called_lpips():
    torch.manual_seed(0)
    one = PerceptualDistance("random_features")
    torch.manual_seed(1)
    other = PerceptualDistance("random_features")
    assert one.name == metric_name("random_features") == "random_features"
    assert metric_name("vgg") == "lpips_vgg"
    rgb, different = photo_pair(64)
    torch.testing.assert_close(one(rgb, different), other(rgb, different), rtol=0, atol=0)
    assert one(rgb, rgb).tolist() == [0.0, 0.0]
    assert (one(rgb, different) > 0).all()
    nearer = rgb + 0.1 * (different - rgb)
    assert (one(rgb, nearer) < one(rgb, different)).all()


def test_building_it_leaves_the_callers_random_numbers_and_warnings_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PerceptualDistance("random_features")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("side_px", [8, 33])
def test_small_photos_are_enlarged_to_64_px(side_px):
    distance = PerceptualDistance("random_features")
    rgb, other = photo_pair(side_px)
    larger = [
        torch.nn.functional.interpolate(x, size=(64, 64), mode="bilinear", align_corners=False)
        for x in (rgb, other)
    ]
    torch.testing.assert_close(distance(rgb, other), distance(*larger))


def test_it_stays_frozen_whatever_the_model_does():
    distance = PerceptualDistance("random_features")
    distance.train()
    assert not any(module.training for module in distance.modules())
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_its_gradient_reaches_decoder_encoder_and_upsampler():
    gradients = {}
    for weight in (0.0, 1.0):
        config = TINY.replaced({"loss.perceptual": weight, "loss.pixel": 0.0})
        torch.manual_seed(0)
        model = Colorizer(config.model, config.bins)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        objective = Objective(model, config, open_statistics())
        assert ("random_features" in objective.terms) == (weight > 0)
        L = torch.rand(2, 1, 16, 16) * 60 + 20
        ab = torch.rand(2, 2, 16, 16) * 40 - 20
        total, terms = objective(L, ab)
        total.backward()
        gradients[weight] = {name: p.grad.clone() for name, p in model.named_parameters()}
        if weight:
            shares = dict(zip(objective.terms, terms.tolist(), strict=True))
            assert shares["loss"] == pytest.approx(
                shares["bits_per_dim"]
                + config.loss.parallel * shares["parallel_bits_per_dim"]
                + shares["random_features"],
                rel=1e-5,
            )
    for part in ("encoder.stem", "decoder.stem", "decoder.head.out", "upsampler.change"):
        names = [name for name in gradients[0.0] if name.startswith(part)]
        assert any(not torch.equal(gradients[0.0][n], gradients[1.0][n]) for n in names), part


def open_statistics():
    from test_losses import statistics

    return statistics()


def test_training_reports_the_distance_under_its_name_beside_the_bits(tmp_path):
    shards = open_shards(small_shards(tmp_path / "shards"))
    reports = []
    train(TINY, shards, tmp_path / "run", lambda *_: ({}, None), reports.append, None)
    metrics = reports[-1].metrics
    assert {"train/bits_per_dim", "train/pixel_huber", "train/random_features"} <= set(metrics)
    assert metrics["train/loss"] == pytest.approx(
        metrics["train/bits_per_dim"]
        + TINY.loss.parallel * metrics["train/parallel_bits_per_dim"]
        + TINY.loss.pixel * metrics["train/pixel_huber"]
        + 0.5 * metrics["train/random_features"]
    )


def test_a_missing_trunk_stops_training_before_it_starts(empty_hub, tmp_path):
    shards = open_shards(small_shards(tmp_path / "shards"))
    config = TINY.replaced({"loss.perceptual_net": "vgg"})
    with pytest.raises(EnvironmentFault, match="vgg16-397923af.pth"):
        train(config, shards, tmp_path / "run", lambda *_: ({}, None), lambda _: None, None)
    assert not (tmp_path / "run").exists()
