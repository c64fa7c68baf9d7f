"""What is learned, tracked and annealed during training."""

import math
import subprocess
import sys

import mpmath
import numpy as np
import pytest
from scipy import stats

from robustfit.losses import Barron
from robustfit.scale import mad, scale_tau2

torch = pytest.importorskip("torch")

from robustfit.torch import (  # noqa: E402
    AdaptiveRobustLoss,
    GNCSchedule,
    RobustLoss,
    ScaleTracker,
    WelschLoss,
    robust_loss,
)
from robustfit.torch._adaptive import log_partition  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# -- the adaptive loss -----------------------------------------------------------------------


def partition(alpha):
    """Return Z by mpmath, from Barron's formula (his equation 17)."""
    b = 2 - mpmath.mpf(alpha)

    def density(v):
        t = v * v / b
        power = mpmath.log1p(t) * b / 2 if alpha == 0 else b / alpha * ((1 + t) ** (alpha / 2) - 1)
        return mpmath.exp(-power)

    return 2 * mpmath.quad(density, [0, 1, 4, 16, 64, 256, 1024, mpmath.inf])


def test_partition_function_is_that_of_mpmath():
    with mpmath.workdps(25):
        expected = {
            0.0: mpmath.log(mpmath.pi * mpmath.sqrt(2)),
            1.0: mpmath.log(2 * mpmath.e * mpmath.besselk(1, 1)),
        }
        for alpha in (0.25, 0.5, 0.75, 1.25, 1.5, 1.75, 1.9, 1.99, 1.999):
            expected[alpha] = mpmath.log(partition(mpmath.mpf(alpha)))
    alpha = torch.tensor(list(expected), dtype=torch.float64)
    truth = torch.tensor([float(x) for x in expected.values()], dtype=torch.float64)
    torch.testing.assert_close(log_partition(alpha), truth, rtol=1e-12, atol=0)
    torch.testing.assert_close(log_partition(alpha.float()), truth.float(), rtol=1e-6, atol=0)
    # It is even accurate where the normal distribution begins and continuous at the Cauchy's.
    near = torch.tensor([2.0 - 1e-12, 1e-9, 0.0], dtype=torch.float64)
    cauchy = float(expected[0.0])
    limits = torch.tensor([math.log(2.0 * math.pi) / 2.0, cauchy, cauchy], dtype=torch.float64)
    torch.testing.assert_close(log_partition(near), limits, rtol=1e-8, atol=0)


def test_partition_function_has_the_derivative_of_a_likelihood():
    alpha = torch.linspace(0.01, 1.99, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_partition, alpha)
    # d log Z / d alpha = - E d rho / d alpha under the density itself.
    with mpmath.workdps(20):
        at, step = mpmath.mpf("0.5"), mpmath.mpf("1e-6")
        slope = mpmath.log(partition(at + step)) - mpmath.log(partition(at - step))
    half = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(log_partition(half), half)
    assert float(found) == pytest.approx(float(slope / (2 * step)), rel=1e-9)


def test_adaptive_loss_is_a_negative_log_likelihood():
    r = 3.0 * draw(50, dtype=torch.float64)
    for alpha, logpdf in (
        (1e-9, stats.cauchy(scale=0.7 * math.sqrt(2.0)).logpdf),
        (2.0 - 1e-9, stats.norm(scale=0.7).logpdf),
    ):
        criterion = AdaptiveRobustLoss(
            alpha=alpha, scale=0.7, alpha_range=(0.0, 2.0 - 5e-10), reduction="none"
        ).double()
        found = criterion(r, torch.zeros_like(r))
        np.testing.assert_allclose(found.detach(), -logpdf(r.numpy()), rtol=1e-6)
    criterion = AdaptiveRobustLoss(alpha=1.3, scale=0.7, reduction="none").double()
    rho = Barron(1.0, 1.3).rho(r / criterion.scale.detach())
    level = math.log(0.7) + float(mpmath.log(partition(1.3)))
    torch.testing.assert_close(
        criterion(r, torch.zeros_like(r)).detach(), rho + level, rtol=1e-6, atol=0
    )


def test_adaptive_loss_has_the_gradients_of_finite_differences():
    r = 3.0 * draw(2, 3, dtype=torch.float64)
    for alpha in (0.05, 1.9):
        criterion = AdaptiveRobustLoss(3, alpha=alpha).double()

        def f(x, raw_alpha, raw_scale, criterion=criterion):
            values = {"raw_alpha": raw_alpha, "raw_scale": raw_scale}
            return torch.func.functional_call(criterion, values, (x, torch.zeros_like(x)))

        inputs = (r.clone().requires_grad_(), *criterion.parameters())
        assert torch.autograd.gradcheck(f, inputs, fast_mode=True, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)


def test_adaptive_loss_finds_shape_and_scale():
    # Outliers in one channel, none in the other; the scales differ by a thousand.
    u = torch.tensor(
        np.stack([stats.norm.ppf(np.linspace(5e-4, 1 - 5e-4, 1000)) for _ in range(2)])
    )
    u[1, ::5] *= 30.0
    r = u * torch.tensor([[0.01], [10.0]])
    criterion = AdaptiveRobustLoss(2, dim=0).double()
    optimizer = torch.optim.LBFGS(
        criterion.parameters(), max_iter=200, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = criterion(r, torch.zeros_like(r))
        loss.backward()
        return loss

    before = closure().item()
    after = optimizer.step(closure)
    assert closure().item() < before == after.item()
    alpha, scale = criterion.alpha.tolist(), criterion.scale.tolist()
    assert alpha[0] > 1.9
    assert alpha[1] < 0.5
    assert scale[0] == pytest.approx(0.01, rel=0.05)
    assert 5.0 < scale[1] < 15.0


def test_adaptive_loss_of_zero_residuals_stays_finite():
    criterion = AdaptiveRobustLoss(min_scale=1e-3)
    optimizer = torch.optim.SGD(criterion.parameters(), lr=10.0)
    for _ in range(50):
        optimizer.zero_grad()
        loss = criterion(torch.zeros(5), torch.zeros(5))
        loss.backward()
        optimizer.step()
    assert math.isfinite(loss.item())
    assert criterion.scale.item() == pytest.approx(1e-3, rel=1e-2)


def test_adaptive_loss_takes_weights_masks_and_any_rank():
    criterion = AdaptiveRobustLoss(3, dim=-1, alpha=0.5)
    x = draw(2, 5, 4, 3)
    whole = criterion(x, torch.zeros_like(x))
    half = criterion(x.half(), torch.zeros_like(x).half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), whole, rtol=2e-3, atol=0)
    mask = torch.zeros(2, 5, 4, 1, dtype=torch.bool)
    mask[0] = True
    spoiled = torch.where(mask, x, torch.nan)
    masked = criterion(spoiled, torch.zeros_like(x), mask=mask)
    torch.testing.assert_close(masked, criterion(x[:1], torch.zeros_like(x[:1])))
    weighted = criterion(x, torch.zeros_like(x), mask.float())
    torch.testing.assert_close(weighted, masked)
    with pytest.raises(ValueError, match="num_channels=3 entries along dim=-1"):
        criterion(x[..., :2], x[..., :2])
    with pytest.raises(TypeError, match="expected Tensor"):
        criterion(x, 0.0)
    fixed = AdaptiveRobustLoss(learn_alpha=False)
    assert [name for name, p in fixed.named_parameters() if p.requires_grad] == ["raw_scale"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"alpha": 2.0},
        {"alpha": -1.0},
        {"alpha_range": (-1.0, 1.0), "alpha": 0.5},
        {"alpha_range": (0.0, 2.0)},
        {"scale": 0.0},
        {"min_scale": 0.0},
        {"num_channels": 0},
        {"reduction": "avg"},
    ],
    ids=str,
)
def test_adaptive_loss_refuses_what_has_no_density(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        AdaptiveRobustLoss(**arguments)


# -- the scale -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_scale_of_a_batch_is_that_of_numpy(n):
    r = 3.0 * draw(n, dtype=torch.float64)
    zero = torch.zeros_like(r)
    found = ScaleTracker("mad").double()(r, zero)
    assert float(found) == pytest.approx(mad(r.numpy(), center=0.0), rel=1e-14)
    # The tau-scale about zero is that of the sample with its mirror image.
    found = ScaleTracker("tau").double()(zero, r)
    both = np.concatenate([r.numpy(), -r.numpy()])
    assert float(found) == pytest.approx(scale_tau2(both), rel=1e-12)


def test_scale_follows_the_batches_and_rests_in_evaluation():
    tracker = ScaleTracker(decay=0.75).double()
    values, expected = [], 0.0
    for k in range(1, 8):
        tracker(torch.full((3,), float(k)).double(), torch.zeros(3).double())
        values.append(mad([k, k, k], center=0.0))
        # The first four count alike.
        expected = np.mean(values) if k <= 4 else 0.75 * expected + 0.25 * values[-1]
        assert tracker.scale.item() == pytest.approx(expected, rel=1e-12)
    tracker.eval()
    assert tracker(torch.full((3,), 100.0).double(), torch.zeros(3).double()) == tracker.scale
    assert tracker.scale.item() == pytest.approx(expected, rel=1e-12)
    again = ScaleTracker(decay=0.75).double()
    again.load_state_dict(tracker.state_dict())
    for each in (tracker, again):
        each.train()
        each(torch.ones(3).double(), torch.zeros(3).double())
    assert again.scale == tracker.scale


@pytest.mark.parametrize("method", ["mad", "tau"])
def test_scale_stands_up_to_outliers_and_empty_batches(method):
    r = draw(10_000)
    tracker = ScaleTracker(method)
    assert tracker(r, torch.zeros_like(r)).item() == pytest.approx(1.0, abs=0.03)
    r[:3000] = 1e6
    r[3000:3100] = torch.inf
    r[3100:3200] = torch.nan
    spoiled = ScaleTracker(method)
    assert 1.0 < spoiled(r, torch.zeros_like(r)).item() < 2.5
    before = tracker.scale.clone()
    nothing = torch.zeros(5, dtype=torch.bool)
    for batch, mask in (
        (torch.zeros(5), None),
        (torch.full((5,), torch.nan), None),
        (torch.full((5,), torch.inf), None),
        (torch.ones(5), nothing),
        (torch.ones(0), None),
    ):
        tracker(batch, torch.zeros_like(batch), mask)
        assert tracker.scale == before
        assert tracker.steps == 1


def test_scale_of_channels_masks_and_samples():
    sizes = torch.tensor([0.1, 1.0, 50.0])
    r = draw(4, 3, 20, 30) * sizes[:, None, None]
    mask = draw(4, 1, 20, 30, seed=1) > -1.0
    tracker = ScaleTracker(num_channels=3)
    found = tracker(torch.where(mask, r, torch.nan), torch.zeros_like(r), mask)
    assert found.shape == (1, 3, 1, 1)
    for channel in range(3):
        kept = r[:, channel][mask[:, 0]].double().numpy()
        assert float(found[0, channel]) == pytest.approx(mad(kept, center=0.0), rel=1e-6)
    criterion = RobustLoss("huber", scale=tracker.eval())
    expected = robust_loss(r, torch.zeros_like(r), "huber", scale=found)
    torch.testing.assert_close(criterion(r, torch.zeros_like(r)), expected)
    with pytest.raises(ValueError, match="num_channels=3 entries along dim=1"):
        tracker.train()(r[:, :2], r[:, :2])
    # A few of a structured image are as good as all: not one of its columns.
    stripes = draw(1000, 64) * torch.linspace(0.5, 2.0, 64)
    few = ScaleTracker(sample=1000)(stripes, torch.zeros_like(stripes)).item()
    assert few == pytest.approx(mad(stripes.numpy(), center=0.0), rel=0.1)


def test_scale_has_no_gradient_and_may_be_used_twice():
    a = draw(30).requires_grad_()
    criterion = RobustLoss("tukey", scale=ScaleTracker())
    total = criterion(a, torch.zeros(30)) + criterion(2.0 * a, torch.zeros(30))
    total.backward()
    assert torch.isfinite(a.grad).all()
    assert not criterion.scale(a, torch.zeros(30)).requires_grad
    for dtype in (torch.float16, torch.int32, torch.complex64):
        tracker = ScaleTracker()
        x = (10.0 * draw(30)).to(dtype)
        expected = mad(np.abs(x.to(torch.complex128).numpy()), center=0.0)
        assert tracker(x, torch.zeros_like(x)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "arguments", [{"method": "sd"}, {"decay": 1.0}, {"num_channels": 0}, {"sample": 0}], ids=str
)
def test_scale_tracker_checks_its_arguments(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ScaleTracker(**arguments)


WORKER = """
import sys
import torch
import torch.distributed as dist
from robustfit.torch import ScaleTracker

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
tracker = ScaleTracker()
tracker(torch.tensor([1.0, 2.0, 3.0]) * (1 + 2 * rank), torch.zeros(3))
# Where one process has no residuals, the scale is that of the other.
tracker(torch.full((3,), torch.nan) if rank else torch.ones(3), torch.zeros(3))
print(tracker.scale.item(), tracker.steps.item())
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_processes_share_the_scale(tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    store = str(tmp_path / "store")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), store], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    found = [[float(x) for x in worker.communicate(timeout=120)[0].split()] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert found[0] == found[1]
    # The mean of the medians 2 and 6, and then of that and 1.
    assert found[0][0] == pytest.approx((4.0 + 1.0) / 2.0 / stats.norm.ppf(0.75), rel=1e-6)
    assert found[0][1] == 2.0


# -- annealing -------------------------------------------------------------------------------


def test_constant_is_annealed_to_its_target_and_stays():
    a, b = draw(2, 20, dtype=torch.float64) * 10.0
    criterion = WelschLoss("mean")
    schedule = GNCSchedule(criterion, start=10.0, factor=1.4)
    steps = 0
    while not schedule.done:
        assert schedule.c == pytest.approx(math.sqrt(2.0) * 10.0 / 1.4**steps, rel=1e-12)
        expected = robust_loss(a, b, "welsch", c=schedule.c)
        torch.testing.assert_close(criterion(a, b), expected, rtol=1e-6, atol=0)
        schedule.step()
        steps += 1
    assert steps == math.ceil(math.log(10.0) / math.log(1.4))
    for _ in range(3):
        assert schedule.c == math.sqrt(2.0)
        assert torch.equal(criterion(a, b), WelschLoss("mean")(a, b))
        schedule.step()
    assert criterion.state_dict() == {}


def test_schedule_goes_on_from_its_state():
    schedule = GNCSchedule(RobustLoss(), start=50.0, factor=1.2)
    for _ in range(5):
        schedule.step()
    other = GNCSchedule(RobustLoss())
    other.load_state_dict(schedule.state_dict())
    assert other.c == schedule.c
    a, b = draw(2, 20)
    assert torch.equal(other.criterion(a, b), schedule.criterion(a, b))


def test_annealing_finds_the_line_that_the_narrow_loss_misses():
    # Two thirds on one line, one third on another, and the start between them nearer to it.
    x = torch.linspace(-1.0, 1.0, 60, dtype=torch.float64)
    y = torch.where(torch.arange(60) % 3 == 0, -2.0 * x, 3.0 * x)
    slopes = {}
    for annealed in (False, True):
        criterion = RobustLoss("geman_mcclure", scale=0.1)
        schedule = GNCSchedule(criterion, start=100.0) if annealed else None
        slope = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([slope], lr=0.1)
        for step in range(300):
            optimizer.zero_grad()
            criterion(slope * x, y).backward()
            optimizer.step()
            if schedule is not None and step % 10 == 0:
                schedule.step()
        slopes[annealed] = slope.item()
    assert slopes[False] == pytest.approx(-2.0, abs=0.05)
    assert slopes[True] == pytest.approx(3.0, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"criterion": torch.nn.MSELoss()}, TypeError),
        ({"start": 0.5}, ValueError),
        ({"start": math.inf}, ValueError),
        ({"factor": 1.0}, ValueError),
        ({"factor": "1"}, TypeError),
    ],
    ids=str,
)
def test_schedule_checks_its_arguments(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        GNCSchedule(**({"criterion": RobustLoss()} | arguments))
