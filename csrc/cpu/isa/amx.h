// What the AMX level has of its own; see amx.cc.
#pragma once

#include "../kernels.h"

namespace bc {

int64_t amx_panel_bytes(int64_t columns, int64_t segments, int64_t length);
void amx_pack_panel(const uint8_t* right, int64_t columns, int64_t segments, int64_t length,
                    bool shifted, void* panel);
void amx_product(const Product& p);

extern const Form kAmxBytes;

}  // namespace bc
