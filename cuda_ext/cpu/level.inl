// Instantiates every kernel for one scalar type and width. The including file defines AVATAR_NS, AVATAR_SCALAR,
// AVATAR_LANES, AVATAR_LEVEL (the table) and AVATAR_LEVEL_NAME.
#include "kernels.inl"
#include "ssim.inl"
#include "animate.inl"
#include "sh.inl"

namespace avatar {
extern const Kernels<AVATAR_SCALAR> AVATAR_LEVEL;
const Kernels<AVATAR_SCALAR> AVATAR_LEVEL = {
    AVATAR_LEVEL_NAME,
    AVATAR_NS::project_chunk<AVATAR_SCALAR, AVATAR_LANES>,
    AVATAR_NS::blend_any<AVATAR_SCALAR, AVATAR_LANES>,
    AVATAR_NS::blend_backward_any<AVATAR_SCALAR, AVATAR_LANES>,
    AVATAR_NS::project_backward_any<AVATAR_SCALAR, AVATAR_LANES>,
    AVATAR_NS::ssim_band<AVATAR_SCALAR, AVATAR_LANES>,
    AVATAR_NS::l1_ssim_backward_run<AVATAR_SCALAR, AVATAR_LANES>,
    AVATAR_NS::animate_chunk<AVATAR_SCALAR, AVATAR_LANES>,
    AVATAR_NS::animate_backward_chunk<AVATAR_SCALAR, AVATAR_LANES>,
    AVATAR_NS::sh_chunk<AVATAR_SCALAR, AVATAR_LANES>,
    AVATAR_NS::sh_backward_chunk<AVATAR_SCALAR, AVATAR_LANES>,
};
}  // namespace avatar
