"""Robust regression on tensors: NumPy's answers, derivatives against finite differences."""

import pickle

import numpy as np
import pytest

import robustfit as rf
from robustfit import datasets, get_loss
from robustfit.exceptions import ConvergenceWarning, RankWarning
from robustfit.result import Status

torch = pytest.importorskip("torch")

from torch.autograd import gradcheck  # noqa: E402

from robustfit.torch import RobustLinear, irls  # noqa: E402

MODELS = {
    "welsch": {},
    "huber": {"loss": "huber"},
    "tukey mm": {"loss": "tukey", "method": "mm"},
    "smdm": {"loss": "tukey", "method": "smdm"},
    "linear": {"loss": "linear"},
    "given": {"loss": "cauchy", "scale": 2.0},
}


def data(batch=(), n=14, p=2, bad=3, seed=0, dtype=torch.float64):
    """Return a design, a response with outliers, repeat counts and inverse variances."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    A = torch.cat([torch.ones(*batch, n, 1), 4.0 * draw(*batch, n, p - 1)], dim=-1)
    b = A.sum(-1) + 0.6 * (draw(*batch, n) + draw(*batch, n) + draw(*batch, n) - 1.5)
    b[..., :bad] += 2.0 + 2.0 * draw(bad)
    tensors = A, b, 0.75 + 0.5 * draw(n), 0.5 + draw(*batch, n)
    return tuple(x.to(dtype).requires_grad_() for x in tensors)


def equal(tensor, array, rtol=0.0):
    np.testing.assert_allclose(tensor.detach().numpy(), array, rtol=rtol, atol=0.0)


def differences(f, x, step=1e-5):
    """Return the Jacobian of f by central differences."""
    columns = []
    for i in range(x.numel()):
        d = torch.zeros(x.numel(), dtype=x.dtype)
        d[i] = step
        d = d.view_as(x)
        columns.append((f(x.detach() + d) - f(x.detach() - d)) / (2.0 * step))
    return torch.stack(columns, -1)


# -- the answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("name", datasets.names())
def test_answers_are_those_of_numpy(name, model):
    known = datasets.load(name)
    expected = rf.irls(known.A, known.b, **model)
    A, b = (torch.tensor(x).requires_grad_() for x in (known.A, known.b))
    found = irls(A, b, **model)
    assert found.status is expected.status
    assert bool(found.success) is expected.success
    for field in ("x", "scale", "weights", "resid", "bse"):
        equal(getattr(found, field), getattr(expected, field), rtol=1e-9)
    assert found.fit.message == expected.message
    assert found.x.requires_grad
    assert not found.bse.requires_grad


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_batch_is_the_single_fits(model):
    A, b, freq, var = data((2, 3))
    fit = irls(A, b, freq_weights=freq, var_weights=var, **model)
    assert fit.x.shape == fit.bse.shape == (2, 3, 2)
    assert fit.weights.shape == fit.resid.shape == (2, 3, 14)
    assert fit.scale.shape == fit.success.shape == fit.status.shape == (2, 3)
    for i in np.ndindex(2, 3):
        one = irls(A[i], b[i], freq_weights=freq, var_weights=var[i], **model)
        assert fit.status[i] is one.status
        for field in ("x", "scale", "weights", "resid", "bse"):
            found, expected = getattr(fit, field)[i], getattr(one, field)
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
        (found,) = torch.autograd.grad(fit.x[i].sum(), b, retain_graph=True)
        (expected,) = torch.autograd.grad(one.x.sum(), b)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_shared_design_is_the_repeated_one():
    A, b, _, var = data((3,))
    shared = irls(A[0], b, var_weights=var)
    repeated = irls(A[:1].expand(3, 14, 2), b, var_weights=var)
    for found, expected in ((shared.x, repeated.x), (shared.weights, repeated.weights)):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        slopes = (
            torch.autograd.grad(y.square().sum(), (A, b, var), retain_graph=True)
            for y in (found, expected)
        )
        for one, other in zip(*slopes, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    assert irls(A[0], b[:1]).x.shape == (1, 2)
    assert irls(A[0], b[None]).x.shape == (1, 3, 2)
    one_response = irls(A, b[0], freq_weights=torch.ones(3, 14, dtype=torch.float64))
    assert one_response.x.shape == (3, 2)


def test_ten_thousand_problems_in_one_call():
    A, b, _, _ = data((10_000,), n=50, p=4, bad=5)
    fit = irls(A, b, "huber")
    assert fit.success.all()
    fit.x.square().sum().backward()
    # Adding A d to b adds d to x.
    along = torch.einsum("mn,mnp->mp", b.grad, A.detach())
    torch.testing.assert_close(along, 2.0 * fit.x.detach(), rtol=1e-9, atol=1e-9)
    for i in (0, 1234, 9999):
        equal(fit.x[i], rf.irls(A[i].detach().numpy(), b[i].detach().numpy(), "huber").x, 1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* of 10000 problems:robustfit.exceptions.RobustfitWarning")
def test_ten_thousand_mm_estimates_in_one_call():
    A, b, _, _ = data((10_000,), n=50, p=4, bad=3)
    fit = irls(A.detach(), b.detach())
    for i in (0, 1234, 9999):
        equal(fit.x[i], rf.irls(A[i].detach().numpy(), b[i].detach().numpy()).x, 1e-9)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]
)
def test_lower_precision_is_rounded_once(dtype, rtol):
    A, b, freq, var = data(dtype=dtype)
    weights = {"freq_weights": freq, "var_weights": var}
    fit = irls(A, b, **weights)
    wide = [x.detach().double().requires_grad_() for x in (A, b, freq, var)]
    exact = irls(*wide[:2], freq_weights=wide[2], var_weights=wide[3])
    assert {fit.x.dtype, fit.scale.dtype, fit.weights.dtype, fit.resid.dtype} == {dtype}
    assert torch.equal(fit.x, exact.x.to(dtype))
    fit.x.sum().backward()
    exact.x.sum().backward()
    for found, expected in zip((A, b, freq, var), wide, strict=True):
        assert found.grad.dtype == dtype
        expected = expected.grad
        torch.testing.assert_close(found.grad.double(), expected, rtol=rtol, atol=rtol)


def test_inputs_stay_and_nothing_is_recorded_without_need():
    tensors = data((2,))
    copies = [x.detach().clone() for x in tensors]
    A, b, freq, var = tensors
    with torch.no_grad():
        assert irls(A, b, freq_weights=freq, var_weights=var).x.grad_fn is None
    irls(A, b, freq_weights=freq, var_weights=var).x.sum().backward()
    assert all(torch.equal(x, y) for x, y in zip(tensors, copies, strict=True))
    fit = irls(*copies[:2])
    assert not any(x.requires_grad for x in (fit.x, fit.scale, fit.weights, fit.resid))
    # No contiguous memory, and views.
    strided = irls(A.mT.contiguous().mT, torch.stack([b, b], -1)[..., 0])
    assert torch.equal(strided.x, fit.x)


# -- the derivatives -------------------------------------------------------------------------

SMOOTH = {
    "mm": {},
    "mm tukey": {"loss": "tukey"},
    "s": {"method": "s"},
    "mad": {"loss": "huber"},
    "std": {"loss": "linear"},
    "given": {"loss": "welsch", "scale": 0.5},
    "ridge": {"loss": "pseudo_huber", "ridge": 2.0},
    "bounds": {"loss": "huber", "bounds": ([-9.0, -9.0], [9.0, 0.9])},
    "unbounded start": {"loss": "logistic", "start": "s", "scale": "s"},
}


@pytest.mark.parametrize("batch", [(), (2,)], ids=["single", "batch"])
@pytest.mark.parametrize("model", SMOOTH.values(), ids=SMOOTH)
def test_derivatives_are_those_of_finite_differences(model, batch):
    def f(A, b, freq, var):
        fit = irls(A, b, freq_weights=freq, var_weights=var, tol=1e-13, **model)
        assert fit.success.all()
        return fit.x, fit.scale, fit.weights, fit.resid

    # The fast mode checks a projection of the Jacobian instead of each entry.
    assert gradcheck(f, data(batch, n=10), atol=1e-5, rtol=1e-4, fast_mode=bool(batch))


def test_a_tensor_as_scale_has_a_derivative():
    A, b, _, _ = data()
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    for batch in ((), (2,)):
        A, b, _, _ = data(batch)
        assert gradcheck(lambda A, b, s: irls(A, b, scale=s, tol=1e-13).x, (A, b, scale), atol=1e-5)
    given = irls(A, b, scale=scale)
    assert torch.equal(given.x, irls(A, b, scale=0.5).x)
    assert torch.equal(given.scale, scale.expand(2))


def test_left_out_rows_have_no_gradient():
    A, b, freq, var = (x.detach().clone() for x in data())
    A[1, 1], b[4], freq[6], var[8] = torch.nan, torch.inf, 0.0, 0.0
    kept = [i for i in range(14) if i not in (1, 4, 6, 8)]
    gradients = []
    for rows in (slice(None), kept):
        some = [x[rows].clone().requires_grad_() for x in (A, b, freq, var)]
        weights = {"freq_weights": some[2], "var_weights": some[3]}
        fit = irls(*some[:2], nan_policy="omit", **weights)
        (fit.x.sum() + fit.scale + fit.weights.nan_to_num()[-3:].sum()).backward()
        gradients.append([x.grad for x in some])
    for whole, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(whole[kept], alone, rtol=1e-7, atol=1e-9)
        assert not whole[[1, 4, 6, 8]].any()


@pytest.mark.parametrize("unit", [1e-90, 1e90])
def test_units_of_the_data_cancel(unit):
    A, b, _, _ = data()
    plain = torch.autograd.grad(irls(A, b).x.sum(), (A, b))
    scaled = torch.autograd.grad(irls(A, unit * b).x.sum() / unit, (A, b))
    for found, expected in zip(scaled, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_lowered_efficiency_has_derivatives_of_the_loss_that_was_used():
    known = datasets.load("starsCYG")
    A, b = torch.tensor(known.A), torch.tensor(known.b).requires_grad_()
    fit = irls(A, b)
    assert fit.status is Status.EFFICIENCY_LOWERED
    c = fit.fit.loss.c
    assert c < get_loss("welsch").c
    stacked = irls(torch.stack([A, A]), torch.stack([b, b]))
    kept = irls(A, b, scale=fit.fit.scale, c=c, start=fit.fit.x)
    torch.testing.assert_close(kept.x, fit.x, rtol=1e-8, atol=1e-8)
    (found,) = torch.autograd.grad(fit.x.sum(), b)
    (other,) = torch.autograd.grad(stacked.x[1].sum(), b)
    torch.testing.assert_close(found, other, rtol=1e-6, atol=1e-8)
    shift = torch.einsum("n,np->p", found, A)
    torch.testing.assert_close(shift, torch.ones_like(shift), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("model", [{}, {"loss": "huber"}], ids=["mm", "mad"])
def test_unrolled_derivatives_are_those_of_the_steps_and_tend_to_the_implicit_ones(model):
    A, b, _, var = data()
    exact = torch.autograd.grad(irls(A, b, var_weights=var, **model).x.sum(), (A, b, var))
    errors = []
    for steps in (1, 2, 4, 8, 300):
        fit = irls(A, b, var_weights=var, unroll=steps, **model)
        assert torch.equal(fit.x, irls(A, b, var_weights=var, **model).x)
        found = torch.autograd.grad(fit.x.sum(), (A, b, var))
        pairs = zip(found, exact, strict=True)
        errors.append(max(float((x - y).abs().max()) for x, y in pairs))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3
    assert errors[-1] < 1e-7


def test_unrolled_steps_are_differences_of_reweighted_least_squares():
    A, b, _, _ = data()
    fit = irls(A, b, scale=0.5, unroll=3)
    loss, design, x = get_loss("welsch"), A.detach().numpy(), fit.x.detach().numpy()

    def steps(response):
        at = x
        for _ in range(3):
            root = np.sqrt(loss.weight((response.numpy() - design @ at) / 0.5))
            at = np.linalg.lstsq(root[:, None] * design, root * response.numpy(), rcond=None)[0]
        return torch.tensor(at)

    found = torch.stack([torch.autograd.grad(y, b, retain_graph=True)[0] for y in fit.x])
    torch.testing.assert_close(found, differences(steps, b), rtol=1e-6, atol=1e-8)


def test_no_second_derivatives_instead_of_wrong_ones():
    A, b, _, _ = data()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(irls(A, b).x.sum(), b, create_graph=True)


# -- fits without derivatives ----------------------------------------------------------------


def singular(kind):
    A, b, _, _ = (x.detach().clone() for x in data())
    if kind == "exact":
        b[4:] = A[4:].sum(-1)
    elif kind == "all exact":
        b = A.sum(-1)
    elif kind == "rank":
        A[:, 1] = 2.0
    return A, b


WITHOUT = [
    ("exact", "welsch", Status.EXACT_FIT),
    ("exact", "huber", Status.EXACT_FIT),
    ("all exact", "welsch", Status.EXACT_FIT),
    ("all exact", "huber", Status.EXACT_FIT),
    ("all exact", "linear", Status.EXACT_FIT),
    ("rank", "welsch", Status.RANK_DEFICIENT),
    ("rank", "linear", Status.RANK_DEFICIENT),
]


@pytest.mark.filterwarnings("ignore:1 of 2 problems:robustfit.exceptions.RankWarning")
@pytest.mark.parametrize(("kind", "loss", "status"), WITHOUT)
def test_the_gradient_is_nan_where_there_is_none(kind, loss, status):
    A, b, _, _ = data((2,))
    A.data[0], b.data[0] = singular(kind)
    fit = irls(A, b, loss)
    assert fit.status.tolist() == [status, Status.CONVERGED]
    (every,) = torch.autograd.grad(fit.x.sum(), A, retain_graph=True)
    assert every[0].isnan().all()
    assert every[1].isfinite().all()
    # What takes no part in the loss does not spoil the rest.
    good = fit.status == Status.CONVERGED
    values = torch.cat([fit.x, fit.scale[:, None], fit.weights, fit.resid], dim=1)
    values = torch.where(torch.tensor(good)[:, None], values, 0.0)
    (some,) = torch.autograd.grad(values.sum(), A)
    assert some[1].isfinite().all()
    assert not some[0].any()


def test_the_gradient_is_nan_before_convergence():
    A, b, _, _ = data()
    with pytest.warns(ConvergenceWarning):
        fit = irls(A, b, "huber", maxiter=1)
    assert not fit.success
    assert torch.autograd.grad(fit.x[0], b)[0].isnan().all()


def test_warnings_are_those_of_numpy():
    A, b = singular("rank")
    with pytest.warns(RankWarning, match="rank 1"):
        irls(A, b)


# -- the layer -------------------------------------------------------------------------------


def test_layer_is_the_function():
    A, b, freq, var = data((2,))
    layer = RobustLinear("tukey", c=4.0, method="mm", unroll=2)
    assert repr(layer) == "RobustLinear(Tukey(c=4.0), scale='auto', unroll=2, method='mm')"
    weights = {"freq_weights": freq, "var_weights": var}
    expected = irls(A, b, "tukey", c=4.0, method="mm", unroll=2, **weights).x
    for one in (layer, pickle.loads(pickle.dumps(layer))):
        found = one(A, b, **weights)
        assert torch.equal(found, expected)
    slopes = (torch.autograd.grad(x.sum(), (A, b, freq, var)) for x in (found, expected))
    assert all(torch.equal(*pair) for pair in zip(*slopes, strict=True))
    assert not layer.state_dict()
    assert layer.to(torch.float32)(A.float(), b.float()).dtype == torch.float32


def test_layer_learns_a_scale_that_is_a_parameter():
    A, b, _, _ = data()
    layer = RobustLinear("huber", scale=torch.nn.Parameter(torch.tensor(0.5).double()))
    assert list(layer.state_dict()) == ["scale"]
    assert "scale=learned" in repr(layer)
    (slope,) = torch.autograd.grad(layer(A, b)[0], layer.scale)

    def at(scale):
        return irls(A, b, "huber", scale=float(scale)).x[:1].detach()

    torch.testing.assert_close(slope[None], differences(at, layer.scale)[0], rtol=1e-5, atol=1e-8)
    assert not RobustLinear(scale=torch.tensor(0.5)).state_dict()


# -- bad input -------------------------------------------------------------------------------


def test_bad_tensors_are_named():
    A, b, freq, var = (x.detach() for x in data())
    for bad in (A.numpy(), None, A.int(), A.to(torch.complex128), A.to_sparse()):
        with pytest.raises(TypeError, match="A must be a"):
            irls(bad, b)
    for name in ("freq_weights", "var_weights"):
        with pytest.raises(TypeError, match=f"{name} must be a tensor"):
            irls(A, b, **{name: freq.numpy()})
        with pytest.raises(ValueError, match=rf"{name} must have shape \(\.\.\., 14\)"):
            irls(A, b, **{name: freq[:3]})
        with pytest.raises(ValueError, match=f"{name} must not be negative"):
            irls(A, b, **{name: -var})
    with pytest.raises(ValueError, match=r"A must have shape \(\.\.\., n, p\)"):
        irls(b, b)
    with pytest.raises(ValueError, match=r"b must have shape \(\.\.\., 14\)"):
        irls(A, b[None].mT)
    with pytest.raises(ValueError, match="batch dimensions do not fit"):
        irls(A.expand(3, 14, 2), b.expand(2, 14))
    with pytest.raises(ValueError, match="b must be on the device of A, cpu, got meta"):
        irls(A, b.to("meta"))
    for bad in (torch.nan, torch.inf):
        broken = b.clone()
        broken[2] = bad
        with pytest.raises(ValueError, match="b must be finite"):
            irls(A, broken)
    with pytest.raises(ValueError):
        irls(A[:0], b[:0])


def test_bad_options_are_named():
    A, b, _, _ = data()
    with pytest.raises(TypeError, match="outputs"):
        irls(A, b, outputs=("x",))
    with pytest.raises(TypeError, match="unexpected keyword argument 'power'"):
        irls(A, b, power=2)
    for unroll in (-1, 0.5):
        with pytest.raises(ValueError, match="unroll must be a whole number"):
            irls(A, b, unroll=unroll)
        with pytest.raises(ValueError, match="unroll must be a whole number"):
            RobustLinear(unroll=unroll)
    with pytest.raises(ValueError, match="loss='wealsch' is unknown"):
        RobustLinear("wealsch")
    with pytest.raises(ValueError, match="scale must have one element"):
        irls(A, b, scale=torch.ones(2))
    with pytest.raises(TypeError, match="scale must be a dense tensor of real"):
        irls(A, b, scale=torch.tensor(1))
    with pytest.raises(ValueError, match="scale must be positive"):
        irls(A, b, scale=torch.tensor(-1.0))
    for option in ({"leverage": True}, {"method": "tau"}, {"scale": "tau"}):
        with pytest.raises(ValueError, match="has no derivatives"):
            irls(A, b, **option)
        assert irls(A.detach(), b.detach(), **option).success
