"""Learning rates and momenta as arithmetic, one value after the other."""

import math

import pytest

from frenzy.training import schedules
from frenzy.training.schedules import SCHEDULES


def rate(name, step, steps, epochs=1, peak=0.1):
    return SCHEDULES[name].rate(step, steps, epochs, peak)


def momentum(name, step, steps, high, low):
    return SCHEDULES[name].momentum(step, steps, high, low)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_stays_between_0_and_its_peak_and_names_its_source(name):
    rates = [rate(name, step, 1260, 126) for step in range(1260)]
    assert all(0 < value <= 0.1 * (1 + 1e-12) for value in rates)
    assert max(rates) == pytest.approx(0.1)
    assert SCHEDULES[name].source
    momenta = {momentum(name, step, 1260, 0.9, 0.9) for step in range(1260)}
    assert all(value == pytest.approx(0.9, abs=1e-15) for value in momenta)


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_scale_with_the_peak(name):
    for step in (0, 7, 31, 99):
        assert rate(name, step, 100, 5, peak=0.3) == pytest.approx(3 * rate(name, step, 100, 5))


@pytest.mark.parametrize("name", SCHEDULES)
def test_one_step_in_all_is_a_run_too(name):
    assert 0 < rate(name, 0, 1, 1) <= 0.1


def test_constant():
    assert {rate("constant", step, 10) for step in range(10)} == {0.1}


def test_half_a_cosine():
    assert [rate("cosine", step, 1000) for step in (0, 500)] == pytest.approx([0.1, 0.05])
    assert rate("cosine", 750, 1000) == pytest.approx(0.05 * (1 - math.sqrt(0.5)))
    assert rate("cosine", 1000, 1000) == pytest.approx(0, abs=1e-15)


def test_warm_restarts_end_where_the_paper_says():
    """Lengths 2, 4, 8 …, so that cycles end after 2, 6, 14, 30, 62, 126 and 254 epochs, each from 0.1 to 0.0001."""
    per_epoch = 400
    steps = 254 * per_epoch
    ends = [2, 6, 14, 30, 62, 126, 254]
    for begin, end in zip([0, *ends], ends, strict=False):
        first, last, middle = (rate("warm_restarts", epoch * per_epoch + i, steps, 254) for epoch, i in
                               ((begin, 0), (end, -1), ((begin + end) // 2, 0)))  # fmt: skip
        assert first == pytest.approx(0.1)
        almost = math.cos(math.pi * (1 - 1 / ((end - begin) * per_epoch)))
        assert last == pytest.approx(0.0001 + (0.1 - 0.0001) * (1 + almost) / 2, rel=1e-6)
        assert middle == pytest.approx((0.1 + 0.0001) / 2)


@pytest.mark.parametrize(
    ("epochs", "lengths"),
    [(2, (2,)), (254, (2, 4, 8, 16, 32, 64, 128)), (126, (2, 4, 8, 16, 32, 64)), (1, (1,)), (10, (2, 4, 4))],
)
def test_cycles_double_and_the_last_is_cut(epochs, lengths):
    assert schedules.restart_lengths(epochs) == lengths
    assert sum(lengths) == epochs


def test_irnets_rates():
    """Its table 2: 5 epochs up from 0.01 of 0.2, then 50 down to 0.001 of it; and the half of each way."""
    per_epoch, epochs = 195, 55
    steps = per_epoch * epochs

    def at(epoch):
        return rate("irnet", round(epoch * per_epoch), steps, epochs, peak=0.2)

    assert at(0) == pytest.approx(0.002)
    assert at(1) == pytest.approx(0.002 + 0.2 * (0.2 - 0.002))
    assert at(2.4) == pytest.approx(0.002 + 2.4 / 5 * (0.2 - 0.002))
    assert at(5) == pytest.approx(0.2)
    assert at(30) == pytest.approx((0.2 + 0.0002) / 2)
    assert at(55) == pytest.approx(0.0002)
    assert rate("irnet", steps - 1, steps, epochs, peak=0.2) == pytest.approx(0.0002, rel=1e-4)


def test_a_line_up_and_a_cosine_to_0():
    """From a tenth over a fifth of the run: 160 epochs of 390 steps."""
    steps = 160 * 390
    assert rate("linear_cosine", 0, steps) == pytest.approx(0.01)
    assert rate("linear_cosine", 16 * 390, steps) == pytest.approx((0.01 + 0.1) / 2)
    assert rate("linear_cosine", 32 * 390, steps) == pytest.approx(0.1)
    assert rate("linear_cosine", 96 * 390, steps) == pytest.approx(0.05)
    assert rate("linear_cosine", steps, steps) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("name", "epochs", "ends"), [("step", 200, (60, 120, 180, 200)), ("step_half", 164, (82, 123, 164))])
def test_steps_down(name, epochs, ends):
    """A tenth after each: 60, 120 and 180 of 200 epochs; half and three quarters, 82 and 123 of 164."""
    per_epoch = 390
    expected = 0.1
    for begin, end in zip((0, *ends), ends, strict=False):
        for step in (begin * per_epoch, end * per_epoch - 1):
            assert rate(name, step, epochs * per_epoch, epochs) == pytest.approx(expected)
        expected /= 10


def test_one_cycles_rate():
    """30 % up from a 25th, then down to a 250,000th; a cosine is half way at half its time."""
    assert rate("one_cycle", 0, 1000) == pytest.approx(0.1 / 25)
    assert rate("one_cycle", 150, 1000) == pytest.approx((0.1 / 25 + 0.1) / 2)
    assert rate("one_cycle", 300, 1000) == pytest.approx(0.1)
    assert rate("one_cycle", 650, 1000) == pytest.approx((0.1 + 0.1 / 250_000) / 2)
    assert rate("one_cycle", 1000, 1000) == pytest.approx(0.1 / 250_000)


def test_one_cycles_momentum_is_low_where_the_rate_is_high():
    """fastai: 0.95, 0.85, 0.95."""
    assert momentum("one_cycle", 0, 1000, 0.95, 0.85) == pytest.approx(0.95)
    assert momentum("one_cycle", 150, 1000, 0.95, 0.85) == pytest.approx(0.9)
    assert momentum("one_cycle", 300, 1000, 0.95, 0.85) == pytest.approx(0.85)
    assert momentum("one_cycle", 650, 1000, 0.95, 0.85) == pytest.approx(0.9)
    assert momentum("one_cycle", 1000, 1000, 0.95, 0.85) == pytest.approx(0.95)
    assert {momentum("step", step, 10, 0.95, 0.85) for step in range(10)} == {0.95}


def test_a_quarter_of_a_cosine():
    assert schedules.one_cycle(475, 1000, 0.1) == pytest.approx(
        0.1 / 250_000 + (0.1 - 0.1 / 250_000) * (1 + math.sqrt(0.5)) / 2
    )
