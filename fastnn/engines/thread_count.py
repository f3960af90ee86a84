"""What several threads share of a program, and when: from the times that its calls and the whole of it take.

No bit of the results depends on it.

A call is worth sharing where its share and the meeting of the threads take less time than all of it; calls that are not are put
together and played by one thread, while the others wait. The times are guessed from operations and bytes first. Calls that are
near the limit are timed now and then while the program runs, and their least time counts, so that a machine that was busy for a
while is forgotten.

Where others use the cores, one thread may be faster: a thread that is put aside in the middle of a part keeps the others
waiting. `ThreadCountTuner` follows that from play to play.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

RATE = 80e9
"""Floating-point operations a second of one core, for guesses only."""
BANDWIDTH = 60e9
"""Bytes a second of one core out of its cache, likewise."""
MEETING = 0.4e-6
"""Seconds that sharing a call costs: the others learn of it, and part of what it reads lies in their caches."""
GAIN = 0.9
"""A program is shared where it takes less than this part of its time on one thread."""
CERTAIN = 20e-6
"""A call that is guessed to take longer is shared without being timed."""
PIECE = 2e-3
"""Long products are cut so finely that a part takes about so long, up to FINEST times the threads: where a core is taken away
in the middle of a part, the others go on with the rest of the call."""
FINEST = 8

Stage = tuple[int, int, int]
"""First call, how many calls, of how many parts each."""


class Partition:
    """The plan by which at most `threads` threads play calls of so many (operations, bytes).

    `joined`: calls that read what the call before them reads, and of how many parts the two are at least, so that each part
    stays in a cache; they are one stage, on one thread too.
    """

    def __init__(self, work: Sequence[tuple[int, int]], threads: int, joined: Mapping[int, int] | None = None) -> None:
        self.threads = threads
        self.shared = False
        self._joined = joined or {}
        self.is_product = [operations / RATE > moved / BANDWIDTH for operations, moved in work]
        self.seconds = [operations / RATE + moved / BANDWIDTH for operations, moved in work]
        self.timed = [seconds < CERTAIN for seconds in self.seconds]
        self._measured = [math.inf] * len(work)

    def note(self, call: int, seconds: float) -> None:
        """This call took so long on one thread."""
        self._measured[call] = min(seconds, self._measured[call])
        self.seconds[call] = self._measured[call]

    def parts(self, call: int) -> int:
        """Of how many parts a call is; 1 where sharing it does not pay."""
        seconds = self.seconds[call]
        if seconds <= seconds / self.threads + MEETING:
            return 1
        finer = seconds / (PIECE * self.threads) if self.is_product[call] else 1.0
        return self.threads * int(min(max(finer, 1.0), FINEST))

    def stages(self) -> list[Stage]:
        """All calls in one stage where sharing the program does not pay, but for those that are joined."""
        count = len(self.seconds)
        parts = [self.parts(call) if self.threads > 1 else 1 for call in range(count)]
        alone = sum(self.seconds)
        shared = sum(s if p == 1 else s / self.threads + MEETING for s, p in zip(self.seconds, parts, strict=True))
        if shared >= GAIN * alone:
            parts = [1] * count
        self.shared = any(of_call > 1 for of_call in parts)
        stages: list[Stage] = []
        for call, of_call in enumerate(parts):
            if call in self._joined:
                first, calls, together = stages[-1]
                stages[-1] = first, calls + 1, together
            elif call + 1 in self._joined:
                least = -(-self._joined[call + 1] // self.threads) * self.threads
                stages.append((call, 1, max(of_call, least)))
            elif of_call == 1 and stages and stages[-1][2] == 1:
                first, calls, _ = stages[-1]
                stages[-1] = first, calls + 1, 1
            else:
                stages.append((call, 1, of_call))
        return stages


TRIAL = 1e-3
"""Seconds that a trial takes at least."""
FIRST_SHARE = 3
"""The first trial takes this part of the time at most,"""
TRIAL_SHARE = 20
"""others this part, but where steps take very long;"""
TRIAL_WAIT = 0.5
"""seconds after which there is one in any case."""
PATIENCE = 4
"""Trials that find nothing new become rarer, up to this many times."""


class ThreadCountTuner:
    """Whether a program is played alone or with the team, for as long as the machine does not change its mind.

    Times are compared with recent ones only. While it is played together in less time than it ever took alone, nothing is
    tried; else the other way is, now and then.
    """

    def __init__(self, play: Callable[[int, bool], None]) -> None:
        """`play(repeats, alone)` plays the program."""
        self._play = play
        self.alone = False
        self._recent: dict[bool, float] = {}
        self._least_alone = math.inf
        self._since = 0.0
        self._patience = 1

    def play(self, repeats: int) -> None:
        trial = self._trial(repeats)
        if trial:
            self._since = 0.0
            self._time(not self.alone, trial)
            if self._recent[not self.alone] < 0.95 * self._recent[self.alone]:
                self.alone, self._patience = not self.alone, 1
            else:
                self._patience = min(2 * self._patience, PATIENCE)
        if repeats > trial:
            self._since += self._time(self.alone, repeats - trial)

    def _trial(self, repeats: int) -> int:
        """How many of the repeats to play the other way."""
        if self.alone not in self._recent:
            return 0
        each = max(self._recent[self.alone], 1e-7)
        if not self.alone and each < 0.95 * self._least_alone < math.inf:
            return 0
        count = math.ceil(TRIAL / each)
        cost = count * max(each, self._recent.get(not self.alone, 2 * each))
        if (not self.alone) not in self._recent:
            due = self._since >= FIRST_SHARE * cost
        else:
            due = self._since >= min(TRIAL_SHARE * self._patience * cost, max(TRIAL_WAIT, TRIAL_SHARE * cost))
        return count if due and count <= repeats else 0

    def _time(self, alone: bool, repeats: int) -> float:
        started = time.perf_counter()
        self._play(repeats, alone)
        taken = time.perf_counter() - started
        if taken >= TRIAL / 2 or alone not in self._recent:  # a few short steps are no measure
            self._recent[alone] = taken / repeats
        if alone:
            self._least_alone = min(self._least_alone, taken / repeats)
        return taken
