# SPDX-License-Identifier: Apache-2.0
"""What a quantized model loses, sample by sample, so that two tools can be compared in pairs: differences come with the
95 % interval of a bootstrap over the held-out samples (the same draws for both sides)."""
import numpy as np

DRAWS = 2000


def log_probabilities(scores, are_probabilities):
    z = scores.astype(np.float64)
    if are_probabilities:
        return np.log(np.maximum(z, 1e-12))
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


class Quality:
    """`floats`, `quantized`: outputs of every run. Of each float output the energy of signal and error per run; of the first
    one, unless it is a picture, KL and agreement of the class scores along its last (or only non-trivial) axis."""

    def __init__(self, floats, quantized, labels=None):
        kept = [i for i, o in enumerate(floats[0]) if o.dtype.kind == "f"]
        energy = lambda a: float((np.asarray(a, np.float64) ** 2).sum())
        self.signal = np.array([[energy(run[k]) for run in floats] for k in kept])
        self.noise = np.array([[energy(a[k].astype(np.float64) - b[k]) for a, b in zip(floats, quantized)] for k in kept])
        self.kl = self.agreement = self.accuracy = None
        first = floats[0][kept[0]]
        if first.ndim == 4 and sum(d > 1 for d in first.shape) > 1:
            return
        rows = lambda o: o.reshape(-1, max(o.shape)) if o.ndim == 4 else o.reshape(-1, o.shape[-1])
        a, b = ([rows(run[kept[0]]) for run in runs] for runs in (floats, quantized))
        probabilities = all((z >= 0).all() and abs(z.sum(-1) - 1).max() < 1e-3 for z in a)
        self.agreement = np.array([(x.argmax(-1) == y.argmax(-1)).mean() for x, y in zip(a, b)])
        logs = [(log_probabilities(x, probabilities), log_probabilities(y, probabilities)) for x, y in zip(a, b)]
        self.kl = np.array([(np.exp(p) * (p - q)).sum(-1).mean() for p, q in logs])
        if labels is not None:
            self.accuracy = [float((np.concatenate(z).argmax(-1) == labels).mean()) for z in (a, b)]

    def sqnr_db(self, weights=None):
        """Of the worst output; `weights` [draws, runs]: how often each run counts."""
        weights = np.ones((1, self.signal.shape[1])) if weights is None else weights
        noise = np.maximum(weights @ self.noise.T, 1e-300)
        return (10 * np.log10(np.maximum(weights @ self.signal.T, 1e-300) / noise)).min(-1)

    def figures(self):
        facts = {"sqnr_db": float(self.sqnr_db()[0]), "runs": self.signal.shape[1]}
        if self.kl is not None:
            facts |= {"kl": float(self.kl.mean()), "agreement": float(self.agreement.mean())}
        return facts | ({"accuracy": self.accuracy} if self.accuracy else {})


def intervals(ours, theirs):
    """Differences ours - theirs in SQNR and, where there are classes, agreement and KL: (value, low, high) each."""
    runs = ours.signal.shape[1]
    draws = np.random.default_rng(1).multinomial(runs, np.full(runs, 1 / runs), DRAWS)
    pairs = {"sqnr_db": (ours.sqnr_db()[0] - theirs.sqnr_db()[0], ours.sqnr_db(draws) - theirs.sqnr_db(draws))}
    for name in ("agreement", "kl") if ours.kl is not None else ():
        difference = getattr(ours, name) - getattr(theirs, name)
        pairs[name] = (difference.mean(), draws @ difference / runs)
    return {name: (float(value), *map(float, np.percentile(all_, (2.5, 97.5)))) for name, (value, all_) in pairs.items()}
