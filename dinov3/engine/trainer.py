"""The training loop of every task: steps, looks, saves, stops. The state is whole wherever it ends."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic

import torch
from torch import Tensor

from dinov3.config.run_config import RunConfig
from dinov3.distributed.agreement import main_decides
from dinov3.distributed.collectives import all_reduce_max, all_reduce_mean, broadcast_object
from dinov3.distributed.context import is_main, rank
from dinov3.distributed.peers import Peers
from dinov3.engine.dump import write_dump
from dinov3.engine.look import Look
from dinov3.engine.peak import Peak
from dinov3.engine.saver import Saver
from dinov3.engine.step import StepResult, train_step
from dinov3.engine.task import B, Counters, Plan, Stream, Task
from dinov3.runs.alarms import Alarms
from dinov3.runs.faults import Point, hit
from dinov3.runs.folder import RunFolder
from dinov3.runs.progress import ProgressLine
from dinov3.runs.records import Records
from dinov3.runs.requeue import RESERVE, STAYS, next_turn
from dinov3.runs.signals import Asked, StopRequest
from dinov3.runs.watchdog import Watchdog
from dinov3.system.errors import EXIT_DONE, EXIT_FORGOTTEN, EXIT_NON_FINITE, EXIT_PREEMPTED, Foreseeable
from dinov3.system.rows import read_rows

log = logging.getLogger("dinov3")


class NonFiniteAbort(Foreseeable):
    """Too many steps in a row had a loss or gradient that is not finite."""

    code = EXIT_NON_FINITE


class Ending(Enum):
    """How training ended; the value is what the command ends with."""

    DONE = EXIT_DONE
    PREEMPTED = EXIT_PREEMPTED  # a signal asked for it; the state is saved
    BELOW_A_LIMIT = EXIT_FORGOTTEN  # a look asked for it; the state is saved


@dataclass
class Trainer(Generic[B]):
    """A run in progress. ``train`` brings it to its end.

    On all processes but the main one ``records`` and ``alarms`` are None.
    """

    cfg: RunConfig
    task: Task[B]
    optimizer: torch.optim.Optimizer
    plan: Plan
    stream: Stream[B]
    run: RunFolder
    looks: Sequence[Look[Any]]
    scene: Callable[[int], Any]  # what looks look at after that many steps; every process calls it
    saver: Saver
    records: Records | None
    alarms: Alarms | None
    progress: ProgressLine
    stop: StopRequest
    watchdog: Watchdog
    peers: Peers
    batch: int  # samples of a step over all processes
    until: int  # the step the run ends at
    counters: Counters = field(default_factory=Counters)
    began: int = 0  # the first step of this start
    step_seconds: float = 0.0  # of the last step
    peak: Peak | None = None  # of the cards, where it is known
    sizes: set[tuple[int, ...]] = field(default_factory=set)  # of images since this start
    seen: tuple[int, Any] | None = None  # the scene of this step, with what was computed of it

    def train(self) -> Ending:
        """Train to the end, stopping to save and to look when due; then draw what belongs to the end."""
        counters, plan = self.counters, self.saver.plan
        self.look()
        while counters.step < self.until:
            if reason := self.reason_to_stop():
                self._stop_below_a_limit(reason)
                return Ending.BELOW_A_LIMIT
            self.seen = None
            finished = self.steps(plan.next_stop(counters.step, [look.period for look in self.looks]))
            self.saver.spare_what_others_need()
            decision = plan.decide(counters.step, finished=finished, skipped=counters.skipped_in_a_row > 0)
            if decision.save:
                with self.progress.beside(f"saving step {counters.step}"):
                    self.saver.save(self, must=decision.must)
            if decision.put_off and not plan.owed:
                log.warning("step %d is not saved: its update was skipped; the next one taken will be", counters.step)
            plan.owed = self.peers.any_of(decision.put_off)
            if not finished:
                self._stop_as_asked()
                return Ending.PREEMPTED
            self.look()
        self.finish()
        return Ending.DONE

    def steps(self, until: int) -> bool:
        """Train up to step ``until`` (exclusive). False when a signal asked to stop first."""
        counters, cfg = self.counters, self.cfg
        window = _Window(self)
        self.watchdog.stood_still()  # what it noticed beside steps is no part of them
        while counters.step < until:
            step, began = counters.step, time.perf_counter()
            # the first steps of a start may compile, and so may the first of another resolution
            self.watchdog.beat(self._occupation, slow=step < self.began + 2)
            batches = [next(self.stream) for _ in range(cfg.train.gradient_accumulation_steps)]
            if new := image_sizes(batches) - self.sizes:
                self.watchdog.beat(self._occupation, slow=True)
                self.sizes |= new
            if any(first <= step <= last for first, last in cfg.data.skip_steps):
                self._leave_out_a_suspension(window)
                self._jump()
                continue
            hit(Point.STEP, step)
            result = train_step(
                self.task,
                self.optimizer,
                self.plan.at(step),
                *batches,
                step=step,
                clip_grad=cfg.optim.clip_grad,
                stop_requested=self.stop.signal_name is not None,
                save_ended=self.saver.ended,
                meanwhile=self.stream.stage_ahead,
            )
            still = self._leave_out_a_suspension(window)
            if result.taken:
                counters.skipped_in_a_row = 0
            else:
                self._count_skip(batches, result)
            self._count_step()
            if step % cfg.train.log_every == 0 or counters.step == self.until:
                self._write_metrics(step, result, window.close())
            self.step_seconds = max(0.0, time.perf_counter() - began - still)
            if result.saved:
                self.saver.collect(self)
            if self.peers.any_of(result.stop) and counters.step < self.until:
                return False
        return True

    def _leave_out_a_suspension(self, window: _Window) -> float:
        """Seconds in which the process stood still in this step, which are in no rate and no estimate."""
        if still := self.watchdog.stood_still():
            log.warning("stood still for %.0f s in step %d: suspended, and going on", still, self.counters.step)
            self.progress.leave_out(still)
            window.leave_out(still)
        return still

    # ------------------------------------------------------------------ looking

    def look(self) -> None:
        """Measure what is due after this step and not there yet. The other processes wait here, not in the next step,
        whose time is limited."""
        step = self.counters.step
        self.watchdog.beat(f"evaluating step {step}", slow=True)
        due = [look for look in self.looks if look.due(step, ends=step in (0, self.until))]
        if due and not main_decides(lambda: any(row.get("step") == step for row in read_rows(self.run.evaluation))):
            with self.progress.beside(f"evaluating step {step}"):
                self._measure(due, self._scene())
        with self.progress.beside("waiting for the others"):
            self.peers.barrier()

    def _scene(self) -> Any:
        """The scene of this step: one, so that what is drawn at the end is not computed anew after it was measured."""
        step = self.counters.step
        if self.seen is None or self.seen[0] != step:
            self.seen = (step, self.scene(step))
        return self.seen[1]

    def _measure(self, due: Sequence[Look[Any]], scene: Any) -> None:
        if self.records is None:  # not the main process
            return
        row: dict[str, Any] = {}
        with self._eagerly():
            for look in due:
                with self._forgiving(look):
                    row |= look.measure(scene)
        if row:
            self.records.evaluation({"step": self.counters.step, **row})

    def reason_to_stop(self) -> str | None:
        """Why this step's evaluation asks to stop, on every process of all runs; None when it does not, or there was none."""
        rows = read_rows(self.run.evaluation) if is_main() else []
        now = bool(rows) and rows[-1].get("step") == self.counters.step
        reasons = (look.stop(rows) for look in self.looks) if now else ()
        reason = broadcast_object(next((text for text in reasons if text is not None), None))
        if reason is not None and self.peers.several:
            reason = f"{self.run.path.name}: {reason}"
        return next((text for text in self.peers.texts(reason) if text is not None), None)

    def finish(self) -> None:
        """Draw what belongs to the end."""
        self.progress.close()
        self.watchdog.beat("drawing", slow=True)
        self._draw()

    def _draw(self) -> None:
        scene = self._scene()
        if self.records is None:
            return
        with self._eagerly():
            for look in self.looks:
                with self._forgiving(look):
                    look.finish(scene)

    def _eagerly(self) -> contextlib.AbstractContextManager[object]:
        """Batches of other shapes must not use up the graphs that training compiles."""
        on_gpu = self.task.device.type == "cuda"  # elsewhere nothing is compiled, and asking would import the compiler
        return torch.compiler.set_stance("force_eager") if on_gpu else contextlib.nullcontext()

    @contextlib.contextmanager
    def _forgiving(self, look: Look[Any]) -> Iterator[None]:
        """A file that cannot be written ends the run or, with ``checkpointing.on_error: warn``, is a warning."""
        try:
            yield
        except OSError as error:
            if self.cfg.checkpointing.on_error == "abort":
                raise
            log.warning("%s: %s; training goes on (checkpointing.on_error=warn)", look.name, error)

    # ------------------------------------------------------------------ stopping

    def _stop_below_a_limit(self, reason: str) -> None:
        """Save and end; the same command comes to the same end until the limit is changed."""
        step = self.counters.step
        self.saver.collect(self, on_failure="the state is saved again now")
        self.saver.save(self, must=True)
        self.progress.close()
        if is_main():
            print(f"\nstopped at step {step}, saved: {reason}; change that key to go on from here", flush=True)
            log.info("stopped at step %d: %s", step, reason)
        self._draw()
        self.peers.barrier()  # torchrun ends all processes as soon as one has ended with an error

    def _stop_as_asked(self) -> None:
        """The state is saved and a signal, perhaps another process's, asked to stop: another turn if it is to have one."""
        asked = torch.tensor(float(self.stop.asked), device=self.task.device)
        asked_of_all = Asked(int(max(self.peers.numbers(float(all_reduce_max(asked))))))
        least = -max(self.peers.numbers(float(all_reduce_max(-asked))))
        if asked_of_all == Asked.SIGTERM and least == Asked.NOBODY:  # only some machines got it: not from a person
            asked_of_all = Asked.THE_SCHEDULER
        self.watchdog.beat("asking for another turn", slow=True)
        if is_main():
            until = max(self.stop.since + self.cfg.checkpointing.preemption_notice - RESERVE, time.monotonic())
            what_next = next_turn(asked_of_all, until) if self.peers.is_first else STAYS
            name = self.stop.signal_name or "a signal to another process"
            print(f"\n{name}: saved at step {self.counters.step}; {what_next}", flush=True)
        if self.records is not None:
            self.records.close()
        self.peers.barrier()  # srun ends all processes as soon as one of them has

    def close(self) -> None:
        """Give back threads, processes and files, whatever has happened."""
        self.saver.close(self)
        self.watchdog.close()
        self.stream.close()
        self.progress.close()
        if self.records is not None:
            self.records.close()

    # ------------------------------------------------------------------ counting and writing down

    def _occupation(self) -> str:
        """What the process is at work on, for a report of a hang."""
        own = self._own_samples()
        names = ", ".join(self.stream.names_at(own))
        return f"step {self.counters.step}, samples {own[0]} to {own[-1]}: {names}"

    def _count_step(self, *, jumped: bool = False) -> None:
        self.counters.step += 1
        self.counters.samples += self.batch
        self.progress.step(jumped=jumped)

    def _jump(self) -> None:
        """Pass a step of ``data.skip_steps``: its batch is drawn, nothing learns from it."""
        log.warning("step %d jumped over (data.skip_steps)", self.counters.step)
        self.counters.jumped_steps += 1
        self._count_step(jumped=True)

    def _count_skip(self, batches: Sequence[B], result: StepResult) -> None:
        counters, step, most = self.counters, self.counters.step, self.cfg.nan.max_consecutive
        counters.skipped_steps += 1
        counters.skipped_in_a_row += 1
        log.warning("step %d skipped: loss %s or its gradient is not finite", step, float(result.loss))
        if counters.skipped_in_a_row > most:
            figures = {"step": step, "samples": counters.samples, "total_loss": result.loss, **result.terms}
            names = self.stream.names_at(self._own_samples())
            dump = write_dump(self.run.path / "not_finite" / f"step-{step:08d}", self.task, batches, figures, names)
            raise NonFiniteAbort(
                f"{counters.skipped_in_a_row} steps in a row were not finite (nan.max_consecutive: {most}); "
                f"nothing was saved since they began, the last batch is in {dump.parent}: lower optim.lr, or jump over bad "
                "batches with data.skip_steps, then run the same command"
            )

    def _own_samples(self) -> range:
        """Positions in the stream of what this process has of the step."""
        own = self.cfg.train.batch_size_per_gpu * self.cfg.train.gradient_accumulation_steps
        start = self.counters.samples + rank() * own
        return range(start, start + own)

    def _write_metrics(self, step: int, result: StepResult, speed: Mapping[str, float]) -> None:
        """One line of metrics.jsonl (means over processes) and the text of the progress bar."""
        terms = result.terms
        tensors = {k: v.detach().float() for k, v in terms.items() if isinstance(v, Tensor)}
        values = all_reduce_mean(torch.stack([result.loss.float(), *tensors.values()])).tolist()
        row: dict[str, Any] = {"iteration": step, "samples": self.counters.samples, "total_loss": values[0]}
        row |= {k: v for k, v in terms.items() if k not in tensors} | dict(zip(tensors, values[1:], strict=True))
        row |= {**self.plan.at(step).row(), "skipped_steps": self.counters.skipped_steps, **speed}
        row |= self.saver.take_figures()
        if self.records is not None and self.alarms is not None:
            self.records.write(row)
            for alarm in self.alarms.look(row):
                self.records.alarm(alarm)
                log.warning("%s", alarm["text"])
        self.progress.describe(loss=values[0], **speed)


def image_sizes(batches: Sequence[Any]) -> set[tuple[int, ...]]:
    """Height and width of every tensor ``[N, C, H, W]`` in dataclasses or tuples."""
    parts = [value for batch in batches for value in (batch if isinstance(batch, tuple) else vars(batch).values())]
    return {tuple(part.shape[-2:]) for part in parts if isinstance(part, Tensor) and part.ndim == 4}


def say_last(looks: Sequence[Look[Any]], run: RunFolder) -> None:
    """What the looks say of a run that has ended."""
    rows = read_rows(run.evaluation)
    for look in looks:
        if text := look.sentence(rows):
            print(text)


class _Window:
    """Speed since the last logged step, or since training was taken up."""

    def __init__(self, trainer: Trainer[Any]) -> None:
        self._trainer = trainer
        self._time, self._samples, self._wait = self._read()

    def _read(self) -> tuple[float, int, float]:
        return time.perf_counter(), self._trainer.counters.samples, self._trainer.stream.wait_seconds

    def leave_out(self, seconds: float) -> None:
        """No step took that."""
        self._time += seconds

    def close(self) -> dict[str, float]:
        now, samples, wait = self._read()
        elapsed = max(now - self._time, 1e-9)
        speed = {
            "images_per_second": (samples - self._samples) / elapsed,
            "data_wait": min(1.0, (wait - self._wait) / elapsed),  # a suspension may have come while waiting
        }
        if self._trainer.peak is not None:
            speed["share_of_peak"] = speed["images_per_second"] / self._trainer.peak.samples_per_second
        self._time, self._samples, self._wait = now, samples, wait
        return speed
