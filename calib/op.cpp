// SPDX-License-Identifier: Apache-2.0
#include "calib/op.h"
