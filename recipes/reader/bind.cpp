// SPDX-License-Identifier: Apache-2.0
#include "recipes/reader/bind.h"
