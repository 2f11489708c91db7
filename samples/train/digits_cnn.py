# SPDX-License-Identifier: Apache-2.0
"""Trains samples/models/digits_cnn.onnx, a convolutional classifier of 16x16 digits.

    stem      Conv 3x3, BatchNormalization, Relu              16x16, 32 channels
    widen     Conv 3x3, BatchNormalization, Relu, MaxPool     8x8, 64
    residual  depthwise 3x3, then 1x1, Add to the input       8x8, 64
    fork      a 1x1 and a 3x3 branch, Concat, MaxPool         4x4, 96
    last      Conv 3x3, BatchNormalization, Relu              4x4, 128
    head      GlobalAveragePool, Flatten, Gemm, Relu, Gemm    logits

BatchNormalization stays a node of its own: folding it is the first thing a
quantizer does, and a sample without it would have nothing to fold.
"""

import jax
import jax.numpy as jnp
import numpy as np

import common

EPSILON = 1e-5
EPOCHS, BATCH, PEAK = 30, 50, 3e-3

# name: output channels, input channels per group, kernel, groups
CONVS = {
    "stem": (32, 1, 3, 1),
    "widen": (64, 32, 3, 1),
    "residual.depthwise": (64, 1, 3, 64),
    "residual.pointwise": (64, 64, 1, 1),
    "fork.narrow": (32, 64, 1, 1),
    "fork.wide": (64, 64, 3, 1),
    "last": (128, 96, 3, 1),
}
GEMMS = {"head.hidden": (128, 64), "head.logits": (64, 10)}


def start(rng):
    params, running = {}, {}
    for name, (out, inner, kernel, _) in CONVS.items():
        std = np.sqrt(2.0 / (inner * kernel * kernel))
        params[name + ".conv.weight"] = rng.normal(0, std, (out, inner, kernel, kernel))
        params[name + ".norm.scale"] = np.ones(out)
        params[name + ".norm.bias"] = np.zeros(out)
        running[name + ".norm.mean"] = np.zeros(out)
        running[name + ".norm.var"] = np.ones(out)
    for name, (inner, out) in GEMMS.items():
        params[name + ".weight"] = rng.normal(0, np.sqrt(2.0 / inner), (inner, out))
        params[name + ".bias"] = np.zeros(out)
    as_float = lambda tree: {k: jnp.asarray(v, jnp.float32) for k, v in tree.items()}
    return as_float(params), as_float(running)


def forward(params, running, image):
    """Logits by batch statistics, and the running statistics moved towards them."""
    moved = {}

    def conv(name, x, relu=True):
        x = jax.lax.conv_general_dilated(
            x,
            params[name + ".conv.weight"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
            feature_group_count=CONVS[name][3],
        )
        mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
        moved[name + ".norm.mean"] = 0.9 * running[name + ".norm.mean"] + 0.1 * mean
        moved[name + ".norm.var"] = 0.9 * running[name + ".norm.var"] + 0.1 * var
        x = (x - mean) * jax.lax.rsqrt(var + EPSILON)
        x = x * params[name + ".norm.scale"] + params[name + ".norm.bias"]
        return jax.nn.relu(x) if relu else x

    def pool(x):
        n, h, w, c = x.shape
        return jnp.max(x.reshape(n, h // 2, 2, w // 2, 2, c), (2, 4))

    def gemm(name, x):
        return x @ params[name + ".weight"] + params[name + ".bias"]

    x = conv("stem", jnp.transpose(image, (0, 2, 3, 1)))
    x = pool(conv("widen", x))
    x = jax.nn.relu(x + conv("residual.pointwise", conv("residual.depthwise", x), relu=False))
    x = pool(jnp.concatenate([conv("fork.narrow", x), conv("fork.wide", x)], -1))
    x = jnp.mean(conv("last", x), (1, 2))
    return gemm("head.logits", jax.nn.relu(gemm("head.hidden", x))), moved


@jax.jit
def train_step(params, running, moments, image, labels, step, rate):
    def loss(p):
        logits, moved = forward(p, running, image)
        return common.cross_entropy(logits, labels, smoothing=0.05), moved

    (value, moved), grads = jax.value_and_grad(loss, has_aux=True)(params)
    params, moments = common.adam(params, grads, moments, step, rate, decay=0.02)
    return params, moved, moments, value


def write(params, running):
    g = common.GraphWriter("digits_cnn")
    for name, array in {**params, **running}.items():
        g.weight(name, np.asarray(array, np.float32))

    def conv(name, x, relu=True):
        _, _, kernel, groups = CONVS[name]
        side = kernel // 2
        x = g.node(
            "Conv",
            name + ".conv",
            [x, name + ".conv.weight"],
            kernel_shape=[kernel, kernel],
            pads=[side] * 4,
            strides=[1, 1],
            group=groups,
        )
        parts = [f"{name}.norm.{part}" for part in ("scale", "bias", "mean", "var")]
        x = g.node("BatchNormalization", name + ".norm", [x, *parts], epsilon=EPSILON)
        return g.node("Relu", name + ".relu", [x]) if relu else x

    def pool(name, x):
        return g.node("MaxPool", name, [x], kernel_shape=[2, 2], strides=[2, 2])

    def gemm(name, x, output=None):
        return g.node("Gemm", name, [x, name + ".weight", name + ".bias"], output)

    x = conv("stem", "image")
    x = pool("widen.pool", conv("widen", x))
    branch = conv("residual.pointwise", conv("residual.depthwise", x), relu=False)
    x = g.node("Relu", "residual.relu", [g.node("Add", "residual.add", [x, branch])])
    x = g.node("Concat", "fork.concat", [conv("fork.narrow", x), conv("fork.wide", x)], axis=1)
    x = conv("last", pool("fork.pool", x))
    x = g.node("Flatten", "head.flatten", [g.node("GlobalAveragePool", "head.pool", [x])], axis=1)
    x = g.node("Relu", "head.relu", [gemm("head.hidden", x)])
    gemm("head.logits", x, output="logits")
    return g.save(
        {"image": (common.FLOAT, ["N", 1, 16, 16])},
        {"logits": (common.FLOAT, ["N", 10])},
        "Convolutional classifier of handwritten digits, 16x16 grey in 0..1. "
        "Trained by samples/train/digits_cnn.py. Apache-2.0.",
    )


def main():
    rng = np.random.default_rng(common.SEED)
    images, labels, held_out, truth = common.digits()
    common.write_digits()
    params, running = start(rng)
    moments = common.adam_start(params)
    step, total = 0, EPOCHS * (len(labels) // BATCH)
    for epoch in range(EPOCHS):
        losses = []
        for x, y in common.batches(images, labels, BATCH, rng):
            step += 1
            rate = common.rate_at(step, total, PEAK)
            params, running, moments, value = train_step(
                params, running, moments, x, y, step, rate
            )
            losses.append(float(value))
        print(f"epoch {epoch + 1:2d} of {EPOCHS}  loss {np.mean(losses):.4f}", flush=True)
    path = write(params, running)
    logits = common.run_file(path, image=held_out)
    common.report(
        path,
        sum(p.size for p in params.values()),
        held_out_accuracy=np.mean(np.argmax(logits, -1) == truth),
    )


if __name__ == "__main__":
    main()
