# SPDX-License-Identifier: Apache-2.0
"""Real models with calibration and held-out data, from the folder QTOOL_DATA (default: shared/data beside the
repository). Each job: model path, calibration feeds, evaluation feeds (lists of one-run feeds), labels or None."""
import json
import os
import pathlib

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = pathlib.Path(os.environ.get("QTOOL_DATA", ROOT.parent / "shared" / "data"))
MNIST = "mnist_t10k_0_1999"


def reference_inputs(model):
    """The inputs stored beside a model as NAME.ref.json and NAME.ref.bin."""
    facts = json.loads(pathlib.Path(str(model)[:-5] + ".ref.json").read_text())
    raw = pathlib.Path(str(model)[:-5] + ".ref.bin").read_bytes()
    feeds = {}
    for t in facts["tensors"]:
        if t["kind"] == "input":
            stored = np.dtype(t.get("stored_dtype", t["dtype"]))
            a = np.frombuffer(raw, stored, offset=t["offset"], count=t["bytes"] // stored.itemsize)
            feeds[t["name"]] = a.reshape(t["shape"]).astype(t["dtype"])
    return feeds


def cifar(name):
    rows = np.fromfile(DATA / "datasets/cifar10" / name, np.uint8).reshape(-1, 3073)
    x = rows[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 255
    mean = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
    std = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
    return (x - mean) / std, rows[:, 0].astype(np.int64)


def mnist():
    x = np.fromfile(DATA / f"datasets/mnist/{MNIST}-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 28, 28)
    y = np.fromfile(DATA / f"datasets/mnist/{MNIST}-labels-idx1-ubyte", np.uint8)[8:].astype(np.int64)
    return x.astype(np.float32), y


def photos():
    return np.fromfile(DATA / "datasets/photos/photos_21x320x320x3_u8.bin", np.uint8).reshape(-1, 320, 320, 3)


def resnet20():
    jpeg, jpeg_labels = cifar("cifar10_jpeg_800.bin")
    exact, exact_labels = cifar("cifar10_exact_200.bin")
    calib = np.arange(800) % 4 == 0
    return ("vision/resnet20_cifar10_op10", "input", jpeg[calib], np.concatenate([jpeg[~calib], exact]),
            np.concatenate([jpeg_labels[~calib], exact_labels]))


def mnist8():
    x, y = mnist()
    x = x[:, None]
    return "vision/mnist8_cntk_op8", "Input3", x[:200], x[200:], y[200:]


def self_attention():
    x, y = mnist()
    x = x[..., None] / 255
    return "vision/self_attention_mnist_op13", "input_1", x[:200], x[200:], y[200:]


def squeezenet():
    crops = np.concatenate([photos()[:, a : a + 224, b : b + 224] for a, b in ((0, 0), (0, 96), (96, 0), (96, 96), (48, 48))])
    x = crops[..., ::-1].astype(np.float32) - np.array([103.94, 116.78, 123.68], np.float32)
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    picture = np.arange(len(x)) % 21  # whole pictures are held out, not crops of known ones
    return "vision/squeezenet_fp32_op7", "data_0", x[picture < 10], x[picture >= 10], None


def tashkeel():
    model = DATA / "models/text/tashkeel_fp32_op16.onnx"
    whole = reference_inputs(model)
    letters = whole["char_inputs"][0]

    def piece(ids):
        return {"char_inputs": ids[None].copy(), "input_lengths": np.array([len(ids)], np.int64)}

    calib = [piece(letters[i : i + 24]) for i in range(0, len(letters) - 24, 8)]
    return model, calib, [whole], None


def job(name):
    if name == "tashkeel":
        return tashkeel()
    stem, input_name, calib, evaluation, labels = globals()[name]()
    one = lambda x: [{input_name: np.ascontiguousarray(x[i : i + 1], dtype=np.float32)} for i in range(len(x))]
    return DATA / "models" / (stem + ".onnx"), one(calib), one(evaluation), labels


def save_npz(path, feeds):
    """One array per input; entries along the first axis are whole inputs where shapes agree."""
    arrays = {n: np.concatenate([f[n] for f in feeds]) for n in feeds[0]}
    np.savez(path, **arrays)
