"""torch.compile of the loss: the same training, from another kernel."""

import shutil

import pytest
from small_shards import small_shards
from test_loop import TINY, run, tensors

from tintlab.data.shards import open_shards
from tintlab.training.checkpoints import WEIGHTS, Checkpoints, read

pytestmark = pytest.mark.slow


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_loss_learns_the_same(tmp_path, figure):
    shards = open_shards(small_shards(tmp_path / "shards"))
    config = TINY.replaced({"training.steps": 10, "training.eval_every_steps": 5})
    eager = run(config, shards, tmp_path / "eager")
    compiled = run(config.replaced({"training.compile": True}), shards, tmp_path / "compiled")
    worst = max(abs(a - b) for a, b in zip(eager.losses, compiled.losses, strict=True))
    figure("Training", "torch.compile, 10 steps", f"losses differ by at most {worst:.1e}", "1e-4")
    assert worst < 1e-4
    # The checkpoint is of the model, not of what it was compiled to.
    kept = read(Checkpoints(tmp_path / "compiled").at(10))
    assert not any("_orig_mod" in name for name in kept.weights)
    newest = Checkpoints(tmp_path / "compiled").newest()
    resumed = run(config, shards, tmp_path / "compiled", newest)
    assert tensors(resumed.reports[-1].checkpoint)[WEIGHTS]
