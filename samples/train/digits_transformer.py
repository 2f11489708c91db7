# SPDX-License-Identifier: Apache-2.0
"""Trains samples/models/digits_transformer.onnx, a small vision transformer on 16x16 digits.

    embed      8 patches of 4x8 pixels, MatMul 32 to 64, Add, learned position
    block 0-2  LayerNormalization, attention (4 heads of 16), Add,
               LayerNormalization, MatMul 64 to 128, Gelu, MatMul 128 to 64, Add
    head       LayerNormalization, mean over the patches, Gemm to logits

Every weight matrix has a multiple of 32 rows, so 4-bit blocks of 32 fit. Gelu is
spelled with Erf, and biases are Add nodes, as exporters write them at opset 17.
"""

import jax
import jax.numpy as jnp
import numpy as np

import common

EPSILON = 1e-5
EPOCHS, BATCH, PEAK = 150, 50, 2e-3
TOKENS, PATCH, WIDTH, HIDDEN, HEADS, BLOCKS = 8, 32, 64, 128, 4, 3


def start(rng):
    params = {}

    def linear(name, inner, out, gain=1.0):
        params[name + ".weight"] = rng.normal(0, gain / np.sqrt(inner), (inner, out))
        params[name + ".bias"] = np.zeros(out)

    def norm(name):
        params[name + ".scale"] = np.ones(WIDTH)
        params[name + ".bias"] = np.zeros(WIDTH)

    linear("embed", PATCH, WIDTH)
    params["embed.position"] = rng.normal(0, 0.1, (1, TOKENS, WIDTH))
    for b in range(BLOCKS):
        norm(f"block{b}.attention.norm")
        for part in ("query", "key", "value"):
            linear(f"block{b}.attention.{part}", WIDTH, WIDTH)
        linear(f"block{b}.attention.output", WIDTH, WIDTH, gain=0.5)
        norm(f"block{b}.mlp.norm")
        linear(f"block{b}.mlp.up", WIDTH, HIDDEN)
        linear(f"block{b}.mlp.down", HIDDEN, WIDTH, gain=0.5)
    norm("head.norm")
    linear("head.logits", WIDTH, 10)
    return {k: jnp.asarray(v, jnp.float32) for k, v in params.items()}


def forward(params, image):
    def linear(name, x):
        return x @ params[name + ".weight"] + params[name + ".bias"]

    def norm(name, x):
        mean, var = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
        x = (x - mean) * jax.lax.rsqrt(var + EPSILON)
        return x * params[name + ".scale"] + params[name + ".bias"]

    def attention(name, x):
        def heads(part):
            y = linear(f"{name}.{part}", x).reshape(-1, TOKENS, HEADS, WIDTH // HEADS)
            return jnp.transpose(y, (0, 2, 1, 3))

        scores = heads("query") @ jnp.swapaxes(heads("key"), 2, 3) / np.sqrt(WIDTH // HEADS)
        mixed = jax.nn.softmax(scores, -1) @ heads("value")
        mixed = jnp.transpose(mixed, (0, 2, 1, 3)).reshape(-1, TOKENS, WIDTH)
        return linear(name + ".output", mixed)

    x = jnp.transpose(image.reshape(-1, 4, 4, 2, 8), (0, 1, 3, 2, 4)).reshape(-1, TOKENS, PATCH)
    x = linear("embed", x) + params["embed.position"]
    for b in range(BLOCKS):
        x = x + attention(f"block{b}.attention", norm(f"block{b}.attention.norm", x))
        y = jax.nn.gelu(linear(f"block{b}.mlp.up", norm(f"block{b}.mlp.norm", x)), approximate=False)
        x = x + linear(f"block{b}.mlp.down", y)
    return linear("head.logits", jnp.mean(norm("head.norm", x), 1))


@jax.jit
def train_step(params, moments, image, labels, step, rate):
    def loss(p):
        return common.cross_entropy(forward(p, image), labels, smoothing=0.05)

    value, grads = jax.value_and_grad(loss)(params)
    params, moments = common.adam(params, grads, moments, step, rate, decay=0.05)
    return params, moments, value


def write(params):
    g = common.GraphWriter("digits_transformer")
    for name, array in params.items():
        g.weight(name, np.asarray(array, np.float32))
    shape = lambda name, dims: g.weight(name, np.array(dims, np.int64))
    scalar = lambda name, value: g.weight(name, np.array(value, np.float32))
    # A 0 in a Reshape keeps the dimension as it is: the batch stays free.
    split = shape("shape.split_heads", [0, TOKENS, HEADS, WIDTH // HEADS])
    merge = shape("shape.merge_heads", [0, TOKENS, WIDTH])
    half, one, root2 = scalar("half", 0.5), scalar("one", 1.0), scalar("sqrt2", np.sqrt(2.0))
    scale = scalar("attention.scale", 1.0 / np.sqrt(WIDTH // HEADS))

    def linear(name, x):
        x = g.node("MatMul", name + ".matmul", [x, name + ".weight"])
        return g.node("Add", name + ".add", [x, name + ".bias"])

    def norm(name, x):
        inputs = [x, name + ".scale", name + ".bias"]
        return g.node("LayerNormalization", name, inputs, axis=-1, epsilon=EPSILON)

    def attention(name, x):
        def heads(part, perm):
            y = g.node("Reshape", f"{name}.{part}.split", [linear(f"{name}.{part}", x), split])
            return g.node("Transpose", f"{name}.{part}.heads", [y], perm=perm)

        query, key = heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1])
        scores = g.node("MatMul", name + ".scores", [query, key])
        scores = g.node("Mul", name + ".scale", [scores, scale])
        weights = g.node("Softmax", name + ".softmax", [scores], axis=-1)
        mixed = g.node("MatMul", name + ".mix", [weights, heads("value", [0, 2, 1, 3])])
        mixed = g.node("Transpose", name + ".tokens", [mixed], perm=[0, 2, 1, 3])
        mixed = g.node("Reshape", name + ".merge", [mixed, merge])
        return linear(name + ".output", mixed)

    def gelu(name, x):
        y = g.node("Erf", name + ".erf", [g.node("Div", name + ".div", [x, root2])])
        y = g.node("Mul", name + ".mul", [x, g.node("Add", name + ".add", [y, one])])
        return g.node("Mul", name + ".half", [y, half])

    x = g.node("Reshape", "patch.rows", ["image", shape("shape.grid", [0, 4, 4, 2, 8])])
    x = g.node("Transpose", "patch.order", [x], perm=[0, 1, 3, 2, 4])
    x = g.node("Reshape", "patch.flat", [x, shape("shape.patches", [0, TOKENS, PATCH])])
    x = g.node("Add", "embed.positioned", [linear("embed", x), "embed.position"])
    for b in range(BLOCKS):
        name = f"block{b}.attention"
        x = g.node("Add", name + ".residual", [x, attention(name, norm(name + ".norm", x))])
        name = f"block{b}.mlp"
        y = gelu(name + ".gelu", linear(name + ".up", norm(name + ".norm", x)))
        x = g.node("Add", name + ".residual", [x, linear(name + ".down", y)])
    x = g.node("ReduceMean", "head.mean", [norm("head.norm", x)], axes=[1], keepdims=0)
    g.node("Gemm", "head.logits", [x, "head.logits.weight", "head.logits.bias"], output="logits")
    return g.save(
        {"image": (common.FLOAT, ["N", 1, 16, 16])},
        {"logits": (common.FLOAT, ["N", 10])},
        "Vision transformer classifying handwritten digits, 16x16 grey in 0..1. "
        "Trained by samples/train/digits_transformer.py. Apache-2.0.",
    )


def main():
    rng = np.random.default_rng(common.SEED)
    images, labels, held_out, truth = common.digits()
    common.write_digits()
    params = start(rng)
    moments = common.adam_start(params)
    step, total = 0, EPOCHS * (len(labels) // BATCH)
    for epoch in range(EPOCHS):
        losses = []
        for x, y in common.batches(images, labels, BATCH, rng):
            step += 1
            rate = common.rate_at(step, total, PEAK)
            params, moments, value = train_step(params, moments, x, y, step, rate)
            losses.append(float(value))
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1:3d} of {EPOCHS}  loss {np.mean(losses):.4f}", flush=True)
    path = write(params)
    logits = common.run_file(path, image=held_out)
    common.report(
        path,
        sum(p.size for p in params.values()),
        held_out_accuracy=np.mean(np.argmax(logits, -1) == truth),
    )


if __name__ == "__main__":
    main()
