#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Activations and the ranges that NumPy finds for them from the raw numbers: tests/calib/observe_test.cpp compares.
Written with numpy 2.4.6; not needed to build or test."""
import pathlib

import numpy as np

here = pathlib.Path(__file__).parent
rng = np.random.default_rng(11)
gauss = rng.standard_normal((64, 128)).astype(np.float32)
outliers = gauss.copy()
outliers.reshape(-1)[rng.choice(outliers.size, 6, replace=False)] = [40, -35, 60, 55, -42, 48]
relu = np.maximum(gauss * 3 + 1, 0).astype(np.float32)
relu.reshape(-1)[100] = 90
data = dict(gauss=gauss, outliers=outliers, relu=relu)


def fake(x, low, high, signed):
    if signed:
        s, z, a, b = max(-low, high) / 127, 0, -128, 127
    else:
        s = (high - low) / 255
        z, a, b = np.clip(np.rint(-low / s), 0, 255), 0, 255
    return (np.clip(np.rint(x / s) + z, a, b) - z) * s


def mse(x, signed):
    """The least mean squared error over a fine grid of ranges."""
    lo, hi = min(x.min(), 0), max(x.max(), 0)
    ratios = 2.0 ** np.arange(0, -8, -0.05)
    x = x.astype(np.float64).ravel()
    error = lambda l, h: np.mean((x - fake(x, l, h, signed)) ** 2)
    if signed:
        t = max(-lo, hi)
        return min(error(-t * r, t * r) for r in ratios)
    best = min(((error(lo * a, hi * b), a, b) for a in ratios[::8] for b in ratios[::8] if lo < 0 or a == 1))
    around = 2.0 ** np.arange(-0.4, 0.41, 0.05)
    return min(error(lo * min(1, best[1] * a), hi * min(1, best[2] * b)) for a in around for b in around)


def entropy(x, signed):
    """Threshold on |x| of least KL divergence, as calib/clip.h describes it, from the raw numbers."""
    x = x.astype(np.float64).ravel()
    lo, hi = min(x.min(), 0), max(x.max(), 0)
    x = x[x != 0]
    reach = min(max(-lo, hi), 16 * np.quantile(np.abs(x), 0.999))
    side = 2048
    width = reach / side
    place = np.clip(np.floor(x / width).astype(int) + side, 0, 2 * side - 1)
    mass = np.bincount(place, minlength=2 * side).astype(float)
    at = lambda v: int(np.clip(np.floor(v / width) + side, 0, 2 * side - 1))
    lowest, highest = (at(lo) if lo < 0 else side), at(hi) + 1
    best, choice = np.inf, None
    for step in range(8, 129):
        half = side * step // 128
        a, b = max(lowest, side - half), min(highest, side + half)
        inside, middles = mass[a:b], (np.arange(a, b) - side + 0.5) * width
        p = inside.copy()
        p[0] += mass[:a].sum()
        p[-1] += mass[b:].sum()
        l, h = (a - side) * width, (b - side) * width
        s = max(-l, h) / 127 if signed else (max(h, 0) - min(l, 0)) / 255
        code = np.rint(middles / s)
        q = np.zeros_like(p)
        for c in np.unique(code):
            group = (code == c) & (inside > 0)
            if group.any():
                q[group] = inside[code == c].sum() / group.sum()
        p, q = p / p.sum(), np.maximum(q, 1e-4) / q.sum()
        kl = np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0]))
        if kl <= best:
            best, choice = kl, half * width
    return choice


expected = {}
for name, x in data.items():
    signed = name != "relu"
    flat = x.astype(np.float64).ravel()
    expected[name + "_p999"] = np.quantile(np.abs(flat), 0.999)
    expected[name + "_tails"] = np.quantile(flat, [0.005, 0.995])
    expected[name + "_mean"] = flat.mean()
    expected[name + "_mse"] = mse(x, signed)
    expected[name + "_entropy"] = entropy(x, signed)
    expected[name + "_minmax_mse"] = np.mean((flat - fake(flat, min(flat.min(), 0), flat.max(), signed)) ** 2)
expected["outliers_columns"] = np.stack([outliers.min(0), outliers.max(0)])
for k, v in expected.items():
    if np.ndim(v) < 2:
        print(k, v)
np.savez_compressed(here / "ranges.npz", **data)
np.savez_compressed(here / "ranges_expected.npz", **expected)
