"""Peak memory of a training step on the CPU, with what saves memory against without.

    python benchmarks/memory.py [--quick]

Every measurement is a fresh process that makes three steps (forward, backward, AdamW) of a model of
depth 8 on random planes of 128 px, batch 8 and 32x32 chroma positions, where activations are nearly
everything. `peak` is the process's largest resident set (ru_maxrss) less what it held before the
first step; time is the faster of the last two steps. `saving` is all that saves memory together:
activation checkpointing, chunked cross-entropy and gradient accumulation (the same batch in 2
parts); `one_backward` is that without accumulation, the others are each by itself. bf16 autocast is
not among them: CPUs without bf16 units only lose time by it. Configurations take turns; figures are
medians; `ratio.peak` and `ratio.time` are those of `saving`.

glibc keeps freed blocks of up to 32 MiB for later, which makes a process as large as its worst
fragmentation and not as what it needs. So all run with MALLOC_MMAP_THRESHOLD_=65536, which gives
blocks back; `*_default_malloc` is without that.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from functools import partial

import torch
from side_by_side import interleaved, report

from tintlab.config import ExperimentConfig
from tintlab.data.shard_format.ab_statistics import merged
from tintlab.model.colorizer import Colorizer
from tintlab.training.objective import Objective
from tintlab.training.optimizer import adamw

SIDE_PX, BATCH, DEPTH = 128, 8, 8
QUICK_SIDE_PX = 64
STEPS = 3
BASE = {"model.depth": DEPTH, "model.decoder_attention_blocks": 1, "bins.kind": "joint"}
CHECKPOINTING: dict[str, object] = {"training.activation_checkpointing": True}
CHUNKS: dict[str, object] = {"training.loss_chunks": 4}
PARTS: dict[str, object] = {"training.accumulation": 2}
SAVING = {**CHECKPOINTING, **CHUNKS, **PARTS}
CONFIGURATIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "saving": SAVING,
    "one_backward": {**CHECKPOINTING, **CHUNKS},
    "checkpointing": CHECKPOINTING,
    "chunked_loss": CHUNKS,
    "accumulation": PARTS,
    "plain_default_malloc": {},
    "saving_default_malloc": SAVING,
}
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small photos, one round")
    parser.add_argument("--one", metavar="NAME", help="measure one configuration, here")
    parser.add_argument("--side-px", type=int, default=SIDE_PX, help="of --one")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments.one, arguments.side_px)))
        return
    side_px = QUICK_SIDE_PX if arguments.quick else SIDE_PX
    found = interleaved(
        {name: partial(in_new_process, name, side_px) for name in CONFIGURATIONS},
        rounds=1 if arguments.quick else 5,
    )
    baseline = {name: found.pop(name) for name in list(found) if name.startswith("plain")}
    ratio = {}
    for name, figures in found.items():
        plain = baseline["plain_default_malloc" if name.endswith("malloc") else "plain"]
        suffix = "" if name == "saving" else f"/{name}"
        ratio[f"peak{suffix}"] = figures["peak_mib"] / plain["peak_mib"]
        ratio[f"time{suffix}"] = figures["step_s"] / plain["step_s"]
    size = {"side_px": side_px, "batch": BATCH, "depth": DEPTH}
    print(report("memory", {**size, **found}, baseline, ratio, ("torch",)))


def in_new_process(name: str, side_px: int) -> dict[str, float]:
    """Peak memory is a process's own, and never falls."""
    command = [sys.executable, __file__, "--one", name, "--side-px", str(side_px)]
    allocator = {} if name.endswith("default_malloc") else GIVE_BACK
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **allocator}
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measured(name: str, side_px: int) -> dict[str, float]:
    """What `STEPS` training steps of a configuration take."""
    config = ExperimentConfig().replaced({**BASE, **CONFIGURATIONS[name]})
    torch.manual_seed(0)
    model = Colorizer(config.model, config.bins)
    if config.training.activation_checkpointing:
        model.recompute_activations()
    objective = Objective(model, config, merged([]))  # rebalancing alone would read them
    optimizer = adamw(model, config.optimizer)
    L = 100 * torch.rand(BATCH, 1, side_px, side_px)
    ab = 80 * torch.rand(BATCH, 2, side_px, side_px) - 40
    before = resident_bytes()
    steps_s = []
    for _ in range(STEPS):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        parts = config.training.accumulation
        for L_part, ab_part in zip(L.chunk(parts), ab.chunk(parts), strict=True):
            total, _ = objective(L_part, ab_part)
            (total / parts).backward()
            del total
        optimizer.step()
        steps_s.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    return {"peak_mib": (peak - before) / MIB, "step_s": min(steps_s[1:])}


def resident_bytes() -> int:
    """What this process holds in memory now."""
    with open("/proc/self/statm") as fields:
        return int(fields.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
