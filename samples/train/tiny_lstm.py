# SPDX-License-Identifier: Apache-2.0
"""Trains samples/models/tiny_lstm.onnx, a character model of sums such as "12+7=19;".

    embed   Gather, 13 characters to 32 numbers
    LSTM    one layer of 64
    head    MatMul, Add: logits of the next character

The text is generated here. A fifth of the pairs of operands is kept out of training,
and the evaluation data is made of those alone. What the operands will be nobody can
know, so the figure to watch is the accuracy inside the answers, from "=" to ";".
"""

import jax
import jax.numpy as jnp
import numpy as np

import common

ALPHABET = "0123456789+=;"
EMBED, HIDDEN, LENGTH, LARGEST = 32, 64, 48, 49
STEPS, BATCH, PEAK = 4000, 64, 8e-3
EVALUATION = 400


def pairs(rng):
    """Every pair of operands, cut into those for training and those held out."""
    grid = np.arange((LARGEST + 1) ** 2)
    rng.shuffle(grid)
    every = np.stack([grid // (LARGEST + 1), grid % (LARGEST + 1)], 1)
    cut = len(every) // 5
    return every[cut:], every[:cut]


def streams(sums, count, rng):
    """[count, LENGTH + 1] of character numbers: sums in a row, each line starting with ";"."""
    lines = []
    for _ in range(count):
        line = ";"
        while len(line) <= LENGTH:
            a, b = sums[rng.integers(len(sums))]
            line += f"{a}+{b}={a + b};"
        lines.append([ALPHABET.index(c) for c in line[: LENGTH + 1]])
    return np.array(lines, np.int64)


def start(rng):
    uniform = lambda *shape: rng.uniform(-1, 1, shape) / np.sqrt(HIDDEN)
    bias = np.zeros(4 * HIDDEN)
    bias[2 * HIDDEN : 3 * HIDDEN] = 1.0  # remember at first
    params = {
        "embed.table": rng.normal(0, 0.5, (len(ALPHABET), EMBED)),
        "lstm.input_weight": uniform(4 * HIDDEN, EMBED),
        "lstm.state_weight": uniform(4 * HIDDEN, HIDDEN),
        "lstm.bias": bias,
        "head.weight": uniform(HIDDEN, len(ALPHABET)),
        "head.bias": np.zeros(len(ALPHABET)),
    }
    return {k: jnp.asarray(v, jnp.float32) for k, v in params.items()}


def forward(params, ids):
    """Gates in the order of the ONNX operator: input, output, forget, cell."""
    x = params["embed.table"][ids.T] @ params["lstm.input_weight"].T + params["lstm.bias"]

    def step(state, x):
        h, c = state
        i, o, f, g = jnp.split(x + h @ params["lstm.state_weight"].T, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((ids.shape[0], HIDDEN), jnp.float32)
    _, h = jax.lax.scan(step, (zeros, zeros), x)
    return jnp.swapaxes(h, 0, 1) @ params["head.weight"] + params["head.bias"]


@jax.jit
def train_step(params, moments, text, step, rate):
    def loss(p):
        return common.cross_entropy(forward(p, text[:, :-1]), text[:, 1:])

    value, grads = jax.value_and_grad(loss)(params)
    norm = jnp.sqrt(sum(jnp.sum(g * g) for g in grads.values()))
    grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, 1.0 / norm), grads)
    params, moments = common.adam(params, grads, moments, step, rate)
    return params, moments, value


def write(params):
    g = common.GraphWriter("tiny_lstm")
    p = {name: np.asarray(array, np.float32) for name, array in params.items()}
    table = g.weight("embed.table", p["embed.table"])
    lstm = [
        g.weight("lstm.input_weight", p["lstm.input_weight"][None]),
        g.weight("lstm.state_weight", p["lstm.state_weight"][None]),
        g.weight("lstm.bias", np.concatenate([p["lstm.bias"], np.zeros(4 * HIDDEN, np.float32)])[None]),
    ]
    direction = g.weight("lstm.direction", np.array([1], np.int64))
    g.weight("head.weight", p["head.weight"])
    g.weight("head.bias", p["head.bias"])

    x = g.node("Gather", "embed", [table, "ids"], axis=0)
    x = g.node("Transpose", "embed.time_first", [x], perm=[1, 0, 2])
    x = g.node("LSTM", "lstm", [x, *lstm], hidden_size=HIDDEN)
    x = g.node("Squeeze", "lstm.one_direction", [x, direction])
    x = g.node("Transpose", "lstm.batch_first", [x], perm=[1, 0, 2])
    x = g.node("MatMul", "head.matmul", [x, "head.weight"])
    g.node("Add", "head.add", [x, "head.bias"], output="logits")
    return g.save(
        {"ids": (common.INT64, ["N", "T"])},
        {"logits": (common.FLOAT, ["N", "T", len(ALPHABET)])},
        f'Next-character model of sums such as "12+7=19;". Ids count along "{ALPHABET}". '
        "Trained by samples/train/tiny_lstm.py. Apache-2.0.",
    )


def in_answer(text):
    """Which labels, text[:, 1:], lie after a "=" up to and with its ";"."""
    inside = np.zeros(text.shape, bool)
    for t in range(1, text.shape[1]):
        before = text[:, t - 1]
        opened = before == ALPHABET.index("=")
        inside[:, t] = opened | (inside[:, t - 1] & (before != ALPHABET.index(";")))
    return inside[:, 1:]


def main():
    rng = np.random.default_rng(common.SEED)
    seen, held_out = pairs(rng)
    calibration = streams(seen, common.CALIBRATION, rng)
    evaluation = streams(held_out, EVALUATION, rng)
    common.DATA.mkdir(exist_ok=True)
    np.savez_compressed(common.DATA / "arith_calib.npz", ids=calibration[:, :-1])
    np.savez_compressed(
        common.DATA / "arith_eval.npz", ids=evaluation[:, :-1], labels=evaluation[:, 1:]
    )

    text = streams(seen, 20000, rng)
    params = start(rng)
    moments = common.adam_start(params)
    losses = []
    for step in range(1, STEPS + 1):
        rate = common.rate_at(step, STEPS, PEAK)
        rows = rng.integers(0, len(text), BATCH)
        params, moments, value = train_step(params, moments, text[rows], step, rate)
        losses.append(float(value))
        if step % 250 == 0:
            print(f"step {step:5d} of {STEPS}  loss {np.mean(losses[-250:]):.4f}", flush=True)
    path = write(params)
    logits = common.run_file(path, ids=evaluation[:, :-1])
    right = np.argmax(logits, -1) == evaluation[:, 1:]
    common.report(
        path,
        sum(p.size for p in params.values()),
        accuracy_over_all_characters=np.mean(right),
        accuracy_inside_the_answers=np.mean(right[in_answer(evaluation)]),
    )


if __name__ == "__main__":
    main()
