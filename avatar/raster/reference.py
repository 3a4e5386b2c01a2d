"""The rasterizer and the image loss in plain PyTorch: this file defines what "correct" means.

From canonical Gaussians (head space, cm) to premultiplied pixels: two-pose skinning, EWA projection of the covariance
(Zwicker et al., "EWA volume splatting", 2001), anti-aliasing with opacity compensation (Yu et al., "Mip-Splatting",
2024, eq. 9 in its 2D form), front-to-back blending (Kerbl et al., "3D Gaussian Splatting", 2023). Any floating dtype,
any device; autograd gives the gradients. The native code follows these formulas and is tested against them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

NEAR_CM: Final = 0.5
"""Splats whose centre is not farther than this from the camera plane are dropped."""
BLUR_PX2: Final = 0.3
"""Variance added to the 2D covariance: the pixel's own footprint (3DGS uses the same value)."""
ALPHA_MIN: Final = 1 / 255
"""A smaller alpha cannot be seen in 8 bits and is skipped."""
ALPHA_MAX: Final = 0.999
"""Keeps 1 - alpha away from zero, which the gradient divides by."""
TRANSMITTANCE_MIN: Final = 1e-4
"""A pixel is finished once less than this share of light passes."""
FOV_MARGIN: Final = 0.15
"""Jacobian is evaluated at most this share of the image beyond its border: 1.3x the field of view, as in 3DGS."""
LOG_SCALE_RANGE: Final = (-20.0, 8.0)
"""2e-9 cm .. 30 m; outside it float32 determinants under- or overflow. The gradient is zero outside."""
QUAT_EPS: Final = 1e-12

SH_0: Final = 0.28209479177387814
SH_1: Final = 0.4886025119029199
"""Factors of the spherical harmonics of degree 0 and 1 (Sloan, "Stupid spherical harmonics tricks", 2008)."""

SSIM_WINDOW: Final = 11
SSIM_SIGMA: Final = 1.5
SSIM_C1: Final = 0.01**2
SSIM_C2: Final = 0.03**2


BASIS_WIDTHS: Final = (3, 4, 3, 3, 1)
"""Columns of a motion basis: position, rotation, log scale, colour, opacity logit."""


class MovingGaussians(NamedTuple):
    """Canonical Gaussians with K linear motion bases, and how much of each basis every frame shows."""

    means: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    log_scales: Float[Tensor, "N 3"]
    opacity_logits: Float[Tensor, " N"]
    colors: Float[Tensor, "N 3"]
    skin_logits: Float[Tensor, " N"]
    """Skin weight before the sigmoid."""
    bases: Float[Tensor, "K N 14"]
    """In the units given with them; float16 is possible where no gradient is wanted."""
    weights: Float[Tensor, "B K"]


@dataclass(frozen=True)
class Splats:
    """Gaussians projected to the image plane; all tensors have leading dimensions (B, N)."""

    mean2d: Float[Tensor, "B N 2"]
    """Centre in px."""
    conic: Float[Tensor, "B N 3"]
    """Inverse of the blurred 2D covariance: xx, xy, yy in 1/px^2."""
    opacity: Float[Tensor, "B N"]
    """Compensated for the blur; 0 for dropped splats."""
    depth: Float[Tensor, "B N"]
    """z in camera space, cm."""
    bounds: Int[Tensor, "B N 4"]
    """First and last pixel (x0, y0, x1, y1) inside which alpha can reach ALPHA_MIN; empty when x0 > x1."""


def rotation_from_quat(quats: Float[Tensor, "*B 4"]) -> Float[Tensor, "*B 3 3"]:
    """Rotation matrices of wxyz quaternions of any length; the zero quaternion gives the identity."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1, eps=QUAT_EPS).unbind(-1)
    return torch.stack(
        (
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ),
        dim=-1,
    ).unflatten(-1, (3, 3))  # fmt: skip


def project(
    means: Float[Tensor, "B N 3"],
    quats: Float[Tensor, "B N 4"],
    log_scales: Float[Tensor, "B N 3"],
    opacity_logits: Float[Tensor, "B N"],
    skin: Float[Tensor, " N"],
    poses: Float[Tensor, "B 2 3 4"],
    intrinsics: Float[Tensor, " 4"],
    width: int,
    height: int,
) -> Splats:
    """Skin, project and bound every Gaussian of every image. Arguments as in `avatar.raster.rasterize`."""
    fx, fy, cx, cy = intrinsics.unbind()
    s = skin[None, :, None, None]
    blended = s * poses[:, None, 0] + (1 - s) * poses[:, None, 1]  # (B, N, 3, 4)
    linear, shift = blended[..., :3], blended[..., 3]
    position = (linear @ means[..., None])[..., 0] + shift  # (B, N, 3) camera space, cm
    x, y, depth = position.unbind(-1)
    in_front = depth > NEAR_CM
    z = torch.where(in_front, depth, torch.ones_like(depth))

    mean2d = torch.stack((fx * x / z + cx, fy * y / z + cy), dim=-1)
    # fx * clamp(x/z) with the clamp's limits in px from the principal point
    u = torch.minimum(torch.maximum(fx * x / z, -(cx + FOV_MARGIN * width)), (1 + FOV_MARGIN) * width - cx)
    v = torch.minimum(torch.maximum(fy * y / z, -(cy + FOV_MARGIN * height)), (1 + FOV_MARGIN) * height - cy)
    root = linear @ rotation_from_quat(quats) * log_scales.clamp(*LOG_SCALE_RANGE).exp()[..., None, :]  # A R S
    inv_z = (1 / z)[..., None]
    row_x = (fx * root[..., 0, :] - u[..., None] * root[..., 2, :]) * inv_z  # (B, N, 3) first row of J A R S
    row_y = (fy * root[..., 1, :] - v[..., None] * root[..., 2, :]) * inv_z

    var_x, var_y, cov = (row_x * row_x).sum(-1), (row_y * row_y).sum(-1), (row_x * row_y).sum(-1)
    # det = |row_x x row_y|^2 (Cauchy-Binet): no cancellation, so thin splats keep their gradient in float32
    root_det = torch.linalg.vector_norm(torch.linalg.cross(row_x, row_y), dim=-1)
    det_blurred = root_det * root_det + BLUR_PX2 * (var_x + var_y) + BLUR_PX2 * BLUR_PX2
    conic = torch.stack((var_y + BLUR_PX2, -cov, var_x + BLUR_PX2), dim=-1) / det_blurred[..., None]
    opacity = torch.sigmoid(opacity_logits) * root_det / det_blurred.sqrt()
    opacity = torch.where(in_front, opacity, torch.zeros_like(opacity))

    with torch.no_grad():
        reach2 = 2 * torch.log((opacity / ALPHA_MIN).clamp(min=1.0))  # largest Mahalanobis distance squared
        half = torch.stack((reach2 * (var_x + BLUR_PX2), reach2 * (var_y + BLUR_PX2)), dim=-1).sqrt()
        limit = torch.tensor([width, height], dtype=means.dtype, device=means.device)
        low = torch.minimum((mean2d - half - 0.5).ceil().clamp(min=0), limit).long()
        high = torch.minimum((mean2d + half - 0.5).floor().clamp(min=-1), limit - 1).long()
        low = torch.where((opacity >= ALPHA_MIN)[..., None], low, torch.ones_like(low) * max(width, height))
    return Splats(mean2d, conic, opacity, depth, torch.cat((low, high), dim=-1))


def rasterize(
    means: Float[Tensor, "B N 3"],
    quats: Float[Tensor, "B N 4"],
    log_scales: Float[Tensor, "B N 3"],
    opacity_logits: Float[Tensor, "B N"],
    colors: Float[Tensor, "B N C"],
    skin: Float[Tensor, " N"],
    layers: Int[Tensor, " N"],
    poses: Float[Tensor, "B 2 3 4"],
    intrinsics: Float[Tensor, " 4"],
    width: int,
    height: int,
    grad_sink: Tensor | None = None,
    tile_px: int = 32,
) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H W"]]:
    """The twin of the native rasterizer; see `avatar.raster.rasterize` for the arguments.

    `tile_px` bounds memory only: the image is computed in squares of this size, each from the splats that reach it.
    """
    splats = project(means, quats, log_scales, opacity_logits, skin, poses, intrinsics, width, height)
    visible = (splats.bounds[..., :2] <= splats.bounds[..., 2:]).all(-1)  # (B, N)
    if grad_sink is not None and splats.mean2d.requires_grad:
        splats.mean2d.register_hook(lambda v_mean2d: accumulate_sink(grad_sink, v_mean2d, visible))

    images, alphas = [], []
    for b in range(means.shape[0]):
        order = torch.argsort(splats.depth[b].detach(), stable=True)
        order = order[torch.argsort(layers[order], stable=True)]
        order = order[visible[b, order]]
        rows = [
            [_blend_square(splats, colors, b, order, x, y, min(x + tile_px, width), min(y + tile_px, height))
             for x in range(0, width, tile_px)]
            for y in range(0, height, tile_px)
        ]  # fmt: skip
        picture = torch.cat([torch.cat(row, dim=1) for row in rows], dim=0)  # (H, W, C + 1)
        images.append(picture[..., :-1])
        alphas.append(picture[..., -1])
    if not images:
        return means.new_zeros(0, height, width, colors.shape[-1]), means.new_zeros(0, height, width)
    return torch.stack(images), torch.stack(alphas)


def _blend_square(splats: Splats, colors: Tensor, b: int, order: Tensor, x0: int, y0: int, x1: int, y1: int) -> Tensor:
    """Pixels x0..x1, y0..y1 (exclusive) of image b: (y1 - y0, x1 - x0, C + 1), alpha last."""
    bounds = splats.bounds[b, order]
    near = (bounds[:, 0] < x1) & (bounds[:, 2] >= x0) & (bounds[:, 1] < y1) & (bounds[:, 3] >= y0)
    index = order[near]  # (K,) front to back
    mean2d, conic = splats.mean2d[b, index], splats.conic[b, index]
    xs = torch.arange(x0, x1, dtype=mean2d.dtype, device=mean2d.device) + 0.5
    ys = torch.arange(y0, y1, dtype=mean2d.dtype, device=mean2d.device) + 0.5
    dx = (xs[None, :] - mean2d[:, :1])[:, None, :]  # (K, 1, w)
    dy = (ys[None, :] - mean2d[:, 1:])[:, :, None]  # (K, h, 1)
    a, c, e = (conic[:, i, None, None] for i in range(3))
    distance2 = a * dx * dx + 2 * c * dx * dy + e * dy * dy  # (K, h, w)
    alpha = (splats.opacity[b, index, None, None] * torch.exp(-0.5 * distance2)).clamp(max=ALPHA_MAX)
    alpha = torch.where(alpha >= ALPHA_MIN, alpha, torch.zeros_like(alpha))
    passed = torch.cumprod(1 - alpha, dim=0)
    before = torch.cat((torch.ones_like(passed[:1]), passed[:-1]), dim=0) if len(index) else passed
    weight = torch.where(before >= TRANSMITTANCE_MIN, before * alpha, torch.zeros_like(alpha))
    ones = torch.ones_like(colors[b, index, :1])
    return torch.einsum("khw,kc->hwc", weight, torch.cat((colors[b, index], ones), dim=-1))


def animate(
    branch: MovingGaussians, units: Float[Tensor, " 14"]
) -> tuple[
    Float[Tensor, "B N 3"], Float[Tensor, "B N 4"], Float[Tensor, "B N 3"], Float[Tensor, "B N"], Float[Tensor, "B N 3"]
]:
    """Means, quats, log scales, opacity logits, colours of every frame: canonical + units * sum_k weight_k basis_k."""
    k, n, width = branch.bases.shape
    bases = branch.bases.to(branch.weights.dtype)
    offsets = (branch.weights @ bases.reshape(k, n * width)).view(-1, n, width) * units
    d_means, d_quats, d_scales, d_colors, d_opacity = offsets.split(BASIS_WIDTHS, dim=-1)
    return (
        branch.means + d_means,
        branch.quats + d_quats,
        branch.log_scales + d_scales,
        branch.opacity_logits + d_opacity.squeeze(-1),
        branch.colors + d_colors,
    )


def sh_colors(
    sh: Float[Tensor, "N K C"],
    means: Float[Tensor, "B N 3"],
    skin: Float[Tensor, " N"],
    poses: Float[Tensor, "B 2 3 4"],
) -> Float[Tensor, "B N C"]:
    """The twin of `avatar.raster.sh_colors`."""
    s = skin[None, :, None, None]
    blended = s * poses[:, None, 0] + (1 - s) * poses[:, None, 1]
    position = (blended[..., :3] @ means[..., None])[..., 0] + blended[..., 3]
    along = (blended[..., :3].transpose(-1, -2) @ position[..., None])[..., 0]
    x, y, z = torch.nn.functional.normalize(along, dim=-1, eps=QUAT_EPS).unbind(-1)
    factors = torch.stack([torch.full_like(x, SH_0), -SH_1 * y, SH_1 * z, -SH_1 * x], dim=-1)[..., : sh.shape[1]]
    return torch.einsum("bnk,nkc->bnc", factors, sh)


def draw(
    branches: Sequence[MovingGaussians],
    poses: Float[Tensor, "B 2 3 4"],
    intrinsics: Float[Tensor, " 4"],
    background: Float[Tensor, "H W 3"] | None,
    units: Float[Tensor, " 14"],
    width: int,
    height: int,
    coverage: int = 0,
    grad_sink: Tensor | None = None,
    rasterizer: Callable[..., tuple[Tensor, Tensor]] = rasterize,
) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H W"]]:
    """The twin of `avatar.raster.draw`, over this module's rasterizer or another."""
    parts = [animate(b, units) for b in branches]
    means, quats, log_scales, opacity_logits, colors = (torch.cat(p, dim=1) for p in zip(*parts, strict=True))
    layers = torch.cat([torch.full_like(b.skin_logits, i, dtype=torch.int32) for i, b in enumerate(branches)])
    if coverage:
        hot = torch.nn.functional.one_hot(layers.long(), max(len(branches), coverage))[:, :coverage].to(colors.dtype)
        colors = torch.cat([colors, hot.expand(colors.shape[0], -1, -1)], dim=-1)
    skin = torch.sigmoid(torch.cat([b.skin_logits for b in branches]))
    image, alpha = rasterizer(
        means, quats, log_scales, opacity_logits, colors, skin, layers, poses, intrinsics, width, height, grad_sink
    )
    if background is not None:
        behind = (1 - alpha).unsqueeze(-1) * background
        image = torch.cat([image[..., :3] + behind, image[..., 3:]], dim=-1)
    return image, alpha


def accumulate_sink(grad_sink: Tensor, v_mean2d: Float[Tensor, "B N 2"], visible: Tensor) -> None:
    """Add |dL/d mean2d| (px units) and the number of images a splat is visible in to `grad_sink` (N, 2), in place."""
    with torch.no_grad():
        grad_sink[:, 0] += (torch.linalg.vector_norm(v_mean2d, dim=-1) * visible).sum(0).to(grad_sink.dtype)
        grad_sink[:, 1] += visible.sum(0).to(grad_sink.dtype)


def ssim_kernel(dtype: torch.dtype, device: torch.device | str = "cpu") -> Float[Tensor, " 11"]:
    """The window of Wang et al., "Image quality assessment", 2004: one axis of the separable Gaussian, sum 1."""
    t = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    g = torch.exp(-t * t / (2 * SSIM_SIGMA**2))
    return (g / g.sum()).to(dtype=dtype, device=device)


def ssim_map(image: Float[Tensor, "B H W C"], target: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
    """SSIM at every pixel and channel, zero padding at the border as in 3DGS."""
    channels = image.shape[-1]
    g = ssim_kernel(image.dtype, image.device).expand(channels, 1, -1)
    half = SSIM_WINDOW // 2

    def blur(t: Tensor) -> Tensor:
        t = torch.nn.functional.conv2d(t, g[..., None], padding=(half, 0), groups=channels)
        return torch.nn.functional.conv2d(t, g[..., None, :], padding=(0, half), groups=channels)

    x, y = image.permute(0, 3, 1, 2), target.permute(0, 3, 1, 2)
    mu_x, mu_y = blur(x), blur(y)
    variances = blur(x * x + y * y) - mu_x * mu_x - mu_y * mu_y
    covariance = blur(x * y) - mu_x * mu_y
    top = (2 * mu_x * mu_y + SSIM_C1) * (2 * covariance + SSIM_C2)
    bottom = (mu_x * mu_x + mu_y * mu_y + SSIM_C1) * (variances + SSIM_C2)
    return (top / bottom).permute(0, 2, 3, 1)


def l1_ssim(
    image: Float[Tensor, "B H W C"], target: Float[Tensor, "B H W C"], weights: Float[Tensor, "B H W"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Twin of `avatar.raster.l1_ssim`: weighted mean absolute error and weighted mean SSIM."""
    # a sum of weights of zero gives 0 and 0, with zero gradients
    share = weights / (weights.sum() * image.shape[-1]).clamp(min=torch.finfo(weights.dtype).tiny)
    l1 = ((image - target).abs() * share[..., None]).sum()
    ssim = (ssim_map(image, target) * share[..., None]).sum()
    return l1, ssim
