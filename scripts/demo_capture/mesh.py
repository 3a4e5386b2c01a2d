"""Quad meshes: Catmull-Clark subdivision as a sparse matrix, normals, and small procedural surfaces. Pure NumPy/SciPy.

Because subdivision is linear, it is computed once as a matrix and applied to the deformed coarse vertices each frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse


def _edges(quads: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unique edges (E,2), edge index of each face corner (F,4), number of faces at each edge (E,)."""
    pairs = np.stack([quads, np.roll(quads, -1, axis=1)], axis=-1).reshape(-1, 2)
    edges, inverse, faces = np.unique(np.sort(pairs, axis=1), axis=0, return_inverse=True, return_counts=True)
    return edges, inverse.reshape(-1, 4), faces


def _rows(matrix_rows: int, columns: int, rows, cols, values) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))),
                             shape=(matrix_rows, columns))  # fmt: skip


def catmull_clark(quads: np.ndarray, vertex_count: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """One subdivision step (Catmull and Clark 1978; open borders follow the cubic B-spline curve rule).

    Returns the matrix (V', V) that maps old vertices to new ones and the new quads (4F, 4)."""
    face_count = len(quads)
    edges, corner_edge, edge_faces = _edges(quads)
    ef = np.repeat(np.arange(face_count), 4)
    face_points = _rows(face_count, vertex_count, [ef], [quads.ravel()], [np.full(ef.size, 0.25)])

    # Edge points: mean of the two ends and the two face points; at a border only the ends.
    number = len(edges)
    ends = _rows(number, vertex_count, [np.repeat(np.arange(number), 2)], [edges.ravel()], [np.full(2 * number, 0.5)])
    edge_face = sparse.csr_matrix((np.ones(ef.size), (corner_edge.ravel(), ef)), shape=(number, face_count))
    border = edge_faces == 1
    inner = sparse.diags(np.where(border, 0.0, 0.5))
    mean_faces = sparse.diags(1.0 / edge_faces) @ edge_face @ face_points
    edge_points = (ends - inner @ ends) + inner @ mean_faces

    # Vertex points: (Q + 2R + (n-3)P) / n inside; (1,6,1)/8 along a border.
    incident = sparse.csr_matrix((np.ones(ef.size), (quads.ravel(), ef)), shape=(vertex_count, face_count))
    at_edge = sparse.csr_matrix(
        (np.ones(2 * number), (edges.ravel(), np.repeat(np.arange(number), 2))), shape=(vertex_count, number)
    )
    valence = np.maximum(np.asarray(incident.sum(1)).ravel(), 1)
    edge_valence = np.maximum(np.asarray(at_edge.sum(1)).ravel(), 1)
    identity = sparse.identity(vertex_count, format="csr")
    q = sparse.diags(1 / valence) @ incident @ face_points
    r = sparse.diags(1 / edge_valence) @ at_edge @ ends
    smooth = sparse.diags(1 / valence) @ q + sparse.diags(2 / valence) @ r + sparse.diags((valence - 3) / valence)
    border_edge = at_edge @ sparse.diags(border.astype(float))
    on_border = np.asarray(border_edge.sum(1)).ravel() > 0
    border_count = np.maximum(np.asarray(border_edge.sum(1)).ravel(), 1)
    border_rule = sparse.diags(0.5 / border_count) @ border_edge @ ends + 0.5 * identity
    pick = sparse.diags(on_border.astype(float))
    vertex_points = (identity - pick) @ smooth + pick @ border_rule

    matrix = sparse.csr_matrix(sparse.vstack([vertex_points, edge_points, face_points]))
    e, f = corner_edge + vertex_count, np.arange(face_count) + vertex_count + number
    new = [np.stack([quads[:, k], e[:, k], f, e[:, k - 1]], axis=1) for k in range(4)]
    return matrix, np.concatenate(new)


@dataclass(frozen=True)
class Subdivided:
    """A fine mesh that follows a coarse one: ``fine = matrix @ coarse``."""

    matrix: sparse.csr_matrix
    quads: np.ndarray
    """(F, 4) indices of fine vertices."""
    incidence: sparse.csr_matrix
    """(V_fine, F), sums face vectors at vertices."""

    @property
    def triangles(self) -> np.ndarray:
        """(2F, 3) int32."""
        return np.concatenate([self.quads[:, [0, 1, 2]], self.quads[:, [0, 2, 3]]]).astype(np.int32)

    def normals(self, fine: np.ndarray) -> np.ndarray:
        """Unit vertex normals (V, 3), area weighted."""
        return quad_normals(fine, self.quads, self.incidence)


def incidence_of(quads: np.ndarray, vertex_count: int) -> sparse.csr_matrix:
    """Sparse (V, F) matrix of which vertex belongs to which quad."""
    ones = np.ones(quads.size, np.float32)
    return sparse.csr_matrix((ones, (quads.ravel(), np.repeat(np.arange(len(quads)), 4))), (vertex_count, len(quads)))


def quad_normals(vertices: np.ndarray, quads: np.ndarray, incidence: sparse.csr_matrix) -> np.ndarray:
    """Unit vertex normals (V, 3) from the quads' diagonals."""
    a, b, c, d = (vertices[quads[:, k]] for k in range(4))
    normals = incidence @ np.cross(c - a, d - b)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)


def subdivide(quads: np.ndarray, vertex_count: int, levels: int) -> Subdivided:
    """`levels` Catmull-Clark steps over the quads; vertices no quad uses are dropped from the result."""
    used = np.unique(quads)
    local = np.full(vertex_count, -1)
    local[used] = np.arange(len(used))
    matrix = sparse.csr_matrix((np.ones(len(used)), (np.arange(len(used)), used)), shape=(len(used), vertex_count))
    current, count = local[quads], len(used)
    for _ in range(levels):
        step, current = catmull_clark(current, count)
        matrix = sparse.csr_matrix(step @ matrix)
        count = int(current.max()) + 1
    matrix = sparse.csr_matrix(matrix, dtype=np.float32)
    return Subdivided(matrix, current, incidence_of(current, count))


def grid_quads(rows: int, columns: int, wrap: bool = False) -> np.ndarray:
    """Quads of a (rows, columns) grid of vertices, row-major; `wrap` joins the last column to the first."""
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(columns if wrap else columns - 1), indexing="ij")
    nxt = (c + 1) % columns
    quads = [r * columns + c, r * columns + nxt, (r + 1) * columns + nxt, (r + 1) * columns + c]
    return np.stack(quads, axis=-1).reshape(-1, 4)


def triangulate(quads: np.ndarray) -> np.ndarray:
    """(2F, 3) int32 triangles of (F, 4) quads."""
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32)
