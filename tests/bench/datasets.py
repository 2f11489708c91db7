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


def environment():
    """Of a program that is measured: OpenBLAS picks its kernels itself."""
    return {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}


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
    mean = np.float32([103.94, 116.78, 123.68])
    return ("vision/squeezenet_fp32_op7", "data_0", *held_out_pictures((224, 224), lambda x: x[..., ::-1] - mean), None)


def held_out_pictures(crop, prepare):
    """Crops of the photos as float32 [N, 3, H, W]; whole pictures are held out, not crops of known ones."""
    x = np.concatenate([photos()[:, a : a + crop[0], b : b + crop[1]] for a, b in crop_corners(crop)])
    x = np.ascontiguousarray(prepare(x.astype(np.float32)).transpose(0, 3, 1, 2))
    picture = np.arange(len(x)) % 21
    return x[picture < 10], x[picture >= 10]


def crop_corners(crop):
    free = 320 - crop[0], 320 - crop[1]
    corners = {(0, 0), (0, free[1]), (free[0], 0), (free[0], free[1]), (free[0] // 2, free[1] // 2)}
    return sorted(corners)


def yunet():
    return ("vision/yunet_n_320_op11", "input", *held_out_pictures((320, 320), lambda x: x[..., ::-1]), None)


def ultraface():
    return ("vision/ultraface_rfb320_op9", "input", *held_out_pictures((240, 320), lambda x: (x - 127) / 128), None)


def nanodet():
    mean, scale = np.float32([103.53, 116.28, 123.675]), np.float32([57.375, 57.12, 58.395])
    return ("vision/nanodet_m_320_op11", "input.1", *held_out_pictures((320, 320), lambda x: (x[..., ::-1] - mean) / scale), None)


def yolox():
    def letter_box(x):
        y = np.full((len(x), 416, 416, 3), 114, np.float32)
        y[:, :320, :320] = x[..., ::-1]
        return y
    return ("vision/yolox_nano_op11", "images", *held_out_pictures((320, 320), letter_box), None)


def ppocr_cls():
    return ("vision/ppocr_v2_cls_op11", "x", *held_out_pictures((48, 192), lambda x: (x / 255 - 0.5) / 0.5), None)


def ppocr_det():
    mean, scale = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return ("vision/ppocr_v3_det_op12", "x", *held_out_pictures((320, 320), lambda x: (x / 255 - mean) / scale), None)


def sinet():
    mean, scale = np.float32([102.890434, 111.25247, 126.91212]), np.float32([62.93292, 62.82138, 66.355705])
    return ("vision/sinet_portrait_op12", "data", *held_out_pictures((320, 320), lambda x: (x[..., ::-1] - mean) / scale / 255), None)


def super_resolution():
    luma = np.float32([0.299, 0.587, 0.114]) / 255
    return ("vision/super_resolution_op15", "input", *held_out_pictures((224, 224), lambda x: (x @ luma)[..., None]), None)


def espcn():
    return ("vision/espcn_nnresize_float_op11", "onnx::Relu_0", *held_out_pictures((128, 128), lambda x: x / 255), None)


def mnist_burn():
    x, y = mnist()
    x = (x[:, None] / 255 - 0.1307) / 0.3081
    return "vision/mnist_burn_op16", "input.1", x[:200], x[200:], y[200:]


def dnsmos():
    wave = np.frombuffer((DATA / "datasets/audio/silero_test_16k.wav").read_bytes()[44:], np.int16).astype(np.float32) / 32768
    pieces = np.stack([wave[i : i + 144160] for i in range(0, len(wave) - 144160, 60000)])
    return "audio/dnsmos_sig_bak_ovr_op12", "input_1", pieces[::2], pieces[1::2], None


def byte_llama():
    text = np.frombuffer((DATA / "datasets/text/tinyshakespeare.txt").read_bytes(), np.uint8).astype(np.int64)
    cut = len(text) * 9 // 10
    windows = lambda t, n: np.stack([t[i : i + 128] for i in np.linspace(0, len(t) - 128, n).astype(int)])
    return "lm/byte_llama_shakespeare_op14", "input_ids", windows(text[:cut], 64), windows(text[cut:], 64), None


def docs_llama():
    """Bytes in place of the tokenizer's ids: for time and memory alone."""
    text = [np.frombuffer((DATA / f"datasets/text/docs_{part}.txt").read_bytes(), np.uint8) for part in ("calib", "valid")]
    windows = [np.stack([t[i : i + 256] for i in np.linspace(0, len(t) - 256, 64).astype(int)]).astype(np.int64) for t in text]
    return "lm/docs_llama_7M_op18", "input_ids", *windows, None


def magika():
    files = [p.read_bytes() for p in sorted((ROOT).rglob("*")) if p.is_file() and p.suffix in (".cpp", ".h", ".py", ".md", ".yaml")
             and "build" not in p.parts][:120]
    ids = np.full((len(files), 2048), 256, np.int32)
    for row, data in zip(ids, files):
        head, tail = data.strip()[:1024], data.strip()[-1024:]
        row[: len(head)] = np.frombuffer(head, np.uint8)
        row[2048 - len(tail) :] = np.frombuffer(tail, np.uint8)
    return "text/magika_standard_v3_3", "bytes", ids[::2], ids[1::2], None


def nnsplit():
    text = np.frombuffer((DATA / "datasets/text/wikitext2_valid.txt").read_bytes(), np.uint8)
    windows = np.stack([text[i : i + 400] for i in np.linspace(0, len(text) - 400, 80).astype(int)])
    return "text/nnsplit_en_lstm_op9", "input", windows[::2], windows[1::2], None


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
    one = lambda x: [{input_name: np.ascontiguousarray(x[i : i + 1], dtype=np.float32 if x.dtype.kind == "f" else x.dtype)}
                     for i in range(len(x))]
    return DATA / "models" / (stem + ".onnx"), one(calib), one(evaluation), labels


def save_npz(path, feeds):
    """One array per input; entries along the first axis are whole inputs where shapes agree."""
    arrays = {n: np.concatenate([f[n] for f in feeds]) for n in feeds[0]}
    np.savez(path, **arrays)
