"""The training losses under everything that torch does to functions."""

import os
import shutil

import pytest

from robustfit import get_loss
from robustfit.losses import LOSSES

torch = pytest.importorskip("torch")

from torch._vmap_internals import _vmap  # noqa: E402
from torch.autograd import forward_ad, gradcheck, gradgradcheck  # noqa: E402

from robustfit import torch as rt  # noqa: E402
from robustfit.torch import RobustLoss, robust_loss  # noqa: E402

pytestmark = [
    # Raised inside torch: by its compiler for every function with a derivative of its own, and
    # by forward mode, which scripts its rules.
    pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]

# Smooth enough for finite differences, one of each kind of formula.
SMOOTH = ("welsch", "cauchy", "geman_mcclure", "pseudo_huber", "logistic", "barron")


def pair(n=9, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, n, generator=generator, dtype=dtype)
    return (3.0 * a).requires_grad_(), b.clone().requires_grad_()


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    torch._dynamo.reset()


# -- derivatives -----------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_are_those_of_finite_differences(name, reduction):
    loss = get_loss(name)
    every = {
        "check_forward_ad": True,
        "check_backward_ad": True,
        "check_batched_grad": True,
        "check_batched_forward_grad": True,
    }

    def f(a, b):
        return robust_loss(a, b, loss, scale=0.7, reduction=reduction)

    assert gradcheck(f, pair(), **every)
    assert gradgradcheck(f, pair(), check_batched_grad=True)


def test_third_derivative_is_right_too():
    a, b = pair()
    loss = get_loss("welsch")

    def third(x):
        for _ in range(2):
            (x,) = torch.autograd.grad(x.sum(), a, create_graph=True)
        return x

    dpsi = third(robust_loss(a, b, loss, reduction="none"))
    (found,) = torch.autograd.grad(dpsi.sum(), a)
    step = 1e-5
    u = (a - b).detach()
    expected = (loss.dpsi(u + step) - loss.dpsi(u - step)) / (2.0 * step)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_corners_and_ends_have_the_derivatives_of_the_formulas(name):
    # Two clamps that both pass the gradient at a corner would double it; inf times 0 is NaN.
    loss = get_loss(name, c=2.0)
    corners = (*(2.0 * knot for knot in loss._breaks()), 2.0, 0.0)
    u = torch.tensor([*corners, *(-x for x in corners), 1e-30, 1e200, torch.inf, -torch.inf])
    u = u.double()
    zero = torch.zeros_like(u)

    def slopes(x):
        return torch.func.grad(lambda x: robust_loss(x, zero, loss, reduction="sum"))(x)

    torch.testing.assert_close(slopes(u), loss.psi(u), rtol=1e-13, atol=0)
    (second,) = torch.func.vjp(slopes, u)[1](torch.ones_like(u))
    torch.testing.assert_close(second, loss.dpsi(u), rtol=1e-13, atol=1e-300)


def test_far_outliers_keep_their_pull():
    # Autograd through expm1 takes exp for result + 1, which is 0 from |r| = 5.8 on.
    r = torch.tensor([5.0, 8.0, 12.0], dtype=torch.float32, requires_grad=True)
    truth = r.detach().double() * torch.exp(-(r.detach().double() ** 2) / 2.0)
    for loss in (rt.welsch_loss, torch.compile(rt.welsch_loss, backend="aot_eager")):
        (gradient,) = torch.autograd.grad(loss(r, torch.zeros(3)).sum(), r)
        torch.testing.assert_close(gradient.double(), truth, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_way_rounds_once(dtype):
    # In single precision throughout, the slope far out would be wrong by hundreds of units.
    r = torch.logspace(-8, 4, 2000, dtype=torch.float64).to(dtype)
    zero = torch.zeros_like(r)
    u = r.double()
    value, slope = -torch.expm1(-u * u / 2.0), u * torch.exp(-u * u / 2.0)
    compiled = torch.compile(rt.welsch_loss, backend="aot_eager", fullgraph=True)
    scale = torch.tensor(1.0, requires_grad=True)
    info = torch.finfo(dtype)

    def one_unit(found, expected):
        torch.testing.assert_close(found.double(), expected, rtol=info.eps, atol=info.tiny)

    for f in (rt.welsch_loss, compiled, lambda a, b: rt.welsch_loss(a, b, scale=scale)):
        a = r.clone().requires_grad_()
        found = f(a, zero)
        one_unit(found.detach(), value)
        one_unit(torch.autograd.grad(found.sum(), a)[0], slope)
    found = torch.func.vmap(torch.func.grad(rt.welsch_loss))(r, zero)
    one_unit(found, slope)
    found = torch.func.jvp(lambda a: rt.welsch_loss(a, zero), (r,), (torch.ones_like(r),))[1]
    one_unit(found, slope)


# -- transforms ------------------------------------------------------------------------------


def test_torch_func_transforms_agree_with_the_formulas():
    a, b = (x.detach() for x in pair())
    loss = get_loss("welsch")

    def mean(x, y):
        return robust_loss(x, y, loss)

    n, u = len(a), a - b
    close = torch.testing.assert_close
    for argnum, sign in ((0, 1.0), (1, -1.0)):
        close(torch.func.grad(mean, argnum)(a, b), sign * loss.psi(u) / n)
        close(torch.func.hessian(mean, argnum)(a, b), torch.diag(loss.dpsi(u)) / n)
    close(torch.func.jacrev(torch.func.jacrev(mean))(a, b), torch.diag(loss.dpsi(u)) / n)
    with torch.no_grad():
        close(torch.func.jacrev(mean)(a, b), loss.psi(u) / n)
    close(torch.func.jvp(lambda x: mean(x, b), (a,), (b,))[1], (loss.psi(u) * b).mean())
    close(torch.func.vmap(torch.func.grad(mean))(a[:, None], b[:, None])[:, 0], loss.psi(u))
    close(torch.func.vmap(mean, in_dims=(0, None))(torch.stack([a, b]), b)[0], mean(a, b))
    close(torch.func.functional_call(RobustLoss(loss), {}, (a, b)), mean(a, b))
    # What a transform does not touch is an ordinary tensor inside it.
    close(torch.func.vmap(lambda x: x * mean(a, b))(a), a * mean(a, b))
    per_sample = torch.func.vmap(torch.func.grad(lambda x, s: robust_loss(x, b, loss, scale=s)))
    scales = torch.tensor([0.5, 2.0], dtype=torch.float64)
    close(per_sample(torch.stack([a, a]), scales)[1], 2.0 * loss.psi(u / 2.0) / n)


def test_forward_mode_sees_both_inputs_and_the_scale():
    a, b = (x.detach() for x in pair())
    loss, scale = get_loss("cauchy"), torch.tensor(0.7, dtype=torch.float64)
    with forward_ad.dual_level():
        inputs = [forward_ad.make_dual(x, torch.ones_like(x)) for x in (a, 0.5 * b, scale)]
        for at, expected in (
            ((inputs[0], b), loss.psi(a - b)),
            ((a, inputs[1]), -loss.psi(a - 0.5 * b)),
            ((inputs[0], inputs[1]), torch.zeros(9, dtype=torch.float64)),
        ):
            value = robust_loss(*at, loss, reduction="none")
            torch.testing.assert_close(forward_ad.unpack_dual(value).tangent, expected)
        u = (a - b) / scale
        value = robust_loss(a, b, loss, scale=inputs[2], reduction="none")
        tangent = forward_ad.unpack_dual(value).tangent
        torch.testing.assert_close(tangent, scale * (2.0 * loss.rho(u) - u * loss.psi(u)))


def test_batched_gradients():
    a, b = pair()
    value = robust_loss(a, b, "welsch", reduction="none")
    directions = torch.eye(9, dtype=torch.float64)
    (jacobian,) = torch.autograd.grad(value, a, directions, is_grads_batched=True)
    torch.testing.assert_close(jacobian, torch.diag(get_loss("welsch").psi(a - b)).detach())
    # The older implementation of vmap, which batched gradients use.
    torch.testing.assert_close(_vmap(lambda x: robust_loss(x, b))(a[None])[0], robust_loss(a, b))


def test_checkpointing_and_retained_graphs():
    a, b = pair()
    expected = torch.autograd.grad(robust_loss(a, b), a)[0]
    value = torch.utils.checkpoint.checkpoint(robust_loss, a, b, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(value, a, retain_graph=True)[0], expected)
    assert torch.equal(torch.autograd.grad(value, a)[0], expected)
    doubled = torch.autograd.grad(robust_loss(a, b), a, torch.tensor(2.0).double())[0]
    torch.testing.assert_close(doubled, 2.0 * expected)


@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_slopes_of_a_total_are_those_of_each_loss(factor):
    a, b = pair(5000, dtype=torch.float32)
    total = factor * rt.welsch_loss(a, b, "sum")
    by_a, by_b = torch.autograd.grad(total, (a, b), retain_graph=True)
    kept = by_a.clone()
    by_a.zero_()
    again = torch.autograd.grad(total, (a, b))
    each = torch.autograd.grad(rt.welsch_loss(a, b), (a, b), torch.full_like(a, factor))
    for found in ((kept, by_b), again):
        for one, other in zip(found, each, strict=True):
            torch.testing.assert_close(one, other, rtol=1.2e-7, atol=1e-44)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_graph_holds_the_formula():
    a, b = (x.detach() for x in pair())
    traced = torch.jit.trace(robust_loss, (a, b))
    torch.testing.assert_close(traced(2.0 * a, b), robust_loss(2.0 * a, b))


# -- the compiler ----------------------------------------------------------------------------


CRITERIA = {
    "WelschLoss": lambda: rt.WelschLoss("mean"),
    "geman_mcclure_loss": lambda: rt.geman_mcclure_loss,
    "Hampel": lambda: RobustLoss("hampel"),
    "robust_loss": lambda: robust_loss,
    "tracked": lambda: RobustLoss("tukey", scale=rt.ScaleTracker("tau")),
    "tensor scale": lambda: RobustLoss("huber", scale=torch.tensor(0.5)),
    "adaptive": lambda: rt.AdaptiveRobustLoss(),
}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", CRITERIA)
def test_whole_graph_compiles(name, backend):
    a, b = pair()
    compiled = torch.compile(CRITERIA[name](), backend=backend, fullgraph=True)
    value, expected = compiled(a, b), CRITERIA[name]()(a, b)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value.sum(), a)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), a)[0])


def test_compiled_weights_masks_and_transforms():
    a, b = pair()
    weight, mask = torch.rand(9).double(), b.detach() > 0.0
    compiled = torch.compile(RobustLoss(), backend="aot_eager", fullgraph=True)
    expected = robust_loss(a, b, weight=weight, mask=mask)
    torch.testing.assert_close(compiled(a, b, weight, mask), expected)
    for transform in (torch.func.grad, torch.func.hessian):
        compiled = torch.compile(transform(robust_loss), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(a, b), transform(robust_loss)(a, b))


def test_annealing_compiles_two_graphs():
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    criterion = RobustLoss("tukey")
    schedule = rt.GNCSchedule(criterion)
    compiled = torch.compile(criterion, backend=backend, fullgraph=True)
    a, b = pair()
    for _ in range(10):
        torch.testing.assert_close(compiled(a, b), robust_loss(a, b, "tukey", c=schedule.c))
        schedule.step()
    assert schedule.done
    assert len(graphs) == 2


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="inductor needs a C++ compiler"
)
@pytest.mark.slow
def test_inductor_keeps_the_digits():
    # Inductor's own expm1 is exp - 1, which reads 0 up to |r| = 2.4e-4 in single precision.
    r = torch.logspace(-8, 0.5, 300).requires_grad_()
    compiled = torch.compile(rt.welsch_loss, fullgraph=True)
    value = compiled(r, torch.zeros(300))
    (gradient,) = torch.autograd.grad(value.sum(), r)
    u = r.detach().double()
    torch.testing.assert_close(value.double(), -torch.expm1(-u * u / 2.0), rtol=5e-7, atol=0)
    torch.testing.assert_close(gradient.double(), u * torch.exp(-u * u / 2.0), rtol=5e-6, atol=0)


class Exported(torch.nn.Module):
    def forward(self, a, b):
        return rt.cauchy_loss(a, b, "mean")


def test_export():
    a, b = (x.detach() for x in pair())
    sizes = {0: torch.export.Dim("n", min=2)}
    program = torch.export.export(Exported(), (a, b), dynamic_shapes=(sizes, sizes))
    for n in (9, 4):
        expected = rt.cauchy_loss(a[:n], b[:n], "mean")
        torch.testing.assert_close(program.module()(a[:n], b[:n]), expected)


# -- training --------------------------------------------------------------------------------


def test_autocast():
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 2)
    x, y = torch.randn(16, 4), torch.randn(16, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = layer(x)
        loss = robust_loss(prediction, y, "huber")
        half = robust_loss(prediction, y.bfloat16(), "huber")
    assert prediction.dtype == half.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    loss.backward()
    u = (prediction.double() - y.double()).detach()
    slope = get_loss("huber").psi(u) / u.numel()
    torch.testing.assert_close(layer.bias.grad.double(), slope.sum(0), rtol=0.02, atol=1e-4)


def test_training_ignores_the_outliers():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=generator)
    truth = torch.tensor([[1.0, -2.0, 0.5]])
    y = x @ truth.T + 0.05 * torch.randn(400, 1, generator=generator)
    y[:120] += 8.0
    errors = {}
    for name, criterion in (
        ("squares", torch.nn.MSELoss()),
        ("ours", RobustLoss("welsch", scale=rt.ScaleTracker(decay=0.9))),
    ):
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 1)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
        schedule = rt.GNCSchedule(criterion, start=4.0) if name == "ours" else None
        for step in range(300):
            optimizer.zero_grad()
            criterion(layer(x), y).backward()
            optimizer.step()
            if schedule is not None and step % 5 == 0:
                schedule.step()
        errors[name] = float((layer.weight - truth).detach().norm() + layer.bias.detach().norm())
    assert errors["ours"] < 0.03
    assert errors["squares"] > 1.0
