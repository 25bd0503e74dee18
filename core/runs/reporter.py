"""Reports of the train loop: progress lines, metrics, findings, bad samples, a summary."""

import json
import time

import jax

from core.base.files import write_json
from core.base.text import short
from core.hardware import mfu
from core.method import Metrics, Report
from core.parallel.layout_report import layout_report, replicated
from core.runs import run_folder
from core.runs.findings import raised_alarms, split_findings
from core.runs.throughput import (
    Throughput,
    device_memory,
    grid,
    peak_host_bytes,
    progress_line,
)
from core.runs.writer import Writer, append, drop_later_lines, writing

SUMMARY = "summary.json"
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
        self.clock = Throughput()
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

    def say(self, text: str):
        if self.main:
            print(text, flush=True)

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
                self.say(line)
            for name in replicated(plan.shapes, plan.layouts):
                self.say(f"every device holds the whole of {name}")
        verb = f"resuming after step {self.start}" if self.start else "starting"
        devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        self.say(f"{verb} in {self.folder} on {devices}")

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
        self.writer.write(step, scalars | self.timing(rates))
        names = ("loss", "score", "bad_samples")
        shown = {k: scalars[k] for k in names if k in scalars}
        shown = {k: v for k, v in shown.items() if v or k == "loss"}
        words = {"unit": self.method.unit, "said": samples.get("said", "")}
        self.say(progress_line(step, self.config.steps, shown, rates, **words))

    def check(self, step: int, bad_steps: int):
        """Raise Diverged after `max_bad_steps` bad updates in a row since the start."""
        self.bad_steps = bad_steps
        if bad_steps == 1:
            self.say(f"step {step}: loss or gradient is not finite; update not applied")
        if min(bad_steps, step - self.start) >= self.config.max_bad_steps:
            raise Diverged(
                f"loss or gradient was not finite in the last {bad_steps} steps up to "
                f"{step}, whose updates were not applied; no checkpoint was made of them. "
                "Lower the learning rate and go on from the last checkpoint with "
                "--allow_config_change; delete the newest to go on from the one before"
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

    def evaluation(self, step: int, name: str, evaluate, state):
        """Evaluate `state`; write numbers and pictures, print alarms and numbers.

        The duration is written too: by it a resumed run knows which evaluations are done.
        """
        begin = time.perf_counter()
        numbers, pictures, sentences = split_findings(evaluate(state))
        seconds = {duration_name(name): time.perf_counter() - begin}
        self.writer.write(step, numbers | seconds, pictures)
        alarms = [text for texts in sentences.values() for text in texts]
        if self.main and alarms:
            for text in raised_alarms(alarms, written(self.folder)):
                self.say(f"step {step}: ALARM: {text}")
        if numbers:
            shown = "  ".join(f"{k} {short(v)}" for k, v in numbers.items())
            self.say(f"step {step}: {shown}")

    def close(self):
        """Close the files; nothing more is reported."""
        if self.writer is not None:
            self.writer.close()

    def closing(self):
        """Write summary.json, the last value of every number; print it as tables."""
        if self.main:
            summary = {}
            for line in written(self.folder):
                summary |= {k: v for k, v in line.items() if not k.startswith("time/")}
            write_json(self.folder / SUMMARY, summary)
            for line in grid(summary):
                self.say(line)
        self.say(f"done: {self.config.steps} steps; summary in {self.folder / SUMMARY}")


def duration_name(name: str) -> str:
    """The metric that holds the duration of an evaluation."""
    return f"time/{name}_seconds"


def written(folder) -> list[dict]:
    """The complete lines of a run's metrics, oldest first."""
    path = folder / run_folder.METRICS
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]
