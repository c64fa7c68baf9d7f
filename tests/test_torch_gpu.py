"""The passes for other devices than the CPU: as far as a CPU can tell, and on a GPU."""

import math

import numpy as np
import pytest

from robustfit import get_loss
from robustfit.losses import LOSSES, Loss

torch = pytest.importorskip("torch")

from robustfit import torch as rt  # noqa: E402
from robustfit.torch import RobustLoss, _autograd, _eager, _triton, robust_loss  # noqa: E402
from robustfit.torch._trace import source  # noqa: E402

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
FAR = [0.0, 1e-8, 1e-30, 1e30, math.inf, -math.inf, math.nan]


def residuals(loss, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    r = 3.0 * torch.randn(300, generator=generator, dtype=torch.float64)
    corners = [loss.c * x for knot in (1.0, *loss._breaks()) for x in (knot, -knot)]
    return torch.cat([r, torch.tensor([*FAR, *corners]).double()]).to(dtype)


def close(found, expected, dtype):
    # Some units of single precision, by values or by their largest; half precision is rounded once.
    eps = torch.finfo(dtype).eps if dtype.itemsize == 2 else 64.0 * torch.finfo(torch.float32).eps
    finite = expected[torch.isfinite(expected)].abs()
    size = 4.0 * torch.finfo(torch.float32).eps * float(finite[finite < 1e10].max())
    torch.testing.assert_close(found.double().cpu(), expected, rtol=eps, atol=size, equal_nan=True)


class Odd(Loss):
    """A loss of one's own that only torch and NumPy can evaluate."""

    @staticmethod
    def rho1(v, m):
        return 0.5 * m.square(v)

    @staticmethod
    def weight1(v, m):
        return 1.0 + 0.0 * m.square(v)

    dpsi1 = weight1


# -- the passes by torch's own operations ----------------------------------------------------


@pytest.fixture
def eager(monkeypatch):
    """Take the CPU for a device without kernels."""
    monkeypatch.setattr(_autograd, "_passes", lambda a, b, k, loss: _eager)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_eager_passes_are_the_formulas(name, dtype, eager):
    loss = get_loss(name)
    a = residuals(loss, dtype)
    a = a[(a.abs() < 1e20) | ~torch.isfinite(a)].requires_grad_()
    b = torch.zeros_like(a)
    value = robust_loss(a, b, loss, reduction="none")
    assert value.dtype == dtype
    close(value.detach(), loss.rho(a.detach().double()), dtype)
    g = torch.linspace(0.5, 2.0, len(a)).to(dtype)
    (gradient,) = torch.autograd.grad(value, a, g)
    close(gradient, loss.psi(a.detach().double()) * g.double(), dtype)


def test_eager_passes_reduce_weigh_and_leave_the_inputs_alone(eager):
    a = residuals(get_loss("welsch"), torch.float32)[:300].requires_grad_()
    b = torch.linspace(-1.0, 1.0, 300)
    before = a.detach().clone(), b.clone()
    u = (a - b).detach().double()
    for reduction, factor in (("mean", 1.0 / 300.0), ("sum", 1.0)):
        value = robust_loss(a, b, "welsch", reduction=reduction)
        loss = get_loss("welsch")
        assert value.item() == pytest.approx(factor * float(loss.rho(u).sum()), rel=1e-6)
        (gradient,) = torch.autograd.grad(value, a)
        close(gradient, factor * loss.psi(u), torch.float32)
    scale = torch.tensor(0.5)
    weight = torch.rand(300)
    found = robust_loss(a, b, "tukey", scale=scale, weight=weight)
    expected = (weight * (0.25 * get_loss("tukey").rho(u / 0.5))).sum() / weight.sum()
    assert found.item() == pytest.approx(float(expected), rel=1e-6)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


def test_eager_passes_take_formulas_for_torch_alone(eager):
    r = torch.randn(20)
    found = robust_loss(r, torch.zeros(20), Odd(1.0), reduction="none")
    torch.testing.assert_close(found, 0.5 * r * r)


def test_eager_passes_have_second_derivatives(eager):
    a = residuals(get_loss("cauchy"))[:9].requires_grad_()
    b = torch.zeros(9).double()
    assert torch.autograd.gradgradcheck(lambda x: robust_loss(x, b, "cauchy"), a)


def test_eager_passes_run_where_there_is_no_memory():
    for shape in ((), (0,), (7,), (2, 3)):
        a = torch.empty(shape, device="meta", requires_grad=True)
        for reduction in ("none", "mean", "sum"):
            value = rt.welsch_loss(a, torch.empty(shape, device="meta"), reduction)
            assert value.shape == (shape if reduction == "none" else ())
            (gradient,) = torch.autograd.grad(value, a, torch.empty_like(value))
            assert gradient.shape == shape


def test_few_kernels_where_there_are_none_of_ours():
    from tests.bench.bench_torch import traffic

    for reduction, most in (("mean", 210.0), ("none", 220.0)):
        kernels, size = traffic(rt.welsch_loss, reduction)
        assert kernels <= 26
        assert size <= most


# -- the source text of the kernels for a GPU ------------------------------------------------

NUMPY = {
    "INF": math.inf,
    "arctan": np.arctan,
    **{name: getattr(np, name) for name in ("exp", "expm1", "log", "log1p", "sqrt", "where")},
    **{name: getattr(np, name) for name in ("sin", "cos", "tanh", "abs")},
}


@pytest.mark.parametrize("kind", ["rho", "psi"])
@pytest.mark.parametrize("name", LOSSES)
def test_source_text_is_the_formula(name, kind):
    loss = get_loss(name)
    u = residuals(loss).numpy()
    scaled, formula = loss.engine(kind, exact=False)
    lines, value = source(lambda u, c, m: scaled(formula, u, c, m, *loss.shape), "", "u", "c")
    variables = NUMPY | {"u": u, "c": loss.c}
    with np.errstate(all="ignore"):
        exec(lines, variables)
        expected = scaled(formula, u, loss.c, np, *loss.shape)
    np.testing.assert_array_equal(variables[value], expected)


def test_source_of_all_kernels_is_python():
    for name in LOSSES:
        loss = get_loss(name)
        compile(_triton.kernel_source(type(loss), loss.shape), name, "exec")


def test_formula_that_depends_on_data_is_refused():
    def branching(u, m):
        return u if u > 0.0 else -u

    with pytest.raises(TypeError, match=r"must not depend on its data by an `if`; use m\.where"):
        source(branching, "", "u")
    with pytest.raises(AttributeError, match=r"cannot use m\.floor"):
        source(lambda u, m: m.floor(u), "", "u")


# -- on a GPU --------------------------------------------------------------------------------


@on_gpu
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_gpu_kernels_are_the_formulas(name, dtype):
    loss = get_loss(name)
    a = residuals(loss, dtype).cuda().requires_grad_()
    b = torch.zeros_like(a)
    assert _autograd._passes(a, b, 1.0, loss) is _triton
    value = robust_loss(a, b, loss, reduction="none")
    assert value.dtype == dtype
    exact = a.detach().double().cpu()
    near = exact.abs() < 1e10
    expected = loss.rho(exact).to(dtype).double()
    close(value.detach()[near.cuda()], expected[near], dtype)
    g = torch.linspace(0.5, 2.0, len(a)).to(dtype).cuda()
    (gradient,) = torch.autograd.grad(value, a, g)
    expected = loss.psi(exact) * g.double().cpu()
    close(gradient[near.cuda()], expected[near], dtype)
    assert torch.equal(torch.isnan(gradient).cpu(), torch.isnan(exact))


@on_gpu
@pytest.mark.parametrize("name", ["welsch", "charbonnier", "cauchy", "geman_mcclure"])
def test_gpu_losses_are_those_of_the_cpu(name):
    loss = getattr(rt, f"{name}_loss")
    for n in (1, 1000, 4096, 1_000_003):
        a = torch.randn(n).requires_grad_()
        b = torch.randn(n)
        x = a.detach().cuda().requires_grad_()
        for reduction in ("none", "mean", "sum"):
            one, two = loss(a, b, reduction), loss(x, b.cuda(), reduction)
            torch.testing.assert_close(two.cpu(), one, rtol=2e-6, atol=1e-7)
            (g,), (h,) = torch.autograd.grad(one.sum(), a), torch.autograd.grad(two.sum(), x)
            torch.testing.assert_close(h.cpu(), g, rtol=1e-5, atol=1e-7)


@on_gpu
def test_gpu_other_inputs():
    a = torch.randn(6, 8, device="cuda").requires_grad_()
    b = torch.randn(8, 6, device="cuda").t()
    u = (a - b).detach().double()
    loss = get_loss("cauchy")
    torch.testing.assert_close(robust_loss(a, b, loss).double(), loss.rho(u).mean())
    # A tracked scale stays on the device.
    scale = torch.tensor(0.5, device="cuda")
    found = robust_loss(a, b, loss, scale=scale)
    torch.testing.assert_close(found.double(), (0.25 * loss.rho(2.0 * u)).mean())
    (gradient,) = torch.autograd.grad(found, a)
    torch.testing.assert_close(gradient.double(), 0.5 * loss.psi(2.0 * u) / 48)
    assert robust_loss(a[:0], b[:0], loss, reduction="sum") == 0.0
    assert torch.isnan(robust_loss(a[:0], b[:0], loss))
    imaginary = torch.complex(a.detach(), a.detach()).conj().imag
    torch.testing.assert_close(robust_loss(imaginary, b), robust_loss(-a.detach(), b))
    assert robust_loss(a.double(), b, loss).dtype == torch.float64
    mixed = robust_loss(a.bfloat16(), b, loss, reduction="none")
    assert mixed.dtype == torch.float32
    odd = robust_loss(a, b, Odd(1.0), reduction="none")
    torch.testing.assert_close(odd.double(), 0.5 * u * u)
    assert torch.autograd.gradgradcheck(lambda x: robust_loss(x, b.double(), loss), a.double())
    torch.testing.assert_close(
        torch.func.grad(robust_loss)(a, b), torch.autograd.grad(robust_loss(a, b), a)[0]
    )
    criterion = RobustLoss("tukey", scale=rt.ScaleTracker()).cuda()
    criterion(a, b).backward()
    assert torch.isfinite(a.grad).all()


@on_gpu
def test_gpu_saves_the_inputs_and_no_more():
    a = torch.randn(1_000_000, device="cuda").requires_grad_()
    b = torch.randn(1_000_000, device="cuda")
    robust_loss(a, b)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    value = robust_loss(a, b)
    assert torch.cuda.memory_allocated() - before < 100_000
    value.backward()
    assert torch.cuda.max_memory_allocated() > 0
