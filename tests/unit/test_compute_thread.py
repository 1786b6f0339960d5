"""When a server looks for changed windows: at times of its own, however many lists and requests arrive."""

from engine.eventlog.memory.log import MemoryLog
from engine.eventlog.time_source import TimeSource
from engine.metrics import ServeMetrics
from engine.settings.sections import Settings, WindowSettings
from engine.view.compute import ComputeThread
from engine.view.standby import Standby


class CountedStandby(Standby):
    """A standby that counts its steps, by a clock that the test moves."""

    def __init__(self, metrics: ServeMetrics) -> None:
        self.now_s, self.steps = 0.0, 0
        clock = TimeSource(monotonic_s=lambda: self.now_s)
        super().__init__(Settings(windows=WindowSettings(max_users=10)), MemoryLog(), metrics, time=clock)

    def step(self) -> None:
        self.steps += 1
        super().step()


def test_lists_that_arrive_make_steps_no_more_frequent_than_ten_milliseconds() -> None:
    metrics = ServeMetrics()
    standby = CountedStandby(metrics)
    compute = ComputeThread(standby, metrics)

    def steps_at(*times_s: float, lists: int) -> list[int]:
        counts = []
        for now_s in times_s:
            standby.now_s = now_s
            for _ in range(lists):
                compute.nudge()
            compute._turn()
            counts.append(standby.steps)
        return counts

    assert steps_at(0.1, 0.25, 0.3, lists=0) == [0, 1, 1]  # five times a second
    assert steps_at(0.301, 0.305, 0.309, 0.312, 0.32, lists=100) == [2, 2, 2, 3, 3]
    assert steps_at(0.33, 0.45, 0.55, 0.7, lists=0) == [4, 5, 5, 6]  # for a tenth of a second after the last list
    compute.close()
