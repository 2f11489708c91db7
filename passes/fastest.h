// SPDX-License-Identifier: Apache-2.0
// Which decisions a target is better off without. Private to assign_formats.
#pragma once

#include <vector>

#include "formats/latency.h"

namespace qtool::assign {

/// The nodes among `latency.nodes` that a choice with the least time leaves in float. A node costs its own time in
/// float or as decided; a value costs a conversion when it is made in one form and read in the other. That is a
/// minimum cut (Greig, Porteous, Seheult 1989: exact for two labels). Of equal choices the one with more decisions.
/// Ascending.
std::vector<NodeId> better_in_float(const Latency& latency);

}  // namespace qtool::assign
