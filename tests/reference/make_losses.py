"""Write the rows and the tuning constants of losses.json, from the papers, by mpmath.

    python tests/reference/make_losses.py [--constants]

Each loss is here only its psi in unit scale, v = u / c, as its paper gives it (the references
stand in the docstrings of robustfit.losses). rho is the integral of psi, dpsi its derivative,
both taken numerically with 40 digits, so that nothing is shared with the package. With
``--constants`` the tuning constants are computed as well, which takes some minutes: c solves
(E psi')^2 / E psi^2 = efficiency, or E rho / sup rho = breakdown point.

The part "robustbase" of the file is the output of R 4.2.2 with robustbase 0.99-6 (Mpsi and
Mwgt, cc = tuning.psi) on a grid; this script keeps it as it is.
"""

import json
import sys
from pathlib import Path

import mpmath as mp

mp.mp.dps = 40
FILE = Path(__file__).with_name("losses.json")
INF = float("inf")
KINDS = ("rho", "psi", "weight", "dpsi")


def ramp(v, knee):
    return min(v, mp.mpf(knee))


def tukey(v):
    return v * (1 - v**2) ** 2 if v < 1 else mp.mpf(0)


def andrews(v):
    return mp.sin(v) if v < mp.pi else mp.mpf(0)


def hampel(v, a, b, r):
    if v <= b:
        return ramp(v, a)
    return a * (r - v) / (r - b) if v <= r else mp.mpf(0)


def lqq(v, b, s):
    # Koller and Stahel (2011) with their c = 1 and b in units of it.
    if v <= 1:
        return v
    if v <= 1 + b:
        return v - s * (v - 1) ** 2 / (2 * b)
    a = (b * s - 2 * b - 2) / (1 - s)
    x = v - 1 - b
    return 1 + b - b * s / 2 + (s - 1) / a * (x**2 / 2 - a * x) if x <= a else mp.mpf(0)


def optimal(v):
    if v <= 2:
        return v
    p = [mp.mpf(t) for t in ("-1.944", "1.728", "-0.312", "0.016")]
    return p[0] * v + p[1] * v**3 + p[2] * v**5 + p[3] * v**7 if v <= 3 else mp.mpf(0)


def barron(v, alpha):
    if alpha == -INF:
        return v * mp.exp(-(v**2) / 2)
    if alpha == 2:
        return v
    return v * (v**2 / abs(alpha - 2) + 1) ** (mp.mpf(alpha) / 2 - 1)


# name: psi of v >= 0, its knots for a shape, and the shapes.
NO_KNOTS, ONE = (lambda: ()), (lambda: (1,))
LOSSES = {
    "welsch": (lambda v: v * mp.exp(-(v**2)), NO_KNOTS, [()]),
    "huber": (lambda v: ramp(v, 1), ONE, [()]),
    "tukey": (tukey, ONE, [()]),
    "cauchy": (lambda v: v / (1 + v**2), NO_KNOTS, [()]),
    "geman_mcclure": (lambda v: v / (1 + v**2) ** 2, NO_KNOTS, [()]),
    "fair": (lambda v: v / (1 + v), NO_KNOTS, [()]),
    "logistic": (mp.tanh, NO_KNOTS, [()]),
    "pseudo_huber": (lambda v: v / mp.sqrt(1 + v**2), NO_KNOTS, [()]),
    "andrews": (andrews, lambda: (mp.pi,), [()]),
    "talwar": (lambda v: v if v < 1 else mp.mpf(0), ONE, [()]),
    "hampel": (
        hampel,
        lambda a, b, r: (a, b, r),
        [(1.5, 3.5, 8.0), (2.0, 4.0, 8.0), (1.7, 3.4, 8.5)],
    ),
    "lqq": (
        lqq,
        lambda b, s: (1, 1 + b, 1 + b + (b * s - 2 * b - 2) / (1 - s)),
        [(1.5, 1.5), (0.75, 1.75)],
    ),
    "optimal": (optimal, lambda: (2, 3), [()]),
    "arctan": (lambda v: v / (1 + v**4), NO_KNOTS, [()]),
    "arctan_psi": (mp.atan, NO_KNOTS, [()]),
    "ramsay": (lambda v: v * mp.exp(-v), NO_KNOTS, [()]),
    "linear": (lambda v: v, NO_KNOTS, [()]),
    "barron": (
        barron,
        lambda alpha: (),
        [(1.0,), (2.0,), (1.5,), (1e-9,), (0.0,), (-0.5,), (-2.0,), (-9.0,), (-INF,)],
    ),
}
REDESCENDING_TO_ZERO = {"tukey", "andrews", "talwar", "hampel", "lqq", "optimal"}
BOUNDED = REDESCENDING_TO_ZERO | {"welsch", "geman_mcclure", "arctan", "ramsay"}
LEVELS = {
    "efficiency": (0.8, 0.85, 0.9, 0.95, 0.98, 0.99),
    "breakdown": (0.5, 0.25, 0.2, 0.15, 0.1),
}
POINTS = [1e-12, -1e-6, 0.015625, -0.3, 0.7, -1.1, 1.6, 2.3, -2.9, 4.1, -5.3, 7.9, 13.0, -40.0, 1e6]
CONSTANTS = [0.8, 2.984637176299057]


def integral(psi, end, knots):
    """Return the integral of psi from 0 to end, split where it bends or decays."""
    splits = sorted({mp.mpf(t) for t in (*knots, *(10.0**k for k in range(-2, 7))) if t < end})
    return mp.quad(psi, [mp.mpf(0), *splits, end])


def values(name, c, shape, u):
    """Return rho, psi, weight and dpsi at u, or None where u lies at a knot."""
    formula, knots, _ = LOSSES[name]
    shape = tuple(mp.mpf(s) if abs(s) < INF else s for s in shape)
    corners = knots(*shape)
    scale = mp.mpf(c)
    v = abs(mp.mpf(u)) / scale
    if any(abs(v - k) < 1e-3 for k in corners):
        return None
    step = mp.mpf(10) ** -13 * v
    around = [formula(v + k * step, *shape) for k in (-2, -1, 1, 2)]
    dpsi = (around[0] - 8 * around[1] + 8 * around[2] - around[3]) / (12 * step)
    psi = formula(v, *shape)
    rho = integral(lambda t: formula(t, *shape), v, corners)
    return scale**2 * rho, mp.sign(u) * scale * psi, psi / v, dpsi


def row(name, c, shape):
    found = {u: vs for u in POINTS if (vs := values(name, c, shape, u)) is not None}
    columns = zip(*found.values(), strict=True)
    return {
        "loss": name,
        "c": c,
        "shape": [str(s) if abs(s) == INF else s for s in shape],
        "u": list(found),
        **{kind: [float(x) for x in column] for kind, column in zip(KINDS, columns, strict=True)},
    }


def expectation(f, knots):
    """Return E f(|U|) of a standard normal U."""
    splits = sorted({mp.mpf(t) for t in (*knots, 0.25, 0.5, 1, 2, 4, 8) if 0 < t < 14})
    return mp.quad(lambda u: 2 * mp.npdf(u) * f(u), [mp.mpf(0), *splits, mp.mpf(14)])


def curve(name, shape, kind):
    """Return the efficiency or the breakdown point as a function of c."""
    formula, knots, _ = LOSSES[name]
    corners = [mp.mpf(k) for k in knots(*shape)]
    shape = tuple(mp.mpf(s) for s in shape)
    decay = [0.1, 0.3, 1, 3, 10] if not corners else []

    def psi(u, c):
        return c * formula(u / c, *shape)

    def efficiency(c):
        at = [c * k for k in (*corners, *decay)]
        return expectation(lambda u: u * psi(u, c), at) ** 2 / expectation(
            lambda u: psi(u, c) ** 2, at
        )

    def breakdown(c):
        # E rho / sup, by parts: the integral of psi(u) P(|U| > u) over the integral of psi.
        at = [c * k for k in (*corners, *decay)]
        end = at[-1] if name in REDESCENDING_TO_ZERO else mp.inf
        sup = mp.quad(lambda u: psi(u, c), [mp.mpf(0), *(at[:-1] if end != mp.inf else at), end])
        splits = sorted({mp.mpf(t) for t in (*at, 0.5, 1, 2, 4, 8) if t < 14})
        return (
            mp.quad(lambda u: psi(u, c) * mp.erfc(u / mp.sqrt(2)), [mp.mpf(0), *splits, mp.mpf(14)])
            / sup
        )

    return efficiency if kind == "efficiency" else breakdown


def solve(f, level, rising):
    """Return the c between 0.05 and 20 with f(c) = level."""
    low, high = mp.mpf("0.05"), mp.mpf(20)
    with mp.workdps(8):
        while high / low > 1.02:
            middle = mp.sqrt(low * high)
            if (f(middle) < level) == rising:
                low = middle
            else:
                high = middle
    with mp.workdps(24):
        target = mp.mpf(str(level))
        return float(mp.findroot(lambda c: f(c) - target, (low, high), tol=1e-40))


def tuning():
    rows = []
    for name, (_, _, shapes) in LOSSES.items():
        if name in ("linear", "barron"):
            continue
        for shape in shapes:
            for kind, levels in LEVELS.items():
                if kind == "breakdown" and name not in BOUNDED:
                    continue
                f = curve(name, shape, kind)
                for level in levels:
                    c = solve(f, level, kind == "efficiency")
                    row = {"loss": name, "shape": shape, "kind": kind, "value": level, "c": c}
                    print(*row.values())
                    rows.append(row)
    return rows


def main():
    data = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    data["rows"] = [
        row(name, c, shape)
        for name, (_, _, shapes) in LOSSES.items()
        for shape in shapes
        for c in CONSTANTS
    ]
    if "--constants" in sys.argv:
        data["tuning"] = tuning()
    lines = [
        f'"{key}": {{\n' + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in part.items()) + "\n}"
        if isinstance(part, dict)
        else f'"{key}": [\n' + ",\n".join(map(json.dumps, part)) + "\n]"
        for key, part in data.items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
