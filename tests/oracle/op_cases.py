# SPDX-License-Identifier: Apache-2.0
"""Operators by ONNX Runtime: small models that carry their inputs and the runtime's answers as initializers
(`y`, `y.expected`, `y.tolerance`), into tests/golden/ops. tests/calib/golden_ops_test.cpp runs them all."""
import pathlib

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

OUT = pathlib.Path(__file__).resolve().parents[1] / "golden" / "ops"
OUT.mkdir(parents=True, exist_ok=True)
MS = "com.microsoft"
f32 = np.float32


class Cases:
    """One model with one node per case."""

    def __init__(self, name, opset=21):
        self.name, self.opset, self.rng = name, opset, np.random.default_rng(len(name))
        self.nodes, self.initializers, self.outputs, self.tolerance, self.stored = [], [], [], {}, {}

    def add(self, op, inputs, outputs=1, domain="", tolerance=None, **attributes):
        """`inputs`: arrays, None where left out. `outputs`: how many, or a mask like "x..x"."""
        case = f"{op}{len(self.nodes)}"
        names = []
        for i, x in enumerate(inputs):
            names.append("" if x is None else self.shared(np.asarray(x), f"{case}.{i}"))
        mask = outputs if isinstance(outputs, str) else "x" * outputs
        results = [f"{case}.y{i}" if m == "x" else "" for i, m in enumerate(mask)]
        self.nodes.append(helper.make_node(op, names, results, name=case, domain=domain, **attributes))
        for r in filter(None, results):
            self.outputs.append(r)
            if tolerance is not None:
                self.tolerance[r] = tolerance

    def shared(self, x, name):
        """Equal arrays are stored once."""
        key = (str(x.dtype), x.shape, x.tobytes())
        if key not in self.stored:
            self.stored[key] = name
            self.initializers.append(tensor(x, name))
        return self.stored[key]

    def write(self):
        graph = helper.make_graph(self.nodes, self.name, [], [onnx.ValueInfoProto(name=o) for o in self.outputs],
                                  self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset), helper.make_opsetid(MS, 1)],
                                  producer_name="qtool tests")
        model.ir_version = 10
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # with more, DynamicQuantizeLSTM quantizes the states of each thread apart
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for name, value in zip(self.outputs, session.run(self.outputs, {})):
            model.graph.initializer.append(tensor(value, name + ".expected"))
            if name in self.tolerance:
                model.graph.initializer.append(numpy_helper.from_array(f32([self.tolerance[name]]), name + ".tolerance"))
        data = model.SerializeToString()
        (OUT / f"{self.name}.onnx").write_bytes(data)
        print(f"{self.name}.onnx: {len(self.nodes)} cases, {len(data)} bytes, onnxruntime {ort.__version__}")

    def normal(self, *shape):
        return self.rng.standard_normal(shape).astype(f32)

    def codes(self, dtype, *shape):
        info = np.iinfo(dtype)
        return self.rng.integers(info.min, info.max + 1, shape).astype(dtype)

    def scales(self, *shape):
        return self.rng.uniform(0.01, 0.05, shape).astype(f32)


def tensor(x, name):
    x = np.asarray(x)
    if x.dtype == ml_dtypes.int4 or x.dtype == ml_dtypes.uint4:
        kind = TensorProto.INT4 if x.dtype == ml_dtypes.int4 else TensorProto.UINT4
        nibbles = (x.astype(np.int8).ravel() & 15).astype(np.uint8)
        nibbles = np.append(nibbles, np.uint8(0)) if nibbles.size % 2 else nibbles
        return helper.make_tensor(name, kind, x.shape, (nibbles[::2] | nibbles[1::2] << 4).tobytes(), raw=True)
    return numpy_helper.from_array(x, name)


def products():
    c = Cases("quantized_products")
    for a_type in (np.uint8, np.int8):
        for b_type in (np.uint8, np.int8):
            a, b = c.codes(a_type, 2, 3, 40), c.codes(b_type, 40, 5)
            az, bz = a_type(7), b_type(3)
            if (a_type, b_type) == (np.int8, np.uint8):
                continue  # the runtime has no such kernels
            c.add("MatMulInteger", [a, b, az, bz])
            c.add("MatMulIntegerToFloat", [a, b, f32(0.02), c.scales(5), az, np.full(5, bz), c.normal(5)], domain=MS,
                  tolerance=1e-5)
            c.add("QLinearMatMul", [a, f32(0.02), az, b, f32(0.01), bz, f32(0.3), a_type(9)])
    a, b = c.codes(np.uint8, 4, 600), c.codes(np.int8, 600, 3)  # sums beyond 2^24
    c.add("MatMulInteger", [np.full_like(a, 255), np.full_like(b, 127), np.uint8(0), np.int8(0)])
    c.add("QLinearMatMul", [a, f32(0.02), np.uint8(128), b, c.scales(3), np.zeros(3, np.int8), f32(0.9), np.uint8(120)])
    c.add("DynamicQuantizeMatMul", [c.normal(3, 40), c.codes(np.int8, 40, 6), c.scales(6), np.zeros(6, np.int8),
                                    c.normal(6)], domain=MS, tolerance=1e-5)
    c.add("DynamicQuantizeMatMul", [c.normal(3, 40), c.codes(np.uint8, 40, 6), c.scales(1), np.uint8([130])], domain=MS,
          tolerance=1e-5)
    x, bias = c.codes(np.uint8, 3, 24), c.rng.integers(-5000, 5000, 4).astype(np.int32)
    for transpose in (0, 1):
        w = c.codes(np.int8, *((4, 24) if transpose else (24, 4)))
        s = c.scales(4)
        c.add("QGemm", [x, f32(0.03), np.uint8(128), w, s, np.zeros(4, np.int8), bias], domain=MS, transB=transpose,
              alpha=0.5, tolerance=1e-5)
        c.add("QGemm", [x, f32(0.03), np.uint8(128), w, s, np.zeros(4, np.int8), bias, f32(0.7), np.uint8(100)],
              domain=MS, transB=transpose)
    x, bias = c.codes(np.uint8, 2, 4, 7, 6), c.rng.integers(-3000, 3000, 6).astype(np.int32)
    w = c.codes(np.int8, 6, 2, 3, 3)
    c.add("QLinearConv", [x, f32(0.02), np.uint8(120), w, c.scales(6), np.zeros(6, np.int8), f32(0.5), np.uint8(128),
                          bias], group=2, pads=[1, 1, 1, 1], strides=[2, 1])
    w = c.codes(np.int8, 4, 1, 3, 3)
    c.add("QLinearConv", [x, f32(0.02), np.uint8(120), w, c.scales(4), np.zeros(4, np.int8), f32(0.2), np.uint8(128)],
          group=4, auto_pad="SAME_UPPER")
    c.add("ConvInteger", [x, c.codes(np.uint8, 3, 4, 2, 2), np.uint8(5), np.uint8(100)], dilations=[2, 1])
    c.write()


def qlinear():
    c = Cases("qlinear")
    for t in (np.uint8, np.int8):
        z = t(3)
        a, b = c.codes(t, 2, 3, 4, 5), c.codes(t, 4, 1)
        # Runtime kernels fold the scales differently: one code apart at ties.
        c.add("QLinearAdd", [a, f32(0.02), z, b, f32(0.05), t(10), f32(0.04), t(20)], domain=MS, tolerance=1)
        c.add("QLinearMul", [a, f32(0.02), z, b, f32(0.05), t(10), f32(0.1), t(20)], domain=MS, tolerance=1)
        c.add("QLinearLeakyRelu", [a, f32(0.02), z, f32(0.015), t(5)], domain=MS, alpha=0.1, tolerance=1)
        c.add("QLinearSigmoid", [a, f32(0.05), z, f32(1 / 256), np.iinfo(t).min * np.ones((), t)], domain=MS, tolerance=1)
        c.add("QLinearSoftmax", [a, f32(0.05), z, f32(1 / 256), np.iinfo(t).min * np.ones((), t)], domain=MS, axis=-1,
              opset=13, tolerance=1)
        c.add("QLinearConcat", [f32(0.03), t(1), a, f32(0.02), z, a, f32(0.04), t(0)], domain=MS, axis=1, tolerance=1)
        c.add("QLinearWhere", [c.rng.random((3, 4, 1)) > 0.5, a, f32(0.02), z, b, f32(0.05), t(10), f32(0.06), t(2)],
              domain=MS, tolerance=1)
        c.add("QLinearGlobalAveragePool", [a, f32(0.02), z, f32(0.01), t(4)], domain=MS, channels_last=0, tolerance=1)
        c.add("QLinearAveragePool", [a, f32(0.02), z, f32(0.01), t(4)], domain=MS, kernel_shape=[3, 2], strides=[2, 1],
              pads=[1, 0, 1, 1], count_include_pad=1, tolerance=1)
        c.add("QLinearAveragePool", [a, f32(0.02), z, f32(0.01), t(4)], domain=MS, kernel_shape=[2, 2], ceil_mode=1,
              strides=[2, 2], tolerance=1)
    c.add("QuantizeLinear", [c.normal(3, 4), f32(0.02), np.uint16(1000)], domain=MS)
    c.add("DequantizeLinear", [c.codes(np.uint16, 3, 4), f32(0.02), np.uint16(1000)], domain=MS)
    c.write()


def weight_only():
    c = Cases("weight_only")
    for bits in (2, 4, 8):
        for k, block in ((80, 32), (64, 16)):
            n, kb = 3, -(-k // block)
            b = c.rng.integers(0, 256, (n, kb, block * bits // 8)).astype(np.uint8)
            packed = c.rng.integers(0, 256, (n, -(-kb * bits // 8))).astype(np.uint8)
            a, s = c.normal(1, 2, k), c.scales(n, kb)
            common = dict(domain=MS, K=k, N=n, bits=bits, block_size=block)
            c.add("MatMulNBits", [a, b, s], accuracy_level=1, tolerance=2e-5, **common)
            c.add("MatMulNBits", [a, b, s, packed, None, c.normal(n)], accuracy_level=1, tolerance=2e-5, **common)
            if bits != 8:
                zeros = c.rng.uniform(0, 3, (n, kb)).astype(f32)
                c.add("MatMulNBits", [a, b, s, zeros], accuracy_level=1, tolerance=2e-5, **common)
            # int8 activations: both round each block alike, so only the order of float sums differs.
            c.add("MatMulNBits", [a, b, s, packed], accuracy_level=4, tolerance=2e-5, **common)
            if bits != 8:  # where the runtime has no integer kernel, activations stay float
                c.add("MatMulNBits", [a, b, s, zeros], accuracy_level=4, tolerance=2e-5, **common)
            if bits == 4:  # (with 2 bits the runtime reads the order of inputs in another way)
                c.add("MatMulNBits", [a, b, s, None, np.int32(c.rng.permutation(np.arange(k) // block))],
                      accuracy_level=4, tolerance=2e-5, **common)
    for bits in (2, 4, 8):
        for block in (64, 256):
            k, n = 260, 3
            b = c.rng.integers(0, 256, (n, -(-k // block), block * bits // 8)).astype(np.uint8)
            c.add("MatMulNBits", [c.normal(2, k), b, c.scales(n, -(-k // block))], domain=MS, K=k, N=n, bits=bits,
                  block_size=block, accuracy_level=4, tolerance=2e-5)
    indices = np.array([[3, 0], [-1, 2]], np.int64)
    for data, zeros in ((c.codes(np.uint8, 5, 20), c.codes(np.uint8, 5, 2)), (c.codes(np.uint8, 5, 20), None)):
        c.add("GatherBlockQuantized", [data, indices, c.scales(5, 3), zeros], domain=MS, block_size=16, bits=4)
    for kind in (ml_dtypes.int4, ml_dtypes.uint4):
        low = -8 if kind == ml_dtypes.int4 else 0
        data = c.rng.integers(low, low + 16, (5, 40)).astype(kind)
        zeros = c.rng.integers(low, low + 16, (5, 3)).astype(kind)
        c.add("GatherBlockQuantized", [data, indices, c.scales(5, 3), zeros], domain=MS, block_size=16)
        c.add("GatherBlockQuantized", [data, indices, c.scales(5, 3)], domain=MS, block_size=16)
        c.add("GatherBlockQuantized", [data, indices, c.scales(1, 40)], domain=MS, block_size=16, quantize_axis=0,
              gather_axis=1)
    c.write()


def fused():
    c = Cases("fused")
    x, skip, w = c.normal(2, 3, 8), c.normal(2, 3, 8), c.normal(8)
    c.add("Gelu", [x], domain=MS)
    c.add("BiasGelu", [x, w], domain=MS)
    c.add("FastGelu", [x, w], domain=MS)
    c.add("FastGelu", [x], domain=MS)
    c.add("QuickGelu", [x], domain=MS)
    c.add("QuickGelu", [x], domain=MS, alpha=1.2)
    c.add("SkipLayerNormalization", [x, skip, w, c.normal(8), c.normal(8)], "x..x", domain=MS, epsilon=1e-5,
          tolerance=1e-5)
    c.add("SkipLayerNormalization", [x, skip, w], domain=MS, tolerance=1e-5)
    c.add("SkipSimplifiedLayerNormalization", [x, skip, w, c.normal(8)], "x..x", domain=MS, tolerance=1e-5)
    c.add("SimplifiedLayerNormalization", [x, w], tolerance=1e-5, axis=-1, epsilon=1e-6)
    ids, segments = np.int32([[1, 5, 2], [0, 3, 3]]), np.int32([[0, 0, 1], [1, 0, 1]])
    word, position, segment = c.normal(6, 8), c.normal(4, 8), c.normal(2, 8)
    c.add("EmbedLayerNormalization", [ids, segments, word, position, segment, w, c.normal(8),
                                      np.int32([[1, 1, 0], [1, 0, 0]])], 3, domain=MS, tolerance=1e-5)
    c.add("EmbedLayerNormalization", [ids, None, word, position, None, w, c.normal(8), None,
                                      np.int32([[2, 1, 3], [0, 1, 2]])], 2, domain=MS, tolerance=1e-5)
    for kwargs in ({}, {"transA": 1}, {"transB": 1}, {"transA": 1, "transB": 1, "alpha": 0.5}):
        a = c.normal(2, 4, 3) if kwargs.get("transA") else c.normal(2, 3, 4)
        b = c.normal(5, 4) if kwargs.get("transB") else c.normal(4, 5)
        c.add("FusedMatMul", [a, b], domain=MS, **kwargs)
    w, bias, past = c.normal(8, 24), c.normal(24), c.normal(2, 2, 2, 3, 4)
    c.add("Attention", [x, w, bias], domain=MS, num_heads=2, tolerance=1e-5)
    c.add("Attention", [x, w, bias, np.int32([2, 3])], domain=MS, num_heads=2, tolerance=1e-5)
    c.add("Attention", [x, w, bias, np.int32([[1, 1, 0], [0, 1, 1]])], domain=MS, num_heads=2, unidirectional=1,
          tolerance=1e-5)
    c.add("Attention", [x, w, bias, np.int32([[1, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]), past], 2, domain=MS, num_heads=2,
          unidirectional=1, tolerance=1e-5)
    c.add("Attention", [x, w, bias, None, None, c.normal(1, 2, 3, 3)], domain=MS, num_heads=2, tolerance=1e-5)
    c.write()


def images():
    """What the ONNX node cases leave open: groups, three axes, odd paddings, modes in combination."""
    c = Cases("images", 20)
    x = c.normal(2, 4, 7, 6)
    for kwargs in (dict(group=2, pads=[0, 2, 1, 0], strides=[2, 1]), dict(group=1, dilations=[2, 3], pads=[2, 1, 2, 2]), dict(group=1, auto_pad="SAME_LOWER", strides=[2, 2]),
                   dict(group=1, strides=[3, 2], auto_pad="SAME_UPPER"), dict(group=1, auto_pad="VALID")):
        c.add("Conv", [x, c.normal(6, 4 // kwargs["group"], 3, 2), c.normal(6)], tolerance=1e-5, **kwargs)
    c.add("Conv", [x, c.normal(8, 1, 3, 3), c.normal(8)], group=4, pads=[1, 1, 1, 1], strides=[2, 2], tolerance=1e-5)
    c.add("Conv", [x, c.normal(5, 4, 1, 1)], tolerance=1e-5)
    c.add("Conv", [c.normal(1, 2, 5, 4, 6), c.normal(3, 2, 2, 3, 2), c.normal(3)], pads=[1, 0, 1, 0, 2, 1], tolerance=1e-5)
    c.add("Conv", [c.normal(2, 3, 11), c.normal(4, 3, 3)], dilations=[2], pads=[2, 2], tolerance=1e-5)
    for kwargs in (dict(group=2, strides=[2, 3], pads=[1, 0, 0, 1], output_padding=[1, 2]),
                   dict(group=1, dilations=[2, 1], strides=[1, 2]), dict(group=1, strides=[2, 2], auto_pad="SAME_UPPER"),
                   dict(group=1, strides=[2, 2], auto_pad="SAME_LOWER"),
                   dict(group=1, strides=[2, 2], output_shape=[15, 12])):
        c.add("ConvTranspose", [x, c.normal(4, 3, 3, 2), c.normal(3 * kwargs["group"])], tolerance=1e-5, **kwargs)
    for op, extra in (("MaxPool", {}), ("AveragePool", {}), ("AveragePool", dict(count_include_pad=1))):
        c.add(op, [x], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], ceil_mode=1, **extra)
        c.add(op, [x], kernel_shape=[2, 3], dilations=[3, 2], pads=[1, 2, 1, 0], **extra)
        c.add(op, [c.normal(1, 2, 5, 4, 6)], kernel_shape=[2, 3, 2], strides=[1, 2, 2], **extra)
    c.add("MaxPool", [x], 2, kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 0, 2], storage_order=0)
    c.add("MaxPool", [x], 2, kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 0, 2], storage_order=1)
    c.add("LpPool", [x], kernel_shape=[3, 2], strides=[2, 1], p=3, tolerance=1e-5)
    c.add("GlobalLpPool", [x], p=2, tolerance=1e-5)
    modes = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]
    for scales in ([1, 1, 2, 1.5], [1, 1, 0.6, 0.45]):
        for mode in ("nearest", "linear", "cubic"):
            for coordinates in modes[:4] if mode == "nearest" else modes:  # symmetric: coordinates fall on ties
                c.add("Resize", [x[:1, :2], None, f32(scales)], mode=mode, coordinate_transformation_mode=coordinates,
                      tolerance=1e-5)
    for nearest in ("floor", "ceil", "round_prefer_ceil"):
        c.add("Resize", [x[:1, :2], None, None, np.int64([1, 2, 11, 4])], mode="nearest", nearest_mode=nearest)
    for mode in ("linear", "cubic"):
        c.add("Resize", [x[:1, :2], None, None, np.int64([1, 2, 4, 3])], mode=mode, antialias=1, exclude_outside=1, tolerance=1e-5)
        c.add("Resize", [x[:1, :2], None, None, np.int64([1, 2, 4, 3])], mode=mode, antialias=1, tolerance=1e-5)
    c.add("Resize", [x[:1, :2], None, None, np.int64([5, 5])], mode="linear", axes=[2, 3],
          keep_aspect_ratio_policy="not_smaller", tolerance=1e-5)
    c.add("Resize", [x[:1, :2], f32([0, 0, 0.2, 0.1, 1, 1, 0.8, 1.2]), None, np.int64([1, 2, 6, 5])], mode="linear",
          coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=7.0, tolerance=1e-5)
    c.add("Resize", [c.codes(np.uint8, 1, 1, 4, 5), None, f32([1, 1, 2, 2])], mode="nearest")
    grid = c.rng.uniform(-1.3, 1.3, (2, 3, 5, 2)).astype(f32)
    for mode in ("nearest", "linear", "cubic"):
        for padding in ("zeros", "border", "reflection"):
            for align in (0, 1):
                c.add("GridSample", [x[:, :2], grid], mode=mode, padding_mode=padding, align_corners=align, tolerance=2e-5)
    c.add("GridSample", [c.normal(1, 2, 3, 4, 5), c.rng.uniform(-1.1, 1.1, (1, 2, 2, 3, 3)).astype(f32)], mode="linear",
          tolerance=2e-5)
    rois = f32([[0, 0, 6, 8], [1.5, 2, 5, 7.5], [-2, -1, 3, 3]])
    for mode in ("avg", "max"):
        for coordinates in ("half_pixel", "output_half_pixel"):
            c.add("RoiAlign", [x, rois, np.int64([0, 1, 1])], mode=mode, output_height=3, output_width=2, sampling_ratio=2,
                  spatial_scale=0.9, coordinate_transformation_mode=coordinates, tolerance=2e-5)
    c.write()


def recurrent():
    c = Cases("recurrent", 17)
    steps, batch, inputs, hidden = 4, 3, 3, 4
    x, lengths = c.normal(steps, batch, inputs), np.int32([4, 2, 3])
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for direction, d in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
            def w(*shape):
                return c.normal(*shape) * f32(0.4)
            parts = [x, w(d, gates * hidden, inputs), w(d, gates * hidden, hidden), w(d, 2 * gates * hidden)]
            state = [w(d, batch, hidden)] * (2 if op == "LSTM" else 1)
            outputs = 3 if op == "LSTM" else 2
            common = dict(hidden_size=hidden, direction=direction, tolerance=1e-5)
            c.add(op, parts[:3], outputs, **common)
            c.add(op, parts + [lengths] + state, outputs, **common)
            if op == "LSTM":
                c.add(op, parts + [lengths] + state + [w(d, 3 * hidden)], outputs, clip=0.6, **common)
                c.add(op, parts + [None] + state, outputs, input_forget=1, **common)
            if op == "GRU":
                c.add(op, parts + [None] + state, outputs, linear_before_reset=1, **common)
            names = {"LSTM": ["HardSigmoid", "Relu", "ScaledTanh"], "GRU": ["HardSigmoid", "Softsign"],
                     "RNN": ["LeakyRelu"]}[op] * d
            alphas = {"LSTM": [0.3, 0.9], "GRU": [0.3], "RNN": [0.1]}[op] * d
            betas = {"LSTM": [0.4, 0.8], "GRU": [0.4], "RNN": []}[op] * d
            c.add(op, parts, outputs, activations=names, activation_alpha=alphas, **common,
                  **({"activation_beta": betas} if betas else {}))
    c.write()


def angles(c, positions, half):
    """cos and sin tables of rotary embeddings."""
    turn = np.outer(np.arange(positions), 10000.0 ** (-np.arange(half) / half))
    return np.cos(turn).astype(f32), np.sin(turn).astype(f32)


def attention():
    """MultiHeadAttention, QAttention, RotaryEmbedding, GroupQueryAttention of com.microsoft."""
    c = Cases("attention", 23)
    common = dict(domain=MS, tolerance=1e-5)
    q, k, v, bias = c.normal(2, 3, 8), c.normal(2, 5, 8), c.normal(2, 5, 12), c.normal(28)
    heads = dict(num_heads=2, **common)
    c.add("MultiHeadAttention", [q, k, v], **heads)
    c.add("MultiHeadAttention", [q, k, v, bias], scale=0.3, **heads)
    c.add("MultiHeadAttention", [q, k, v, None, np.int32([4, 2])], mask_filter_value=-1000.0, **heads)
    c.add("MultiHeadAttention", [q, k, v, None, np.int32([[1, 1, 0, 1, 1], [1, 0, 1, 1, 0]])], **heads)
    c.add("MultiHeadAttention", [q, k, v, None, (c.rng.random((2, 3, 5)) > 0.3).astype(np.int32)], **heads)
    c.add("MultiHeadAttention", [q, k, v, None, None, c.normal(1, 2, 3, 5)], **heads)
    c.add("MultiHeadAttention", [q, q, q[:, ::-1], c.normal(24)], 3, unidirectional=1, **heads)
    past = [c.normal(2, 2, 4, 4), c.normal(2, 2, 4, 4)]
    c.add("MultiHeadAttention", [q, q, q[:, ::-1], c.normal(24), None, c.normal(2, 1, 3, 7), *past], 3,
          unidirectional=1, **heads)
    c.add("MultiHeadAttention", [q, c.normal(2, 2, 6, 4), c.normal(2, 2, 6, 4), c.normal(24)], **heads)

    x = c.normal(2, 3, 8)
    for kind in (np.uint8, np.int8):
        w, scales = c.codes(kind, 8, 24), c.scales(24)
        codes = c.codes(np.uint8, 2, 3, 8)
        zero = np.uint8(120)
        c.add("QAttention", [codes, w, c.normal(24), f32(0.02), f32(0.01), None, zero, kind(3)], num_heads=2, **common)
        c.add("QAttention", [codes, w, c.normal(24), f32(0.02), scales, np.int32([2, 3]), zero, np.zeros(24, kind)],
              num_heads=2, unidirectional=1, **common)
    c.add("QAttention", [codes, w, c.normal(24), f32(0.02), f32(0.01), np.int32([[1, 0, 1, 1, 1], [1, 1, 1, 0, 1]]), zero,
                         kind(3), c.normal(2, 2, 2, 2, 4)], 2, num_heads=2, **common)

    cos, sin = angles(c, 16, 4)
    x3, x4, ids = c.normal(2, 3, 24), c.normal(2, 3, 5, 8), np.int64([[2, 3, 4], [7, 0, 1]])
    for interleaved in (0, 1):
        c.add("RotaryEmbedding", [x3, ids, cos, sin], interleaved=interleaved, **common)
        c.add("RotaryEmbedding", [x4, np.int64([3]), cos, sin], interleaved=interleaved, **common)
        c.add("RotaryEmbedding", [c.normal(2, 3, 32), ids, cos, sin], interleaved=interleaved, num_heads=2,
              rotary_embedding_dim=8, **common)

    batch, n, g, width = 2, 4, 2, 16
    cos, sin = angles(c, 32, width // 2)
    gqa = dict(num_heads=n, kv_num_heads=g, **common)

    def step(rows, past, batch=batch):
        """query, key, value, past key, past value, seqlens_k, total_sequence_length"""
        cache = [c.normal(batch, g, past, width) for _ in range(2)] if past else [None, None]
        return [c.normal(batch, rows, n * width), c.normal(batch, rows, g * width), c.normal(batch, rows, g * width), *cache,
                np.full(batch, past + rows - 1, np.int32), np.int32(past + rows)]

    for rows, past, size in ((6, 0, 2), (1, 5, 2), (3, 4, 1)):
        parts = step(rows, past, size)
        c.add("GroupQueryAttention", parts, 3, **gqa)
        c.add("GroupQueryAttention", parts + [cos, sin], 3, do_rotary=1, **gqa)
        c.add("GroupQueryAttention", parts + [cos, sin], 3, do_rotary=1, rotary_interleaved=1, **gqa)
        c.add("GroupQueryAttention", parts, 3, local_window_size=2, **gqa)
        c.add("GroupQueryAttention", parts, 3, softcap=1.5, scale=0.4, **gqa)
        c.add("GroupQueryAttention", parts, 3, smooth_softmax=1, **gqa)
        c.add("GroupQueryAttention", parts + [None] * 3 + [c.normal(size, 1, rows, past + rows)], 3, **gqa)
        c.add("GroupQueryAttention", parts + [None] * 4 + [c.normal(n)], 3, local_window_size=3, **gqa)
        places = np.tile(np.arange(past, past + rows), (size, 1)).astype(np.int64)
        c.add("GroupQueryAttention", parts + [cos, sin, places], 3, do_rotary=1, **gqa)
        packed = [np.concatenate(parts[:3], 2), None, None] + parts[3:]
        c.add("GroupQueryAttention", packed + [cos, sin], 3, do_rotary=1, **gqa)
    ragged = step(1, 5)
    ragged[5] = np.int32([5, 3])  # two samples of different length in one cache
    c.add("GroupQueryAttention", ragged + [cos, sin], 3, do_rotary=1, **gqa)
    c.write()


def extras():
    """What else of com.microsoft, and of ai.onnx without conformance cases, the runtime computes."""
    c = Cases("extras", 21)
    ms = dict(domain=MS, tolerance=1e-5)
    a, b = c.normal(3, 5), c.normal(4, 5)
    for metric in ("euclidean", "sqeuclidean"):
        c.add("CDist", [a, b], metric=metric, **ms)
    c.add("Inverse", [c.normal(2, 4, 4)], domain=MS, tolerance=1e-4)
    c.add("ExpandDims", [a, np.int32(1)], domain=MS)
    c.add("GatherND", [a, np.int64([[2, 1], [0, 3]])], domain=MS)
    c.add("GridSample", [c.normal(1, 2, 4, 5), c.rng.uniform(-1.1, 1.1, (1, 3, 3, 2)).astype(f32)], mode="bilinear", **ms)
    c.add("Pad", [a, np.int64([[1, 0, 0, 2]]), f32([3])], domain=MS)
    c.add("Range", [np.int64(2), np.int64(9), np.int64(3)], domain=MS)
    c.add("Range", [f32(2), f32(6)], domain=MS)
    c.add("Trilu", [a, np.int64(1)], upper=0, domain=MS)
    c.add("TransposeMatMul", [a, b], transB=1, alpha=0.5, **ms)
    for activation, parameters in (("Relu", []), ("Tanh", []), ("Sigmoid", []), ("LeakyRelu", [0.2]), ("Clip", [-0.3, 0.4]),
                                   ("HardSigmoid", [0.3, 0.6])):
        some = dict(activation_params=parameters) if parameters else {}
        c.add("FusedConv", [c.normal(1, 2, 5, 5), c.normal(3, 2, 3, 3), c.normal(3)], activation=activation, **some, **ms)
        named = dict(zip(("activation_alpha", "activation_beta"), parameters))
        if activation != "Clip":
            c.add("FusedGemm", [a, b, c.normal(4)], transB=1, activation=activation, **named, **ms)
    c.add("FusedConv", [c.normal(1, 2, 5, 5), c.normal(3, 2, 3, 3), c.normal(3), c.normal(1, 3, 3, 3)], activation="Relu", **ms)
    for kind in (0, 1):
        codes, scales = c.codes(np.uint8, 5 * 32 // 2), c.scales(5 * 32 // 16)
        c.add("MatMulBnb4", [c.normal(3, 32), codes, scales], K=32, N=5, block_size=16, quant_type=kind, **ms)
    tables = [c.codes(np.uint8, n, 8) for n in (6, 4, 2)] + [c.codes(np.uint8, 8) for _ in range(2)]
    scales, zeros = [f32(s) for s in (0.02, 0.03, 0.01, 0.02, 0.05)], [np.uint8(z) for z in (120, 128, 100, 7, 130)]
    c.add("QEmbedLayerNormalization", [np.int32([[1, 5, 2], [0, 3, 3]]), np.int32([[0, 0, 1], [1, 0, 1]]), *tables,
                                       np.int32([[1, 1, 0], [1, 0, 0]]), *scales, *zeros], 2, **ms)
    steps, batch, inputs, hidden = 4, 3, 5, 4
    for kind in (np.uint8, np.int8):
        for direction, d in (("forward", 1), ("bidirectional", 2)):
            for per in ((d,), (d, 4 * hidden)):
                zero = np.full(per, 0 if kind == np.int8 else 128, kind)
                c.add("DynamicQuantizeLSTM",
                      [c.normal(steps, batch, inputs), c.codes(kind, d, inputs, 4 * hidden), c.codes(kind, d, hidden, 4 * hidden),
                       c.normal(d, 8 * hidden), np.int32([4, 2, 3]), c.normal(d, batch, hidden), c.normal(d, batch, hidden),
                       None, c.scales(*per) / 5, zero, c.scales(*per) / 5, zero], 3, hidden_size=hidden,
                      direction=direction, **ms)
    experts, width, inner, tokens = 4, 8, 6, 5
    for activation, fusion in (("relu", 0), ("gelu", 0), ("silu", 0), ("identity", 0), ("swiglu", 1)):
        wide = inner * (2 if fusion else 1)
        c.add("MoE", [c.normal(tokens, width), c.normal(tokens, experts), c.normal(experts, wide, width),
                      c.normal(experts, wide), c.normal(experts, width, inner), c.normal(experts, width)], k=2,
              normalize_routing_weights=1, activation_type=activation, swiglu_fusion=fusion, activation_alpha=1.702,
              activation_beta=1.0, swiglu_limit=7.0, **ms)
    c.add("MoE", [c.normal(1, tokens, width), c.normal(tokens, experts), c.normal(experts, inner, width), None,
                  c.normal(experts, width, inner)], k=1, activation_type="relu", **ms)
    regions = f32([[0, 0, 0, 5, 6], [1, 1.6, 2, 4.4, 3], [0, -2, -1, 2, 9]])
    c.add("MaxRoiPool", [c.normal(2, 3, 7, 6), regions], pooled_shape=[3, 2], spatial_scale=0.9)
    for onesided in (0, 1):
        c.add("DFT", [c.normal(2, 15, 3, 1), None, np.int64(1)], onesided=onesided, tolerance=1e-4)
        c.add("STFT", [c.normal(2, 40, 1), np.int64(7), c.normal(12), np.int64(12)], onesided=onesided, tolerance=1e-4)
    c.add("DFT", [c.normal(2, 30, 2), np.int64(28)], inverse=1, tolerance=1e-4)
    c.add("DeformConv", [c.normal(2, 4, 6, 5), c.normal(6, 2, 3, 2), c.normal(2, 24, 4, 6), c.normal(6), c.normal(2, 12, 4, 6)],
          group=2, offset_group=2, pads=[0, 1, 0, 1], tolerance=1e-5)
    c.add("Col2Im", [c.normal(2, 12, 16), np.int64([5, 6]), np.int64([2, 3])], tolerance=1e-5)
    c.add("AffineGrid", [c.normal(2, 2, 3), np.int64([2, 3, 4, 5])], align_corners=1, tolerance=1e-5)
    c.write()


for make in (products, qlinear, weight_only, fused, images, recurrent, attention, extras):
    make()
