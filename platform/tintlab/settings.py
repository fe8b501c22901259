"""The settings of each part of an experiment, frozen and strict; light to import.

`ExperimentConfig` in config.py joins them. The command line is generated from these classes, and a
default is written here only.
"""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Settings(BaseModel):
    """Base of every settings class: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DataConfig(Settings):
    """Which pixels a training step sees. What changes colours does so in Lab."""

    crop_px: int = Field(64, ge=8, le=4096)
    """Side of the square random crop, in pixels; a multiple of model.chroma_stride."""
    flip: bool = True
    """Mirror half of the crops left to right."""
    rotate_degrees: float = Field(0.0, ge=0.0, le=45.0)
    """Turn each crop by an angle drawn evenly from -this to this; 0 is off. What comes into view
    is the photo around the crop, reflected at the photo's border."""
    hue_degrees: float = Field(0.0, ge=0.0, le=180.0)
    """Turn the colours of each crop in the ab plane by an angle from -this to this; 0 is off."""
    chroma_scale: float = Field(1.0, ge=1.0, le=4.0)
    """Multiply the chroma of each crop by a factor between 1 / this and this, drawn evenly on a
    logarithmic scale; 1 is off."""
    lightness_gamma: float = Field(1.0, ge=1.0, le=4.0)
    """Raise L / 100 of each crop to a power between 1 / this and this, drawn evenly on a
    logarithmic scale; 1 is off."""
    exclude_near_grey: bool = True
    """Leave near-grey photos out of training; what counts as one was decided at preparation."""
    loader_threads: int = Field(1, ge=0, le=64)
    """Threads that make batches ahead of training, on each worker; 0 makes them when they are
    asked for. Changes speed only."""


class BinsConfig(Settings):
    """How ab colours become discrete tokens."""

    kind: Literal["factored", "joint"] = "factored"
    """factored: a token for a, then one for b given a; joint: one token for an in-gamut pair."""
    per_channel: int = Field(33, ge=2, le=256)
    """factored: uniform bins over [-110, 110] for each of a and b; of an odd number, the middle one
    stands for grey, of an even number none does."""
    joint_step: float = Field(10.0, ge=2.0, le=40.0)
    """joint: grid step in ab units; 10 is the grid of Zhang et al. 2016."""


class ModelConfig(Settings):
    """The colorizer. `depth` is the one dial; the width follows from it."""

    depth: int = Field(4, ge=1, le=64)
    """Residual blocks in the encoder and gated blocks in the decoder; width = 16 * depth."""
    chroma_stride: Literal[1, 2, 4, 8] = 4
    """The chroma grid is this many times smaller than the photo, on each side."""
    encoder_attention_blocks: int = Field(0, ge=0, le=16)
    """Self-attention blocks over the chroma grid in the encoder; 0 is a plain residual CNN."""
    decoder_attention_blocks: int = Field(0, ge=0, le=16)
    """Causal self-attention blocks over the raster order in the decoder."""
    encoder_norm: Literal["batch", "layer", "none"] = "layer"
    """Normalisation in the encoder; the decoder always normalises each position by itself."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout probability in every residual and gated block."""
    upsampler: Literal["learned", "bilinear"] = "learned"
    """From the chroma grid to the photo: weights that follow the edges of the grey photo and of the
    grid's own colours, or fixed ones."""

    @property
    def width(self) -> int:
        """Channels of every block, D."""
        return 16 * self.depth


class LossConfig(Settings):
    """Weights of the terms of the training loss; the autoregressive cross-entropy has weight 1."""

    parallel: float = Field(0.2, ge=0.0, le=10.0)
    """Weight of the parallel head's cross-entropy, in bits per dimension."""
    pixel: float = Field(0.05, ge=0.0, le=10.0)
    """Weight of the Huber loss, in ab units, of the learned upsampler on true coarse colours, one
    half exact, one half quantised."""
    smoothing_sigma_ab: float = Field(0.0, ge=0.0, le=50.0)
    """Width in ab units of the Gaussian that spreads a target over neighbouring bins; 0 is none."""
    rebalance: float = Field(0.0, ge=0.0, le=1.0)
    """How far rare colours count more: 0 not at all, 1 as in Zhang et al. 2016."""
    perceptual: float = Field(0.0, ge=0.0, le=100.0)
    """Weight of the perceptual distance between true and softly decoded photo; 0 computes none."""
    perceptual_net: Literal["alex", "vgg", "squeeze", "random_features"] = "alex"
    """LPIPS on this trained trunk; random_features: an untrained one of a fixed seed, not LPIPS."""
    perceptual_weights: str = ""
    """File of the trunk's weights from torchvision; empty: the one in the torch hub cache."""


class OptimizerConfig(Settings):
    """AdamW, gradient clipping and the moving average of the weights."""

    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    """AdamW's first moment decay."""
    beta2: float = Field(0.98, ge=0.0, lt=1.0)
    """AdamW's second moment decay."""
    weight_decay: float = Field(0.01, ge=0.0, le=1.0)
    """Decoupled weight decay, on matrices and kernels only."""
    clip_norm: float = Field(1.0, gt=0.0)
    """Largest allowed norm of the whole gradient; longer ones are scaled down to it."""
    ema_decay: float = Field(0.99, ge=0.0, lt=1.0)
    """Decay per step of the moving average of the weights; the average is what is evaluated."""


class ScheduleConfig(Settings):
    """The learning rate as a pure function of the optimizer step."""

    kind: Literal[
        "constant",
        "cosine",
        "cosine_restarts",
        "triangular",
        "triangular2",
        "exp_range",
        "one_cycle",
    ] = "cosine"
    """cosine: one half period down to base_lr; cosine_restarts: SGDR; triangular, triangular2,
    exp_range: Smith 2017; one_cycle: Smith and Topin 2018."""
    peak_lr: float = Field(2e-3, gt=0.0, le=1.0)
    """Highest learning rate."""
    base_lr: float = Field(1e-4, ge=0.0, le=1.0)
    """Lowest learning rate of a cycle, and where cosine ends."""
    cycle_steps: int = Field(100, ge=2)
    """triangular, triangular2, exp_range: steps of one whole cycle, up and down (twice Smith's step
    size); cosine_restarts: steps until the first restart."""
    cycle_growth: int = Field(1, ge=1, le=10)
    """cosine_restarts: each cycle is this many times as long as the one before (SGDR's T_mult)."""
    decay_per_step: float = Field(0.995, gt=0.0, le=1.0)
    """exp_range: the cycle's height is multiplied by this at every step (Smith's gamma)."""
    rise_share: float = Field(0.45, gt=0.0, lt=0.5)
    """one_cycle: share of the steps in which the rate rises; in as many it falls to base_lr again,
    and in what is left far below it."""
    final_divisor: float = Field(1e4, ge=1.0)
    """one_cycle: the last step's learning rate is base_lr divided by this."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of a linear rise from 0 that come before the schedule."""

    @model_validator(mode="after")
    def _base_below_peak(self) -> "ScheduleConfig":
        if self.base_lr > self.peak_lr:
            raise ValueError(
                f"schedule.base_lr must not exceed schedule.peak_lr={self.peak_lr:g}, "
                f"got {self.base_lr:g}; lower base_lr or raise peak_lr"
            )
        return self


class TrainingConfig(Settings):
    """How long, how many at once, on what."""

    steps: int = Field(400, ge=1)
    """Optimizer steps in all."""
    batch_size: int = Field(16, ge=1)
    """Images per optimizer step over all workers and accumulation steps (the global batch)."""
    accumulation: int = Field(1, ge=1)
    """Backward passes per optimizer step on each of `workers` workers; their mean equals one large
    batch, unless model.encoder_norm is batch, which then sees the smaller ones. With fewer workers
    (min_workers) there are more passes, so that none is of more images."""
    eval_every_steps: int = Field(100, ge=1)
    """Steps between validations; each is followed by a checkpoint. The last step always is."""
    keep_last: int = Field(2, ge=1)
    """Newest checkpoints kept; with 2 or more, a damaged one costs the steps since the one before.
    May differ when a run goes on, as keep_best."""
    keep_best: int = Field(1, ge=0)
    """Checkpoints of the lowest val/bits_per_dim kept beside the newest."""
    eval_at_cycle_ends: bool = False
    """Validate where a cycle of the schedule ends, too; constant and cosine have no cycles."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the initial weights, the order of the photos, crops, flips and dropout."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16, fp16: autocast of forward passes; weights, losses and the optimizer stay fp32. fp16
    scales the loss, and leaves out a step whose gradients overflow."""
    activation_checkpointing: bool = False
    """Keep of each block its inputs and what convolutions and attention gave, and compute the rest
    again: less memory, more time."""
    loss_chunks: int = Field(1, ge=1, le=4096)
    """Parts in which logits and cross-entropies are computed; above 1, none outlives its part."""
    channels_last: bool = False
    """Keep convolution weights channels last in memory, which GPUs are faster with."""
    compile: bool = False
    """torch.compile of the loss: a long first step, faster ones after it; needs a C++ compiler."""
    workers: int = Field(1, ge=1, le=1024)
    """Ray Train workers (data-parallel ranks)."""
    min_workers: int = Field(0, ge=0, le=1024)
    """Fewest workers to train on while the cluster has no more; 0 waits for all of them. The batch
    is the same for any number."""
    parallelism: Literal["ddp", "fsdp"] = "ddp"
    """ddp: every worker holds the whole model; fsdp: each holds a share of weights, gradients and
    optimizer, for models that do not fit."""
    gpus_per_worker: float = Field(0.0, ge=0.0, le=8.0)
    """GPUs of each worker; 0 trains on the CPU."""
    skip_non_finite_steps: int = Field(0, ge=0)
    """Steps with a non-finite loss or gradient that may be left out, and counted, before one more
    stops the training."""
    hang_timeout_s: float = Field(600.0, ge=5.0)
    """A worker that finishes no step and no validation for so long is killed and started again."""
    max_restarts: int = Field(3, ge=0)
    """Times that workers which died or hung are started again, from the newest checkpoint."""

    @model_validator(mode="after")
    def _batch_divides(self) -> "TrainingConfig":
        if self.channels_last and self.parallelism == "fsdp":
            raise ValueError(
                "training.channels_last does not go with training.parallelism=fsdp, which shares "
                "out rows of weights; set one of them back"
            )
        fewest = self.min_workers or self.workers
        if fewest > self.workers:
            raise ValueError(
                f"training.min_workers must not exceed training.workers={self.workers}, "
                f"got {fewest}; lower it, or set it to 0 for a fixed number"
            )
        share = math.lcm(self.workers * self.accumulation, *range(fewest, self.workers))
        if self.batch_size % share:
            low = self.batch_size // share * share
            nearest = f"{low} or {low + share}" if low else f"{share}"
            of = "workers * accumulation"
            if fewest < self.workers:
                of += f" and of every number of workers from {fewest} to {self.workers}:"
            raise ValueError(
                f"training.batch_size must be a multiple of {of} = {share}, "
                f"got {self.batch_size}; use {nearest}"
            )
        return self

    def passes(self, workers: int) -> tuple[int, int]:
        """(images per backward pass, passes per optimizer step) on each of so many workers.

        No pass is of more images than with all `self.workers`.
        Raises: ValueError: the batch does not divide over so many.
        """
        of_each, rest = divmod(self.batch_size, workers)
        if rest:
            raise ValueError(
                f"training.batch_size={self.batch_size} does not divide over {workers} workers; "
                f"use {self.batch_size - rest or workers} or {self.batch_size - rest + workers}"
            )
        most = self.batch_size // (self.workers * self.accumulation)
        passes = next(n for n in range(1, of_each + 1) if of_each % n == 0 and of_each // n <= most)
        return of_each // passes, passes


class EvaluationConfig(Settings):
    """What is measured on photos that were not trained on."""

    crop_px: int = Field(64, ge=12, le=4096)
    """Side of the square centre crop that is scored, in pixels; SSIM's window needs 11."""
    batch_size: int = Field(32, ge=1)
    """Images per forward pass; no figure depends on it."""
    panel_images: int = Field(4, ge=1, le=64)
    """Validation images sampled and shown, grey | sampled | truth, at every validation."""
    temperature: float = Field(1.0, ge=0.0, le=4.0)
    """Sampling temperature; 0 takes the most likely bin at every step."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the sampled colours."""
    samples_per_photo: int = Field(2, ge=1, le=64)
    """Samples of each photo when a finished model is evaluated; diversity needs 2, quality 1."""
    lpips_net: Literal["none", "alex", "vgg", "squeeze"] = "alex"
    """Trunk of the LPIPS that is measured where its weights are on this machine; none: never."""
    lpips_weights: str = ""
    """File of that trunk's weights from torchvision; empty: the torch hub cache, if it is there."""


class SweepConfig(Settings):
    """Where a sweep is recorded, and what ends it before all of its trials are done."""

    storage: str = ""
    """Database URL of the record, such as postgresql://host/sweeps; empty: SQLite in the
    workspace."""
    hours: float | None = Field(None, gt=0.0)
    """Hours that the sweep may take, all its starts together; what trains then is kept."""
    gpu_hours: float | None = Field(None, gt=0.0)
    """Hours of GPUs that its runs may take together."""
    target: float | None = None
    """End when a finished configuration's score is as good as this."""
    patience_trials: int | None = Field(None, ge=1)
    """End when so many configurations in a row brought no better one."""
    failed_share: float = Field(0.5, gt=0.0, le=1.0)
    """End when more than this share of the planned configurations has failed."""
