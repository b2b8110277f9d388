import math

import numpy as np
import pytest

from sweep.noise import Estimate, noise_of_cells, pooled_sd, prior_sd, quantile


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
