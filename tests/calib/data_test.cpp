// SPDX-License-Identifier: Apache-2.0
#include "calib/data.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "calib/data/image.h"
#include "calib/data/npz.h"
#include "calib/dataset_run.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/file/reader.h"
#include "tests/support.h"

using namespace qtool;

namespace {

Threads& one_thread() {
  static Threads threads(1);
  return threads;
}

std::filesystem::path files() { return test::source_dir() / "tests/calib/files"; }

struct Input {
  const char* name;
  DType dtype;
  Shape shape;
  std::vector<std::string> symbols;
};

Graph model(const std::vector<Input>& inputs) {
  Graph g;
  for (const Input& i : inputs) {
    Value v;
    v.name = i.name;
    v.type.dtype = i.dtype;
    v.type.shape = i.shape;
    v.type.symbols = i.symbols;
    v.type.known_dtype = v.type.known_rank = true;
    g.inputs.push_back(g.add_value(v));
  }
  return g;
}

DataOptions from(const std::filesystem::path& path) {
  DataOptions o;
  o.path = path.string();
  return o;
}

template <class T>
std::vector<T> list(const Tensor& t) {
  return {t.read<T>().begin(), t.read<T>().end()};
}

/// The sentence of the error, or "" when there is none.
std::string refusal(const Graph& g, const DataOptions& o) {
  try {
    (void)open_dataset(g, o);
  } catch (const Error& e) {
    CHECK(e.code() == Code::calibration);
    return e.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("npz files of NumPy, stored and deflated, are read alike") {
  const NpzFile a(files() / "arrays.npz"), b(files() / "deflated.npz");
  CHECK(a.names() == b.names());
  for (const std::string& name : a.names()) {
    CAPTURE(name);
    CHECK(a.read(name).same_bytes(b.read(name)));
  }
  CHECK(a.read("fortran").read<double>()[7] == 7);
  CHECK(a.read("half").dtype() == DType::f16);
  CHECK(a.read("scalar").shape().empty());
  CHECK_THROWS_AS(a.read("nothing"), Error);
}

TEST_CASE("npz round trip; a file cut short is refused") {
  const test::ScratchFolder folder;
  const Tensor x = Tensor::of<float>({2, 2}, {1, 2, 3, 4});
  write_npz(folder / "a.npz", {{"x", x}, {"y", Tensor::scalar<std::int64_t>(-7)}});
  const NpzFile back(folder / "a.npz");
  CHECK(back.names() == std::vector<std::string>{"x", "y"});
  CHECK(back.read("x").same_bytes(x));
  const std::string bytes = read_text(folder / "a.npz");
  for (std::size_t n = 0; n < bytes.size(); n += 7) {
    std::ofstream(folder / "b.npz", std::ios::binary) << bytes.substr(0, n);
    CHECK_THROWS_AS((void)NpzFile(folder / "b.npz").read("x"), Error);
  }
}

TEST_CASE("a flipped bit is refused or gives the same array") {
  const test::ScratchFolder folder;
  const std::string bytes = read_text(files() / "deflated.npz");
  const Tensor good = NpzFile(files() / "deflated.npz").read("x");
  for (std::size_t i = 0; i < bytes.size(); i += 5) {
    std::string bad = bytes;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
    std::ofstream(folder / "b.npz", std::ios::binary) << bad;
    try {
      const Tensor x = NpzFile(folder / "b.npz").read("x");
      CHECK(x.same_bytes(good));
    } catch (const Error& e) {
      CHECK(e.code() == Code::input);
    }
  }
}

TEST_CASE("a name that stands for every open extent binds none of them to another") {
  const test::ScratchFolder folder;
  write_npz(folder / "a.npz", {{"x", Tensor(DType::f32, {4, 3, 2, 5})}});
  const auto picture = [](const std::string& name) {
    return model({{"x", DType::f32, {-1, 3, -1, -1}, {"batch", "", name, name}}});
  };
  CHECK(contains(refusal(picture("side"), from(folder / "a.npz")), "by the same name \"side\""));
  CHECK(refusal(picture("?"), from(folder / "a.npz")).empty());
}

TEST_CASE("rows are cut into the batch of the model") {
  const Graph fixed = model({{"x", DType::f32, {1, 2, 3}, {}}});
  const auto d = open_dataset(fixed, from(files() / "arrays.npz"));
  CHECK(d->batches() == 5);
  CHECK(d->samples() == 5);
  CHECK(list<float>(d->feeds(4).at(fixed.inputs[0])) == std::vector<float>{6, 6.25f, 6.5f, 6.75f, 7, 7.25f});
  CHECK(list<std::int64_t>(d->labels(2)) == std::vector<std::int64_t>{4});  // the array "labels" is taken by itself

  const Graph free = model({{"x", DType::f32, {-1, 2, 3}, {"n"}}, {"ids", DType::i64, {-1, 4}, {"n"}}});
  DataOptions o = from(files() / "arrays.npz");
  CHECK(open_dataset(free, o)->batches() == 1);
  o.batch = 2;
  const auto two = open_dataset(free, o);
  CHECK(two->batches() == 3);
  CHECK(two->feeds(1).at(free.inputs[0]).shape() == Shape{2, 2, 3});
  CHECK(two->feeds(2).at(free.inputs[0]).shape() == Shape{1, 2, 3});
  CHECK(list<std::int64_t>(two->feeds(2).at(free.inputs[1])) == std::vector<std::int64_t>{16, 17, 18, 19});
  CHECK(two->digest(one_thread()) != open_dataset(free, from(files() / "arrays.npz"))->digest(one_thread()));
  CHECK(two->digest(one_thread()) == open_dataset(free, o)->digest(one_thread()));
}

TEST_CASE("one axis more: each entry is a whole input; a scalar is the same in each run") {
  const Graph g = model({{"x", DType::f32, {-1, 3}, {}}, {"scalar", DType::i64, {}, {}}});
  const auto d = open_dataset(g, from(files() / "arrays.npz"));
  CHECK(d->batches() == 5);
  CHECK(d->feeds(1).at(g.inputs[0]).shape() == Shape{2, 3});
  CHECK(list<std::int64_t>(d->feeds(3).at(g.inputs[1])) == std::vector<std::int64_t>{16000});
}

TEST_CASE("samples, skip and what there is") {
  const Graph g = model({{"x", DType::f32, {1, 2, 3}, {}}});
  DataOptions o = from(files() / "arrays.npz");
  o.samples = 2;
  o.skip = 3;
  CHECK(open_dataset(g, o)->feeds(0).at(g.inputs[0]).read<float>()[0] == 4.5f);
  o.samples = 3;
  CHECK(contains(refusal(g, o), "asks for 3 samples after the first 3, there are 5 in all"));
  const Graph four = model({{"x", DType::f32, {4, 2, 3}, {}}});
  CHECK(contains(refusal(four, from(files() / "arrays.npz")), "5 samples do not fill batches of 4"));
}

TEST_CASE("types must match unless nothing is lost") {
  const auto path = files() / "arrays.npz";
  CHECK(refusal(model({{"ids", DType::i64, {-1, 4}, {}}}), from(path)).empty());
  CHECK(refusal(model({{"ids", DType::u8, {-1, 4}, {}}}), from(path)).empty());  // 0..19 fit
  CHECK(contains(refusal(model({{"ids", DType::boolean, {-1, 4}, {}}}), from(path)), "hold 2"));
  CHECK(contains(refusal(model({{"ids", DType::f32, {-1, 4}, {}}}), from(path)), "are i32, the model's input is f32"));
  CHECK(refusal(model({{"fortran", DType::f32, {-1, 3, 4}, {}}}), from(files() / "arrays.safetensors")).empty());
  CHECK(refusal(model({{"half", DType::f32, {-1}, {}}}), from(path)).empty());
  CHECK(refusal(model({{"x", DType::f16, {-1, 2, 3}, {}}}), from(path)).empty());
  CHECK(contains(refusal(model({{"x", DType::i64, {-1, 2, 3}, {}}}), from(path)), "are f32"));
}

TEST_CASE("what does not fit is said in a sentence") {
  const auto path = files() / "arrays.npz";
  CHECK(contains(refusal(model({{"image", DType::f32, {1, 2, 3}, {}}}), from(path)),
                 "no array for the model's input \"image\"; the file has \"x\", \"ids\""));
  CHECK(contains(refusal(model({{"x", DType::f32, {1, 2, 4}, {}}}), from(path)), "has the shape [2, 3]"));
  CHECK(contains(refusal(model({{"x", DType::f32, {1}, {}}}), from(path)), "has the shape [2, 3]"));
  CHECK(contains(
      refusal(model({{"x", DType::f32, {-1, 2, -1}, {"n", "", "t"}}, {"ids", DType::i32, {-1, -1}, {"n", "t"}}}),
              from(path)),
      "the same name \"t\""));
  CHECK(contains(refusal(model({{"x", DType::f32, {1, 2, 3}, {}}}), from("/nowhere.npz")), "do not exist"));
  CHECK(contains(refusal(model({{"x", DType::f32, {1, 2, 3}, {}}}), {}), "no data are named"));
  DataOptions labels = from(path);
  labels.labels = "x";
  CHECK(contains(refusal(model({{"x", DType::f32, {1, 2, 3}, {}}}), labels), "class numbers are integers"));
}

TEST_CASE("constants with defaults take no data; extents declared as 0 are free") {
  Graph g = model({{"x", DType::f32, {0, 2, 0}, {}}});
  Value w;
  w.name = "w";
  w.data = Tensor::scalar(1.0f);
  g.inputs.push_back(g.add_value(w));
  const auto d = open_dataset(g, from(files() / "arrays.npz"));
  CHECK(d->feeds(0).size() == 1);
  CHECK(d->feeds(0).at(g.inputs[0]).shape() == Shape{5, 2, 3});
}

TEST_CASE("npy and safetensors") {
  const Graph g = model({{"x", DType::f32, {-1, 2, 3}, {}}});
  const auto npz = open_dataset(g, from(files() / "arrays.npz"));
  CHECK(open_dataset(g, from(files() / "x.npy"))->digest(one_thread()) == npz->digest(one_thread()));
  CHECK(open_dataset(g, from(files() / "arrays.safetensors"))->digest(one_thread()) == npz->digest(one_thread()));
  const Graph other = model({{"input.1", DType::f32, {-1, 2, 3}, {}}});
  CHECK(refusal(other, from(files() / "x.npy")).empty());  // one array, one input
}

TEST_CASE("JSON lines of token ids") {
  const test::ScratchFolder folder;
  std::ofstream(folder / "a.jsonl") << "{\"input_ids\": [1, 2, 3]}\n\n[4, 5]\n";
  const Graph g =
      model({{"input_ids", DType::i64, {-1, -1}, {"n", "t"}}, {"attention_mask", DType::i64, {-1, -1}, {"n", "t"}}});
  const auto d = open_dataset(g, from(folder / "a.jsonl"));
  CHECK(d->batches() == 2);
  CHECK(d->feeds(0).at(g.inputs[0]).shape() == Shape{1, 3});
  CHECK(list<std::int64_t>(d->feeds(1).at(g.inputs[0])) == std::vector<std::int64_t>{4, 5});
  CHECK(list<std::int64_t>(d->feeds(1).at(g.inputs[1])) == std::vector<std::int64_t>{1, 1});
  for (const char* bad : {"[[1], [2, 3]]", "[1, \"a\"]", "{\"other\": [1]}", "[1] [2]", "{\"input_ids\": [1.5]}"}) {
    CAPTURE(std::string(bad));
    std::ofstream(folder / "bad.jsonl") << bad << '\n';
    CHECK(!refusal(g, from(folder / "bad.jsonl")).empty());
  }
  const Graph real = model({{"v", DType::f32, {1, 2}, {}}});
  std::ofstream(folder / "real.jsonl") << "{\"v\": [1, 2.5]}\n[3, 4]\n";
  CHECK(list<float>(open_dataset(real, from(folder / "real.jsonl"))->feeds(0).at(real.inputs[0])) ==
        std::vector<float>{1, 2.5f});
}

TEST_CASE("pictures are resized, cropped and ordered as Pillow does") {
  const Graph g = model({{"image", DType::f32, {-1, 3, 10, 12}, {}}});
  DataOptions o = from(files() / "pictures");
  o.image.resize = 16;
  o.image.scale = 1;
  o.image.layout = "nchw";
  const auto d = open_dataset(g, o);
  REQUIRE(d->samples() == 4);
  CHECK(list<std::int64_t>(d->labels(0)) == std::vector<std::int64_t>{0, 0, 1, 1});
  const NpzFile pillow(files() / "pictures.npz");
  const Tensor expected = pillow.read("prepared");
  const auto bytes = expected.read<std::uint8_t>();
  const Tensor batch = d->feeds(0).at(g.inputs[0]);
  const auto got = batch.read<float>();
  int worst_png = 0, worst_jpeg = 0;
  for (std::size_t n = 0; n < 4; ++n) {
    for (std::size_t p = 0; p < 120; ++p) {
      for (std::size_t c = 0; c < 3; ++c) {
        const int diff =
            std::abs(static_cast<int>(bytes[(n * 120 + p) * 3 + c]) - static_cast<int>(got[(n * 3 + c) * 120 + p]));
        (n < 3 ? worst_png : worst_jpeg) = std::max(n < 3 ? worst_png : worst_jpeg, diff);
      }
    }
  }
  CHECK(worst_png == 0);
  CHECK(worst_jpeg <= 2);  // versions of libjpeg round differently
  const MappedFile file(files() / "pictures/cat/b.png");
  const Picture p = decode_picture(file.bytes(), "b.png");
  CHECK(resize(p, 80, 51).rgb == list<std::uint8_t>(pillow.read("enlarged")));
  CHECK(gray(p) == list<std::uint8_t>(pillow.read("luma")));
}

TEST_CASE("mean, deviation, colour order and layout of pictures") {
  const Graph g = model({{"image", DType::f32, {1, 23, 37, 3}, {}}});
  DataOptions o = from(files() / "pictures/cat");
  o.image.layout = "nhwc";
  o.image.color = "bgr";
  o.image.mean = {0.5, 0.25, 0};
  o.image.std_dev = {2};
  o.skip = 1;  // b.png
  const auto d = open_dataset(g, o);
  const Tensor t = d->feeds(0).at(g.inputs[0]);
  const float v = t.read<float>()[(2 * 37 + 4) * 3 + 1];  // row 2, column 4, green = 255 - 18
  CHECK(v == (237.0f / 255.0f - 0.25f) / 2.0f);
  const Graph large = model({{"image", DType::f32, {1, 3, 224, 224}, {}}});
  const auto small = open_dataset(large, from(files() / "pictures"));
  CHECK_THROWS_WITH_AS(small->feeds(0), doctest::Contains("37 x 23 pixels are fewer than the 224 x 224"), Error);
}

TEST_CASE("broken pictures are refused") {
  for (const char* name : {"pictures/cat/b.png", "pictures/dog/tall.jpg"}) {
    const MappedFile file(files() / name);
    CHECK_NOTHROW(decode_picture(file.bytes(), name));
    CHECK_THROWS_AS(decode_picture(file.bytes().subspan(0, 40), name), Error);
    CHECK_THROWS_AS(decode_picture(file.bytes().subspan(1), name), Error);
    const auto half = file.bytes().subspan(0, file.bytes().size() / 2);
    CHECK_THROWS_AS(decode_picture(half, name), Error);
  }
  // A frame header that claims 65280 x 2048 pixels, for a few hundred bytes of them.
  std::string jpeg = read_text(files() / "pictures/dog/tall.jpg");
  const std::size_t frame = jpeg.find("\xff\xc0");
  REQUIRE(frame != std::string::npos);
  jpeg.replace(frame + 5, 4, "\xff\x00\x08\x00", 4);
  CHECK_THROWS_WITH_AS(decode_picture(std::as_bytes(std::span(jpeg)), "j"), doctest::Contains("cut short"), Error);
}

TEST_CASE("random data are made only by name, and say so") {
  const Graph g = model({{"x", DType::f32, {-1, 3}, {}}, {"ids", DType::i64, {-1, -1}, {}}});
  const auto d = open_dataset(g, from("random"));
  CHECK(d->synthetic());
  CHECK(d->samples() == 16);
  CHECK(d->feeds(0).at(g.inputs[0]).shape() == Shape{1, 3});
  CHECK(d->feeds(0).at(g.inputs[1]).shape() == Shape{1, 8});
  DataOptions o = from("random");
  o.seed = 1;
  CHECK(open_dataset(g, o)->digest(one_thread()) != d->digest(one_thread()));
  CHECK_FALSE(open_dataset(model({{"x", DType::f32, {-1, 2, 3}, {}}}), from(files() / "x.npy"))->synthetic());
}

TEST_CASE("state starts from zeros or from an array, and again with each sequence") {
  const test::ScratchFolder folder;
  Graph g = model({{"x", DType::f32, {-1, 2}, {"n"}}, {"h", DType::f32, {-1, 3}, {"n"}}});
  Value out;
  out.name = "h_next";
  g.add_value(out);
  const Tensor x = Tensor::of<float>({2, 3, 2}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  write_npz(folder / "a.npz", {{"x", x}});
  DataOptions o = from(folder / "a.npz");
  o.state = {{"h_next", "h"}};
  const auto d = open_dataset(g, o);
  CHECK(d->batches() == 6);
  CHECK(d->restarts(0));
  CHECK_FALSE(d->restarts(2));
  CHECK(d->restarts(3));
  CHECK(d->feeds(4).at(g.inputs[0]).same_bytes(Tensor::of<float>({1, 2}, {8, 9})));
  CHECK(d->feeds(4).at(g.inputs[1]).same_bytes(Tensor(DType::f32, {1, 3})));
  CHECK(d->state().at(*g.find_value("h_next")) == g.inputs[1]);
  const Tensor h = Tensor::of<float>({1, 3}, {1, 2, 3});
  write_npz(folder / "b.npz", {{"x", x}, {"h", h}});
  o.path = (folder / "b.npz").string();
  CHECK(open_dataset(g, o)->feeds(3).at(g.inputs[1]).same_bytes(h));
  o.state = {{"nothing", "h"}};
  CHECK(contains(refusal(g, o), "the output \"nothing\""));
}

TEST_CASE("ONNX test data feed the inputs in order") {
  const std::filesystem::path folder = "/usr/share/libonnx-testdata/data/node/test_clip";
  if (!std::filesystem::exists(folder)) return test::skip("ONNX test data", "libonnx-testdata is not installed");
  const Graph g = read_onnx(folder / "model.onnx");
  const auto d = open_dataset(g, from(folder));
  REQUIRE(g.inputs.size() == 3);
  CHECK(d->batches() == 1);
  const Feeds feeds = d->feeds(0);
  CHECK(feeds.at(g.inputs[0]).shape() == Shape{3, 4, 5});
  CHECK(list<float>(feeds.at(g.inputs[1])) == std::vector<float>{-1});
  CHECK(list<float>(feeds.at(g.inputs[2])) == std::vector<float>{1});
  CHECK(open_dataset(g, from(folder / "test_data_set_0"))->digest(one_thread()) == d->digest(one_thread()));
  CHECK(contains(refusal(model({{"x", DType::f32, {3, 4, 6}, {}}}), from(folder)), "has the shape [3, 4, 5]"));
}

TEST_CASE("broken tensors are refused") {
  const auto parse = [](const std::string& bytes) {
    return read_tensor_proto(std::as_bytes(std::span(bytes.data(), bytes.size())), "t.pb");
  };
  CHECK_THROWS_AS(parse("not protobuf"), Error);
  CHECK_THROWS_AS(parse(""), Error);
  CHECK_THROWS_AS(parse("\x08\x02\x10\x01"), Error);  // [2] of f32 without elements
  CHECK(parse(std::string("\x08\x01\x10\x01\x4a\x04\x00\x00\x80\x3f", 10)).read<float>()[0] == 1);
}

TEST_CASE("a sample model reaches its accuracy on its labels") {
  const Graph g = read_onnx(test::source_dir() / "samples/models/digits_cnn.onnx");
  DataOptions o = from(test::source_dir() / "samples/data/digits_eval.npz");
  o.samples = 48;
  const auto d = open_dataset(g, o);
  Threads threads;
  const Executor executor(g, Reading::reference, threads);
  std::int64_t right = 0;
  run_dataset(g, executor, *d, threads, {&g.outputs[0].value, 1},
              [&](std::int64_t batch, ValueId, const Tensor& scores) {
                const std::vector<std::int64_t> labels = list<std::int64_t>(d->labels(batch));
                const auto s = scores.read<float>();
                for (std::size_t i = 0; i < labels.size(); ++i) {
                  const auto row = s.subspan(i * 10, 10);
                  right += std::max_element(row.begin(), row.end()) - row.begin() == labels[i] ? 1 : 0;
                }
              });
  CHECK(right >= 47);
}

TEST_CASE("state is carried from run to run and starts again with a sequence") {
  const test::ScratchFolder folder;
  Graph g = model({{"x", DType::f32, {-1, 1}, {"n"}}, {"sum", DType::f32, {-1, 1}, {"n"}}});
  auto info = std::make_shared<ModelInfo>();
  info->opsets[""] = 17;
  g.model = info;
  Value next;
  next.name = "next";
  const ValueId out = g.add_value(next);
  Node add;
  add.op = add.name = "Add";
  add.inputs = {{g.inputs[0], nullptr}, {g.inputs[1], nullptr}};
  add.outputs = {out};
  g.add_node(add);
  g.outputs = {{out, nullptr}};
  write_npz(folder / "a.npz", {{"x", Tensor::of<float>({2, 3, 1}, {1, 2, 3, 10, 20, 30})}});
  DataOptions o = from(folder / "a.npz");
  o.state = {{"next", "sum"}};
  const auto d = open_dataset(g, o);
  Threads threads(1);
  const Executor executor(g, Reading::reference, threads);
  std::vector<float> sums;
  run_dataset(g, executor, *d, threads, {&out, 1},
              [&](std::int64_t, ValueId, const Tensor& t) { sums.push_back(t.read<float>()[0]); });
  CHECK(sums == std::vector<float>{1, 3, 6, 10, 30, 60});
}
