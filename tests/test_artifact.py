"""Saved models: what is saved is what is loaded, and what was tampered with is not used."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from tintlab.config import ExperimentConfig
from tintlab.errors import ConflictError, EnvironmentFault, IntegrityError
from tintlab.model.artifact import load_model, save_model
from tintlab.model.colorizer import Colorizer

CONFIG = ExperimentConfig().replaced(
    {
        "model.depth": 1,
        "model.encoder_norm": "batch",
        "model.decoder_attention_blocks": 1,
        "training.seed": 7,
    }
)
FILES = ["config.json", "manifest.json", "model.safetensors"]


def built(config: ExperimentConfig = CONFIG, seed: int = 0) -> Colorizer:
    """A model with every weight and every running statistic away from its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Colorizer(config.model, config.bins).eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator), alpha=0.3)
    return model


def rehash(folder: Path) -> None:
    """Make the manifest agree with the files, as a forger would."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    file.write_text(json.dumps(manifest))


def edited_manifest(folder: Path, **values: object) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(built(), CONFIG, tmp_path / "model", {"step": 40})
    return tmp_path / "model"


def test_a_saved_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model, folder = built(), tmp_path / "deep" / "model"
    digest = save_model(model, CONFIG, folder, {"step": 40})
    rng = torch.get_rng_state()
    loaded, config = load_model(folder)
    assert torch.equal(torch.get_rng_state(), rng)
    assert config == CONFIG
    assert not loaded.training
    generator = torch.Generator().manual_seed(1)
    L = 100 * torch.rand((2, 1, 16, 12), generator=generator)
    tokens = torch.randint(32, (2, 2, 4, 3), generator=generator)
    for before, after in zip(model(L, tokens), loaded(L, tokens), strict=True):
        assert torch.equal(before, after)
    manifest = (folder / "manifest.json").read_bytes()
    assert digest == hashlib.sha256(manifest).hexdigest()
    assert json.loads(manifest)["metadata"] == {"step": 40}
    # Nothing but the three files, and nothing left beside them.
    assert sorted(os.listdir(folder)) == FILES
    assert os.listdir(folder.parent) == ["model"]


def test_equal_models_have_equal_digests_and_others_do_not(tmp_path: Path) -> None:
    digest = save_model(built(), CONFIG, tmp_path / "a")
    assert save_model(built(), CONFIG, tmp_path / "b") == digest
    assert save_model(built(seed=1), CONFIG, tmp_path / "c") != digest


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_one_flipped_bit_is_refused(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    data[-9] ^= 1
    (saved / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=f"{name} is damaged or was changed: sha256 is"):
        load_model(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name} is missing"):
        load_model(saved)


def test_a_missing_folder_is_an_environment_fault(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"no saved model at .*nowhere: there is no such"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 1}, "tintlab-model version 1 is not version 2"),
        ({"format": "other"}, "format is 'other', must be 'tintlab-model'"),
        ({"files": {}}, "files must name exactly model.safetensors and config.json"),
        ({"files": {"../x": "0", "config.json": "0"}}, "files must name exactly"),
    ],
)
def test_other_manifests_are_refused_by_name(
    saved: Path, values: dict[str, object], message: str
) -> None:
    edited_manifest(saved, **values)
    with pytest.raises(IntegrityError, match=message):
        load_model(saved)


@pytest.mark.parametrize("text", ["", "[]", "{", "\udcff"])
def test_a_manifest_that_is_not_one_is_refused(saved: Path, text: str) -> None:
    (saved / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(IntegrityError, match="is not the manifest of a tintlab-model folder"):
        load_model(saved)


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("forged", [False, True], ids=["as-is", "hashes-forged"])
@pytest.mark.parametrize("name", FILES)
def test_a_pickle_under_any_name_is_never_executed(
    saved: Path, tmp_path: Path, name: str, forged: bool
) -> None:
    marker = tmp_path / "executed"
    (saved / name).write_bytes(pickle.dumps(Trap(marker)))
    if forged and name != "manifest.json":
        rehash(saved)
    with pytest.raises(IntegrityError):
        load_model(saved)
    assert not marker.exists()


def test_weights_of_another_architecture_name_the_first_difference(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["model"]["depth"] = 2
    (saved / "config.json").write_text(json.dumps(config))
    rehash(saved)
    expected = r"model.safetensors holds the weights of another architecture: encoder.stem.0.weight"
    with pytest.raises(IntegrityError, match=expected + r" must be float32\[16, 1, 3, 3\], got"):
        load_model(saved)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (0, r"decoder.attention.0.norm.bias float32\[16\] is unknown to this config"),
        (2, r"decoder.attention.1.norm.weight float32\[16\] is missing"),
    ],
)
def test_a_missing_or_unknown_layer_is_named(saved: Path, blocks: int, message: str) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["model"]["decoder_attention_blocks"] = blocks
    (saved / "config.json").write_text(json.dumps(config))
    rehash(saved)
    with pytest.raises(IntegrityError, match=message):
        load_model(saved)


def test_a_config_of_another_time_says_which_key(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["model"]["heads"] = 4
    (saved / "config.json").write_text(json.dumps(config))
    rehash(saved)
    with pytest.raises(IntegrityError, match=r"cannot read the model's config.json: .*heads"):
        load_model(saved)


def test_a_newer_model_replaces_the_older_whole(saved: Path) -> None:
    newer = built(seed=3)
    save_model(newer, CONFIG, saved)
    loaded, _ = load_model(saved)
    for name, tensor in newer.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert os.listdir(saved.parent) == ["model"]


def test_a_save_that_fails_leaves_the_older_model_and_no_litter(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault, match=r"cannot save the model as .*: No space left"):
        save_model(built(seed=3), CONFIG, saved)
    monkeypatch.undo()
    loaded, _ = load_model(saved)
    older = built().state_dict()
    assert all(torch.equal(older[name], t) for name, t in loaded.state_dict().items())
    assert os.listdir(saved.parent) == ["model"]


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_bytes(b"...")
    with pytest.raises(ConflictError, match="photos exists and is not a saved model"):
        save_model(built(), CONFIG, photos)
    assert os.listdir(photos) == ["holiday.jpg"]


def test_a_model_is_saved_with_its_own_config_only(tmp_path: Path) -> None:
    other = CONFIG.replaced({"model.depth": 2})
    with pytest.raises(ValueError, match="not the one this model was built from"):
        save_model(built(), other, tmp_path / "model")
    assert os.listdir(tmp_path) == []
