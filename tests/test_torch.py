"""The training losses: values and gradients against closed forms, Kornia's contract, weights."""

import copy
import math
import multiprocessing
import os
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest

from robustfit import get_loss
from robustfit.losses import Cauchy, Loss, Tukey, Welsch

torch = pytest.importorskip("torch")
functional = torch.nn.functional

from robustfit import torch as rt  # noqa: E402
from robustfit.torch import (  # noqa: E402
    RobustLoss,
    ScaleTracker,
    ShapeError,
    _kernels,
    robust_loss,
)


def charbonnier(r):
    return r * r / (1.0 + np.sqrt(1.0 + r * r)), r / np.sqrt(1.0 + r * r)


def welsch(r):
    return -np.expm1(-r * r / 2.0), r * np.exp(-r * r / 2.0)


def cauchy(r):
    return np.log1p(r * r / 2.0), r / (1.0 + r * r / 2.0)


def geman_mcclure(r):
    return 2.0 * r * r / (r * r + 4.0), 16.0 * r / (r * r + 4.0) ** 2


pytestmark = [
    # Raised inside torch: by its compiler for every function with a derivative of its own, and
    # by forward mode, which scripts its rules.
    pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]

# Kornia's four: function, module, and value and slope at scale 1.
KORNIA = {
    "welsch": (rt.welsch_loss, rt.WelschLoss, welsch),
    "charbonnier": (rt.charbonnier_loss, rt.CharbonnierLoss, charbonnier),
    "cauchy": (rt.cauchy_loss, rt.CauchyLoss, cauchy),
    "geman_mcclure": (rt.geman_mcclure_loss, rt.GemanMcclureLoss, geman_mcclure),
}
four = pytest.mark.parametrize("name", KORNIA)
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
HALVES = FLOATS[2:]


def ulps(found, truth, dtype):
    """Return the largest error in units in the last place of the dtype."""
    info = torch.finfo(dtype)
    truth = torch.as_tensor(truth)
    size = truth.abs().clamp(min=info.tiny)
    ulp = 2.0 ** torch.floor(torch.log2(size)) * info.eps
    return float(((found.double() - truth).abs() / ulp).max())


def pair(shape, seed=0, size=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        (size * torch.randn(shape, generator=generator, dtype=torch.float64))
        .to(dtype)
        .requires_grad_()
        for _ in range(2)
    )


# -- Kornia's contract -----------------------------------------------------------------------


@four
@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 3, 32, 32)])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_drop_in_is_the_closed_form(name, shape, reduction):
    function, module, formula = KORNIA[name]
    for size in (0.01, 1.0, 30.0):
        a, b = pair(shape, size=size)
        value, slope = formula((a - b).detach().numpy())
        if reduction != "none":
            value = value.mean() if value.size and reduction == "mean" else value.sum()
            slope = slope / max(slope.size, 1) if reduction == "mean" else slope
            if not slope.size and reduction == "mean":
                value = math.nan
        found = function(a, b, reduction)
        expected = torch.tensor(value, dtype=torch.float64)
        torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=0, equal_nan=True)
        assert torch.equal(module(reduction)(a, b).nan_to_num(), found.nan_to_num())
        for gradient, sign in zip(torch.autograd.grad(found.sum(), (a, b)), (1, -1), strict=True):
            expected = torch.tensor(sign * slope)
            torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)


@four
def test_signature_is_that_of_kornia(name):
    function, module, _ = KORNIA[name]
    a, b = pair((3,))
    assert torch.equal(function(img1=a, img2=b, reduction="sum"), module("sum")(img1=a, img2=b))
    assert function(a, b).shape == (3,)
    assert module().reduction == "none"
    assert module().state_dict() == {}
    module(reduction="test")  # checked where it is used
    with pytest.raises(TypeError):
        function(input=a, target=b)
    # None is "none" for all but welsch_loss.
    if name == "welsch":
        with pytest.raises(ValueError, match=r"not supported\. Got: None"):
            function(a, b, None)
    else:
        assert torch.equal(function(a, b, None), function(a, b))
        assert torch.equal(module(None)(a, b), function(a, b))


@four
def test_errors_are_those_of_kornia_old_and_new(name):
    function, module, _ = KORNIA[name]
    a, b = pair((3, 3))
    for bad in (1.0, [1.0], None, np.zeros((3, 3))):
        for args in ((bad, b), (a, bad), (bad, bad)):
            with pytest.raises(TypeError, match="Type mismatch: expected Tensor, got <class") as e:
                function(*args)
            assert "Not a Tensor type. Got:" in str(e.value)
    for other in (b[:1], b[0], b[None], torch.zeros(())):
        # The shape is judged before the reduction.
        with pytest.raises(ShapeError, match="Shape mismatch: tensors must have") as shapes:
            function(a, other, "test")
        assert "Not same shape for tensors. Got:" in str(shapes.value)
        assert isinstance(shapes.value, ValueError)
        assert isinstance(shapes.value, TypeError)
    with pytest.raises(ValueError, match="Device mismatch: tensors must be on the same device"):
        function(a, b.to("meta"))
    for reduction in ("test", "Mean", 3):
        with pytest.raises(ValueError, match=f"is not supported. Got: {reduction}"):
            function(a, b, reduction)
        with pytest.raises(ValueError, match=f"is not supported. Got: {reduction}"):
            module(reduction)(a, b)


def test_errors_are_also_those_that_a_loaded_kornia_has(monkeypatch):
    base = type("BaseError", (Exception,), {})
    parents = {"TypeCheckError": TypeError, "ShapeError": ValueError, "DeviceError": ValueError}
    theirs = {name: type(name, (base, own), {}) for name, own in parents.items()}
    loaded = types.SimpleNamespace(BaseError=base, **theirs)
    monkeypatch.setitem(sys.modules, "kornia.core.exceptions", loaded)
    a, b = pair((3, 3))
    for args, kind, own in (
        ((1.0, b), "TypeCheckError", TypeError),
        ((a, b[:1]), "ShapeError", ShapeError),
        ((a, b.to("meta")), "DeviceError", ValueError),
    ):
        with pytest.raises(theirs[kind]) as error:
            rt.welsch_loss(*args)
        assert isinstance(error.value, own)
    with pytest.raises(base, match=r"is not supported\. Got: test") as error:
        rt.welsch_loss(a, b, "test")
    assert isinstance(error.value, ValueError)


@four
def test_result_dtype_is_that_of_kornia(name):
    function, _, formula = KORNIA[name]
    for x in FLOATS:
        for y in FLOATS:
            a, b = pair((5,), dtype=x)[0], pair((5,), seed=1, dtype=y)[0]
            value = function(a, b)
            assert value.dtype == torch.promote_types(x, y)
            gradients = torch.autograd.grad(value.sum(), (a, b))
            assert [g.dtype for g in gradients] == [x, y]
    # Kornia's difference of 8-bit integers wraps around.
    a, b = torch.tensor([100, 3], dtype=torch.int8), torch.tensor([-100, 3], dtype=torch.int8)
    value = function(a, b)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double().numpy(), formula(np.array([200.0, 0.0]))[0])
    assert function(a, b.double()).dtype == torch.float64


@four
def test_infinite_residuals_have_their_limits(name):
    function, _, _ = KORNIA[name]
    limits = {
        "welsch": (1.0, 0.0),
        "charbonnier": (math.inf, 1.0),
        "cauchy": (math.inf, 0.0),
        "geman_mcclure": (2.0, 0.0),
    }
    value, slope = limits[name]
    for dtype in FLOATS:
        a = torch.tensor([math.inf, -math.inf, math.nan], dtype=dtype, requires_grad=True)
        found = function(a, torch.zeros_like(a))
        (gradient,) = torch.autograd.grad(found.sum(), a)
        torch.testing.assert_close(found.tolist(), [value, value, math.nan], equal_nan=True)
        torch.testing.assert_close(gradient.tolist(), [slope, -slope, math.nan], equal_nan=True)


@four
@pytest.mark.parametrize("dtype", FLOATS[1:], ids=str)
def test_values_and_gradients_are_rounded_once(name, dtype):
    # 2 ulp are promised in single precision, 1 in half; each is the nearest number there is.
    function, _, formula = KORNIA[name]
    sizes = 10.0 ** np.random.default_rng(0).uniform(-8.0, 4.0, 30_000)
    r = torch.tensor(np.concatenate([sizes, -sizes, [0.0, 1.0, 2.0]])).to(dtype).requires_grad_()
    value = function(r, torch.zeros_like(r))
    (gradient,) = torch.autograd.grad(value.sum(), r)
    truth, slope = formula(r.detach().double().numpy())
    assert ulps(value.detach(), truth, dtype) < 0.6
    assert ulps(gradient, slope, dtype) < 0.6
    for reduction in ("mean", "sum"):
        total = np.mean(truth) if reduction == "mean" else np.sum(truth)
        if total < torch.finfo(dtype).max:
            assert ulps(function(r, torch.zeros_like(r), reduction).detach(), total, dtype) < 0.6


# -- any loss --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["huber", "hampel", "logistic"])
def test_any_loss_is_its_own_formula_of_the_scaled_residual(name):
    loss = get_loss(name)
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-7)):
        a, b = pair((2, 401), size=3.0, dtype=dtype)
        for scale in (1.0, 0.37, 1e6, 1e-6):
            u = (a.double() - b.double()).detach() / scale
            value = robust_loss(a * 1.0, b, loss, scale=scale, reduction="none")
            expected = scale**2 * loss.rho(u)
            torch.testing.assert_close(
                value.double(), expected, rtol=tolerance, atol=tolerance * float(expected.max())
            )
            (gradient,) = torch.autograd.grad(value.sum(), a)
            slope = scale * loss.psi(u)
            torch.testing.assert_close(
                gradient.double(), slope, rtol=tolerance, atol=tolerance * float(slope.max())
            )


def test_huber_is_that_of_torch():
    a, b = pair((4, 50), size=2.0)
    for delta in (0.3, 1.0, 1.345):
        for reduction in ("mean", "sum", "none"):
            ours = robust_loss(a, b, "huber", c=delta, reduction=reduction)
            torch.testing.assert_close(
                ours, functional.huber_loss(a, b, reduction=reduction, delta=delta)
            )
    torch.testing.assert_close(robust_loss(a, b, "linear"), functional.mse_loss(a, b) / 2)


@pytest.mark.parametrize("name", ["welsch", "huber", "hampel", "andrews", "barron"])
def test_kernels_and_formula_agree(name):
    loss = get_loss(name)
    corners = [loss.c * x for knot in (1.0, *loss._breaks()) for x in (knot, -knot)]
    r = torch.tensor([*corners, 0.0, 1e-30, 1e30, torch.inf, -torch.inf, torch.nan])
    r = torch.cat([r, 3.0 * pair((301,))[0].detach()]).double().requires_grad_()
    zero = torch.zeros_like(r)
    value = robust_loss(r, zero, loss, reduction="none")
    (gradient,) = torch.autograd.grad(value.sum(), r)
    for found, function in ((value.detach(), loss.rho), (gradient, loss.psi)):
        expected = function(r.detach())
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13, equal_nan=True)


class Halved(Loss):
    """A loss of one's own, half of Geman and McClure's, that is not registered."""

    @staticmethod
    def rho1(v, m):
        return 0.5 * v * v / (1.0 + v * v)

    @staticmethod
    def weight1(v, m):
        w = 1.0 / (1.0 + v * v)
        return w * w

    @staticmethod
    def dpsi1(v, m):
        w = 1.0 / (1.0 + v * v)
        return w * w * (1.0 - 4.0 * v * v * w)


def test_loss_of_ones_own_is_used_by_kernels_and_formula():
    a, b = pair((50,), dtype=torch.float32)
    ours = robust_loss(a, b, Halved(1.5))
    gm = robust_loss(a, b, "geman_mcclure", c=1.5)
    torch.testing.assert_close(ours, gm)
    compiled = torch.compile(RobustLoss(Halved(1.5)), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(a, b), gm)


def test_c_and_loss_are_checked():
    a, b = pair((3,))
    for bad, error in (({"c": 0.0}, ValueError), ({"c": "1"}, TypeError), ({"loss": 3}, TypeError)):
        with pytest.raises(error):
            robust_loss(a, b, **bad)
        with pytest.raises(error):
            RobustLoss(**bad)
    with pytest.raises(ValueError, match="loss='nothing' is unknown"):
        RobustLoss("nothing")
    for bad, error in (
        (0.0, ValueError),
        (-1.0, ValueError),
        (math.nan, ValueError),
        ("1", TypeError),
    ):
        with pytest.raises(error, match="scale must be"):
            robust_loss(a, b, scale=bad)
    with pytest.raises(ValueError, match="reduction must be one of"):
        RobustLoss(reduction="avg")
    with pytest.raises(ValueError, match=r"not supported\. Got: avg"):
        robust_loss(a, b, reduction="avg")


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(3, dtype=torch.bool),
        torch.zeros(3).to_sparse(),
        torch.zeros(3, dtype=torch.float8_e4m3fn),
    ],
    ids=["bool", "sparse", "float8"],
)
def test_inputs_without_a_difference_are_refused(bad):
    for args in ((bad, torch.zeros(3)), (torch.zeros(3), bad)):
        with pytest.raises(TypeError, match="input and target must"):
            robust_loss(*args)


def test_complex_residuals_count_by_their_absolute_value():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(20, dtype=torch.complex128, generator=generator, requires_grad=True)
    b = torch.randn(20, dtype=torch.complex128, generator=generator)
    r = (a - b).detach()
    value = robust_loss(a, b, "cauchy", reduction="none")
    assert value.dtype == torch.float64
    torch.testing.assert_close(value.detach(), Cauchy().rho(r.abs()))
    (gradient,) = torch.autograd.grad(value.sum(), a)
    torch.testing.assert_close(gradient, Cauchy().weight(r.abs()) * r)
    assert torch.autograd.gradcheck(lambda x: robust_loss(x, b, "welsch"), a)
    # The residual of equal numbers has no direction, and no slope.
    (gradient,) = torch.autograd.grad(robust_loss(a, a.detach().clone(), "welsch"), a)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert robust_loss(a, b.real, "welsch").dtype == torch.float64


# -- scale, weight, mask ---------------------------------------------------------------------


def test_scale_is_broadcast_and_differentiable():
    a, b = pair((4, 3))
    for shape in ((), (3,), (4, 1), (4, 3)):
        scale = (0.5 + torch.rand(shape, dtype=torch.float64)).requires_grad_()
        value = robust_loss(a, b, "tukey", c=2.0, scale=scale, reduction="none")
        u = (a - b) / scale
        torch.testing.assert_close(value, (scale**2 * Tukey(2.0).rho(u)).expand(4, 3))
        assert torch.autograd.gradcheck(
            lambda x, s: robust_loss(x, b, "welsch", scale=s), (a, scale), check_forward_ad=True
        )
        assert torch.autograd.gradgradcheck(
            lambda x, s: robust_loss(x, b, "welsch", scale=s), (a, scale)
        )
        torch.testing.assert_close(
            rt.welsch_loss(a, b, scale=scale.detach()), rt.welsch_loss(a, b, scale=scale)
        )
    with pytest.raises(
        ShapeError, match=r"scale must broadcast to \[4, 3\], got shape \[2, 4, 3\]"
    ):
        robust_loss(a, b, scale=torch.ones(2, 4, 3))
    with pytest.raises(ShapeError, match="scale must broadcast"):
        robust_loss(a, b, scale=torch.ones(4))


def test_weight_is_a_repeat_count():
    a, b = pair((5, 3))
    counts = torch.tensor([1, 2, 0, 3, 1])
    weight = counts[:, None].double().requires_grad_()
    for reduction in ("mean", "sum"):
        repeated = a.repeat_interleave(counts, 0), b.repeat_interleave(counts, 0)
        one = robust_loss(a, b, "cauchy", weight=weight, reduction=reduction)
        other = robust_loss(*repeated, "cauchy", reduction=reduction)
        torch.testing.assert_close(one, other)
        (gradient,) = torch.autograd.grad(one, a)
        torch.testing.assert_close(gradient, torch.autograd.grad(other, a)[0])
    each = robust_loss(a, b, "cauchy", reduction="none")
    torch.testing.assert_close(
        robust_loss(a, b, "cauchy", weight=weight, reduction="none"), weight * each
    )
    torch.testing.assert_close(
        torch.autograd.grad(rt.cauchy_loss(a, b, "sum", weight=weight), weight)[0],
        rt.cauchy_loss(a, b).sum(1, keepdim=True),
    )
    for bad, error in (
        (2.0, TypeError),
        (torch.ones(5), ShapeError),
        (torch.ones(1, 5, 3), ShapeError),
    ):
        with pytest.raises(error, match="weight must"):
            robust_loss(a, b, weight=bad)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.complex64], ids=str)
def test_what_is_masked_may_be_anything(dtype):
    a, b = (x.detach().to(dtype) for x in pair((6, 3)))
    mask = torch.tensor([True, False, True, True, False, False])[:, None]
    spoiled = a.clone()
    spoiled[1], spoiled[4] = math.nan, math.inf
    target = b.clone()
    target[5] = math.nan
    weight = torch.ones(6, 1)
    weight[4] = math.nan
    for weights in (None, weight):
        x, y = spoiled.clone().requires_grad_(), target.clone().requires_grad_()
        kept_x, kept_y = a[mask[:, 0]].requires_grad_(), b[mask[:, 0]].requires_grad_()
        for reduction in ("mean", "sum"):
            value = robust_loss(x, y, "welsch", mask=mask, weight=weights, reduction=reduction)
            expected = robust_loss(kept_x, kept_y, "welsch", reduction=reduction)
            torch.testing.assert_close(value, expected)
            for whole, part, kept in ((x, value, kept_x), (y, value, kept_y)):
                (gradient,) = torch.autograd.grad(part, whole, retain_graph=True)
                (other,) = torch.autograd.grad(expected, kept, retain_graph=True)
                torch.testing.assert_close(gradient[mask[:, 0]], other)
                assert torch.equal(gradient[~mask[:, 0]], torch.zeros_like(gradient[~mask[:, 0]]))
    each = robust_loss(spoiled, target, mask=mask, reduction="none")
    assert torch.equal(each[~mask.expand(6, 3)], torch.zeros(9, dtype=each.dtype))


def test_mask_of_nothing_gives_no_loss_and_a_clean_gradient():
    a = torch.full((3,), math.nan, requires_grad=True)
    nothing = torch.zeros(3, dtype=torch.bool)
    value = robust_loss(a, torch.zeros(3), mask=nothing)
    assert torch.isnan(value)
    assert torch.equal(torch.autograd.grad(value, a)[0], torch.zeros(3))
    assert robust_loss(a, torch.zeros(3), mask=nothing, reduction="sum") == 0.0
    for bad in (torch.ones(3), [True, True, True], torch.ones(2, dtype=torch.bool)):
        with pytest.raises(TypeError, match="mask must"):
            robust_loss(a, torch.zeros(3), mask=bad)


# -- inputs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_any_memory_layout_gives_the_same(dtype):
    a, b = (x.detach() for x in pair((4, 6, 8, 5), dtype=dtype))
    layouts = [
        lambda x: x[::2, :, 1::3],
        lambda x: x.transpose(0, 3),
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x[:1, :1].expand(4, 6, 8, 5),
        lambda x: x.flip(1),
        lambda x: x[0, 0, 0, 0],
    ]
    for layout in layouts:
        for other in (layout, lambda x, layout=layout: layout(x).contiguous().clone()):
            x, y = layout(a).requires_grad_(), other(b)
            plain = x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
            for reduction in ("none", "mean"):
                value = robust_loss(x, y, "cauchy", reduction=reduction)
                expected = robust_loss(plain, y.contiguous().clone(), "cauchy", reduction=reduction)
                assert torch.equal(value, expected)
                g = torch.randn(value.shape, dtype=dtype)
                one, two = (
                    torch.autograd.grad(v, at, g)[0] for v, at in ((value, x), (expected, plain))
                )
                assert torch.equal(one, two)
    imaginary = torch.complex(a.float(), b.float()).conj().imag
    assert imaginary.is_neg()
    assert torch.equal(
        robust_loss(imaginary, b.float(), "tukey"), robust_loss(-b.float(), b.float(), "tukey")
    )


def test_gradient_goes_where_it_is_asked_for():
    a, b = pair((7,))
    both = torch.autograd.grad(robust_loss(a, b), (a, b))
    assert torch.equal(torch.autograd.grad(robust_loss(a, b.detach()), a)[0], both[0])
    assert torch.equal(torch.autograd.grad(robust_loss(a.detach(), b), b)[0], both[1])
    assert torch.equal(both[0], -both[1])
    assert not robust_loss(a.detach(), b.detach()).requires_grad
    with torch.no_grad():
        assert not robust_loss(a, b).requires_grad
    assert torch.equal(torch.autograd.grad(robust_loss(a, a), a)[0], torch.zeros(7).double())


def test_inputs_are_left_alone():
    a, b = pair((9,))
    before = a.detach().clone(), b.detach().clone()
    for reduction in ("none", "mean", "sum"):
        value = robust_loss(a, b, reduction=reduction)
        assert value.data_ptr() not in (a.data_ptr(), b.data_ptr())
        value.sum().backward()
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


def test_parameters_and_subclasses_are_accepted():
    class Marked(torch.Tensor):
        pass

    a, b = pair((5,))
    expected = robust_loss(a, b)
    assert torch.equal(robust_loss(torch.nn.Parameter(a.detach()), b), expected)
    marked = robust_loss(a.detach().as_subclass(Marked), b)
    assert isinstance(marked, Marked)
    torch.testing.assert_close(marked.as_subclass(torch.Tensor), expected.detach())
    assert robust_loss(a.to("meta"), b.to("meta"), reduction="none").shape == (5,)


@pytest.mark.parametrize("pool", ["of torch", "of Python"])
def test_mean_and_sum_of_many_do_not_depend_on_the_number_of_threads(pool, monkeypatch):
    if pool == "of Python":
        monkeypatch.setattr(_kernels, "_pool", _kernels._NO_POOL)
    a, b = pair((700_001,), dtype=torch.float32)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            value = robust_loss(a, b, "huber")
            found.append((value.item(), torch.autograd.grad(value, a)[0]))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    u = (a.double() - b.double()).detach()
    assert found[0][0] == pytest.approx(float(get_loss("huber").rho(u).mean()), rel=1e-7)
    for value, gradient in found[1:]:
        assert value == found[0][0]
        assert torch.equal(gradient, found[0][1])


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_kernels_run_in_a_forked_process():
    # As in the workers of a DataLoader. The threads of the parent are gone there.
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system has no fork")
    a, b = (x.detach() for x in pair((300_000,), dtype=torch.float32))
    expected = robust_loss(a, b, "huber").item()

    def work():
        os._exit(0 if robust_loss(a, b, "huber").item() == expected else 1)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_only_the_inputs_are_kept_for_backward():
    a, b = pair((1000,), dtype=torch.bfloat16)
    for reduction in ("none", "mean", "sum"):
        kept = []

        def keep(x, kept=kept):
            kept.append(x.data_ptr())
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            robust_loss(a, b, reduction=reduction)
        assert set(kept) == {a.data_ptr(), b.data_ptr()}


def test_import_compiles_nothing_and_the_kernels_are_kept(tmp_path):
    code = (
        "import sys\n"
        "import robustfit.torch as rt\n"
        "from robustfit.torch import _kernels\n"
        "rt.RobustLoss('tukey'), rt.WelschLoss()\n"
        "count = _kernels._kernel.cache_info().currsize\n"
        "print('compiled', count, 'torch._dynamo' in sys.modules)\n"
        "a, b = rt.torch.ones(3), rt.torch.zeros(3)\n"
        "print('loss', *(float(rt.robust_loss(a, b, loss)) for loss in sys.argv[1:]))\n"
    )
    counts = []
    for losses in (["huber"], ["talwar"], ["huber", "talwar"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *losses],
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_DEBUG_CACHE": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "compiled 0 False" in done.stdout
        expected = [float(get_loss(loss).rho(1.0)) for loss in losses]
        found = done.stdout.split("loss ")[1].split()[: len(losses)]
        assert [float(x) for x in found] == pytest.approx(expected, rel=1e-6)
        counts.append((done.stdout.count("data saved"), done.stdout.count("data loaded")))
    # Each loss is compiled once, and never mistaken for one that another process compiled; so is
    # what starts them all.
    assert counts == [(2, 0), (1, 1), (0, 3)]


# -- modules ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "criterion",
    [
        RobustLoss("tukey", c=3.0, scale=0.5),
        RobustLoss(Welsch(2.0), scale=torch.tensor(0.5)),
        RobustLoss(scale=torch.nn.Parameter(torch.tensor(2.0))),
        RobustLoss(scale=ScaleTracker("tau")),
        rt.GemanMcclureLoss("mean", scale=3.0),
    ],
    ids=str,
)
def test_modules_are_copied_pickled_and_restored(criterion):
    a, b = pair((50,), dtype=torch.float32)
    expected = criterion.train()(a, b)
    state = criterion.state_dict()
    criterion.eval()
    for copied in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert str(copied) == str(criterion)
        copied.load_state_dict(state)
        torch.testing.assert_close(copied(a, b), expected)


def test_state_dict_holds_what_is_learned_and_nothing_else():
    assert RobustLoss(scale=torch.tensor(0.5)).state_dict() == {}
    assert list(RobustLoss(scale=torch.nn.Parameter(torch.tensor(0.5))).state_dict()) == ["scale"]
    tracked = RobustLoss(scale=ScaleTracker()).state_dict()
    assert list(tracked) == ["scale.scale", "scale.steps"]
    assert RobustLoss(scale=torch.tensor(0.5)).to("meta").scale.device.type == "meta"


def test_module_is_the_function():
    a, b = pair((8, 2))
    weight, mask = torch.rand(8, 1), torch.rand(8, 2) < 0.6
    expected = robust_loss(a, b, "hampel", c=0.9, scale=0.7, weight=weight, mask=mask)
    assert torch.equal(RobustLoss("hampel", 0.9, 0.7)(a, b, weight, mask), expected)
    expected = rt.cauchy_loss(a, b, "sum", c=0.9, scale=0.7, weight=weight, mask=mask)
    module = rt.CauchyLoss("sum", c=0.9, scale=0.7)
    assert torch.equal(module(a, b, weight=weight, mask=mask), expected)
