// One splat at one pixel: front-to-back blending and its gradient (T as in projection.h).
#pragma once
#include "projection.h"

namespace avatar {
namespace AVATAR_NS {

// log2(alpha) of a splat whose centre is (dx, dy) px away; `at_row` = log2_opacity + a dx^2 and `slope` = b dx do not
// change along a column of pixels.
template <class T> AVATAR_HD T log2_alpha(T at_row, T slope, T c, T dy) { return at_row + dy * (slope + c * dy); }

// Blending weight of the splat; `transmittance` is what passed all splats before and is updated.
template <class T> AVATAR_HD T blend(T alpha, T& transmittance) {
    const T weight = transmittance * alpha;
    transmittance = transmittance - weight;
    return weight;
}

// Gradient of the loss with respect to log2(alpha), divided by ln 2 (the caller applies it once per splat).
//   shade   = <colour, v_image> + v_alpha_image: gain of the loss per unit of this splat's weight
//   behind  = sum over this and all later splats of weight * shade; updated to the sum over the later ones
// d loss / d alpha = transmittance * shade - behind / (1 - alpha)
template <class T> AVATAR_HD T blend_backward(T alpha, T weight, T transmittance, T shade, T& behind) {
    behind = behind - weight * shade;
    return alpha * (transmittance * shade - behind * reciprocal(T(1) - alpha));
}

}  // namespace AVATAR_NS
}  // namespace avatar
