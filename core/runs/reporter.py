"""Reports of the train loop: progress lines, metrics, findings, bad samples, a summary."""

import contextlib
import json
import time

import jax

from core.base.files import write_json
from core.base.processes import seconds_alive
from core.base.text import short
from core.hardware import mfu
from core.method import Metrics, Report
from core.parallel.layout_report import layout_report, replicated
from core.runs import lineage, mirror, run_folder
from core.runs.findings import raised_alarms, split_findings
from core.runs.goodput import (
    FILE,
    add_up,
    describe,
    read_sessions,
    share,
    write_session,
)
from core.runs.throughput import (
    Interruptions,
    Throughput,
    device_memory,
    fitting,
    grid,
    peak_host_bytes,
    progress_line,
)
from core.runs.working import log_compiler, say, working
from core.runs.writer import Writer, append, drop_later_lines, writing

SUMMARY = "summary.json"
COMPILED = "time/compile_seconds"
CHECKPOINT = "checkpoint"  # beside the names of evaluations
# Numbers of the progress line, in its order, where a run has them.
SHOWN = ("loss", "score")
SHOWN_UNLESS_ZERO = ("repeated_frames", "bad_samples")
ORIGINS = "start.txt"


class Diverged(ValueError):
    """Too many consecutive updates were not finite."""


class Reporter:
    """Writes to a run's folder and the terminal from process 0; all processes check for NaN.

    Metrics are read one step late, so that the device is never waited for. An interrupted
    run writes the same as an uninterrupted one, except for names with "time/", which
    depend on the machine.
    """

    def __init__(self, folder, method, config, start: int):
        self.folder, self.method, self.config = folder, method, config
        self.start = start
        self.main = jax.process_index() == 0
        self.writer = None  # until `opening`
        rank = "" if self.main else f".{jax.process_index()}"
        self.bad_samples = folder / f"bad_samples{rank}.jsonl"
        self.clock, self.sessions = Throughput(), read_sessions(folder)
        # After a rollback this session begins where the one before ended.
        before = [session["until"] for session in self.sessions[-1:]]
        self.began = max(time.time() - seconds_alive(), *before, 0.0)
        self.started_s = time.time() - self.began
        self.first = True  # until the first step was dispatched
        self.compiled = {}  # how long that took, until it is written
        earlier = last_values(written(folder))
        self.usual_s = earlier.get(COMPILED)
        every = config.eval_steps.to_dict()
        self.interruptions = Interruptions(
            fitting(every, config.steps) | {CHECKPOINT: config.save_steps},
            config.steps,
            {CHECKPOINT: 0.0}  # until the first
            | {
                name: earlier[duration_name(name)]
                for name in config.eval_steps
                if duration_name(name) in earlier
            },
        )
        self.waiting = (
            None  # (step, metrics, samples) of the step that is still running
        )
        self.bad_steps = (
            0  # consecutive updates that were not applied, as last reported
        )

    def finished(self) -> bool:
        """Whether this run is complete: its summary is written."""
        return (self.folder / SUMMARY).exists()

    def unwritten(self, step: int, evals: dict) -> dict:
        """Those of `evals` whose findings at this step are not written yet."""
        lines = [line for line in written(self.folder) if line["step"] == step]
        done = {key for line in lines for key in line}
        return {
            name: one for name, one in evals.items() if duration_name(name) not in done
        }

    def opening(self, plan, origins: list[str]):
        """Begin to write: config, layouts and provenance of the run, and the first lines.

        origins: where the arrays of the state come from, a line per group.
        """
        self.writer = Writer(self.folder, self.start, active=self.main)
        drop_later_lines(self.bad_samples, self.start)
        if self.main:
            (self.folder / SUMMARY).unlink(missing_ok=True)
            run_folder.record(self.folder, self.config.to_dict(), step=self.start)
            report = layout_report(plan.shapes, plan.layouts)
            with writing(self.folder / "layout.txt"):
                (self.folder / "layout.txt").write_text(report)
            if not self.start:  # a run that resumes keeps the lines of its beginning
                with writing(self.folder / ORIGINS):
                    (self.folder / ORIGINS).write_text("\n".join(origins) + "\n")
            for line in [*report.splitlines()[:1], *origins]:
                say(line)
            for name in replicated(plan.shapes, plan.layouts):
                say(f"every device holds the whole of {name}")
        verb = f"resuming after step {self.start}" if self.start else "starting"
        devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        say(f"{verb} in {mirror.shown(self.folder)} on {devices}")

    @contextlib.contextmanager
    def first_step(self, batch):
        """Around the first step, which compiles; of a new run, its batch is drawn first."""
        draw = self.method.tools.draw
        with self.clock.pause("compile"):
            if draw and self.main and not self.start:
                with jax.transfer_guard("allow"):
                    self.writer.write(1, {}, {"batch": draw(batch)})
            begin = time.perf_counter()
            compiling = working("compiling the step", usual_s=self.usual_s)
            with compiling, log_compiler(self.folder):
                yield
            self.compiled = {COMPILED: time.perf_counter() - begin}
            self.first = False

    def step(self, step: int, values: Metrics, samples: Report):
        """Take metrics and bad samples of a step just started; report the step before."""
        self.flush()
        self.waiting = step, values, samples
        self.clock.count(self.method.batch)

    def flush(self):
        """Check the waiting step and, if due, write and print it."""
        if self.waiting is None:
            return
        (step, values, samples), self.waiting = self.waiting, None
        for sample in samples["new"]:
            line = json.dumps({"step": step, **sample}) + "\n"
            append(self.bad_samples, line.encode())
        self.check(step, int(jax.device_get(values["bad_steps"])))
        if step % self.config.log_steps and step != self.config.steps:
            return
        scalars = {k: float(v) for k, v in jax.device_get(values).items()}
        scalars |= samples["numbers"] | {"bad_samples": samples["bad"]}
        rates = self.clock.report(self.config.steps - step)
        eta = rates.eta_seconds + self.interruptions.left(step)
        rates = rates._replace(eta_seconds=eta)
        scalars |= self.timing(rates) | self.compiled | self.account(step)
        self.writer.write(step, scalars)
        self.compiled = {}
        shown = {k: scalars[k] for k in SHOWN if k in scalars}
        shown |= {k: scalars[k] for k in SHOWN_UNLESS_ZERO if scalars.get(k)}
        more = self.interruptions.unknown(step)
        line = {"unit": self.method.unit, "more": more}
        line["said"] = samples.get("said", "")
        say(progress_line(step, self.config.steps, shown, rates, **line))

    def check(self, step: int, bad_steps: int):
        """Raise Diverged after `max_bad_steps` bad updates in a row since the start."""
        self.bad_steps = bad_steps
        if bad_steps == 1:
            above = ", or above guard.norm" if self.config.guard.norm else ""
            say(
                f"step {step}: loss or gradient is not finite{above}; update not applied"
            )
        if min(bad_steps, step - self.start) >= self.config.max_bad_steps:
            raise Diverged(
                f"loss or gradient was not finite in the last {bad_steps} steps up to "
                f"{step}, whose updates were not applied; no checkpoint was made of them. "
                "Lower the learning rate and go on from the last checkpoint with "
                "--allow_config_change; --restore_step chooses an earlier one, and "
                "guard.rollback skips the data since"
            )

    def timing(self, rates):
        """Speed and memory by name; all names begin with "time/"."""
        device = jax.devices()[0].device_kind
        used = mfu(
            self.method.costs.flops, rates.step_seconds, jax.device_count(), device
        )
        seen = {
            "time/step_seconds": rates.step_seconds,
            f"time/{self.method.unit}_per_second": rates.examples_per_second,
            "time/data_wait_share": rates.wait_share,
            "time/host_peak_bytes": peak_host_bytes(),
            **{f"time/{k}": v for k, v in device_memory().items()},
        }
        return seen | ({"time/mfu": used} if used is not None else {})

    def account(self, step: int) -> dict[str, float]:
        """Write where the time went so far; returns the share that trained, by name."""
        session = {
            "first": self.start,
            "step": step,
            "began": self.began,
            "until": time.time(),
            "seconds": {"start": self.started_s, **self.clock.totals()},
        }
        if self.main:
            with writing(self.folder / FILE):
                write_session(self.folder, self.sessions, session)
        return {"time/goodput": share(add_up([*self.sessions, session]))}

    @contextlib.contextmanager
    def saving(self):
        """Around a save: the time that it takes is no training."""
        with self.clock.pause("checkpoint"), self.interruptions.timed(CHECKPOINT):
            yield

    def evaluation(self, step: int, name: str, evaluate, state):
        """Evaluate `state`; write numbers and pictures, print alarms and numbers.

        The duration is written too: by it a resumed run knows which evaluations are done.
        """
        usual = self.interruptions.seconds.get(name)
        evaluating = working(f"step {step}: {name}", usual_s=usual, at_once=False)
        with evaluating, self.interruptions.timed(name), log_compiler(self.folder):
            numbers, pictures, sentences = split_findings(evaluate(state))
        if self.main:
            saved = mirror.within(self.folder, mirror.CHECKPOINTS)
            about = lineage.subject(saved / str(step), step)
            path = self.folder / lineage.LINEAGE
            lineage.record_evaluation(path, about, name, numbers)
        seconds = {duration_name(name): self.interruptions.seconds[name]}
        self.writer.write(step, numbers | seconds, pictures)
        alarms = [text for texts in sentences.values() for text in texts]
        if self.main and alarms:
            for text in raised_alarms(alarms, written(self.folder)):
                say(f"step {step}: ALARM: {text}")
        if numbers:
            shown = "  ".join(f"{k} {short(v)}" for k, v in numbers.items())
            say(f"step {step}: {shown}")

    def close(self):
        """Close the files; nothing more is reported."""
        if self.writer is not None:
            self.writer.close()

    def closing(self):
        """Write summary.json, the last value of every number; print it as tables."""
        if self.main:
            summary = {}
            for k, v in last_values(written(self.folder)).items():
                summary |= {} if k.startswith("time/") else {k: v}
            write_json(self.folder / SUMMARY, summary)
            for line in grid(summary):
                say(line)
            self.account(self.config.steps)
            for line in describe(read_sessions(self.folder)):
                say(line)
        every, place = self.config.eval_steps.to_dict(), mirror.shown(self.folder)
        kept = fitting(every, self.config.steps)
        if names := [name for name in every if kept[name] != every[name]]:
            say(
                f"not evaluated: {', '.join(names)}; the run is shorter than their "
                f"eval_steps. python -m launch.evaluate --workdir={place} runs them"
            )
        say(f"done: {self.config.steps} steps; summary in {place}/{SUMMARY}")


def duration_name(name: str) -> str:
    """The metric that holds the duration of an evaluation."""
    return f"time/{name}_seconds"


def last_values(lines: list[dict]) -> dict:
    """The last value of every number in a run's metrics."""
    return {k: v for line in lines for k, v in line.items()}


def written(folder) -> list[dict]:
    """The complete lines of a run's metrics, oldest first."""
    path = folder / run_folder.METRICS
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]
