"""The one training loop, for codec and diffusion alike.

    load what the newest checkpoint holds -> [validate, sample, save where due -> one step] ... -> report

The result is a function of the options alone. A step's random numbers come from (seed, step, rank), its data from the
number of samples consumed, its learning rate from the step; so a run that was killed, resumed, validated or sampled in
between ends with the bits of one that was not, on the same machine and number of processes; on a GPU only where
`deterministic` is set, since some of its fastest kernels add in an order of their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from vidiff.engine import checkpoint, moments, precision, seeds
from vidiff.engine.checkpoint import Saver
from vidiff.engine.compile import objection
from vidiff.engine.ema import EMA, PowerEMA, trim_snapshots
from vidiff.engine.feed import Batch, Feed
from vidiff.engine.guard import HangWatch, Interrupted, Signals, locked, signals
from vidiff.engine.model import Shares, evaluating, load_state, spread
from vidiff.engine.optim import build_optimizer, clip_gradients, learning_rate
from vidiff.engine.options import TrainOptions
from vidiff.engine.parallel import Group, processes
from vidiff.engine.publish import Keep
from vidiff.engine.record import LENGTH, Counters, Recorder, collect, deviations, write_environment
from vidiff.nn.cast import low_weights
from vidiff.report.log import duration, trim_metrics
from vidiff.store.files import sweep

T = TypeVar("T")
Validate = Callable[[int], Mapping[str, float]]
Sample = Callable[[int], object]

# How much longer than a step its first one, validation, sampling and saving may take, before the training hangs.
SLOWER = 10.0


class Diverged(RuntimeError):
    """Too many steps in a row had a loss or gradients that are not finite."""


def fit(
    objective: nn.Module,
    make_batches: Callable[[int], Iterable[Batch]],
    batch_size: int,
    options: TrainOptions,
    run: Path,
    *,
    device: str | torch.device = "auto",
    validate: Validate | None = None,
    sample: Sample | None = None,
    title: str = "",
    name: Callable[[int], str] = str,
) -> None:
    """Trains `objective` to step `options.steps`, from the newest checkpoint in `run` where there is one.

    validate and sample find the EMA weights in `objective`, in eval mode and without gradients, and random generators
    in the same state each time. Whatever they draw changes nothing in the training.

    Args:
        objective: forward(batch) -> {"loss": scalar, other scalars to log}; moved to `device`. Where the loss is a mean
            over something of which a batch may have more or less, "weight" says how much; see `Shares`.
        make_batches: the number of samples consumed so far, over all processes -> an endless iterable of this process's
            batches from there on, each of batch_size / (processes * accumulate) samples. Loader workers want
            `worker_init_fn=guard.shield_worker`, or a signal to the process group kills them.
        batch_size: samples of one step, over all processes and accumulated parts.
        validate: step -> numbers to log, averaged over processes; runs on all of them.
        sample: step -> anything; runs on the main process, and writes to run/samples.
        name: a "key" of the batches -> what to call that sample.

    Raises:
        Interrupted: (a SystemExit: code 0 for SIGTERM, 130 for SIGINT) once the step that a signal met is finished and
            saved.
        Diverged: after `max_skips` bad steps in a row.
        guard.RunBusy: another training holds `run`.
        publish.CheckpointError: checkpoints exist and none is sound.
        ValueError: they are another model's; or the validation does not give what `keep_best` names.
    """
    run = Path(run)
    with processes(device) as group, signals() as stop, locked(run) if group.main else nullcontext():
        training = _Training(objective, make_batches, batch_size, options, run, group, stop, title, name)
        try:
            training.resume()
            training.loop(validate, sample)
        except Exception as error:
            training.hang.ended_by_another(error)
            raise
        finally:
            training.close()


class _Training:
    def __init__(
        self,
        objective: nn.Module,
        make_batches: Callable[[int], Iterable[Batch]],
        batch_size: int,
        options: TrainOptions,
        run: Path,
        group: Group,
        stop: Signals,
        title: str,
        name: Callable[[int], str],
    ) -> None:
        self.began = time.perf_counter()
        self.options, self.run, self.group, self.stop, self.name = options, run, group, stop, name
        self.batch_size = batch_size
        self.feed = Feed(make_batches, batch_size, options.accumulate, group, stop)
        self.objective = objective.to(group.device)
        self.at = Counters()
        self.taken = 0  # steps, since this start
        self.recorder = Recorder(run, title, options.steps, group.main, options.log)
        self.say = self.recorder.say
        self.saver = Saver(run / "checkpoints", group, self.say)
        self.hang = HangWatch(run, group, options.hang)

    # Coming and going

    def resume(self) -> None:
        """Takes up the newest sound checkpoint, the same on every process, or starts anew."""
        main, say = self.group.main, self.say
        path = self.group.share(checkpoint.newest(self.run / "checkpoints", say) if main else None)
        saved = checkpoint.load(path) if path else None
        if saved:
            self.at = Counters(**saved.state["counters"])
            self.saver.begun = self.saver.saved = self.at.step
            load_state(self.objective, saved)
        self.precision = self.choose_precision(saved.state["precision"] if saved else None)
        # Parallelism comes from outside, in this order; the average is of what the processes have agreed on.
        compiling = self.options.compile and self.compilable()
        self.model = spread(self.objective, self.group, self.options, self.precision)
        if compiling:
            self.model.compile()
        module = self.model.module
        self.optimizer = build_optimizer(self.options.optim, module)
        self.ema = EMA(module, self.options.ema, self.options.ema_warmup)
        self.averages = [PowerEMA(module, width) for width in self.options.ema_widths]
        self.scaler = torch.amp.GradScaler(self.group.device.type, enabled=self.precision == "fp16")
        if saved:
            self.restore(saved)
            say(f"going on from step {self.at.step} of {self.options.steps} ({saved.path.name})")
            self.tell_rate(saved.state.get("rate"))
        if main:
            sweep(self.run)
            trim_metrics(self.run / "metrics.jsonl", self.at.step)
            trim_snapshots(self.run / "ema", self.at.step)
            write_environment(self.run, self.group, self.precision, self.options.seed, self.at.step)

    def choose_precision(self, before: precision.Precision | None) -> precision.Precision:
        """As the options say; for "auto" as before, so that a resumed run computes the same, or by trial."""
        if self.options.precision != "auto":
            return self.options.precision
        if before is None and self.group.main:
            part = self.feed.peek(self.at.samples)
            if part is None:
                return "fp32"  # a signal came before the data did: no step will be taken
            before = precision.automatic(self.objective, part, self.group.device)
            self.say(f"precision {before}")
        return self.group.share(before or "fp32")

    def compilable(self) -> bool:
        """Whether blocks compute the same when they are compiled, on every process; says why not."""
        part, device = self.feed.peek(self.at.samples), self.group.device
        if part is None:
            return False
        dtype = precision.DTYPES[self.precision]
        with low_weights(self.objective, device, dtype), precision.autocast(device, self.precision):
            reason = objection(self.objective, part, self.precision)
        if reason:
            self.say(f"blocks are not compiled: {reason}")
        return not self.group.reduce_max(torch.tensor(int(reason is not None)))

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        state = saved.state
        self.ema.load_state_dict(saved.ema, state["ema_updates"])
        for average in self.averages:
            average.load_state_dict(saved.average(average.width), state["ema_updates"])
        moments.into_optimizers(saved.path, self.model.module, self.optimizer.parts)
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.group.rank < len(state["random"]):
            seeds.set_random_state(state["random"][self.group.rank])

    def rate(self) -> float:
        """The learning rate of the next step."""
        return learning_rate(self.options.optim, self.at.step, self.options.steps)

    def tell_rate(self, before: float | None) -> None:
        """Says where the learning rate jumps: to what it was to be when the checkpoint was written, `before`, which is
        None of one from before that was kept."""
        now, steps, optim = self.rate(), self.options.steps, self.options.optim
        if before is None or self.at.step >= steps or math.isclose(before, now, rel_tol=1e-6):
            return
        way = "rises" if now > before else "falls"
        why = "as train.optim now has it"
        if optim.decay != "constant":
            why = f"where train.optim.decay={optim.decay} over train.steps={steps} has it at step {self.at.step}"
            why += "; for another, set train.optim.decay=constant train.optim.lr=..."
        self.say(f"the learning rate {way} from {before:.3g} to {now:.3g}, {why}")

    def save(self) -> None:
        """Begins to write a checkpoint."""
        state = {
            "counters": vars(self.at) | {"seconds": self.seconds()},
            "scaler": self.scaler.state_dict(),
            "precision": self.precision,
            "rate": self.rate(),
            "ema_updates": self.ema.updates,
            "random": self.group.gather(seeds.random_state()),
        }
        model, ema = self.model.module.state_dict(), self.ema.state_dict()
        kept = moments.of_optimizers(self.model.module, self.optimizer.parts)
        keep = Keep(self.options.keep, self.options.keep_every, self.at.best_step)
        updates = self.ema.updates if self.snapshot_due() else 0
        self.saver.save(self.at.step, model, ema, state, self.all_averages(), kept, updates, keep)

    def save_now(self) -> None:
        """Writes a checkpoint, where the newest is not of this step, and waits for it."""
        self.saver.settle()
        if self.at.step > self.saver.saved:
            self.save()
            self.saver.finish()

    def all_averages(self) -> dict[float, dict[str, Tensor]]:
        return {average.width: average.state_dict() for average in self.averages}

    def snapshot_due(self) -> bool:
        return bool(self.averages) and self.due(self.options.ema_every, 0)

    def close(self) -> None:
        self.feed.close()
        self.hang.close()
        self.saver.settle()
        self.recorder.close()

    def seconds(self) -> float:
        return self.at.seconds + time.perf_counter() - self.began

    # The loop

    def loop(self, validate: Validate | None, sample: Sample | None) -> None:
        steps = self.options.steps
        self.recorder.begin(self.at.step)
        while True:
            self.look(validate, sample)
            self.hang.note(f"saving after step {self.at.step}", SLOWER)
            done, new = self.at.step >= steps, self.at.step > self.saver.begun
            wish = int(self.group.reduce_max(torch.tensor(self.stop.number)))
            if done or wish:
                self.save_now()
            elif new and (self.due(self.options.checkpoint_every, 0) or self.at.step == self.at.best_step):
                self.save()
            elif new and self.snapshot_due():
                self.saver.snapshot(self.at.step, self.all_averages(), self.ema.updates)
            else:
                self.saver.poll()
            if wish:
                self.say(f"stopped at step {self.at.step} of {steps}; the same command goes on from there")
                raise Interrupted(wish)
            if done:
                self.model.fill()
                break
            self.step()
        self.recorder.report()
        self.say(f"trained to step {self.at.step} in {duration(self.seconds())}; see {self.run}")

    def step(self) -> None:
        """One step of the optimizer, on `batch_size` samples."""
        options, at = self.options, self.at
        began = time.perf_counter()
        slower = 1.0 if self.taken else SLOWER
        self.hang.note(f"waiting for the data of step {at.step + 1}", slower)
        parts = self.feed.take(at.samples)
        if parts is None:
            return  # a signal came before the data did
        self.recorder.waited += time.perf_counter() - began
        self.hang.note(f"taking step {at.step + 1}", slower)

        seeds.seed_step(options.seed, at.step, self.group.rank)
        rate = self.rate()
        for settings in self.optimizer.param_groups:
            settings["lr"] = rate * settings.get("pace", 1.0)
        kept = [buffer.clone() for buffer in self.model.module.buffers()]
        shares, results = Shares(self.group, len(parts)), []
        for number, part in enumerate(parts, 1):
            syncing = nullcontext() if number == len(parts) else self.model.unsynced()
            with syncing, self.model.low_weights(self.precision):
                with precision.autocast(self.group.device, self.precision):
                    result = self.model.call(self.feed.move(part))
                self.scaler.scale(shares.loss(result)).backward()
            results.append({name: value.detach().float() for name, value in result.items()})
        self.model.settle()
        shares.settle(results, self.model.module)
        self.scaler.unscale_(self.optimizer)  # type: ignore[arg-type]
        norm = clip_gradients(list(self.model.module.parameters()), options.optim.clip)

        scalars, sound = collect(results, norm, self.group)
        if sound:
            with precision.autocast(self.group.device, self.precision):  # what an optimizer multiplies
                self.scaler.step(self.optimizer)  # type: ignore[arg-type]
            for average in (self.ema, *self.averages):
                average.update()
        else:
            for buffer, before in zip(self.model.module.buffers(), kept, strict=True):
                buffer.copy_(before)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        at.step += 1
        at.samples += self.batch_size
        self.taken += 1
        self.recorder.took(self.batch_size, time.perf_counter() - began)
        at.add(scalars)
        self.judge(sound, scalars["loss"], parts)
        if at.step % options.log_every == 0 or at.step in (1, options.steps):
            self.recorder.step(at, self.seconds(), rate, self.group.device)
        else:
            self.recorder.progress.advance(at.step, None)

    def interruptible(self, work: Callable[[], T]) -> T | None:
        """Runs `work`; None where a signal cut it short. Among several processes none does: the others would wait."""
        return self.stop.cut_short(work) if self.group.world == 1 else work()

    @property
    def cut_short(self) -> bool:
        return self.group.world == 1 and self.stop.number != 0

    def judge(self, sound: bool, loss: float, parts: list[Batch]) -> None:
        """Tells of a loss that stands out; counts a step that was skipped, and raises Diverged after too many."""
        at = self.at
        if sound:
            at.skipped_in_a_row = 0
            times = deviations(loss, at.recent) if self.options.spike else 0.0
            at.recent = [*at.recent, loss][-LENGTH:]
            if times > self.options.spike:
                clips = self.clips(parts)
                far = f"{loss:.4g}, is {times:.3g} deviations above the median"
                self.say(f"step {at.step}: its loss, {far} of those before it{_named(clips)}")
                self.recorder.metrics({"step": at.step, "spike": times, "spike_loss": loss, "clips": clips})
            return
        at.skipped += 1
        at.skipped_in_a_row += 1
        samples = _named(self.clips(parts))
        self.say(f"step {at.step} skipped: its loss or gradients are not finite{samples}")
        if at.skipped_in_a_row >= self.options.max_skips:
            self.saver.settle()
            raise Diverged(
                f"{at.skipped_in_a_row} steps in a row, up to step {at.step}, had a loss or gradients that "
                f"are not finite{samples}; the checkpoint of step {self.saver.saved} stands. Lower optim.lr, raise "
                "optim.warmup, or use precision=fp32, and run again"
            )

    def clips(self, parts: list[Batch]) -> list[str]:
        """Names of a step's samples, of all processes; on the main process."""
        mine = [int(k) for part in parts for k in part.get("key", ())]
        return [self.name(key) for key in sorted(k for theirs in self.group.gather(mine) for k in theirs)]

    # Looking

    def look(self, validate: Validate | None, sample: Sample | None) -> None:
        """Validates and samples, each where it is due and has not been done."""
        at, options = self.at, self.options
        validating = validate is not None and self.due(options.validate_every, at.validated)
        sampling = sample is not None and self.due(options.sample_every, at.sampled)
        self.hang.note(f"looking at step {at.step}", SLOWER)
        if validate and validating:
            scores = self.watch(lambda: dict(validate(at.step)))
            if scores:
                values = torch.tensor(list(scores.values()), dtype=torch.float64)
                means = dict(zip(scores, self.group.reduce_mean(values).tolist(), strict=True))
                self.check_best(means)
                self.recorder.metrics({"step": at.step, **means})
                at.note_best(options.keep_best, means)
            if not self.cut_short:
                at.validated = at.step
        if sample and sampling:
            with self.recorder.going_on("samples"):
                self.watch(lambda: sample(at.step) if self.group.main else None)
            if not self.cut_short:
                at.sampled = at.step
                self.recorder.sampled(at.step)
        if validating or sampling:
            self.group.barrier()
            self.recorder.report()

    def check_best(self, scores: Mapping[str, float]) -> None:
        """Raises ValueError where the validation does not give what `keep_best` names, with all steps saved."""
        name = self.options.keep_best
        if name and name not in scores:
            self.save_now()
            raise ValueError(
                f"train.keep_best is {name}; the validation gives {', '.join(scores)}. Step {self.at.step} is saved: "
                "name one of these, or none, and run again"
            )

    def due(self, every: int, last: int) -> bool:
        step = self.at.step
        return bool(every) and step > last and (step % every == 0 or step == self.options.steps)

    def watch(self, work: Callable[[], T]) -> T | None:
        """Runs `work` on the averaged weights; nothing of it shows in the training."""
        with self.ema.swapped(), self.model.unwrapped(), evaluating(self.objective), seeds.preserved(), torch.no_grad():
            seeds.seed_step(self.options.seed, -1, self.group.rank)  # the same noise each time, to compare
            return self.interruptible(work)


def _named(names: list[str]) -> str:
    return f" (samples {', '.join(names)})" if names else ""
