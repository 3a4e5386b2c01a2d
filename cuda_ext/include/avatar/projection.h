// One Gaussian from canonical space to the image plane, and the gradient of that.
//
// T is float, double or a SIMD vector of either; everything is branch-free. Frames and units as in
// avatar/raster/reference.py, `project`: head space and camera space in cm, image in px. v_x is the gradient of x.
#pragma once
#include "scalar_ops.h"

namespace avatar {
namespace AVATAR_NS {

template <class T> AVATAR_HD T smaller(T a, T b) { return select(less(b, a), b, a); }
template <class T> AVATAR_HD T larger(T a, T b) { return select(less(a, b), b, a); }
template <class T> AVATAR_HD T clamped(T x, T low, T high) { return smaller(larger(x, low), high); }

template <class T> struct Camera { T fx, fy, cx, cy, width, height; };

// camera_from_head and camera_from_torso, row-major 3x4.
template <class T> struct Poses { T head[12], torso[12]; };

template <class T> struct Gaussian { T mean[3], quat[4], log_scale[3], opacity_logit, skin; };

// What blending reads. The exponent is kept in base 2: alpha = 2^(log2_opacity + a dx^2 + b dx dy + c dy^2).
template <class T> struct Projected {
    T x, y;             // centre, px
    T a, b, c;          // negative definite quadratic form, 1/px^2
    T log2_opacity;     // compensated for the blur
    T depth;            // cm
    T half_x, half_y;   // half sides of the box in which alpha can reach kAlphaMin, px
};

// Intermediate values shared by forward and backward.
template <class T> struct ProjectionState {
    T pose[12];          // blended 3x4
    T p[3], inv_z;
    T rot[9], quat[4], quat_norm;  // rotation, normalised quaternion, length
    T root[9];           // A R S
    T u, v;              // clamped fx x/z, fy y/z
    T u_raw, v_raw;
    T row_x[3], row_y[3], cross[3];  // rows of J A R S and their cross product
    T det, inv_det_blurred, sigmoid;
};

template <class T> AVATAR_HD void rotation_from_quat(const T q[4], T r[9]) {
    const T w = q[0], x = q[1], y = q[2], z = q[3], one = T(1), two = T(2);
    r[0] = one - two * (y * y + z * z); r[1] = two * (x * y - w * z);       r[2] = two * (x * z + w * y);
    r[3] = two * (x * y + w * z);       r[4] = one - two * (x * x + z * z); r[5] = two * (y * z - w * x);
    r[6] = two * (x * z - w * y);       r[7] = two * (y * z + w * x);       r[8] = one - two * (x * x + y * y);
}

template <class T> AVATAR_HD void rotation_from_quat_backward(const T q[4], const T v_r[9], T v_q[4]) {
    const T w = q[0], x = q[1], y = q[2], z = q[3], two = T(2);
    v_q[0] = two * (x * (v_r[7] - v_r[5]) + y * (v_r[2] - v_r[6]) + z * (v_r[3] - v_r[1]));
    v_q[1] = two * (w * (v_r[7] - v_r[5]) + y * (v_r[1] + v_r[3]) + z * (v_r[2] + v_r[6]) - two * x * (v_r[4] + v_r[8]));
    v_q[2] = two * (w * (v_r[2] - v_r[6]) + x * (v_r[1] + v_r[3]) + z * (v_r[5] + v_r[7]) - two * y * (v_r[0] + v_r[8]));
    v_q[3] = two * (w * (v_r[3] - v_r[1]) + x * (v_r[2] + v_r[6]) + y * (v_r[5] + v_r[7]) - two * z * (v_r[0] + v_r[4]));
}

template <class T>
AVATAR_HD void projection_state(const Gaussian<T>& g, const Poses<T>& poses, const Camera<T>& cam, ProjectionState<T>& s) {
    const T one = T(1);
    for (int i = 0; i < 12; ++i) s.pose[i] = poses.torso[i] + g.skin * (poses.head[i] - poses.torso[i]);
    for (int i = 0; i < 3; ++i)
        s.p[i] = s.pose[4 * i] * g.mean[0] + s.pose[4 * i + 1] * g.mean[1] + s.pose[4 * i + 2] * g.mean[2] + s.pose[4 * i + 3];
    s.inv_z = one / select(less(T(kNearCm), s.p[2]), s.p[2], one);

    s.u_raw = cam.fx * s.p[0] * s.inv_z;
    s.v_raw = cam.fy * s.p[1] * s.inv_z;
    const T margin = T(kFovMargin);
    s.u = clamped(s.u_raw, T(0) - (cam.cx + margin * cam.width), (one + margin) * cam.width - cam.cx);
    s.v = clamped(s.v_raw, T(0) - (cam.cy + margin * cam.height), (one + margin) * cam.height - cam.cy);

    T norm2 = T(0);
    for (int i = 0; i < 4; ++i) norm2 = norm2 + g.quat[i] * g.quat[i];
    s.quat_norm = larger(square_root(norm2), T(kQuatEps));
    const T inv_norm = one / s.quat_norm;
    for (int i = 0; i < 4; ++i) s.quat[i] = g.quat[i] * inv_norm;
    rotation_from_quat(s.quat, s.rot);
    for (int j = 0; j < 3; ++j) {
        const T scale = exponential(clamped(g.log_scale[j], T(kLogScaleMin), T(kLogScaleMax)));
        for (int i = 0; i < 3; ++i)
            s.root[3 * i + j] = scale * (s.pose[4 * i] * s.rot[j] + s.pose[4 * i + 1] * s.rot[3 + j] + s.pose[4 * i + 2] * s.rot[6 + j]);
        s.row_x[j] = (cam.fx * s.root[j] - s.u * s.root[6 + j]) * s.inv_z;
        s.row_y[j] = (cam.fy * s.root[3 + j] - s.v * s.root[6 + j]) * s.inv_z;
    }
    s.cross[0] = s.row_x[1] * s.row_y[2] - s.row_x[2] * s.row_y[1];
    s.cross[1] = s.row_x[2] * s.row_y[0] - s.row_x[0] * s.row_y[2];
    s.cross[2] = s.row_x[0] * s.row_y[1] - s.row_x[1] * s.row_y[0];
    s.det = s.cross[0] * s.cross[0] + s.cross[1] * s.cross[1] + s.cross[2] * s.cross[2];  // Cauchy-Binet
    s.sigmoid = one / (one + exponential(T(0) - g.opacity_logit));
}

// Returns through `out`; `visible` where the splat lies in front of the camera and can reach kAlphaMin somewhere.
template <class T, class Mask>
AVATAR_HD void project(const Gaussian<T>& g, const Poses<T>& poses, const Camera<T>& cam, Projected<T>& out, Mask& visible) {
    ProjectionState<T> s;
    projection_state(g, poses, cam, s);
    T var_x = T(0), var_y = T(0), cov = T(0);
    for (int j = 0; j < 3; ++j) {
        var_x = var_x + s.row_x[j] * s.row_x[j];
        var_y = var_y + s.row_y[j] * s.row_y[j];
        cov = cov + s.row_x[j] * s.row_y[j];
    }
    const T blur = T(kBlurPx2);
    const T inv_det = T(1) / (s.det + blur * (var_x + var_y) + blur * blur);
    out.x = s.u_raw + cam.cx;
    out.y = s.v_raw + cam.cy;
    out.a = T(-0.5 * kLog2E) * (var_y + blur) * inv_det;
    out.b = T(kLog2E) * cov * inv_det;
    out.c = T(-0.5 * kLog2E) * (var_x + blur) * inv_det;
    const T opacity = s.sigmoid * square_root(s.det * inv_det);
    out.depth = s.p[2];
    visible = at_least(opacity, T(kAlphaMin)) & less(T(kNearCm), s.p[2]);
    out.log2_opacity = logarithm2(larger(opacity, T(1e-30)));
    // the contour alpha = kAlphaMin is the ellipse of Mahalanobis distance^2 = 2 ln(opacity / kAlphaMin)
    const T reach2 = larger(T(2 * kLn2) * (out.log2_opacity - T(kLog2AlphaMin)), T(0));
    out.half_x = square_root(reach2 * (var_x + blur));
    out.half_y = square_root(reach2 * (var_y + blur));
}

// Gradients with respect to the fields of Projected that blending depends on.
template <class T> struct ProjectedGrad { T x, y, a, b, c, log2_opacity; };

// v_camera: fx, fy, cx, cy. v_pose is the gradient of the blended 3x4; the caller splits it: v_head += skin v_pose,
// v_torso += (1 - skin) v_pose.
template <class T>
AVATAR_HD void project_backward(const Gaussian<T>& g, const Poses<T>& poses, const Camera<T>& cam, const ProjectedGrad<T>& v,
                                Gaussian<T>& v_g, T v_pose[12], T v_camera[4]) {
    ProjectionState<T> s;
    projection_state(g, poses, cam, s);
    const T zero = T(0), two = T(2), blur = T(kBlurPx2);
    T var_x = zero, var_y = zero, cov = zero;
    for (int j = 0; j < 3; ++j) {
        var_x = var_x + s.row_x[j] * s.row_x[j];
        var_y = var_y + s.row_y[j] * s.row_y[j];
        cov = cov + s.row_x[j] * s.row_y[j];
    }
    const T k = T(1) / (s.det + blur * (var_x + var_y) + blur * blur);

    // quadratic form and opacity -> 2D covariance
    const T v_a = T(-0.5 * kLog2E) * v.a, v_b = T(kLog2E) * v.b, v_c = T(-0.5 * kLog2E) * v.c;
    const T v_log_opacity = T(kLog2E) * v.log2_opacity;  // natural logarithm
    const T v_det_blurred = T(0) - k * (k * (v_a * (var_y + blur) + v_b * cov + v_c * (var_x + blur)) + T(0.5) * v_log_opacity);
    const T v_var_x = v_c * k + blur * v_det_blurred;
    const T v_var_y = v_a * k + blur * v_det_blurred;
    const T v_cov = v_b * k;
    const T v_cross = two * v_det_blurred + v_log_opacity / larger(s.det, T(1e-37));  // times cross
    v_g.opacity_logit = v_log_opacity * (T(1) - s.sigmoid);

    T v_row_x[3], v_row_y[3];
    for (int j = 0; j < 3; ++j) {
        const int n = (j + 1) % 3, m = (j + 2) % 3;
        v_row_x[j] = two * s.row_x[j] * v_var_x + s.row_y[j] * v_cov + v_cross * (s.row_y[n] * s.cross[m] - s.row_y[m] * s.cross[n]);
        v_row_y[j] = two * s.row_y[j] * v_var_y + s.row_x[j] * v_cov + v_cross * (s.cross[n] * s.row_x[m] - s.cross[m] * s.row_x[n]);
    }

    // rows of J A R S -> A R S, camera, depth
    T v_root[9], v_fx = zero, v_fy = zero, v_u = zero, v_v = zero, v_z = zero;
    for (int j = 0; j < 3; ++j) {
        const T vx = v_row_x[j] * s.inv_z, vy = v_row_y[j] * s.inv_z;
        v_root[j] = vx * cam.fx;
        v_root[3 + j] = vy * cam.fy;
        v_root[6 + j] = zero - (vx * s.u + vy * s.v);
        v_fx = v_fx + vx * s.root[j];
        v_fy = v_fy + vy * s.root[3 + j];
        v_u = v_u - vx * s.root[6 + j];
        v_v = v_v - vy * s.root[6 + j];
        v_z = v_z - (vx * s.row_x[j] + vy * s.row_y[j]);
    }
    // u follows x/z inside the clamp and the principal point on it; the centre always follows both
    const auto u_inside = at_least(zero, (s.u - s.u_raw) * (s.u - s.u_raw));
    const auto v_inside = at_least(zero, (s.v - s.v_raw) * (s.v - s.v_raw));
    const T v_u_raw = v.x + select(u_inside, v_u, zero), v_v_raw = v.y + select(v_inside, v_v, zero);
    v_camera[0] = v_fx + v_u_raw * s.p[0] * s.inv_z;
    v_camera[1] = v_fy + v_v_raw * s.p[1] * s.inv_z;
    v_camera[2] = v.x - select(u_inside, zero, v_u);
    v_camera[3] = v.y - select(v_inside, zero, v_v);
    T v_p[3];
    v_p[0] = v_u_raw * cam.fx * s.inv_z;
    v_p[1] = v_v_raw * cam.fy * s.inv_z;
    v_p[2] = v_z - (v_u_raw * s.u_raw + v_v_raw * s.v_raw) * s.inv_z;

    // A R S -> scales, rotation, A
    T v_rot[9];
    for (int i = 0; i < 9; ++i) v_rot[i] = zero;
    for (int i = 0; i < 3; ++i)
        for (int k2 = 0; k2 < 4; ++k2) v_pose[4 * i + k2] = k2 < 3 ? v_p[i] * g.mean[k2] : v_p[i];
    for (int j = 0; j < 3; ++j) {
        const T log_scale = clamped(g.log_scale[j], T(kLogScaleMin), T(kLogScaleMax));
        const T scale = exponential(log_scale);
        const T v_log = v_root[j] * s.root[j] + v_root[3 + j] * s.root[3 + j] + v_root[6 + j] * s.root[6 + j];
        const auto in_range = at_least(zero, (log_scale - g.log_scale[j]) * (log_scale - g.log_scale[j]));
        v_g.log_scale[j] = select(in_range, v_log, zero);
        for (int i = 0; i < 3; ++i) {
            const T v_ar = v_root[3 * i + j] * scale;
            for (int k2 = 0; k2 < 3; ++k2) {
                v_pose[4 * i + k2] = v_pose[4 * i + k2] + v_ar * s.rot[3 * k2 + j];
                v_rot[3 * k2 + j] = v_rot[3 * k2 + j] + v_ar * s.pose[4 * i + k2];
            }
        }
    }
    T v_unit[4];
    rotation_from_quat_backward(s.quat, v_rot, v_unit);
    const T along = v_unit[0] * s.quat[0] + v_unit[1] * s.quat[1] + v_unit[2] * s.quat[2] + v_unit[3] * s.quat[3];
    const T inv_norm = T(1) / s.quat_norm;
    for (int i = 0; i < 4; ++i) v_g.quat[i] = (v_unit[i] - s.quat[i] * along) * inv_norm;

    // position -> mean, pose, skin
    T v_skin = zero;
    for (int i = 0; i < 12; ++i) v_skin = v_skin + v_pose[i] * (poses.head[i] - poses.torso[i]);
    v_g.skin = v_skin;
    for (int k2 = 0; k2 < 3; ++k2)
        v_g.mean[k2] = s.pose[k2] * v_p[0] + s.pose[4 + k2] * v_p[1] + s.pose[8 + k2] * v_p[2];
}

}  // namespace AVATAR_NS
}  // namespace avatar
