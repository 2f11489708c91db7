# SPDX-License-Identifier: Apache-2.0
"""What the training scripts share: the digits data, Adam, and writing ONNX files.

Importing this module limits JAX to one CPU thread, so that sums are taken in the
same order on every run: the same machine and the same seed give the same file.
"""

import math
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

SAMPLES = Path(__file__).resolve().parent.parent
MODELS = SAMPLES / "models"
DATA = SAMPLES / "data"

SEED = 7
CALIBRATION = 200  # samples in a calibration file
TRAINING = 1200  # digits that training sees; calibration is taken from these


# ---------------------------------------------------------------- digits


def upscale(images):
    """[n, 8, 8] to [n, 16, 16], bilinear with half-pixel centres."""

    def along(x, axis):
        x = np.moveaxis(x, axis, -1)
        padded = np.concatenate([x[..., :1], x, x[..., -1:]], axis=-1)
        out = np.empty(x.shape[:-1] + (2 * x.shape[-1],), x.dtype)
        out[..., 0::2] = 0.25 * padded[..., :-2] + 0.75 * x
        out[..., 1::2] = 0.75 * x + 0.25 * padded[..., 2:]
        return np.moveaxis(out, -1, axis)

    return along(along(images, 1), 2)


def digits():
    """Training images and labels, evaluation images and labels; images [n, 1, 16, 16] in 0..1."""
    source = load_digits()
    images = upscale((source.images / 16.0).astype(np.float32))[:, None]
    labels = source.target.astype(np.int64)
    order = np.random.default_rng(SEED).permutation(len(labels))
    seen, held_out = order[:TRAINING], order[TRAINING:]
    return images[seen], labels[seen], images[held_out], labels[held_out]


def write_digits():
    """Both digit models take the same input, so they share these two files."""
    seen, _, held_out, labels = digits()
    DATA.mkdir(exist_ok=True)
    np.savez_compressed(DATA / "digits_calib.npz", image=seen[:CALIBRATION])
    np.savez_compressed(DATA / "digits_eval.npz", image=held_out, labels=labels)


def shifted(images, rng, reach=2):
    """Every image moved by up to `reach` pixels each way; what moves in is empty."""
    size = images.shape[-1]
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    moves = rng.integers(0, 2 * reach + 1, (len(images), 2))
    return np.stack([p[:, y : y + size, x : x + size] for p, (y, x) in zip(padded, moves)])


def batches(images, labels, size, rng):
    """One epoch of shuffled, shifted, full batches."""
    order = rng.permutation(len(labels))
    for at in range(0, len(order) - size + 1, size):
        rows = order[at : at + size]
        yield shifted(images[rows], rng), labels[rows]


# ---------------------------------------------------------------- training


def cross_entropy(logits, labels, smoothing=0.0):
    logp = jax.nn.log_softmax(logits)
    hit = jnp.take_along_axis(logp, labels[..., None], axis=-1)[..., 0]
    return -jnp.mean((1 - smoothing) * hit + smoothing * jnp.mean(logp, axis=-1))


def adam_start(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return zeros, zeros


def adam(params, grads, moments, step, rate, decay=0.0, b1=0.9, b2=0.99, eps=1e-8):
    """One step of Adam with decoupled weight decay on matrices; `step` counts from 1."""
    first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, moments[0], grads)
    second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, moments[1], grads)
    c1, c2 = 1 - b1**step, 1 - b2**step

    def move(p, m, v):
        shrink = decay * p if p.ndim > 1 else 0.0
        return p - rate * ((m / c1) / (jnp.sqrt(v / c2) + eps) + shrink)

    return jax.tree.map(move, params, first, second), (first, second)


def rate_at(step, total, peak, warm=100):
    """Linear warm-up, then half a cosine down to zero."""
    if step < warm:
        return peak * step / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


# ---------------------------------------------------------------- writing


class GraphWriter:
    """Collects nodes and initializers; every node's output is called `<node>.out`."""

    def __init__(self, name):
        self.name = name
        self.nodes, self.weights = [], []

    def weight(self, name, array):
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, op, name, inputs, output=None, **attributes):
        """The name of the node's (first) output."""
        outputs = [output] if isinstance(output, str) else output or [name + ".out"]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))
        return outputs[0]

    def save(self, inputs, outputs, doc):
        """inputs and outputs: name -> (element type, shape). Checks the model and writes it."""

        def infos(values):
            return [helper.make_tensor_value_info(n, t, s) for n, (t, s) in values.items()]

        graph = helper.make_graph(
            self.nodes, self.name, infos(inputs), infos(outputs), self.weights, doc_string=doc
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
            producer_name="qtool-samples",
            doc_string=doc,
        )
        helper.set_model_props(model, {"license": "Apache-2.0", "author": "the qtool authors"})
        onnx.checker.check_model(model, full_check=True)
        MODELS.mkdir(exist_ok=True)
        path = MODELS / (self.name + ".onnx")
        path.write_bytes(model.SerializeToString(deterministic=True))
        return path


def run_file(path, **feeds):
    """The first output of a written model, as ONNX Runtime computes it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def report(path, parameters, **accuracies):
    print(f"{path.relative_to(SAMPLES)}: {path.stat().st_size} bytes, {parameters} parameters")
    for what, value in accuracies.items():
        print(f"  {what.replace('_', ' ')}: {100 * value:.2f} %")


FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
