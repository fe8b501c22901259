"""tintlab: experiments with autoregressive image colorizers, distributed by Ray."""

__version__ = "0.1.0"
