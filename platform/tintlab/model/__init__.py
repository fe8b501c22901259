"""The colorizer: gray encoder, causal colour decoder, upsampler, exact sampler, saved form.

Axes: B batch, H W full resolution, h w chroma grid (h = H / chroma_stride), T = h * w positions,
D width, N heads, K bins, C tokens per position (a then b, or one joint token).
"""
