import math

import numpy as np
import pytest

from sweep.noise import Estimate, noise_of_cells, pooled_sd, prior_sd, quantile, scatter_sd, sd_by_error


def test_prior_is_the_seed_noise_and_the_sampling_error_of_the_images():
    p = 0.8
    expected = math.sqrt(0.1**2 + 1e4 * p * (1 - p) / 10_000)
    assert prior_sd(np.array([80.0]), np.array([10_000.0]))[0] == pytest.approx(expected, rel=1e-3)


def test_prior_of_a_perfect_score_is_not_certainty():
    assert prior_sd(np.array([100.0]), np.array([360.0]))[0] > 0.15


def test_prior_without_a_number_of_images_is_a_tenth_of_a_point():
    assert prior_sd(np.array([80.0, 80.0]), np.array([np.nan, 0.0])).tolist() == [0.10, 0.10]


def test_pooling_divides_the_squares_within_cells_by_the_degrees_of_freedom():
    values = np.array([1.0, 3.0, 10.0, 10.0, 13.0, 50.0])
    sd, df = pooled_sd(values, np.array([0, 0, 1, 1, 1, 2]))
    assert df == 3
    assert sd == pytest.approx(math.sqrt((2.0 + 6.0) / 3))


def test_sources_in_their_order():
    values, cells, images = np.array([80.0, 80.4, 81.0]), np.array([0, 0, 1]), np.full(3, 1000.0)
    assert noise_of_cells(values, cells, images, 0.3).source == "given: 0.3 points"
    replicated = noise_of_cells(values, cells, images)
    assert replicated.source == "replicate seeds, 1 degrees of freedom"
    assert replicated.sd.tolist() == pytest.approx([math.sqrt(0.08)] * 2)
    prior = noise_of_cells(values[1:], np.array([0, 1]), images[1:])
    assert math.isinf(prior.df)
    assert "1000 images" in prior.source


def test_seeds_that_agree_exactly_do_not_make_noise_vanish():
    noise = noise_of_cells(np.array([97.5, 97.5]), np.array([0, 0]), np.full(2, 360.0))
    assert noise.sd[0] > 0.5
    assert noise.source.startswith("prior")


@pytest.mark.parametrize(("df", "expected"), [(1, 12.7062), (10, 2.2281), (math.inf, 1.9600)])
def test_quantiles_are_those_of_the_tables(df, expected):
    assert quantile(0.975, df) == pytest.approx(expected, abs=1e-4)


def test_the_side_needs_the_whole_interval():
    assert Estimate(1.0, 0.5).side() == 1
    assert Estimate(-1.0, 0.5).side() == -1
    assert Estimate(1.0, 0.5, df=2).side() == 0


GRID = np.array([[d, w, r] for d in (5.0, 6.0, 7.0) for w in (-2.0, -1.5, -1.0) for r in (4.0, 5.0)])
CELLS = np.arange(len(GRID))
IMAGES = np.full(len(GRID), 1e6)  # so many that their sampling error does not count


def smooth(grid):
    """An error that falls with every axis, as a power law with curvature."""
    return np.exp(3 - 0.1 * grid.sum(axis=1) + 0.01 * (grid[:, 0] - 6) ** 2)


def rough(grid):
    """Accuracies whose errors scatter by a factor that has nothing to do with the axes."""
    return 100 - smooth(grid) * np.exp(0.5 * np.random.default_rng(2).standard_normal(len(grid)))


def test_scatter_of_a_smooth_surface_is_nothing():
    sd, df = scatter_sd(100 - smooth(GRID), IMAGES, GRID)
    assert df == 18 - 9  # two resolutions have no curvature of their own
    assert sd.max() < 1e-9


def test_scatter_finds_the_noise_that_was_put_in():
    generator = np.random.default_rng(1)
    relative = [
        np.mean(
            scatter_sd(100 - smooth(GRID) * np.exp(0.2 * generator.standard_normal(18)), IMAGES, GRID)[0] / smooth(GRID)
        )
        for _ in range(200)
    ]
    assert np.mean(relative) == pytest.approx(0.2, rel=0.1)


def test_one_seed_per_cell_takes_the_scatter_where_it_exceeds_the_prior():
    top1 = rough(GRID)
    noise = noise_of_cells(top1, CELLS, IMAGES, positions=GRID)
    assert noise.df == 9
    assert noise.source.startswith("one seed per cell")
    assert (noise.sd > 1).all()


def test_a_smooth_table_keeps_the_prior():
    noise = noise_of_cells(100 - smooth(GRID), CELLS, IMAGES, positions=GRID)
    assert math.isinf(noise.df)
    assert noise.source.startswith("prior")


def test_published_cells_keep_the_prior_however_they_scatter():
    top1 = rough(GRID)
    noise = noise_of_cells(top1, CELLS, np.full(len(GRID), np.nan), positions=GRID)
    assert noise.sd == pytest.approx(0.10)


@pytest.mark.parametrize("positions", [GRID[:8], np.full((18, 3), np.nan)], ids=["too few", "unknown"])
def test_scatter_says_nothing_where_it_cannot_tell(positions):
    k = len(positions)
    sd, df = scatter_sd(np.full(k, 90.0), np.full(k, 100.0), positions)
    assert np.isnan(sd).all()
    assert df == 0


def replicated(power, *, cells=40, seeds=2, random=None):
    """Runs of cells whose noise is proportional to error^power, their cells and the errors."""
    random = random or np.random.default_rng(0)
    errors = np.geomspace(5, 40, cells)
    sd = 0.3 * (errors / errors.mean()) ** power
    values = 100 - errors[:, None] + sd[:, None] * random.standard_normal((cells, seeds))
    return values.ravel(), np.repeat(np.arange(cells), seeds), errors, sd


@pytest.mark.parametrize("power", [1.0, -1.0])
def test_noise_that_follows_the_error_is_followed(power):
    values, cells, errors, sd = replicated(power, cells=400, seeds=3)
    found = sd_by_error(values, cells, errors)
    assert found == pytest.approx(sd, rel=0.25)
    noise = noise_of_cells(values, cells, np.full(len(values), np.nan))
    assert noise.source == "replicate seeds, 800 degrees of freedom, following the cells' error"
    assert noise.sd[-1] / noise.sd[0] == pytest.approx(8**power, rel=0.5)


def test_equal_noise_is_seldom_taken_for_a_trend():
    random = np.random.default_rng(1)
    found = [sd_by_error(*replicated(0.0, random=random)[:3]) is not None for _ in range(400)]
    assert sum(found) < 40  # 5 % of 400 are 20, with a standard deviation of 4.4


def test_trends_need_replicates_and_errors_that_differ():
    values, cells, errors, _ = replicated(1.0, cells=10)
    assert sd_by_error(values, cells, errors) is None
    values, cells, errors, _ = replicated(1.0)
    assert sd_by_error(values, cells, np.full(len(errors), 20.0)) is None


def test_variances_of_the_trend_sum_to_those_within_cells():
    """A property of the greatest likelihood: the fitted variances explain the squares on average."""
    values, cells, errors, _ = replicated(1.0)
    found = sd_by_error(values, cells, errors)
    means = np.bincount(cells, values) / 2
    squares = np.bincount(cells, (values - means[cells]) ** 2)
    assert np.sum(squares / found**2) == pytest.approx(len(errors))
