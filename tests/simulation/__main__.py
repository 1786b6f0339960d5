"""Run seeds, and print the trace of each that fails, shrunk.

python -m tests.simulation --seeds 1000 --from 0
python -m tests.simulation --seeds 1 --from 4711 --trace
"""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.simulation.judge import run
from tests.simulation.shrink import failure_of, shrink
from tests.simulation.world import Failure, script


def main() -> int:
    """Run the seeds; the number of those that fail, up to 100."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Run seeds of the simulated world.")
    parser.add_argument("--seeds", type=int, default=1000, help="number of seeds (default 1000)")
    parser.add_argument("--from", dest="first", type=int, default=0, help="first seed (default 0)")
    parser.add_argument("--lists", choices=("mirror", "real"), default="mirror", help="real: the whole pipeline")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--trace", action="store_true", help="print the trace of seeds that pass, too")
    parser.add_argument("--whole", action="store_true", help="do not shrink what fails")
    options = parser.parse_args()
    began_s, failed = time.perf_counter(), []
    seeds = range(options.first, options.first + options.seeds)
    report = partial(_report, lists=options.lists, is_whole=options.whole)
    with ProcessPoolExecutor(options.jobs) as pool:
        for seed, (failure, trace) in zip(seeds, pool.map(report, seeds, chunksize=4), strict=True):
            if failure:
                failed.append(seed)
            if failure or options.trace:
                print(f"\nseed {seed}: {failure or 'passes'}\n{trace}", flush=True)  # noqa: T201
    per_minute = 60 * options.seeds / (time.perf_counter() - began_s)
    print(f"{options.seeds} seeds, {per_minute:.0f} a minute, failed: {failed or 'none'}")  # noqa: T201
    return min(len(failed), 100)


def _report(seed: int, lists: str, is_whole: bool) -> tuple[str, str]:
    """What the judge says of a seed, empty where all is well, and the trace."""
    chosen = script(seed, lists=lists)
    try:
        return "", "\n".join(run(chosen).trace)
    except Failure as whole:
        small = chosen if is_whole else shrink(chosen)
        failure = whole if is_whole else failure_of(small) or whole
        return f"{failure} ({small.delivery})", failure.trace


if __name__ == "__main__":
    sys.exit(main())
