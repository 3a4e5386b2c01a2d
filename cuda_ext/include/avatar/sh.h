// View-dependent colour: spherical harmonics up to degree 1, in the order and with the signs of 3DGS (Kerbl et al. 2023;
// the constants are those of Sloan, "Stupid spherical harmonics tricks", 2008). No offset and no clamp: colours are any
// numbers here.
//
// The direction is the one from which the camera sees the Gaussian, in canonical space: d = A^T p / |A^T p| with the
// blended pose (A, t) and p = A mean + t. For a rigid pose that is the view direction turned into the head's frame.
#pragma once
#include "projection.h"

namespace avatar {

constexpr double kSh0 = 0.28209479177387814, kSh1 = 0.4886025119029199;
constexpr int kShTerms = 4;

namespace AVATAR_NS {

template <class T> struct ViewState { T pose[12], p[3], along[3], inv_length, direction[3]; };

template <class T> AVATAR_HD void view_state(const T mean[3], T skin, const Poses<T>& poses, ViewState<T>& s) {
    for (int i = 0; i < 12; ++i) s.pose[i] = poses.torso[i] + skin * (poses.head[i] - poses.torso[i]);
    for (int i = 0; i < 3; ++i)
        s.p[i] = s.pose[4 * i] * mean[0] + s.pose[4 * i + 1] * mean[1] + s.pose[4 * i + 2] * mean[2] + s.pose[4 * i + 3];
    for (int k = 0; k < 3; ++k) s.along[k] = s.pose[k] * s.p[0] + s.pose[4 + k] * s.p[1] + s.pose[8 + k] * s.p[2];
    const T length2 = s.along[0] * s.along[0] + s.along[1] * s.along[1] + s.along[2] * s.along[2];
    s.inv_length = T(1) / larger(square_root(length2), T(1e-12));
    for (int k = 0; k < 3; ++k) s.direction[k] = s.along[k] * s.inv_length;
}

// Factors of the four coefficients.
template <class T> AVATAR_HD void sh_factors(const T direction[3], T factors[kShTerms]) {
    factors[0] = T(kSh0);
    factors[1] = T(-kSh1) * direction[1];
    factors[2] = T(kSh1) * direction[2];
    factors[3] = T(-kSh1) * direction[0];
}

// From the gradient by the factors to mean, skin weight and blended pose (split as after project_backward).
template <class T>
AVATAR_HD void sh_backward(const ViewState<T>& s, const T mean[3], const Poses<T>& poses, const T v_factors[kShTerms], T v_mean[3],
                           T& v_skin, T v_pose[12]) {
    const T v_direction[3] = {T(-kSh1) * v_factors[3], T(-kSh1) * v_factors[1], T(kSh1) * v_factors[2]};
    const T radial = v_direction[0] * s.direction[0] + v_direction[1] * s.direction[1] + v_direction[2] * s.direction[2];
    T v_along[3], v_p[3];
    for (int k = 0; k < 3; ++k) v_along[k] = (v_direction[k] - s.direction[k] * radial) * s.inv_length;
    for (int i = 0; i < 3; ++i)
        v_p[i] = s.pose[4 * i] * v_along[0] + s.pose[4 * i + 1] * v_along[1] + s.pose[4 * i + 2] * v_along[2];
    for (int i = 0; i < 3; ++i) {
        for (int k = 0; k < 3; ++k) v_pose[4 * i + k] = v_p[i] * mean[k] + s.p[i] * v_along[k];
        v_pose[4 * i + 3] = v_p[i];
    }
    for (int k = 0; k < 3; ++k) v_mean[k] = s.pose[k] * v_p[0] + s.pose[4 + k] * v_p[1] + s.pose[8 + k] * v_p[2];
    v_skin = T(0);
    for (int i = 0; i < 12; ++i) v_skin = v_skin + v_pose[i] * (poses.head[i] - poses.torso[i]);
}

}  // namespace AVATAR_NS
}  // namespace avatar
