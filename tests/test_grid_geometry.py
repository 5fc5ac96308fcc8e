"""Manifold geometry against published numbers, closed formulas, brute-force optimisation and counting."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats

from course_utils.grid import geometry
from course_utils.grid.clouds import project_on_cone


@pytest.fixture(autouse=True)
def no_warnings():
    """A NaN in the results is a result; NumPy's complaints about it would fill an analysis."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def circle(radius: float, samples: int = 120) -> np.ndarray:
    angle = 2 * np.pi * np.arange(samples) / samples
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def sphere(radius: float, samples: int = 400) -> np.ndarray:
    """A spiral of points that covers the sphere evenly, with the mirror image of each, so that the centre is exact."""
    height = 1 - (np.arange(samples) + 0.5) / samples
    angle = np.pi * (1 + 5**0.5) * np.arange(samples)
    flat = np.sqrt(1 - height**2)
    half = radius * np.stack([flat * np.cos(angle), flat * np.sin(angle), height], axis=1)
    return np.concatenate([half, -half])


def orthogonal_frame(size: int, seed: int = 0) -> np.ndarray:
    return scipy.stats.ortho_group.rvs(size, random_state=seed)


def apart(clouds: list[np.ndarray], size: int, seed: int = 0) -> list[np.ndarray]:
    """Clouds given around 0 get centres of norm 1 and axes, all orthogonal to each other."""
    frame, placed, first = orthogonal_frame(size, seed), [], 0
    for cloud in clouds:
        own = frame[first : first + cloud.shape[1] + 1]
        placed.append(own[0] + cloud @ own[1:])
        first += len(own)
    return placed


def over_gaussians(function, dimension: int) -> float:
    """E function(|t|, t0) for a Gaussian t of `dimension` and one more Gaussian t0, on a fine grid."""
    length, length_step = np.linspace(0, 9, 2001, retstep=True)
    height, height_step = np.linspace(-9, 9, 2001, retstep=True)
    weight = scipy.stats.chi.pdf(length, dimension)[:, None] * scipy.stats.norm.pdf(height)
    return float((function(length[:, None], height) * weight).sum() * length_step * height_step)


def sphere_capacity(radius: float, dimension: int, kappa: float = 0.0) -> float:
    """Chung, Lee & Sompolinsky 2018: spheres touch a margin nowhere, in one point, or with their whole body."""

    def cost(length, t0):
        height = t0 + kappa
        touched = np.maximum(height + radius * length, 0) ** 2 / (1 + radius**2)
        return np.where(length <= radius * height, height**2 + length**2, touched)

    return 1 / over_gaussians(cost, dimension)


def anchor_length(length, height, radius):
    """Distance of a ball's anchor point from its centre: on the surface, or inside where all of the ball touches."""
    inside = np.minimum(radius, length / np.where(height > 0, height, 1.0))
    return np.where(height > 0, inside, radius)


# --- the projection on a cone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_projection_on_a_cone_against_a_general_solver(seed):
    generator = rng(seed)
    rows, probe = generator.normal(size=(6, 4)) + 1.0, 2 * generator.normal(size=4)
    primal = scipy.optimize.minimize(
        lambda v: ((v - probe) ** 2).sum(),
        np.zeros(4),
        jac=lambda v: 2 * (v - probe),
        constraints={"type": "ineq", "fun": lambda v: -rows @ v, "jac": lambda v: -rows},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    projection, coefficients = project_on_cone(rows, probe)
    np.testing.assert_allclose(probe - projection, primal.x, atol=1e-5)
    np.testing.assert_allclose(coefficients @ rows, projection)
    assert (coefficients >= 0).all()
    assert (rows @ (probe - projection) <= 1e-9).all()  # what is left satisfies every constraint,
    assert abs(projection @ (probe - projection)) < 1e-9  # and is orthogonal to what was taken


def test_projection_by_hand():
    quadrant = np.eye(2)
    np.testing.assert_allclose(project_on_cone(quadrant, [3.0, -4.0])[0], [3.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(project_on_cone(quadrant, [-3.0, -4.0])[0], [0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(project_on_cone(quadrant, [3.0, 4.0])[0], [3.0, 4.0])
    with pytest.raises(ValueError, match="do not fit"):
        project_on_cone(quadrant, [1.0, 2.0, 3.0])


# --- one manifold, mean field ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [0.0, 0.7])
def test_points_have_the_capacity_of_a_perceptron(kappa):
    """Gardner 1988; 2 without a margin."""
    expected = 1 / scipy.integrate.quad(lambda t: (t + kappa) ** 2 * scipy.stats.norm.pdf(t), -kappa, 9)[0]
    capacity, radius, dimension = geometry.single_geometry(np.zeros((3, 4)), kappa, num_probes=8000, rng=rng())
    assert capacity == pytest.approx(expected, rel=0.06)
    assert (radius, dimension) == (0.0, 0.0)
    if kappa == 0:
        assert expected == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("cloud", "dimension", "radius", "kappa"),
    [
        (circle, 2, 0.5, 0.0),
        (circle, 2, 2.0, 0.0),
        (circle, 2, 2.0, 0.5),
        (circle, 2, 0.5, 1.0),
        (sphere, 3, 1.0, 0.0),
    ],
)
def test_spheres_against_the_closed_formula(cloud, dimension, radius, kappa):
    found = geometry.single_geometry(cloud(radius), kappa, num_probes=3000, rng=rng(1))
    assert found[0] == pytest.approx(sphere_capacity(radius, dimension, kappa), rel=0.05)

    expected = over_gaussians(lambda length, t0: anchor_length(length, t0 + kappa, radius) ** 2, dimension)
    assert found[1] == pytest.approx(math.sqrt(expected), rel=0.02)
    assert found[2] == pytest.approx(dimension, rel=0.01)


def project_on_simplicial_cone(rows: np.ndarray, probes: np.ndarray) -> np.ndarray:
    """The nearest of the projections on all faces, tried one by one."""
    best = np.zeros_like(probes)
    for size in range(1, len(rows) + 1):
        for face in itertools.combinations(rows, size):
            coefficients = probes @ np.linalg.pinv(np.array(face))
            points = coefficients @ np.array(face)
            nearer = np.linalg.norm(probes - points, axis=1) < np.linalg.norm(probes - best, axis=1)
            best[(coefficients >= 0).all(axis=1) & nearer] = points[(coefficients >= 0).all(axis=1) & nearer]
    return best


def test_a_triangle_against_all_its_faces():
    corners = np.array([[2.0, 0.0], [-1.0, 0.3], [-1.0, -0.2]])
    probes = rng(1).normal(size=(20000, 3))
    found = project_on_simplicial_cone(np.column_stack([corners, np.ones(3)]), probes)
    touched = found[:, 2] > 0
    anchors = corners[np.argmax(probes[:, :2] @ corners.T, axis=1)]
    anchors[touched] = found[touched, :2] / found[touched, 2:]
    cosine = (anchors * probes[:, :2]).sum(axis=1)
    cosine /= np.linalg.norm(anchors, axis=1) * np.linalg.norm(probes[:, :2], axis=1)
    capacity, radius, dimension = geometry.single_geometry(corners, num_probes=20000, rng=rng(2))
    assert capacity == pytest.approx(1 / (found**2).sum(axis=1).mean(), rel=0.03)
    assert radius == pytest.approx(np.sqrt(anchors.var(axis=0).sum()), rel=0.02)
    assert dimension == pytest.approx(2 * cosine.mean() ** 2, rel=0.02)
    assert 2 * (cosine**2).mean() > 1.05 * dimension  # the square of the mean, not the mean of the squares


def test_capacity_falls_with_radius_dimension_and_margin():
    generator = rng(5)
    cloud = generator.normal(size=(40, 12))
    cloud /= np.linalg.norm(cloud, axis=1, keepdims=True)

    def capacity(points, kappa=0.0):
        return geometry.single_geometry(points, kappa, 400, rng(2))[0]

    by_radius = [capacity(radius * cloud) for radius in (0.1, 0.5, 1.0, 3.0)]
    by_dimension = [capacity(cloud[:, :d] / np.linalg.norm(cloud[:, :d], axis=1)[:, None]) for d in (2, 5, 12)]
    by_margin = [capacity(cloud, kappa) for kappa in (0.0, 0.5, 2.0)]
    for values in (by_radius, by_dimension, by_margin):
        assert values == sorted(values, reverse=True)
        assert values[0] > 1.2 * values[-1]


def test_more_points_inside_the_hull_change_nothing():
    cloud = rng().normal(size=(20, 5))
    inside = np.concatenate([cloud, 0.5 * (cloud[:10] + cloud[10:])])
    outer = geometry.single_geometry(cloud, num_probes=100, rng=rng(3))
    turned = geometry.single_geometry(np.concatenate([cloud, cloud]), num_probes=100, rng=rng(3))
    np.testing.assert_allclose(turned, outer, rtol=1e-6)
    # the extra points turn the coordinates and so meet other probes
    np.testing.assert_allclose(
        geometry.single_geometry(inside, num_probes=2000, rng=rng(3)),
        geometry.single_geometry(cloud, num_probes=2000, rng=rng(4)),
        rtol=0.05,
    )


# --- many manifolds, mean field --------------------------------------------------------------------------------------


def test_gaussian_clouds_have_the_published_geometry():
    """The known answer of the public analysis code: capacity 0.04, radius 1.47 or 1.48, dimension 36.17."""
    generator = rng()
    clouds = [generator.normal(size=(50, 5000)) for _ in range(100)]
    found = geometry.manifold_geometry(clouds, num_probes=50, rng=generator)
    assert found.capacity == pytest.approx(0.04, abs=0.001)
    assert found.radius == pytest.approx(1.475, abs=0.03)
    assert found.dimension == pytest.approx(36.17, abs=0.6)
    assert found.centre_correlation == pytest.approx(0.014, abs=0.001)  # sqrt(2 / pi / 5000) and 1 / 99 of centring
    assert found.capacities.shape == found.radii.shape == found.dimensions.shape == (100,)
    assert found.capacity == pytest.approx(scipy.stats.hmean(found.capacities))
    assert found.radius == pytest.approx(found.radii.mean())
    assert found.dimension == pytest.approx(found.dimensions.mean())


def test_rotation_scale_and_shift_change_nothing():
    generator = rng(3)
    clouds = [generator.normal(size=(m, 30)) + 2 * generator.normal(size=30) for m in (12, 20, 40, 15, 15)]
    frame = orthogonal_frame(30)
    first = geometry.manifold_geometry(clouds, num_probes=50, rng=rng())
    for other in (
        [cloud @ frame for cloud in clouds],
        [1e-4 * cloud for cloud in clouds],
        [1e5 * cloud for cloud in clouds],
        [cloud + 7.0 for cloud in clouds],
    ):
        found = geometry.manifold_geometry(other, num_probes=50, rng=rng())
        for name in ("capacities", "radii", "dimensions", "centre_correlation"):
            np.testing.assert_allclose(getattr(found, name), getattr(first, name), rtol=1e-4)


def test_same_seed_same_numbers():
    clouds = [rng(seed).normal(size=(10, 20)) for seed in range(4)]
    numbers = [geometry.manifold_geometry(clouds, num_probes=20, rng=rng(seed)).capacity for seed in (0, 0, 1)]
    assert numbers[0] == numbers[1] != numbers[2]


def test_radius_is_relative_to_the_centre():
    """Four manifolds with centres on a tetrahedron: the mean of all is 0 and the centres keep their norm."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    clouds = [np.concatenate([np.tile(5.0 * corner, (120, 1)), circle(4.0)], axis=1) for corner in corners]
    found = geometry.manifold_geometry(clouds, num_probes=1500, rng=rng())
    assert found.num_removed == 0
    assert found.centre_correlation == pytest.approx(1 / 3)
    ratio = 4 / (5 * math.sqrt(3))
    assert found.capacity == pytest.approx(sphere_capacity(ratio, 2), rel=0.05)
    assert found.dimension == pytest.approx(2.0, rel=0.01)


def test_directions_that_the_centres_share_are_removed():
    generator = rng(2)
    frame = orthogonal_frame(80)
    clouds = [centre + 0.1 * generator.normal(size=(15, 80)) for centre in frame[:20]]
    plain = geometry.manifold_geometry(clouds, num_probes=100, rng=rng())
    assert plain.num_removed <= 2 and plain.centre_correlation < 0.15
    for count in (1, 2):
        shifts = 4 * generator.normal(size=(20, count)) @ frame[-count:]
        mixed = [cloud + shift for cloud, shift in zip(clouds, shifts, strict=True)]
        found = geometry.manifold_geometry(mixed, num_probes=100, rng=rng())
        assert found.num_removed >= count and found.centre_correlation > 0.4
        assert found.capacity == pytest.approx(plain.capacity, rel=0.1)
        assert found.radius == pytest.approx(plain.radius, rel=0.1)


def test_the_shared_direction_is_the_best_one():
    """Four centres in three dimensions: K is at most 2, and K = 1 can be searched on a fine sphere of directions."""
    generator = rng(11)
    centres = np.outer([3.0, -2.0, 2.5, -3.5], [1.0, 0.5, -1.0]) + 0.5 * generator.normal(size=(4, 3))
    centres -= centres.mean(axis=0)

    def cost(direction):
        rest = centres - np.outer(centres @ direction, direction)
        unit = rest / np.linalg.norm(rest, axis=1, keepdims=True)
        return ((unit @ unit.T) ** 2).sum()

    best = min(cost(direction) for direction in sphere(1.0, 4000)[:4000])
    start = generator.normal(size=(3, 1))
    value, gradient = geometry._squared_cosines(start.ravel(), centres)
    assert value == pytest.approx(cost(start.ravel() / np.linalg.norm(start)))
    numeric = scipy.optimize.approx_fprime(start.ravel(), lambda w: geometry._squared_cosines(w, centres)[0], 1e-7)
    np.testing.assert_allclose(gradient, numeric, atol=1e-4)
    found = geometry._shared_directions(centres, rng())
    np.testing.assert_allclose(found.T @ found, np.eye(found.shape[1]), atol=1e-9)
    assert found.shape[1] == 1
    assert cost(found[:, 0]) < best + 0.05


def test_two_manifolds_and_manifolds_without_a_centre():
    pair = [rng(0).normal(size=(20, 10)) + 2, rng(1).normal(size=(30, 10)) - 2]
    found = geometry.manifold_geometry(pair, num_probes=50, rng=rng())
    assert found.num_removed == 0 and found.centre_correlation == pytest.approx(1.0)  # always opposite
    assert 0 < found.capacity < 2
    dead = geometry.manifold_geometry([np.zeros((5, 4))] * 3, num_probes=10, rng=rng())
    assert math.isnan(dead.capacity) and math.isnan(dead.radius) and math.isnan(dead.centre_correlation)
    row = [pair[0] - pair[0].mean(axis=0) + shift for shift in (-1.0, 0.0, 1.0)]  # one centre is the mean of all
    middle = geometry.manifold_geometry(row, num_probes=10, rng=rng())
    np.testing.assert_array_equal(np.isnan(middle.radii), [False, True, False])
    assert math.isnan(middle.capacity) and math.isnan(middle.centre_correlation)
    same = geometry.manifold_geometry([pair[0], pair[0]], num_probes=10, rng=rng())
    assert math.isnan(same.capacity)


# --- all manifolds together ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "size"), [(6, 20), (12, 12), (12, 6), (9, 4)])
def test_random_points_against_cover(count, size):
    """P points in general position: E |p|^2 = E min(Binomial(P, 1/2), N), and the labellings that Cover 1965 counts."""
    binomial = scipy.stats.binom(count, 0.5)
    expected = sum(binomial.pmf(k) * min(k, size) for k in range(count + 1))
    separable = sum(math.comb(count - 1, k) for k in range(size)) / 2 ** (count - 1)
    results = []
    for seed in range(12):
        points = list(rng(seed).normal(size=(count, 1, size)))
        results.append(geometry.joint_geometry(points, num_probes=150, rng=rng(100 + seed)))
    assert np.mean([count / found.capacity for found in results]) == pytest.approx(expected, rel=0.04)
    assert np.mean([found.inseparable for found in results]) == pytest.approx(1 - separable, abs=0.04)
    if count <= size:
        assert scipy.stats.hmean([found.capacity for found in results]) == pytest.approx(2.0, rel=0.04)
    for found in results:
        assert (found.radius, found.dimension) == (0.0, 0.0)
        assert math.isnan(found.axis_alignment) and math.isnan(found.approx_capacity)


@pytest.mark.parametrize(("cloud", "dimension", "radius"), [(circle, 2, 0.5), (circle, 2, 3.0), (sphere, 3, 2.0)])
def test_spheres_that_know_nothing_of_each_other_have_their_single_capacity(cloud, dimension, radius):
    clouds = apart([cloud(radius, 100 if dimension == 2 else 150)] * 4, size=20)
    found = geometry.joint_geometry(clouds, num_probes=500, rng=rng())
    expected = sphere_capacity(radius, dimension)
    assert found.capacity == pytest.approx(expected, rel=0.06)
    assert found.dimension == pytest.approx(dimension, rel=0.07)
    assert found.inseparable == 0.0
    for alignment in (found.centre_alignment, found.axis_alignment, found.centre_axis_alignment):
        assert alignment < 0.1

    def share(length, t0, of_centre):  # of |t|^2: for one ball the Gram matrices are the numbers 1 and squared
        squared = anchor_length(length, t0, radius) ** 2
        return length**2 * (1.0 if of_centre else squared) / (1 + squared)

    ratio = over_gaussians(lambda *t: share(*t, False), dimension) / over_gaussians(
        lambda *t: share(*t, True), dimension
    )
    assert found.radius == pytest.approx(math.sqrt(ratio), rel=0.06)
    assert found.approx_capacity == pytest.approx((1 + found.radius**-2) / found.dimension)


def test_joint_capacity_agrees_with_counting():
    """Segments of half-length 1 around centres of norm 1 span quarter planes: capacity 1 for them exactly."""
    segments = apart([np.array([[-1.0], [1.0]])] * 10, size=24)
    assert geometry.joint_geometry(segments, num_probes=500, rng=rng()).capacity == pytest.approx(1.0, rel=0.05)
    assert geometry.simulated_capacity(segments, num_trials=80, rng=rng()) == pytest.approx(1.0, rel=0.15)


def test_simulated_capacity_of_points_and_of_what_cannot_be_separated():
    points = rng(4).normal(size=(12, 1, 30))
    for cloud in (points, points + 2.0):  # Cover 1965: wherever they lie, if the labels are random
        assert geometry.simulated_capacity(list(cloud), num_trials=100, rng=rng()) == pytest.approx(2.0, rel=0.12)
    assert math.isnan(geometry.simulated_capacity([circle(1.0), circle(2.0)], num_trials=10, rng=rng()))
    assert math.isnan(geometry.simulated_capacity([np.zeros((2, 3))] * 2, num_trials=10, rng=rng()))


def test_joint_capacity_falls_with_radius_and_dimension():
    def capacity(radius, dimension):
        cloud = rng(8).normal(size=(30, dimension))
        cloud *= radius / np.linalg.norm(cloud, axis=1, keepdims=True)
        return geometry.joint_geometry(apart([cloud] * 3, size=40), num_probes=200, rng=rng())

    by_radius = [capacity(radius, 6) for radius in (0.2, 0.7, 2.0)]
    by_dimension = [capacity(1.0, dimension) for dimension in (2, 5, 10)]
    assert by_radius[0].capacity > by_radius[1].capacity > by_radius[2].capacity
    assert by_radius[0].radius < by_radius[1].radius < by_radius[2].radius
    assert by_dimension[0].capacity > by_dimension[1].capacity > by_dimension[2].capacity
    assert by_dimension[0].dimension < by_dimension[1].dimension < by_dimension[2].dimension


def test_joint_geometry_does_not_see_rotation_and_scale():
    generator = rng(3)
    clouds = [generator.normal(size=(m, 12)) + 2 * generator.normal(size=12) for m in (8, 14, 10)]
    first = geometry.joint_geometry(clouds, num_probes=60, rng=rng())
    padded = [np.concatenate([cloud, np.zeros((len(cloud), 5))], axis=1) for cloud in clouds]
    for other in (
        [cloud @ orthogonal_frame(12) for cloud in clouds],
        [1e-12 * cloud for cloud in clouds],
        [1e12 * cloud for cloud in clouds],
        [cloud @ orthogonal_frame(17) for cloud in padded],  # silent features carry nothing
    ):
        found = geometry.joint_geometry(other, num_probes=60, rng=rng())
        np.testing.assert_allclose([*vars(found).values()], [*vars(first).values()], rtol=1e-5, atol=1e-9)


def test_anchor_points_by_hand():
    points = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.5], [0.0, 1.0, -0.5]])  # a point and a segment
    parts = [slice(0, 1), slice(1, 3)]

    def anchors(labels, probe):
        return geometry._anchors(points, points * np.array(labels)[[0, 1, 1], None], parts, np.array(probe))

    both, projection = anchors([1, 1], [2.0, 3.0, 0.3])  # inside the cone: 3 = a + b, 0.3 = (a - b) / 2
    np.testing.assert_allclose(projection, [2.0, 3.0, 0.3])
    np.testing.assert_allclose(both, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.1]], atol=1e-12)
    turned, projection = anchors([-1, -1], [-2.0, -3.0, -0.3])
    np.testing.assert_allclose(projection, [-2.0, -3.0, -0.3])
    np.testing.assert_allclose(turned, both)  # points of the manifold itself, whatever its label
    corner, _ = anchors([1, 1], [2.0, 1.0, 9.0])
    np.testing.assert_allclose(corner[1], [0.0, 1.0, 0.5])
    # no point of the segment has a coefficient: the one that comes nearest to it, which depends on the label
    for labels, probe, nearest in (([1, 1], [1.0, -2.0, 0.3], 1), ([1, -1], [1.0, 2.0, 0.3], 2)):
        found, projection = anchors(labels, probe)
        np.testing.assert_allclose(projection, [1.0, 0.0, 0.0], atol=1e-12)
        np.testing.assert_allclose(found[1], points[nearest])


def segment(frame: np.ndarray, centre: int, axis: int, length: float) -> np.ndarray:
    return frame[centre] + np.outer([-length, length], frame[axis])


def test_alignments_of_segments():
    frame = orthogonal_frame(6)
    options = {"num_probes": 300}
    none = geometry.joint_geometry([segment(frame, 0, 1, 1), segment(frame, 2, 3, 1)], rng=rng(), **options)
    axes = geometry.joint_geometry([segment(frame, 0, 1, 1), segment(frame, 2, 1, 1)], rng=rng(), **options)
    crossed = geometry.joint_geometry([segment(frame, 0, 1, 0.5), segment(frame, 1, 0, 0.5)], rng=rng(), **options)
    assert none.centre_alignment < 0.05 and none.axis_alignment < 1e-6 and none.centre_axis_alignment < 1e-6
    assert axes.axis_alignment == pytest.approx(1.0) and axes.centre_alignment < 0.05
    assert crossed.centre_axis_alignment > 0.99 and crossed.axis_alignment < 1e-6
    centres = geometry.joint_geometry([segment(frame, 0, 1, 0.5), segment(frame, 0, 2, 0.5)], rng=rng(), **options)
    assert centres.centre_alignment > 0.95
    opposite = geometry.joint_geometry([frame[:1], -frame[:1]], rng=rng(), **options)
    assert opposite.centre_alignment == pytest.approx(1.0)  # without the sign
    assert none.capacity == pytest.approx(1.0, rel=0.15)  # two quarter planes


def test_manifolds_without_axes_are_left_out_of_the_axis_alignment():
    frame = orthogonal_frame(6)
    clouds = [segment(frame, 0, 1, 1), segment(frame, 2, 1, 1), frame[3:4]]
    assert geometry.joint_geometry(clouds, 100, rng()).axis_alignment == pytest.approx(1.0)


def test_alignments_of_random_manifolds_are_at_chance():
    generator = rng(6)
    clouds = [generator.normal(size=400) * 2 + 0.1 * generator.normal(size=(5, 400)) for _ in range(8)]
    found = geometry.joint_geometry(clouds, num_probes=40, rng=rng())
    chance = math.sqrt(2 / (math.pi * 400))
    assert found.centre_alignment == pytest.approx(chance, rel=0.4)
    assert found.axis_alignment == pytest.approx(chance, rel=0.2)
    assert found.centre_axis_alignment == pytest.approx(chance, rel=0.2)


def test_two_points_by_hand():
    """Two orthogonal points span a quarter plane, E |p|^2 = 1; one point under two labels spans a line or a ray."""
    pair = [np.array([[2.0, 0.0]]), np.array([[0.0, 3.0]])]
    assert geometry.joint_geometry(pair, 2000, rng()).capacity == pytest.approx(2.0, rel=0.05)
    twice = [np.array([[1.0, 1.0]])] * 2
    line = geometry.joint_geometry(twice, 50, rng(), dichotomies=[[1, -1], [-1, 1]])
    assert line.capacity == pytest.approx(2.0) and line.inseparable == 1.0
    ray = geometry.joint_geometry(twice, 2000, rng(), dichotomies=[[1, 1]])
    assert ray.capacity == pytest.approx(4.0, rel=0.1) and ray.inseparable == 0.0


def test_a_probe_inside_the_cone_does_not_mean_inseparable():
    wide = [np.array([[1.0, 0.0]]), np.array([[-0.9, 0.1]])]
    found = geometry.joint_geometry(wide, 200, rng(), dichotomies=[[1, 1]])
    assert found.inseparable == 0.0 and found.capacity < 2.0


def test_capacity_of_overlapping_classes_is_its_floor():
    """float32 features of rank 3: the rounding in the other directions must not be taken for geometry."""
    generator = rng(7)
    basis = generator.normal(size=(3, 20))
    clouds = [(generator.normal(size=(80, 3)) @ basis).astype(np.float32) for _ in range(2)]
    found = geometry.joint_geometry(clouds, 30, rng())
    assert found.capacity == pytest.approx(2 / 3, rel=1e-3)
    assert found.inseparable == 1.0
    assert geometry.manifold_geometry(clouds, num_probes=30, rng=rng()).dimension <= 3.0


def test_features_that_died():
    dead = geometry.joint_geometry([np.zeros((5, 4))] * 2, 10, rng())
    assert all(math.isnan(value) for value in vars(dead).values())
    half = geometry.joint_geometry([np.zeros((5, 4)), rng().normal(size=(6, 4)) + 2], 20, rng())
    assert math.isfinite(half.capacity) and math.isnan(half.centre_alignment)
    # a cloud of zeros asks for nothing: what is left is half of a lone cloud's demand
    twice = geometry.joint_geometry([rng().normal(size=(6, 4)) + 2] * 2, 400, rng(), dichotomies=[[1, 1]])
    alone = geometry.joint_geometry([np.zeros((5, 4)), rng().normal(size=(6, 4)) + 2], 400, rng())
    assert alone.capacity == pytest.approx(twice.capacity, rel=0.1)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [geometry.manifold_geometry, geometry.joint_geometry, geometry.simulated_capacity])
def test_bad_manifolds_are_refused(function):
    cloud = np.ones((3, 4))
    for bad in ([], [cloud], [cloud, np.ones((3, 5))], [cloud, np.ones(4)], [cloud, np.ones((0, 4))]):
        with pytest.raises(ValueError, match="two or more of"):
            function(bad)
    with pytest.raises(ValueError, match="not finite"):
        function([cloud, np.where(np.eye(3, 4) > 0, np.nan, 1.0)])


def test_bad_options_are_refused():
    clouds = [np.ones((3, 4)), np.eye(3, 4)]
    for function in (geometry.manifold_geometry, geometry.joint_geometry):
        with pytest.raises(ValueError, match="num_probes=1"):
            function(clouds, num_probes=1)
    for bad in ([[1, 0]], [[1, -1, 1]], [1, -1], []):
        with pytest.raises(ValueError, match="dichotomies"):
            geometry.joint_geometry(clouds, dichotomies=bad)
    with pytest.raises(ValueError, match="finite"):
        geometry.single_geometry([[1.0, np.inf]])


def test_arguments_are_left_alone():
    clouds = [rng(seed).normal(size=(6, 4)) for seed in range(3)]
    before = [cloud.copy() for cloud in clouds]
    geometry.manifold_geometry(clouds, num_probes=5, rng=rng())
    geometry.joint_geometry(clouds, 5, rng())
    for cloud, copy in zip(clouds, before, strict=True):
        np.testing.assert_array_equal(cloud, copy)
