"""What each change of an ablation sweep is worth on the test split: a table and two pictures.

    tintlab sweep ablation
    python benchmarks/ablation.py OUT_FOLDER [--workspace DIR] [--sweep ablation] [--photos 6]

Every trial of the sweep is evaluated as `tintlab evaluate` does it, and kept there. `gain` is how
many fewer bits per dimension a variant needs than `initial` on the same photos with the same seeds:
mean and 95 % interval of a bootstrap that draws seeds, photographs and their tiles anew. Three
seeds are few: such an interval is rather too narrow than too wide.

Written: ablation.md, the table; ablation.svg, gains and intervals, a dot for each seed; and
ablation.png, whose rows are photos and whose columns are the grey photo, a sample of every variant
(first seed) in the order of the table, and the truth.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow.parquet as pq
from packaged_tiles import interval, photographs
from side_by_side import report, show

from tintlab.cluster import connect
from tintlab.config import Workspace
from tintlab.data.batches import eval_batches
from tintlab.data.shards import open_shards
from tintlab.errors import ConfigError, TintlabError
from tintlab.evaluation.evaluate import PER_IMAGE_FILE, paint
from tintlab.evaluation.picture import save_png, strip, write_whole
from tintlab.model.artifact import load_model
from tintlab.serving.showcase import ENLARGED
from tintlab.sweep.opening import stored_record
from tintlab.sweep.space import VARIANT
from tintlab.tracking.evaluations import evaluate_model
from tintlab.tracking.models import find_model

FIRST = "initial"
COLUMNS = ("psnr_db", "ssim", "ciede2000", "colorfulness_ratio", "parallel_mean_colorfulness_ratio")


@dataclass(frozen=True)
class Trial:
    """One finished trial, evaluated."""

    run_id: str
    folder: Path
    """Of its model."""
    parameters: int
    bits: np.ndarray
    """Bits per dimension of each photo, in the order of the split."""
    ids: list[str]
    """The photos."""
    figures: dict[str, float]


def finished(place: Workspace, sweep: str) -> dict[str, dict[int, str]]:
    """Variant -> seed -> run id of the complete trials of a sweep."""
    runs: dict[str, dict[int, str]] = {}
    for trial in stored_record(place, sweep).trials:
        for run in trial.complete if trial.state == "complete" else ():
            runs.setdefault(trial.values[VARIANT], {})[run.seed] = run.run_id or ""
    if FIRST not in runs:
        raise ConfigError(f"sweep {sweep!r} has no finished trial of {FIRST!r} to compare with")
    seeds = set(runs[FIRST])
    missing = [variant for variant, of_seeds in runs.items() if set(of_seeds) != seeds]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: not the seeds of {FIRST}; finish the sweep first")
    return runs


def measured(place: Workspace, run_id: str) -> Trial:
    """A trial on the test split."""
    found = find_model(place, run_id)
    kept = evaluate_model(place, found, place.shards)
    model, _ = load_model(found.folder)
    decodes = kept.summary["decodes"]
    figures = {name: kept.summary[name] for name in COLUMNS if name in kept.summary}
    figures[COLUMNS[-1]] = decodes["parallel_mean"]["colorfulness_ratio"]
    photos = pq.read_table(kept.folder / PER_IMAGE_FILE, columns=["id", "bits_per_dim"])
    bits = photos["bits_per_dim"].to_numpy()
    show(f"{found.label}: {bits.mean():.4f} bits per dimension")
    ids = photos["id"].to_pylist()
    return Trial(run_id, found.folder, model.parameter_count, bits, ids, figures)


def summary(
    of_variants: Mapping[str, list[Trial]], cut_from: list[str]
) -> dict[str, dict[str, float]]:
    """Variant -> its figures, means over seeds.

    Args: cut_from: the photograph of each photo of the split.
    """
    first = np.stack([trial.bits for trial in of_variants[FIRST]])
    rows = {}
    for variant, trials in of_variants.items():
        bits = np.stack([trial.bits for trial in trials])
        gain = interval(first - bits, cut_from)
        rows[variant] = {
            "parameters": trials[0].parameters,
            "bits_per_dim": float(bits.mean()),
            "between_seeds": float(bits.mean(axis=1).std(ddof=1)) if len(bits) > 1 else 0.0,
            "gain": gain["mean"],
            "gain_low": gain["low"],
            "gain_high": gain["high"],
            **{name: float(np.mean([t.figures[name] for t in trials])) for name in COLUMNS},
        }
    return rows


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| variant | parameters | bits per dim | gain over initial [95 %] | PSNR dB | CIEDE2000 | "
        "colourfulness of samples | of the mean |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant, row in rows.items():
        gain = f"{row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]"
        lines.append(
            f"| {variant} | {row['parameters']:,.0f} | {row['bits_per_dim']:.3f} "
            f"± {row['between_seeds']:.3f} | {'' if variant == FIRST else gain} | "
            f"{row['psnr_db']:.2f} | {row['ciede2000']:.2f} | {row['colorfulness_ratio']:.2f} | "
            f"{row['parallel_mean_colorfulness_ratio']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def chart(of_variants: Mapping[str, list[Trial]], rows: Mapping[str, Mapping[str, float]]) -> bytes:
    """Gains over the first colorizer: interval, mean, and a dot for each seed."""
    import io

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "tintlab"  # the same figures give the same file
    from matplotlib import pyplot

    names = [variant for variant in of_variants if variant != FIRST]
    first = np.array([trial.bits.mean() for trial in of_variants[FIRST]])
    figure, axes = pyplot.subplots(figsize=(7, 0.5 * len(names) + 1.2))
    for place, variant in enumerate(reversed(names)):
        row = rows[variant]
        axes.plot([row["gain_low"], row["gain_high"]], [place, place], color="#4878a8", lw=3)
        of_seeds = first - np.array([trial.bits.mean() for trial in of_variants[variant]])
        axes.plot(of_seeds, [place] * len(of_seeds), "o", color="#888888", ms=4)
        axes.plot(row["gain"], place, "|", color="black", ms=16, mew=2)
    axes.axvline(0, color="#888888", lw=1)
    axes.set_yticks(range(len(names)), reversed(names))
    axes.set_xlabel("bits per dimension saved against initial (right is better)")
    axes.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    return out.getvalue()


def samples(place: Workspace, trials: Mapping[str, Trial], photos: int) -> np.ndarray:
    """Rows of photos spread over the test split; grey, every variant, truth."""
    columns: list[list[np.ndarray]] = []
    shards = open_shards(place.shards)
    every = max(1, shards.count("test") // photos)
    for trial in trials.values():
        model, config = load_model(trial.folder)
        settings = config.evaluation
        painted = [
            painting
            for batch in eval_batches(shards, "test", settings.crop_px, settings.batch_size)
            for painting in paint(model, batch, settings.temperature, settings.seed)
        ][::every][:photos]
        if not columns:
            columns.append([painting.grey for painting in painted])
        columns.append([painting.coloured for painting in painted])
    columns.append([painting.truth for painting in painted])
    picture = strip(list(zip(*columns, strict=True)))
    return picture.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--workspace", default=None)
    parser.add_argument("--sweep", default="ablation")
    parser.add_argument("--photos", type=int, default=6, help="rows of the picture of samples")
    given = parser.parse_args()

    place = Workspace.at(given.workspace)
    with connect(place):
        of_variants = {
            variant: [measured(place, of_seeds[seed]) for seed in sorted(of_seeds)]
            for variant, of_seeds in finished(place, given.sweep).items()
        }
    rows = summary(of_variants, photographs(open_shards(place.shards), of_variants[FIRST][0].ids))
    write_whole(given.out / "ablation.md", table(rows).encode())
    write_whole(given.out / "ablation.svg", chart(of_variants, rows))
    firsts = {variant: trials[0] for variant, trials in of_variants.items()}
    save_png(given.out / "ablation.png", samples(place, firsts, given.photos))
    show(table(rows))
    ratio = {
        variant: row["bits_per_dim"] / rows[FIRST]["bits_per_dim"] for variant, row in rows.items()
    }
    print(report("ablation", rows, rows[FIRST], ratio, ("torch",)))


if __name__ == "__main__":
    try:
        main()
    except TintlabError as error:
        show(f"ablation: {error}")
        raise SystemExit(error.exit_code) from None
