// SPDX-License-Identifier: Apache-2.0
// Normals: what batch normalizations tell of the numbers behind them without any data: channel c has mean beta[c] and
// standard deviation |gamma[c]|, and is taken to be normally distributed (arXiv 1906.04721, section 4.2;
// layerwise-optimizers.md section 9). fold_batch_norm takes both out of the graph, and leaves them in the journal.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/journal.h"
#include "formats/base/threads.h"
#include "formats/ir/graph.h"
#include "passes/product.h"

namespace qtool {

struct Normals {
  std::vector<double> mean, deviation;  // per channel
};

/// What a batch normalization puts out.
Normals normals_behind(std::vector<double> beta, std::vector<double> gamma);

/// The mean of a normally distributed number that is clamped to [low, high]; either may be infinite.
double clamped_mean(double mean, double deviation, double low, double high);

/// Notes that the product `node`, with the bias behind it, puts out such numbers.
void note_normals(Journal&, const std::string& node, const Normals&);

/// What was noted, by node, as equalize_layers has scaled it since.
std::map<std::string, Normals> noted_normals(const Journal&);

/// The mean of every input channel of a product, where a normalization is behind it, in the graph or noted, with
/// nothing but ReLU, Clip, average pooling, Flatten and Identity between. Empty: not so, and `why`.
std::optional<std::vector<double>> normal_means(const Graph&, const Links&, const Product&,
                                                const std::map<std::string, Normals>& noted, Threads&,
                                                std::string& why);

}  // namespace qtool
