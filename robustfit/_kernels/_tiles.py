"""Products of a block of rows, in tiles that stay in the vector registers.

LLVM keeps many sums in registers only where each has a name, so these loops are written in LLVM's
own language, with vectors of `LANES` numbers, of which every processor makes the ones it has.
Matrices are given by an address and the distance of their rows in bytes. A row is read in whole
vectors, past its end: what stands there goes to entries that nobody reads. So `LANES` numbers at
least must follow the last row, and every block has a multiple of `LANES` rows.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils as untyped
from numba.extending import intrinsic

from robustfit import _scalar
from robustfit.losses._compiled import kernels, source_stamp

# Numba's types here are those of a part of its functions only.
cgutils: Any = untyped

_wide = bool(dict(binding.get_host_cpu_features()).get("avx512f"))
#: Numbers in a vector.
LANES = 8 if _wide else 4
#: The number of columns of a block is a multiple of this.
WIDTH = 8
# A tile of so many rows by vectors, and a vector of each side, fill the registers.
_TALL, _BROAD = (8, 3) if _wide else (4, 3)
# One sum alone waits for its last value; so many at a time keep the multipliers busy.
_SUMS = 8
# Bytes that come from memory together.
_LINE = 64

_double, _index, _byte = ir.DoubleType(), ir.IntType(64), ir.IntType(8)
_vector = ir.VectorType(_double, LANES)


class _Writer:
    """Writes operations on memory and vectors."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def at(self, base: Any, count: Any, size: Any) -> Any:
        """Return the address of an element of so many bytes."""
        size = _index(size) if isinstance(size, int) else size
        return self.builder.add(base, self.builder.mul(count, size))

    def load(self, address: Any, kind: Any = _double) -> Any:
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=8)

    def store(self, value: Any, address: Any) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()), align=8)

    def fill(self, value: Any) -> Any:
        """Return a vector of one value."""
        first = self.builder.insert_element(ir.Constant(_vector, ir.Undefined), value, _index(0))
        return self.pick(first, first, [0] * LANES)

    def pick(self, a: Any, b: Any, which: list[int]) -> Any:
        """Return some of the numbers of two vectors."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), which)
        return self.builder.shuffle_vector(a, b, mask)

    def zeros(self, count: int) -> list[Any]:
        """Return variables of the function, which LLVM turns into registers."""
        found = [cgutils.alloca_once(self.builder, _vector) for _ in range(count)]
        for variable in found:
            self.builder.store(ir.Constant(_vector, [0.0] * LANES), variable)
        return found

    def add_product(self, total: Any, a: Any, b: Any) -> None:
        """Add a b to a variable, in one operation where the processor has it."""
        product = self.builder.fmul(a, b, flags=("contract",))
        old = self.builder.load(total)
        self.builder.store(self.builder.fadd(old, product, flags=("contract",)), total)


def _tile(tall: int, broad: int) -> Any:
    """Return a function that adds a tile of L' diag(w) R to G; all three begin at the tile."""
    deep = max(1, _SUMS // (tall * broad))

    def add(
        typing: Any, L: Any, L_step: Any, R: Any, R_step: Any, w: Any, m: Any, G: Any, G_step: Any
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            L, L_step, R, R_step, w, m, G, G_step = arguments
            write = _Writer(builder)
            total = write.zeros(deep * tall * broad)
            with cgutils.for_range_slice(builder, _index(0), m, _index(deep)) as (first, _):
                for k in range(deep):
                    i = builder.add(first, _index(k))
                    own = write.fill(write.load(write.at(w, i, 8)))
                    left, right = write.at(L, i, L_step), write.at(R, i, R_step)
                    weighted = [
                        builder.fmul(
                            own, write.load(write.at(right, _index(v), 8 * LANES), _vector)
                        )
                        for v in range(broad)
                    ]
                    sums = iter(total[k * tall * broad :])
                    for l in range(tall):
                        factor = write.fill(write.load(write.at(left, _index(l), 8)))
                        for b in weighted:
                            write.add_product(next(sums), factor, b)
            for l in range(tall):
                row = write.at(G, _index(l), G_step)
                for v in range(broad):
                    place = write.at(row, _index(v), 8 * LANES)
                    value = write.load(place, _vector)
                    for part in total[l * broad + v :: tall * broad]:
                        value = builder.fadd(value, builder.load(part))
                    write.store(value, place)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 8), emit

    return intrinsic(add)


def _multiply(typing: Any, R: Any, R_step: Any, x: Any, p: Any, m: Any, out: Any) -> Any:
    """Set out to R x; x ends in zeros."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        R, R_step, x, p, m, out = arguments
        write = _Writer(builder)
        with cgutils.for_range_slice(builder, _index(0), m, _index(LANES)) as (first, _):
            total = write.zeros(LANES)
            rows = [write.at(R, builder.add(first, _index(l)), R_step) for l in range(LANES)]
            with cgutils.for_range_slice(builder, _index(0), p, _index(LANES)) as (j, _):
                factor = write.load(write.at(x, j, 8), _vector)
                for variable, row in zip(total, rows, strict=True):
                    write.add_product(variable, write.load(write.at(row, j, 8), _vector), factor)
            # Neighbours are added until lane l is the sum of row l.
            found, half = [builder.load(variable) for variable in total], 1
            while len(found) > 1:
                low = [
                    l - l % (2 * half) + l % half + (LANES if l & half else 0) for l in range(LANES)
                ]
                high = [l + half for l in low]
                found = [
                    builder.fadd(write.pick(a, b, low), write.pick(a, b, high))
                    for a, b in zip(found[::2], found[1::2], strict=True)
                ]
                half *= 2
            write.store(found[0], write.at(out, first, 8))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), emit


def _fetch(typing: Any, begin: Any, end: Any) -> Any:
    """Ask for memory that will be needed soon."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = _byte.as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        with cgutils.for_range_slice(builder, *arguments, _index(_LINE)) as (address, _):
            # For reading, into every cache, as data.
            read = [number(0), number(3), number(1)]
            builder.call(prefetch, [builder.inttoptr(address, pointer), *read])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), emit


def _address(typing: Any, a: Any) -> Any:
    """Return the address of an array, which must be in use until after that of the address."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.ptrtoint(array.data, _index)

    return types.intp(a), emit


multiply: Any = intrinsic(_multiply)
fetch: Any = intrinsic(_fetch)
address: Any = intrinsic(_address)

# By height and breadth.
_11, _12, _13 = (_tile(1, broad) for broad in (1, 2, 3))
_21, _22, _23 = (_tile(2, broad) for broad in (1, 2, 3))
_41, _42, _43 = (_tile(4, broad) for broad in (1, 2, 3))
_81, _82, _83 = (_tile(8, broad) for broad in (1, 2, 3))

#: Part of the name of every kernel that uses these, so that an edit here misses the disk cache.
STAMP = source_stamp(_tile, _tile, _scalar) + str((LANES, _TALL, _BROAD))


jit = kernels(STAMP)


@jit
def add_gram(R: Any, step: Any, w: Any, p: Any, m: Any, G: Any, G_step: Any) -> None:
    """Add R' diag(w) R of m rows to the lower triangle of G, and something to the upper one."""
    j = 0
    while j < p:
        tall = 8 if _TALL == 8 and p - j > 4 else 4 if p - j > 2 else 2
        L, row, k = R + 8 * j, G + G_step * j, 0
        while k < min(j + tall, p):
            broad = min(_BROAD, (min(j + tall, p) - k + LANES - 1) // LANES)
            right, out = R + 8 * k, row + 8 * k
            if tall == 8:
                if broad == 1:
                    _81(L, step, right, step, w, m, out, G_step)
                elif broad == 2:
                    _82(L, step, right, step, w, m, out, G_step)
                else:
                    _83(L, step, right, step, w, m, out, G_step)
            elif tall == 4:
                if broad == 1:
                    _41(L, step, right, step, w, m, out, G_step)
                elif broad == 2:
                    _42(L, step, right, step, w, m, out, G_step)
                else:
                    _43(L, step, right, step, w, m, out, G_step)
            elif broad == 1:
                _21(L, step, right, step, w, m, out, G_step)
            elif broad == 2:
                _22(L, step, right, step, w, m, out, G_step)
            else:
                _23(L, step, right, step, w, m, out, G_step)
            k += broad * LANES
        j += tall


@jit
def add_gradient(R: Any, step: Any, w: Any, r: Any, p: Any, m: Any, g: Any) -> None:
    """Add R' diag(w) r of m rows to g."""
    for k in range(0, p, 3 * LANES):
        broad = (p - k + LANES - 1) // LANES
        right, out = R + 8 * k, g + 8 * k
        if broad == 1:
            _11(r, 8, right, step, w, m, out, 0)
        elif broad == 2:
            _12(r, 8, right, step, w, m, out, 0)
        else:
            _13(r, 8, right, step, w, m, out, 0)


@jit
def pack(A: Any, low: Any, count: Any, block: Any) -> None:
    """Copy `count` rows of A from `low` on into a block, and zeros after them."""
    m, width = block.shape
    p = A.shape[1]
    if A.strides[1] <= A.strides[0]:
        for i in range(count):
            for j in range(p):
                block[i, j] = A[low + i, j]
    else:
        for j in range(p):
            for i in range(count):
                block[i, j] = A[low + i, j]
    for i in range(m):
        for j in range(p if i < count else 0, width):
            block[i, j] = 0.0
