// SSIM of one pixel from its windowed moments, and its derivatives (Wang et al., "Image quality assessment", 2004).
#pragma once
#include "scalar_ops.h"

namespace avatar {

// Half of the 11-tap Gaussian window of standard deviation 1.5 px, centre first, normalised over all taps.
constexpr double kSsimWindow[6] = {0.26601172486179436, 0.21300553771125369, 0.10936068950970002,
                                   0.036000772128430815, 0.0075987581352391859, 0.0010283800844791101};
constexpr double kSsimC1 = 0.01 * 0.01, kSsimC2 = 0.03 * 0.03;

namespace AVATAR_NS {

template <class T> struct SsimGrad { T mean, square, product; };  // by windowed x, x^2 (+ y^2) and x y

// mean_x, mean_y, squares = window(x^2 + y^2), product = window(x y).
template <class T> AVATAR_HD T ssim(T mean_x, T mean_y, T squares, T product, SsimGrad<T>& v) {
    const T two = T(2), c1 = T(kSsimC1), c2 = T(kSsimC2);
    const T both = mean_x * mean_y, means = mean_x * mean_x + mean_y * mean_y;
    const T a1 = two * both + c1, a2 = two * (product - both) + c2;
    const T b1 = means + c1, b2 = squares - means + c2;
    const T inv = T(1) / (b1 * b2);
    const T value = a1 * a2 * inv;
    v.product = two * a1 * inv;
    v.square = T(0) - value * b1 * inv;  // - value / b2
    v.mean = two * (mean_y * (a2 - a1) + value * mean_x * (b1 - b2)) * inv;
    return value;
}

}  // namespace AVATAR_NS
}  // namespace avatar
