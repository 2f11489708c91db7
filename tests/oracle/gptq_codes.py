# SPDX-License-Identifier: Apache-2.0
"""GPTQ in PyTorch float64, written from the papers (arXiv 2210.17323; group-aware order: 2505.14638): codes, scales and
losses of random problems, into tests/golden/torch/gptq.npz.

The reference form: the upper Cholesky factor R of the inverse, R^T R = (H + lambda mean(diag H) I)^-1, columns in lazy
blocks, errors divided by R_cc. Problems come from a congruential generator that a test can repeat, so that only answers
are kept. Scales are rounded to float32 when they are chosen, as a file holds them."""
import pathlib

import numpy as np
import torch

OUT = pathlib.Path(__file__).resolve().parents[1] / "golden" / "torch" / "gptq.npz"
LAZY = 128
ASYMMETRIC, RESTRICTED, REFERENCE = range(3)  # symmetric: codes -k .. k; or all codes about a zero point in the middle
NONE, ACT, GAR = range(3)


def numbers(seed, count):
    out, s = np.empty(count), seed
    for i in range(count):
        s = (6364136223846793005 * s + 1442695040888963407) % 2**64
        out[i] = (s >> 11) / 2.0**53
    return 2 * out - 1


def problem(seed, m, n, t):
    """Inputs that lean on their left neighbours, of seven sizes, one of them always zero; weights up to a tenth."""
    x = torch.from_numpy(numbers(seed, t * n).reshape(t, n)) * (1 + torch.arange(n) % 7)
    for j in range(1, n):
        x[:, j] += 0.6 * x[:, j - 1]
    x[:, n // 3] = 0
    w = torch.from_numpy((numbers(seed + 1, m * n) * 0.1).astype(np.float32).astype(np.float64).reshape(m, n))
    return x, w


class Grid:
    def __init__(self, bits, kind):
        self.kind = kind
        self.half = 2 ** (bits - 1)
        self.low, self.high = (1 - self.half, self.half - 1) if kind == RESTRICTED else (0, 2**bits - 1)

    def scale(self, low, high):
        """Scale and zero point of rows with these ranges."""
        low, high = low.clamp(max=0), high.clamp(min=0)
        amax = torch.maximum(-low, high)
        if self.kind == ASYMMETRIC:
            s = (high - low) / self.high
        elif self.kind == RESTRICTED:
            s = amax / self.high
        else:
            s = 2 * amax / self.high
        s = torch.where(s == 0, torch.ones_like(s), s).float().double()
        if self.kind == ASYMMETRIC:
            return s, torch.round(-low / s).clamp(0, self.high)
        return s, torch.full_like(s, 0 if self.kind == RESTRICTED else self.half)

    def codes(self, w, s, z):
        return (torch.round(w / s) + z).clamp(self.low, self.high)

    def fit(self, w, h, clip):
        """Of weights [m, k]; with clip, the share of the range whose error weighted by diag H is least."""
        low, high = w.min(1).values, w.max(1).values
        if not clip:
            return self.scale(low.clamp(max=0), high.clamp(min=0))
        best = torch.full_like(low, torch.inf)
        s, z = torch.ones_like(low), torch.zeros_like(low)
        for i in range(40):
            share = 1 - 0.8 * i / 40
            a, b = self.scale(low * share, high * share)
            q = (self.codes(w, a[:, None], b[:, None]) - b[:, None]) * a[:, None]
            error = ((q - w) ** 2 * h).sum(1)
            better = error < best
            best, s, z = torch.where(better, error, best), torch.where(better, a, s), torch.where(better, b, z)
        return s, z


def places(diagonal, order, group):
    """The column that each step visits."""
    n = len(diagonal)
    if order == NONE:
        return torch.arange(n)
    if order == ACT:
        return torch.argsort(diagonal, descending=True, stable=True)
    whole = n // group
    inside = torch.argsort(diagonal[: whole * group].reshape(whole, group), dim=1, descending=True, stable=True)
    inside += torch.arange(whole)[:, None] * group
    groups = torch.argsort(diagonal[inside[:, 0]], descending=True, stable=True)
    return torch.cat([inside[groups].flatten(), torch.arange(whole * group, n)])


def gptq(x, w, grid, group, dynamic, order, damp, clip):
    t, n = x.shape
    h = 2 / t * x.T @ x
    diagonal = torch.diagonal(h)
    diagonal[diagonal == 0] = 1
    original = diagonal.clone()
    width = group or n
    planes = -(-n // width)
    scale, zero = torch.empty(planes, len(w), dtype=torch.double), torch.empty(planes, len(w), dtype=torch.double)
    if not dynamic:
        for p in range(planes):
            part = slice(p * width, (p + 1) * width)
            scale[p], zero[p] = grid.fit(w[:, part], original[part], clip)
    if damp == 0:
        damp = min(max(0.15 * n / t, 0.01), 0.5)
    visit = places(original, order, width)
    w, h = w[:, visit].clone(), h[visit][:, visit]
    h = h + damp * original.mean() * torch.eye(n, dtype=torch.double)
    r = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    codes, loss = torch.empty_like(w), torch.zeros(len(w), dtype=torch.double)
    for i1 in range(0, n, LAZY):
        i2 = min(n, i1 + LAZY)
        w1, e = w[:, i1:i2].clone(), torch.zeros(len(w), i2 - i1, dtype=torch.double)
        for c in range(i1, i2):
            p = int(visit[c]) // width
            if dynamic and (c == 0 or int(visit[c - 1]) // width != p):
                end = c + 1
                while end < n and int(visit[end]) // width == p:
                    end += 1
                now = torch.cat([w1[:, c - i1 : end - i1], w[:, i2:end] - e @ r[i1:i2, i2:end]], 1)
                scale[p], zero[p] = grid.fit(now, original[visit[c:end]], clip)
            k = grid.codes(w1[:, c - i1], scale[p], zero[p])
            q = (k - zero[p]) * scale[p]
            e[:, c - i1] = (w1[:, c - i1] - q) / r[c, c]
            w1[:, c - i1 + 1 :] -= e[:, c - i1, None] * r[c, c + 1 : i2]
            loss += 0.5 * e[:, c - i1] ** 2
            codes[:, visit[c]] = k  # in the columns' own order
        w[:, i2:] -= e @ r[i1:i2, i2:]
    return codes, scale, zero, loss


def tasks():
    """m, n, t, bits, kind, group, dynamic, order, damping in thousandths (0: by the rows), clip."""
    for bits in (2, 3, 4, 8):
        for kind in (ASYMMETRIC, RESTRICTED):
            yield 9, 160, 320, bits, kind, 0, 0, NONE, 10, 0
            yield 9, 160, 320, bits, kind, 32, 0, ACT, 10, 0
            yield 9, 150, 300, bits, kind, 32, 1, GAR, 0, 0  # the last group is narrower
            yield 9, 160, 320, bits, kind, 48, 1, NONE, 10, 0  # groups that cross blocks
            yield 9, 96, 120, bits, kind, 16, 0, GAR, 0, 1
        yield 9, 160, 320, bits, REFERENCE, 32, 0, ACT, 50, 0
    yield 3, 7, 40, 3, ASYMMETRIC, 0, 1, NONE, 10, 0
    yield 70, 300, 400, 4, ASYMMETRIC, 64, 1, NONE, 10, 1
    # Wider than 1024 columns: solvers may sum in float32.
    yield 4, 1088, 1100, 4, ASYMMETRIC, 64, 1, NONE, 10, 0
    yield 4, 1088, 1100, 3, RESTRICTED, 0, 0, ACT, 10, 0
    yield 4, 1056, 1100, 4, REFERENCE, 32, 0, ACT, 50, 0
    yield 3, 1056, 1100, 2, REFERENCE, 0, 0, NONE, 10, 0


def main():
    rows, codes, scales, zeros, losses = [], [], [], [], []
    for i, (m, n, t, bits, kind, group, dynamic, order, damp, clip) in enumerate(tasks()):
        seed = 1000 + 2 * i
        x, w = problem(seed, m, n, t)
        k, s, z, loss = gptq(x, w, Grid(bits, kind), group, dynamic, order, damp / 1000, clip)
        rows.append((seed, m, n, t, bits, kind, group, dynamic, order, damp, clip))
        codes.append(k.to(torch.int16).flatten()), scales.append(s.float().flatten())
        zeros.append(z.to(torch.int16).flatten()), losses.append(loss)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT, problems=np.array(rows, np.int64), codes=torch.cat(codes).numpy(),
                        scales=torch.cat(scales).numpy(), zeros=torch.cat(zeros).numpy(), losses=torch.cat(losses).numpy())
    print(f"{OUT.name}: {len(rows)} problems, {OUT.stat().st_size} bytes, torch {torch.__version__}")


if __name__ == "__main__":
    main()
