"""The Welsch loss for training beside Kornia's, torch's own losses, and the memory's speed.

``python -m tests.bench.bench_torch`` writes docs/explanation/torch_table.md (a few minutes with
idle cores); ``--quick`` takes fewer repeats and no large size, and writes nothing; ``--gpu``
measures on a GPU instead and writes docs/explanation/torch_gpu_table.md. Kornia is timed where it
is installed. All of a row is measured in turns, and a time is a median, so that what else runs on
the machine falls on all alike.
"""

import argparse
import functools
import gc
import importlib.util
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustfit.torch import welsch_loss

DOCS = Path(__file__).parents[2] / "docs"
SIZES = {10_000: 400, 1_000_000: 60, 16_000_000: 7}  # and how often each is timed
GPU_SPEED = 3.0e12  # bytes per second: the copy bandwidth measured on an H100 by others


def _milliseconds(value):
    ms = 1e3 * value
    return f"{ms:.3g}" if ms < 1000.0 else f"{ms:,.0f}"


def contestants():
    """Return the losses of (prediction, target, reduction) by name."""
    found = {
        "ours": welsch_loss,
        "huber_loss": lambda a, b, reduction: functional.huber_loss(a, b, reduction=reduction),
        "mse_loss": lambda a, b, reduction: functional.mse_loss(a, b, reduction=reduction),
    }
    if importlib.util.find_spec("kornia") is not None:
        from kornia.losses import welsch_loss as kornia

        found["Kornia"] = kornia
    return found


def floors(a, b):
    """Return what moves the memory that a loss must, and does little else, by what it does.

    A gradient and an unreduced loss are new tensors; fresh memory costs more than old.
    """

    def read():
        torch.dot(a, b)

    def write():
        torch.sub(a, b)

    return {
        ("mean", False): (read,),
        ("mean", True): (read, write),
        ("none", False): (write,),
        ("none", True): (write, write),
    }


def row(n, reduction, backward, repeats):
    """Return the median times in seconds of each contestant, and of the memory traffic."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, generator=generator, requires_grad=True)
    b = torch.randn(n, generator=generator)
    upstream = torch.ones(n) if reduction == "none" else None

    def run(loss):
        a.grad = None
        value = loss(a, b, reduction)
        if backward:
            value.backward(upstream)

    def floor():
        with torch.no_grad():
            for step in floors(a, b)[reduction, backward]:
                step()

    calls = {name: lambda f=f: run(f) for name, f in contestants().items()} | {"floor": floor}
    times = {name: [] for name in calls}
    gc.disable()
    for repeat in range(repeats + 2):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if repeat >= 2:
                times[name].append(time.perf_counter() - begin)
    gc.enable()
    return {name: statistics.median(values) for name, values in times.items()}


def copy_speed(n=16_000_000, repeats=15):
    """Return the bytes per second of a copy between two tensors that exist."""
    a, b = torch.ones(n), torch.zeros(n)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        b.copy_(a)
        times.append(time.perf_counter() - begin)
    return 8.0 * n / statistics.median(times)


class Traffic(TorchDispatchMode):
    """Counts kernels, and the bytes they read and write, of what runs within."""

    def __init__(self):
        super().__init__()
        self.kernels, self.bytes = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        # A view moves nothing, and no more does a tensor that is only made.
        if not function.is_view and not function.__name__.startswith(("detach", "empty")):
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
            self.kernels += 1
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return out


def traffic(loss, reduction, n=1_000_000):
    """Return kernels and bytes per element of a forward and a backward pass in eager mode."""
    # On the meta device every loss takes the formula that a GPU would run.
    a = torch.empty(n, device="meta", requires_grad=True)
    b = torch.empty(n, device="meta")
    with Traffic() as counted:
        value = loss(a, b, reduction)
        value.backward(torch.empty_like(value))
    return counted.kernels, counted.bytes / n


def processor():
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_table(sizes, threads):
    """Return the lines of the table of times, printed as they come."""
    names = [*contestants(), "floor"]
    lines = [
        "| threads | n | reduction | pass | " + " | ".join(names) + " | ours / floor |"
        + (" Kornia / ours |" if "Kornia" in names else ""),
    ]  # fmt: skip
    lines.append("|--:|--:|---|---|" + "--:|" * (len(names) + 1 + ("Kornia" in names)))
    for count in threads:
        torch.set_num_threads(count)
        for n, repeats in sizes.items():
            for reduction in ("mean", "none"):
                for backward in (False, True):
                    times = row(n, reduction, backward, repeats)
                    cells = [_milliseconds(times[name]) for name in names]
                    cells.append(f"{times['ours'] / times['floor']:.2f}")
                    if "Kornia" in names:
                        cells.append(f"{times['Kornia'] / times['ours']:.1f}")
                    what = "forward + backward" if backward else "forward"
                    lines.append(
                        f"| {count} | {n:,} | {reduction} | {what} | " + " | ".join(cells) + " |"
                    )
                    print(lines[-1], flush=True)
    return lines


def gpu_table():
    """Return the lines of the predicted table."""
    lines = [
        "| | kernels, mean | bytes, mean | ms, mean | kernels, none | bytes, none | ms, none |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    rows = {name: [traffic(f, r) for r in ("mean", "none")] for name, f in contestants().items()}
    rows["ours, by torch's operations"] = rows.pop("ours")
    # Two reads; two reads and a write; and a write and a read more for the unreduced loss. The
    # mean takes one kernel more, which adds a thousand numbers.
    rows["ours, by our kernels"] = [(3, 20.0), (2, 28.0)]
    for name, both in rows.items():
        cells = [
            f"{kernels} | {size:.0f} | {1e3 * size * 16e6 / GPU_SPEED:.2f}"
            for kernels, size in both
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def gpu_row(n, dtype, reduction, backward, repeats=40):
    """Return the median times in seconds on the GPU.

    ``floor`` is the time of a copy of the same size, times what must be moved to what it moves.
    """
    generator = torch.Generator("cuda").manual_seed(0)
    a = torch.randn(n, generator=generator, device="cuda", dtype=dtype, requires_grad=True)
    b = torch.randn(n, generator=generator, device="cuda", dtype=dtype)
    upstream = torch.ones_like(b) if reduction == "none" else None
    copied = torch.empty_like(b)

    def copy(a, b, reduction):
        copied.copy_(b)

    losses = gpu_contestants() | {"floor": copy}
    times = {name: [] for name in losses}
    for repeat in range(repeats + 5):
        for name, loss in losses.items():
            a.grad = None
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            # Meanwhile all is queued, so that the time is that of the GPU and not of Python.
            torch.cuda._sleep(3_000_000)
            begin.record()
            value = loss(a, b, reduction)
            if backward and value is not None:
                value.backward(upstream)
            end.record()
            end.synchronize()
            if repeat >= 5:
                times[name].append(1e-3 * begin.elapsed_time(end))
    found = {name: statistics.median(values) for name, values in times.items()}
    moved = {("mean", False): 2, ("mean", True): 5, ("none", False): 3, ("none", True): 7}
    found["floor"] *= moved[reduction, backward] / 2.0
    return found


@functools.cache
def gpu_contestants():
    """Return the losses by name, with ours compiled by torch as one more."""
    return contestants() | {"ours, torch.compile": torch.compile(welsch_loss, dynamic=True)}


def first_call():
    """Return the seconds of the first forward and backward pass of a process."""
    a, b = torch.randn(1000, device="cuda", requires_grad=True), torch.randn(1000, device="cuda")
    torch.cuda.synchronize()
    begin = time.perf_counter()
    welsch_loss(a, b, "mean").backward()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def measured_gpu_page():
    """Return the page of the times on this GPU."""
    first = first_call()
    names = [*gpu_contestants(), "floor"]
    lines = [
        "| dtype | n | reduction | pass | " + " | ".join(names) + " | ours / floor |"
        + (" Kornia / ours |" if "Kornia" in names else ""),
        "|---|--:|---|---|" + "--:|" * (len(names) + 1 + ("Kornia" in names)),
    ]  # fmt: skip
    for dtype in (torch.float32, torch.bfloat16):
        for n in SIZES:
            for reduction in ("mean", "none"):
                for backward in (False, True):
                    times = gpu_row(n, dtype, reduction, backward)
                    cells = [f"{1e6 * times[name]:,.1f}" for name in names]
                    cells.append(f"{times['ours'] / times['floor']:.2f}")
                    if "Kornia" in names:
                        cells.append(f"{times['Kornia'] / times['ours']:.1f}")
                    what = "forward + backward" if backward else "forward"
                    kind = str(dtype).removeprefix("torch.")
                    lines.append(f"| {kind} | {n:,} | {reduction} | {what} | {' | '.join(cells)} |")
                    print(lines[-1], flush=True)
    return "\n".join(
        [
            "---\norphan: true\n---\n",
            "# The Welsch loss on a GPU\n",
            "<!-- table -->\n",
            f"Microseconds on the GPU, medians, on {torch.cuda.get_device_name()} with torch "
            f"{torch.__version__}; Python's share is hidden behind the queue. `floor` is the time "
            "of a copy of one input, measured in the same turns, times what must be read and "
            "written to what a copy reads and writes. The first forward and backward pass of a "
            f"process, in which the kernels are compiled, takes {first:.1f} s.\n",
            *lines,
            "",
        ]
    )


def page(sizes, threads):
    """Return the page with both tables."""
    speeds = []
    for count in threads:
        torch.set_num_threads(count)
        speeds.append(f"{copy_speed() / 1e9:.0f} GB/s on {count}")
    kornia = "" if "Kornia" in contestants() else " Kornia is not installed and was not timed."
    return "\n".join(
        [
            "---\norphan: true\n---\n",
            "# The Welsch loss for training: time and memory\n",
            "<!-- table -->\n",
            f"Milliseconds, medians, float32, on {processor()} with torch {torch.__version__}. "
            f"Copying moves {', '.join(speeds)} thread{'s' if threads[-1] > 1 else ''}. `floor` "
            "moves the same memory by the plainest operations there are: a dot product reads "
            "both inputs, a difference also writes a new tensor, and new memory is the slowest "
            f"of all.{kornia}\n",
            *cpu_table(sizes, threads),
            "\n**Predicted, not measured**: one forward and one backward pass over 16,000,000 "
            "float32 on an H100, from the bytes that each kernel reads and writes at 3.0 TB/s, as "
            "counted by running the same code on torch's meta device. What an H200 takes was "
            "[measured](torch_gpu_table.md).\n",
            *gpu_table(),
            "",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="no large size, writes nothing")
    parser.add_argument("--gpu", action="store_true", help="measure on a GPU instead")
    parser.add_argument("--out", type=Path, default=DOCS, help="default: docs/")
    args = parser.parse_args()
    if args.gpu:
        text = measured_gpu_page()
        (args.out / "explanation").mkdir(parents=True, exist_ok=True)
        (args.out / "explanation" / "torch_gpu_table.md").write_text(text, encoding="utf-8")
        return
    threads = sorted({1, min(4, os.cpu_count() or 1)})
    sizes = {n: repeats // 4 for n, repeats in SIZES.items() if n < 2e6} if args.quick else SIZES
    text = page(sizes, threads)
    if not args.quick:
        (args.out / "explanation").mkdir(parents=True, exist_ok=True)
        (args.out / "explanation" / "torch_table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
