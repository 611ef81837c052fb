"""A run from its command line to its last checkpoint, whatever it trains: set up, resume, train, look, save."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import torch

from dinov3.config.dump import to_dict, to_yaml
from dinov3.config.errors import ConfigError
from dinov3.distributed import context
from dinov3.distributed.agreement import all_processes_or_none, all_runs_or_none, main_decides
from dinov3.engine.after_kill import is_finished
from dinov3.engine.banner import banner
from dinov3.engine.determinism import determinism
from dinov3.engine.job import Job
from dinov3.engine.optim import build_optimizer
from dinov3.engine.peak import peak_of
from dinov3.engine.resume import Continued, changed_batch, compare_with_start, images_a_step
from dinov3.engine.save_plan import SavePlan
from dinov3.engine.saver import Saver
from dinov3.engine.task import B, Counters, Plan, Task
from dinov3.engine.trainer import Ending, Trainer, say_last
from dinov3.runs.alarms import Alarms
from dinov3.runs.checkpoint import load_tensors
from dinov3.runs.folder import ALL, CONFIG_HISTORY, MEASURED, RunFolder
from dinov3.runs.lock import RunLock
from dinov3.runs.manifest import read_train_state
from dinov3.runs.progress import ProgressLine
from dinov3.runs.recorded import history_of, read_config, recorded_config
from dinov3.runs.records import open_records, refuse_missing_packages
from dinov3.runs.run_id import run_id
from dinov3.runs.run_log import run_log
from dinov3.runs.signals import StopRequest
from dinov3.runs.start import Start, find_start, roll_back
from dinov3.runs.state import allocate_optimizer_state, training_tensors
from dinov3.runs.step_folders import CheckpointError
from dinov3.runs.watchdog import Watchdog
from dinov3.system.errors import EXIT_DONE
from dinov3.system.files import write_json, write_whole
from dinov3.weights.own import checkpoint_in

log = logging.getLogger("dinov3")


@dataclass(frozen=True)
class Setup(Generic[B]):
    """A run about to begin: its parts are checked, its folder is untouched."""

    job: Job[B]
    plan: Plan
    until: int  # the step it ends at
    dataset: str  # what identifies the data
    start: Start
    continued: Continued  # what differs from the run's start


def run(
    job: Job[B],
    *,
    resume: bool,
    resume_from: Path | None = None,
    stop: StopRequest | None = None,
    title: str = "",
) -> int:
    """Train in the folder of ``job``, continuing what is there unless ``resume`` is False.

    ``resume_from``: a checkpoint to continue from instead of the newest one. ``stop``: signals that are noted already.
    ``title``: which of several this is, a line of the start-up block. The process group stays, for the caller to leave.
    """
    with determinism(job.cfg) as said:
        return _run(job, resume, resume_from, stop or StopRequest(), [*([title] if title else []), *said])


def _run(job: Job[B], resume: bool, resume_from: Path | None, stop: StopRequest, said: list[str]) -> int:
    cfg, out, peers = job.cfg, job.run, job.peers
    wait = cfg.train.watchdog_slow_seconds + 300
    device = context.choose_device(cfg.train.device) if peers.several else context.setup(cfg.train.device, wait)
    lock = RunLock(out.path)
    setup = checked_run(job, lock, resume=resume, resume_from=resume_from)
    start, until = setup.start, setup.until
    if start.found and start.reached >= until and _all_finished(setup):
        if resume_from is not None and start.reached > until:
            text = f"{resume_from} is at step {start.reached}, this run ends at {until}: give an earlier one"
            raise ConfigError("command line", "--resume-from", text)
        if context.is_main():
            print(f"{out}: finished at step {start.reached}; the {job.product} is in {job.product_in(start.found)}")
            for key, (old, new) in setup.continued.changes.items():
                print(f"note: {key} is {new!r} now; what is there was made with {old!r}, and nothing was made anew")
            say_last(job.looks(), out)
        return EXIT_DONE
    # before the folder: a file that cannot be read leaves nothing behind
    setup = dataclasses.replace(setup, start=all_runs_or_none(lambda: _with_beginning(job, start), peers))
    task, done = all_runs_or_none(lambda: job.build(setup.start, device), peers)
    done = said + done
    done += [
        f"changed    {key}: {old!r} -> {new!r} since the start" for key, (old, new) in setup.continued.changes.items()
    ]
    done += setup.continued.notes
    done += changed_batch(setup.start, images_a_step(cfg))
    with lock:
        stop.at_end(lock.forget)
        if not resume:
            put_aside(out, ALL, "--no-resume")
        elif setup.start.found is None:  # they are of weights that are gone, perhaps under another config
            put_aside(
                out, MEASURED, f"{out} holds figures of an earlier start and no checkpoint: training begins again"
            )
        roll_back(out, setup.start)
        if context.is_main():
            out.remove_temporaries()
        context.barrier()
        with run_log(out, peers):
            return _run_locked(setup, task, done, stop).value


def checked_run(job: Job[B], lock: RunLock, *, resume: bool, resume_from: Path | None) -> Setup[B]:
    """Everything that can be known before a model is built. Raises, on every process, for what cannot be used."""

    def look() -> str:
        refuse_missing_packages(job.cfg)
        identity = all_processes_or_none(job.open_data)
        main_decides(lock.refuse_if_held)
        return identity

    dataset = all_runs_or_none(look, job.peers)
    plan = job.plan()
    until = min(plan.total_steps, job.cfg.train.max_steps or plan.total_steps)
    start = find_start(job.run.path, resume_from, job.peers) if resume else Start()

    def compare() -> Continued:
        return all_processes_or_none(lambda: compare_with_start(job, start))

    return Setup(job, plan, until, dataset, start, all_runs_or_none(compare, job.peers))


def _all_finished(setup: Setup[B]) -> bool:
    """Whether nothing is left to do for a run that has its last checkpoint, nor for those that share its steps."""
    job = setup.job
    done = all_runs_or_none(lambda: is_finished(job, setup.start, setup.until), job.peers)
    return not job.peers.any_of(not done)


def _with_beginning(job: Job[B], start: Start) -> Start:
    """``start`` with the verified checkpoint that ``start.run`` names, for a run that is at its first step.

    CheckpointError on every process when there is none.
    """
    if start.found is not None or not job.cfg.start.run:
        return start
    path = Path(job.cfg.start.run)

    def look() -> Path:
        if (found := checkpoint_in(path)) is None or not (found / "state").is_dir():
            raise CheckpointError(f"start.run: {path}: not a run folder nor one of its checkpoints")
        return found

    return dataclasses.replace(start, beginning=main_decides(look))


def _run_locked(setup: Setup[B], task: Task[B], done: list[str], stop: StopRequest) -> Ending:
    prepare_folder(setup)
    trainer = build_trainer(setup, task, stop)
    try:
        if context.is_main():
            block = banner(trainer, setup.job, done)
            print(block, flush=True)  # before the first line of progress, in a file too
            log.info("%s", block)
        ending = trainer.train()
    finally:
        trainer.close()
    if ending is Ending.DONE and context.is_main():
        say_done(setup.job, trainer.counters)
    return ending


def say_done(job: Job[B], counters: Counters) -> None:
    """The last lines of a run."""
    folder = job.product_in(job.run.checkpoints / f"step-{counters.step:08d}")
    print(f"done: {counters.step} steps, {counters.samples:,} samples; {job.product} in {folder}")
    for line in job.closing():
        print(line)
    say_last(job.looks(), job.run)  # last: it is what a run is for


def put_aside(run: RunFolder, names: tuple[str, ...], why: str) -> None:
    """Rename what an earlier run left, so that nothing is lost and nothing is continued; ``why``: the option."""
    if context.is_main() and (aside := run.put_aside(names)) is not None:
        print(f"{why}: what was there before is now in {aside}")


def prepare_folder(setup: Setup[B]) -> None:
    """The config; a resumed run with changed keys adds to ``config_history``, whose newest is the one in force.

    A run that begins writes its config even over one that is there: that run ended before its first checkpoint.
    """
    if not context.is_main():
        return
    cfg, run = setup.job.cfg, setup.job.run
    begun_with, problem = read_config(run, type(cfg))
    if setup.start.found is None or begun_with is None:
        known = recorded_config(run, type(cfg), setup.start.found) if problem else None
        write_json(run.config_json, known or to_dict(cfg), indent=None)
    if setup.start.found is None or not run.config_yaml.exists():
        write_whole(run.config_yaml, to_yaml(cfg))
    earlier = history_of(run)
    if setup.start.found is not None and (setup.continued.changes or earlier):  # it may go back to what it began with
        history = run.path / CONFIG_HISTORY
        history.mkdir(exist_ok=True)
        number = 1 + len(earlier)
        write_whole(history / f"{number:04d}.yaml", to_yaml(cfg))


def build_trainer(setup: Setup[B], task: Task[B], stop: StopRequest) -> Trainer[B]:
    """Everything around the task, at the start of training or where a checkpoint left off."""
    job, start = setup.job, setup.start
    cfg, run, peers = job.cfg, job.run, job.peers
    optimizer = build_optimizer(task.groups(), cfg.optim)
    allocate_optimizer_state(optimizer)
    counters = _take_up(job, task, start, optimizer)
    main = context.is_main()
    facts = {
        "dataset": setup.dataset,
        "until": setup.until,
        "resumed_from": start.resumed_from,
        "config": (recorded_config(run, type(cfg), start.found) or to_dict(cfg)) if main else None,
        "run": run_id(run, _run_of(start)) if main else None,
    }
    records = open_records(cfg, run, counters.step) if main else None
    job.progress = ProgressLine(setup.until, counters.step, shown=peers.is_first, figures_every=cfg.train.log_every)
    return Trainer(
        cfg=cfg,
        task=task,
        optimizer=optimizer,
        plan=setup.plan,
        stream=job.stream(task, counters),
        run=run,
        looks=job.looks(),
        scene=lambda step: job.scene(task, step, records),
        saver=Saver(cfg, run, SavePlan(cfg.checkpointing.period, setup.until), peers, facts),
        records=records,
        alarms=Alarms(job.alarm_rules(), setup.plan.total_steps) if main else None,
        progress=job.progress,
        stop=stop,
        watchdog=Watchdog(
            run.path / "hang", seconds=cfg.train.watchdog_seconds, slow_seconds=cfg.train.watchdog_slow_seconds
        ),
        peers=peers,
        batch=images_a_step(cfg),
        until=setup.until,
        counters=counters,
        began=counters.step,
        peak=peak_of(task.device, job.flops_of_a_sample),
    )


def _run_of(start: Start) -> str | None:
    """The id in the checkpoint a run goes on from, for a folder that has lost its own."""
    return None if start.found is None else read_train_state(start.found).get("run")


def _take_up(job: Job[B], task: Task[B], start: Start, optimizer: torch.optim.Optimizer) -> Counters:
    """Fill model and optimizer from where the run goes on or begins; how far it is."""
    if start.found is None:
        return job.begin(task, start, optimizer)
    load_tensors(training_tensors(task.model, task.state(), optimizer), start.found / "state")
    counters = Counters(**read_train_state(start.found)["counters"])
    counters.skipped_in_a_row = 0  # a new config may cure it; the run gets all its chances
    return counters
