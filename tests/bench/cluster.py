"""What a pass over the rows moves between the workers of a cluster, and what several workers save.

``python tests/bench/cluster.py network`` counts the bytes of a pass on a local cluster, with the
counters of Dask's workers and of the network interface; ``workers`` times a compute-bound fit by
one worker, and by as many as there are cores, at most four.
"""

import argparse
import os
import time

import dask.array as da
import numpy as np
import psutil
from dask.distributed import Client, LocalCluster, wait

import robustfit as rf
from robustfit._streamed import stream
from robustfit.dask import rows_of
from robustfit.linear._problem import fold_sums

COLUMNS, BLOCKS = (5, 10, 20, 40), (8, 16, 32)


def network(passes=20):
    """Print what a pass moves between the workers of a cluster, and on the network in all."""
    inner, every, terms = [], [], []
    with (
        LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        print("| columns | blocks | results moved per pass | all bytes per pass |")
        print("|---|---|---|---|")
        for p in COLUMNS:
            for blocks in BLOCKS:
                chunks = (500,) * blocks
                A = da.random.default_rng(0).normal(size=(500 * blocks, p), chunks=(chunks, p))
                lazy = client.persist([A, A[:, 0]])
                wait(lazy)
                data = stream(rows_of(*lazy), "raise", None)
                work = fold_sums, rf.get_loss("welsch"), np.zeros(p), 1.0, True, False
                data.fold(*work)
                before, all_before = moved(client), sent()
                for _ in range(passes):
                    data.fold(*work)
                every.append((sent() - all_before) / passes)
                inner.append((moved(client) - before) / passes)
                terms.append((p * p * blocks, blocks, 1.0))
                print(f"| {p} | {blocks} | {inner[-1]:,.0f} B | {every[-1]:,.0f} B |", flush=True)
    for name, values in (("results moved", inner), ("all bytes", every)):
        found, rest = np.linalg.lstsq(np.array(terms), np.array(values))[:2]
        share = 1.0 - rest[0] / np.sum((values - np.mean(values)) ** 2)
        print(
            f"{name} = {found[0]:.1f} p^2 blocks + {found[1]:,.0f} blocks + {found[2]:,.0f} bytes; "
            f"that is {100.0 * share:.1f} % of their variance"
        )


def moved(client):
    """Return the bytes of results that the workers have sent to each other."""
    counts = client.run(lambda dask_worker: dask_worker.transfer_outgoing_bytes_total)
    return sum(counts.values())


def sent():
    """Return the bytes that the processes of this machine have sent to each other."""
    return psutil.net_io_counters(pernic=True)["lo"].bytes_sent


def workers(n=2_400_000, p=100):
    """Print the time of a compute-bound fit by one worker, and by as many as there are cores."""
    seconds = {}
    for count in (1, min(4, os.cpu_count() or 1)):
        with (
            LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            rng = da.random.default_rng(0)
            A = rng.normal(size=(n, p), chunks=(n // 12, p))
            lazy = client.persist([A, A.sum(axis=1) + rng.normal(size=n, chunks=n // 12)])
            wait(lazy)
            times = []
            for _ in range(4):
                start = time.perf_counter()
                _ = rf.irls(*lazy, scale=1.0, start="ols").bse
                times.append(time.perf_counter() - start)
            # The first waits for the compiler.
            seconds[count] = min(times[1:])
            print(f"{count} workers of one thread: {seconds[count]:.2f} s", flush=True)
    print(f"{max(seconds)} workers are {seconds[1] / min(seconds.values()):.2f} times one")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["network", "workers"])
    network() if parser.parse_args().what == "network" else workers()


if __name__ == "__main__":
    main()
