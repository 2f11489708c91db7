// SPDX-License-Identifier: Apache-2.0
// Rates: how fast this machine does what a job is made of, for the price of a plan. Measured once by
// `qtool doctor --calibrate` and kept in the user's cache folder; built-in ones, of the machine that qtool is developed
// on, stand in.
#pragma once

#include <filesystem>
#include <string>

namespace qtool {

/// Nanoseconds on one thread, of each unit of work.
struct Rates {
  double start = 1.3e7;      // a job, before and beside its model
  double node = 800;         // one run of one node
  double node_look = 3500;   // one node in one step of a recipe: shapes, links, checks
  double conv = 0.012;       // multiply-add of a dense convolution
  double conv_3x3 = 0.005;   // of one that takes minimal filtering (calib/ops/conv_winograd.h)
  double conv_few = 0.011;   // with few input channels
  double depthwise = 0.053;  // of a convolution channel by channel
  double product = 0.014;    // of MatMul, Gemm and their like
  double recurrent = 0.016;  // of LSTM, GRU and RNN
  double int_conv = 0.0036;  // of convolutions of codes
  double int_depthwise = 0.1;
  double int_product = 0.004;
  double element = 0.055;  // element of a result that is copied, added, compared
  double function = 0.51;  // element of exp, tanh, erf, powers, softmax
  double prepare = 1;      // number of a kernel that is transformed before the first run
  double touch = 0.3;      // byte of memory that is used for the first time
  double code = 0.25;      // element that becomes a code, or a number again
  double range = 0.12;     // element whose range is taken
  double histogram = 3;    // element that goes into a histogram
  double compare = 0.34;   // element of two models that are compared
  double scan = 0.6;       // element of a weight that is looked at
  double rewrite = 7;      // element of a weight that is rewritten
  double round = 1.4;      // element of a weight that is rounded
  double search = 18;      // element of a weight whose range is searched
  double gram = 0.006;     // multiply-add of the upper half of X^T X
  double factor = 0.016;   // multiply-add of a triangular factor in double
  double column = 0.0046;  // multiply-add of codes that make up for one another
  double pack = 2;         // code that is laid out for the file
  double hash = 0.56;      // byte that goes into a SHA-256
  double read = 0.3;       // byte of a file
  double write = 0.6;
  std::string source;  // where they are from; empty: built in
};

/// f(name, rate) for each of them.
template <class R, class F>
void for_each_rate(R& r, const F& f) {
  f("start", r.start), f("node", r.node), f("node_look", r.node_look), f("conv", r.conv), f("conv_3x3", r.conv_3x3);
  f("conv_few", r.conv_few), f("depthwise", r.depthwise), f("product", r.product), f("recurrent", r.recurrent);
  f("int_conv", r.int_conv), f("int_depthwise", r.int_depthwise), f("int_product", r.int_product),
      f("element", r.element), f("function", r.function);
  f("prepare", r.prepare), f("touch", r.touch), f("code", r.code), f("range", r.range), f("histogram", r.histogram),
      f("compare", r.compare), f("scan", r.scan);
  f("rewrite", r.rewrite), f("round", r.round), f("search", r.search), f("pack", r.pack), f("gram", r.gram),
      f("factor", r.factor), f("column", r.column), f("hash", r.hash);
  f("read", r.read), f("write", r.write);
}

/// $XDG_CACHE_HOME/qtool/rates.json, or the same in ~/.cache; empty where neither is known.
std::filesystem::path rates_file();
/// Those of the file, where it is there, whole and of this version and processor; else the built-in ones.
Rates known_rates();
/// Error(Code::usage) when the folder cannot be made or written.
void save_rates(const Rates&);

}  // namespace qtool
